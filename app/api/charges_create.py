"""Charging: uses are spent, or held, for whoever a backend says."""

from functools import cache
from typing import Annotated, Self, cast

from fastapi import APIRouter, Header
from prometheus_client import Counter
from pydantic import Field, field_validator, model_validator
from starlette.datastructures import Headers
from starlette.types import Scope
from typing_extensions import override

from app.api import problems
from app.api.credit_schemas import ChargeRead, Identified
from app.api.credits_check import CreditCheckRead, plan_of
from app.api.deps import DescribedKey, State
from app.api.idempotency import MAX_KEY_LENGTH, key_of
from app.api.lane import Answer, Lane, answer_of, problem_of
from app.api.request_id import request_id_of
from app.errors import InvalidRequestError
from app.observability import charges, idempotent_replays
from app.services.credits.accounts import AccountSuspendedError, Identity
from app.services.credits.charges import MAX_QUANTITY, Charged, InsufficientCreditsError, Order
from app.services.credits.reader import Looked
from app.services.identity import Caller

PATH = "/charges"
MAX_HOLD_SECONDS = 7 * 24 * 3600
_MOST = 2**53  # what JSON's readers can tell apart
_REPLAYED = (b"idempotent-replayed", b"true")

router = APIRouter(tags=["Credits"])


class ChargeCreate(Identified):
    """Whose uses are spent, or held, and what for."""

    quantity: int = Field(default=1, ge=1, le=MAX_QUANTITY, description="How many uses")
    amount_minor: int | None = Field(
        default=None,
        ge=0,
        le=_MOST,
        description="What the use was worth, in the currency's minor unit; recorded, and compared with nothing",
        examples=[100],
    )
    currency: str | None = Field(
        default=None, pattern="^[A-Za-z]{3}$", description="Of `amount_minor`: ISO 4217", examples=["usd"]
    )
    description: str | None = Field(default=None, max_length=1000, description="Your own words")
    metadata: (
        dict[Annotated[str, Field(min_length=1, max_length=40)], Annotated[str, Field(max_length=500)] | None] | None
    ) = Field(default=None, max_length=50, description="Your own notes; what is null is left out")
    idempotency_key: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        pattern=r"^[\x21-\x7e]+$",
        description="Instead of the header: good for this charge alone, for ever; sending it again spends nothing",
    )
    hold: bool = Field(default=False, description="Only set the uses aside, to be captured or released later")
    expires_in: int | None = Field(
        default=None,
        ge=1,
        le=MAX_HOLD_SECONDS,
        description="With `hold`: after how many seconds they are given back; without it, as plans.yaml says",
    )

    @field_validator("currency")
    @classmethod
    def _as_stripe_spells_it(cls, currency: str | None) -> str | None:
        return currency and currency.lower()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.amount_minor is None) != (self.currency is None):
            raise ValueError("amount_minor and currency go together")
        if self.expires_in is not None and not self.hold:
            raise ValueError("expires_in is for holds")
        return self

    def order(self, identity: Identity, key: str) -> Order:
        notes = {name: text for name, text in (self.metadata or {}).items() if text is not None}
        return Order(
            identity=identity,
            key=key,
            quantity=self.quantity,
            hold=self.hold,
            expires_in=self.expires_in,
            amount_minor=self.amount_minor,
            currency=self.currency,
            description=self.description,
            metadata=notes or None,
        )


class InsufficientCredits(problems.Problem, CreditCheckRead):
    """There are not enough uses; what `POST /credits/check` would say stands beside it, so that it can be offered."""


# It only describes `ChargeLane`, which answers.
@router.post(
    PATH,
    status_code=201,
    response_model=ChargeRead,
    responses={
        402: {"model": InsufficientCredits, "description": "`insufficient_credits`: what to offer stands beside it"}
    },
)
async def create_charge(
    _key: DescribedKey,
    _body: ChargeCreate,
    _idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=MAX_KEY_LENGTH,
            description="1 to 255 visible ASCII characters, good for this charge alone, for ever, whoever calls; "
            "required unless the body has it",
        ),
    ] = None,
) -> None:
    """Spend uses, or hold them. Needs a service key with `credits:write`. Durable when it is answered.

    Repeating it with the same key is given the first answer; with the same key and anything else it is refused with
    `idempotency_key_reused`. A refusal for want of uses is not kept: once there are some, the same request succeeds.
    403 `account_suspended` for an account that may not spend, `account_closed` for one of somebody being erased.
    """


class ChargeLane(Lane[ChargeCreate]):
    """POST /charges. It leaves no entry of its own in a timeline: the ledger has each charge."""

    model = ChargeCreate
    scopes = ("credits:write",)
    for_users = False

    @override
    async def answer(self, scope: Scope, caller: Caller, asked: ChargeCreate, looked: Looked) -> Answer:
        state = cast("State", scope["state"])
        key = _key(scope, asked)
        identity = await self.identity(scope, caller, asked)
        try:
            charged = await state["charger"].charge(asked.order(identity, key))
        except InsufficientCreditsError as error:
            self._refused(scope, asked, error.code)
            return await self._offer(scope, asked, error)
        except AccountSuspendedError as error:
            self._refused(scope, asked, error.code)
            raise
        read = _read(charged)
        if charged.replayed:
            idempotent_replays.inc()
            return answer_of(201, read, _REPLAYED)
        _charges("true").inc()
        self.log.info(
            "charge_held" if asked.hold else "charge_created",
            charge_id=str(charged.id),
            account_id=str(charged.account_id),
            quantity=charged.quantity,
            request_id=request_id_of(scope),
        )
        return answer_of(201, read)

    async def _offer(self, scope: Scope, asked: ChargeCreate, error: InsufficientCreditsError) -> Answer:
        """The refusal, with what `check` would say."""
        state = cast("State", scope["state"])
        balance = error.balance
        looked = await state["credits_reader"].look(user_id=balance.user_id)
        plan = await plan_of(state, balance.user_id, subscribed=looked.subscribed)
        read = CreditCheckRead.of(balance, state["catalog"], plan=plan, quantity=asked.quantity)
        return problem_of(problems.respond(error, scope, beside=read))

    def _refused(self, scope: Scope, asked: ChargeCreate, code: str) -> None:
        _charges("false").inc()
        self.log.info("charge_refused", code=code, quantity=asked.quantity, request_id=request_id_of(scope))


def _key(scope: Scope, asked: ChargeCreate) -> str:
    """The header's or the body's. Raises InvalidRequestError for none, an odd one, or two different ones."""
    given = Headers(scope=scope).getlist("idempotency-key")
    key = key_of(given) if given else asked.idempotency_key
    if key is None:
        raise InvalidRequestError(
            "A charge needs an Idempotency-Key, so that it can be repeated safely.",
            code="missing",
            param="Idempotency-Key",
        )
    if asked.idempotency_key not in {None, key}:
        raise InvalidRequestError(
            "Idempotency-Key and the body's idempotency_key differ.",
            code="idempotency_keys_differ",
            param="idempotency_key",
        )
    return key


def _read(charged: Charged) -> ChargeRead:
    return ChargeRead(
        charge_id=charged.id,
        account_id=charged.account_id,
        quantity=charged.quantity,
        status=charged.status,
        captured=charged.captured,
        amount_minor=charged.amount_minor,
        currency=charged.currency,
        balance_after=charged.balance_after,
        description=charged.description,
        metadata=None if charged.metadata is None else dict(charged.metadata),
        expires_at=charged.expires_at,
        created_at=charged.created,
    )


@cache
def _charges(success: str) -> Counter:
    return charges.labels(success)
