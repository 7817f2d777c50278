"""Whether somebody has uses left, and if not, what they could buy: asked before each use."""

from functools import cache
from typing import Self
from uuid import UUID

from fastapi import APIRouter
from prometheus_client import Counter
from pydantic import Field
from starlette.types import Scope
from typing_extensions import override

from app.api.credit_schemas import Identified
from app.api.deps import CallerDep, State
from app.api.lane import Answer, Lane, answer_of
from app.api.schemas import Output
from app.observability import credit_checks
from app.services.catalog import Catalog
from app.services.credits.accounts import Balance
from app.services.credits.charges import MAX_QUANTITY
from app.services.credits.reader import Looked
from app.services.identity import Caller

PATH = "/credits/check"

router = APIRouter(tags=["Credits"])


class CreditCheck(Identified):
    """Whom it is about, and how much they want."""

    quantity: int = Field(default=1, ge=1, le=MAX_QUANTITY, description="How many uses are wanted")


class CreditCheckRead(Output):
    """What there is, and what to offer where it is not enough."""

    has_credit: bool = Field(description="Whether so many uses can be spent now")
    credits_remaining: int = Field(description="Uses that were paid for")
    free_uses_remaining: int = Field(description="Uses that are free; they are spent first")
    total_uses: int = Field(description="How many were ever spent")
    plan_name: str = Field(description="The key of the plan in force", examples=["free"])
    reason: str | None = Field(description="Why they can't be spent, in English; null where they can")
    purchase_required: bool = Field(description="Whether buying more would help")
    purchase_price_minor: int | None = Field(
        description="What more costs, in the currency's minor unit; null unless `purchase_required`"
    )
    purchase_currency: str | None = Field(description="Of `purchase_price_minor`")
    purchase_uses: int | None = Field(description="How many uses that buys")
    purchase_pack: str | None = Field(description="The key of the pack that is offered", examples=["starter"])
    held: int = Field(description="Uses set aside by holds")
    owed: int = Field(description="Uses taken back after they had been spent; until they are settled none can be spent")
    account_id: UUID | None = Field(description="Null for somebody who has used nothing yet")

    @classmethod
    def of(cls, balance: Balance, catalog: Catalog, *, plan: str, quantity: int) -> Self:
        active = balance.status == "active"
        enough = active and balance.available >= quantity
        required = active and not enough
        offer = next(iter(catalog.packs.values()), None) if required else None
        return cls(
            has_credit=enough,
            credits_remaining=balance.paid,
            free_uses_remaining=balance.free,
            total_uses=balance.used,
            plan_name=plan,
            reason=None if enough else _why_not(balance),
            purchase_required=required,
            purchase_price_minor=offer and offer.amount,
            purchase_currency=offer and offer.currency,
            purchase_uses=offer and offer.uses,
            purchase_pack=offer and offer.key,
            held=balance.held,
            owed=balance.owed,
            account_id=balance.account_id,
        )


def _why_not(balance: Balance) -> str:
    if balance.status != "active":
        return f"This account is {balance.status}."
    if balance.owed:
        return "Uses that were refunded after they had been spent are still owed."
    return "There are not enough uses left."


async def plan_of(state: State, user_id: str, *, subscribed: bool) -> str:
    """The key of the plan in force. Whoever never had a subscription has the default one, without a question."""
    return (await state["plan_reader"].plan_of(user_id)).key if subscribed else state["catalog"].default_plan


# It only describes `CheckLane`, which answers.
@router.post(PATH, response_model=CreditCheckRead)
async def check_credits(_caller: CallerDep, _body: CreditCheck) -> None:
    """Whether a user has uses left. Nothing is spent or written, and nothing is kept for what is said here.

    Somebody who has no account is answered as with a new one. With a service key (`credits:read`), of anybody; with a
    user's own token, of themselves.
    """


class CheckLane(Lane[CreditCheck]):
    """POST /credits/check."""

    model = CreditCheck
    scopes = ("credits:read", "credits:write")
    for_users = True

    @override
    def about(self, asked: CreditCheck) -> str | None:
        return asked.named_user

    @override
    async def answer(self, scope: Scope, caller: Caller, asked: CreditCheck, looked: Looked) -> Answer:
        state: State = scope["state"]
        user_id = (await self.identity(scope, caller, asked)).user_id
        if looked.balance is None:
            looked = await state["credits_reader"].look(user_id=user_id)
        assert looked.balance is not None  # noqa: S101 - whoever is asked about is answered
        plan = await plan_of(state, user_id, subscribed=looked.subscribed)
        read = CreditCheckRead.of(looked.balance, state["catalog"], plan=plan, quantity=asked.quantity)
        _checks(read.purchase_required).inc()
        return answer_of(200, read)


@cache
def _checks(required: bool) -> Counter:  # noqa: FBT001 - the label's value
    return credit_checks.labels("true" if required else "false")
