"""Payments: collecting them, giving them back, and following Stripe. Amounts in minor units."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import NotFoundError
from app.models.mirror import Mirrored
from app.provider.objects import Snapshot
from app.provider.payment_objects import PaymentIntent, Refund
from app.provider.payment_protocol import (
    CancellationReason,
    CaptureMethod,
    FutureUsage,
    PaymentProvider,
    RefundReason,
)
from app.services import customers, mirror, payment_rows
from app.services.mirror import NO_ROW, AsOf, Origin

ENDED = frozenset({"succeeded", "canceled"})
_CODES: Mapping[type[Mirrored], str] = {
    models.PaymentIntent: "payment_intent_not_found",
    models.Charge: "charge_not_found",
    models.Refund: "refund_not_found",
    models.Dispute: "dispute_not_found",
}

Row = TypeVar("Row", bound=Mirrored)

_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Recent:
    """A charge, whose it is, and whether a bank ever questioned it."""

    charge: models.Charge
    customer: models.Customer | None
    disputed: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """A payment as our own tables have it, with its customer's id at Stripe."""

    row: models.PaymentIntent
    customer: str | None

    @property
    def id(self) -> str:
        return self.row.stripe_id

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.row.stripe_metadata


async def create(
    session: AsyncSession,
    provider: PaymentProvider,
    *,
    user_id: str | None,
    amount: int,
    currency: str,
    capture_method: CaptureMethod,
    payment_method: str | None,
    confirm: bool,
    off_session: bool,
    return_url: str | None,
    setup_future_usage: FutureUsage | None,
    receipt_email: str | None,
    description: str | None,
    metadata: Mapping[str, str],
    idempotency_key: str,
    actor: str,
) -> PaymentIntent:
    """Begin a payment, of a customer's or of nobody's.

    Raises as `PaymentProvider.create_payment_intent`,
    and ConflictError for a customer who is being deleted.
    """
    customer = None
    if user_id is not None:
        payer = await customers.get_for_user(session, user_id)
        customers.refuse_deleted(payer)
        customer = payer.stripe_id
    await release(session)
    made = await provider.create_payment_intent(
        amount=amount,
        currency=currency,
        customer=customer,
        capture_method=capture_method,
        payment_method=payment_method,
        confirm=confirm,
        off_session=off_session,
        return_url=return_url,
        setup_future_usage=setup_future_usage,
        receipt_email=receipt_email,
        description=description,
        metadata=metadata,
        idempotency_key=idempotency_key,
    )
    return await store_intent(session, provider, made, revision=NO_ROW, actor=actor)


async def confirm(
    session: AsyncSession,
    provider: PaymentProvider,
    *,
    id: str,
    user_id: str | None,
    payment_method: str | None,
    off_session: bool,
    return_url: str | None,
    idempotency_key: str,
    actor: str,
) -> PaymentIntent:
    """Try to collect. Raises PaymentFailedError when it is refused: then it can be tried again."""

    async def call() -> Snapshot[PaymentIntent]:
        return await provider.confirm_payment_intent(
            id,
            payment_method=payment_method,
            off_session=off_session,
            return_url=return_url,
            idempotency_key=idempotency_key,
        )

    return await _change(session, provider, id, user_id, call, actor=actor)


async def capture(
    session: AsyncSession,
    provider: PaymentProvider,
    *,
    id: str,
    user_id: str | None,
    amount: int | None,
    idempotency_key: str,
    actor: str,
) -> PaymentIntent:
    """Take all of what is held, or a part: the rest is released."""

    async def call() -> Snapshot[PaymentIntent]:
        return await provider.capture_payment_intent(id, amount=amount, idempotency_key=idempotency_key)

    return await _change(session, provider, id, user_id, call, actor=actor)


async def cancel(
    session: AsyncSession,
    provider: PaymentProvider,
    *,
    id: str,
    user_id: str | None,
    reason: CancellationReason | None,
    idempotency_key: str,
    actor: str,
) -> PaymentIntent:
    async def call() -> Snapshot[PaymentIntent]:
        return await provider.cancel_payment_intent(id, reason=reason, idempotency_key=idempotency_key)

    return await _change(session, provider, id, user_id, call, actor=actor)


async def get(
    session: AsyncSession, provider: PaymentProvider, *, id: str, user_id: str | None, actor: str
) -> PaymentIntent | Listed:
    """A payment: as Stripe shows it this moment while it is under way, from our own tables once it has ended.

    The page a customer comes back to may ask before any webhook has arrived; the answer is right all the same.
    """
    row = await _get_intent(session, id, user_id)
    if row.status in ENDED:
        return Listed(row, _stripe_id(await _owners(session, [row]), row))

    async def call() -> Snapshot[PaymentIntent]:
        return await provider.retrieve_payment_intent(id)

    return await _change(session, provider, id, user_id, call, actor=actor)


async def list_intents(
    session: AsyncSession, *, user_id: str | None, status: str | None, limit: int, starting_after: str | None
) -> list[Listed]:
    """Newest first, up to `limit` + 1 of them. `starting_after` is one of the same list; NotFoundError otherwise."""
    some = select(models.PaymentIntent).where(~models.PaymentIntent.deleted)
    if user_id is not None:
        some = some.join(models.Customer, models.Customer.id == models.PaymentIntent.customer_id).where(
            models.Customer.user_id == user_id, ~models.Customer.deleted
        )
    rows = await _page(session, some, models.PaymentIntent, status=status, limit=limit, starting_after=starting_after)
    owners = await _owners(session, rows)
    return [Listed(row, _stripe_id(owners, row)) for row in rows]


async def recent(session: AsyncSession, *, status: str | None, limit: int, starting_after: str | None) -> list[Recent]:
    """Charges; else as `list_intents`."""
    some = select(models.Charge).where(~models.Charge.deleted)
    found = await _page(session, some, models.Charge, status=status, limit=limit, starting_after=starting_after)
    owners = await _owners(session, found)
    disputed = await _disputed(session, found)
    return [Recent(row, owners.get(row.customer_id), row.stripe_id in disputed) for row in found]


async def refund(
    session: AsyncSession,
    provider: PaymentProvider,
    *,
    payment_id: str,
    amount: int | None,
    reason: RefundReason | None,
    idempotency_key: str,
    actor: str,
) -> Refund:
    """Give back all that is left of a payment intent or a charge, or `amount` of it."""
    paid = {"pi": "payment_intent", "ch": "charge", "py": "charge"}.get(payment_id.partition("_")[0])
    missing = NotFoundError("There is no such payment.", code="payment_not_found", param="payment_id")
    if paid is None:
        raise missing
    await release(session)
    try:
        made = await provider.create_refund(
            charge=payment_id if paid == "charge" else None,
            payment_intent=payment_id if paid == "payment_intent" else None,
            amount=amount,
            reason=reason,
            idempotency_key=idempotency_key,
        )
    except NotFoundError as error:
        raise missing from error
    if made.object.customer is not None:
        await customers.lock(session, made.object.customer)
    # Where its webhook came first, the row says as much as this does, or more; where its customer is not known yet,
    # its webhook brings both.
    with suppress(customers.UnknownCustomerError):
        await payment_rows.sync_refund(
            session, made.object, as_of=AsOf(at=made.at, revision=NO_ROW), origin=Origin(actor=actor)
        )
    return made.object


async def get_refund(session: AsyncSession, id: str) -> models.Refund:
    return await _get(session, models.Refund, id)


async def list_refunds(
    session: AsyncSession, *, payment_id: str | None, status: str | None, limit: int, starting_after: str | None
) -> list[models.Refund]:
    """As `list_intents`; `payment_id` is a payment intent's or a charge's."""
    some = select(models.Refund).where(~models.Refund.deleted)
    if payment_id is not None:
        some = some.where(or_(models.Refund.payment_intent == payment_id, models.Refund.charge == payment_id))
    return await _page(session, some, models.Refund, status=status, limit=limit, starting_after=starting_after)


async def get_dispute(session: AsyncSession, id: str) -> models.Dispute:
    return await _get(session, models.Dispute, id)


async def list_disputes(
    session: AsyncSession, *, status: str | None, limit: int, starting_after: str | None
) -> list[models.Dispute]:
    """As `list_intents`."""
    some = select(models.Dispute).where(~models.Dispute.deleted)
    return await _page(session, some, models.Dispute, status=status, limit=limit, starting_after=starting_after)


async def _owners(
    session: AsyncSession, rows: Sequence[models.PaymentIntent] | Sequence[models.Charge]
) -> Mapping[UUID | None, models.Customer]:
    """Whose they are, by our own id of the customer."""
    ids = {row.customer_id for row in rows if row.customer_id is not None}
    found = await session.scalars(select(models.Customer).where(models.Customer.id.in_(ids))) if ids else ()
    return {customer.id: customer for customer in found}


async def _disputed(session: AsyncSession, charges: Sequence[models.Charge]) -> frozenset[str]:
    """Which of them have a dispute. Stripe sends no news of the charge itself when it is disputed."""
    ids = [charge.stripe_id for charge in charges]
    found = await session.scalars(
        select(models.Dispute.charge).where(models.Dispute.charge.in_(ids), ~models.Dispute.deleted)
    )
    return frozenset(found)


def _stripe_id(owners: Mapping[UUID | None, models.Customer], row: models.PaymentIntent) -> str | None:
    owner = owners.get(row.customer_id)
    return None if owner is None else owner.stripe_id


async def _get_intent(session: AsyncSession, id: str, user_id: str | None) -> models.PaymentIntent:
    """Raises NotFoundError for another user's, too, where `user_id` says whose it must be."""
    row = await _get(session, models.PaymentIntent, id)
    if user_id is not None and (await customers.get_for_user(session, user_id)).id != row.customer_id:
        raise _missing(models.PaymentIntent)
    return row


async def _get(session: AsyncSession, model: type[Row], id: str) -> Row:
    row = await session.scalar(
        select(model).where(model.stripe_id == id, ~model.deleted).execution_options(populate_existing=True)
    )
    if row is None:
        raise _missing(model)
    return row


def _missing(model: type[Mirrored], *, param: str | None = None) -> NotFoundError:
    code = _CODES[model]
    noun = code.removesuffix("_not_found").replace("_", " ")
    return NotFoundError(f"There is no such {noun}.", code=code, param=param)


async def _change(
    session: AsyncSession,
    provider: PaymentProvider,
    id: str,
    user_id: str | None,
    call: Callable[[], Awaitable[Snapshot[PaymentIntent]]],
    *,
    actor: str,
) -> PaymentIntent:
    """Make `call` at Stripe and store what it answers."""
    revision = (await _get_intent(session, id, user_id)).revision
    await release(session)
    return await store_intent(session, provider, await call(), revision=revision, actor=actor)


async def store_intent(
    session: AsyncSession,
    provider: PaymentProvider,
    shown: Snapshot[PaymentIntent],
    *,
    revision: int,
    actor: str,
) -> PaymentIntent:
    """Have our row say it. If a webhook overtakes us, Stripe is asked again: which is newer can't be told."""
    id, origin = shown.object.id, Origin(actor=actor)
    for _ in range(_ROUNDS):
        if shown.object.customer is not None:
            await customers.lock(session, shown.object.customer)
        as_of = AsOf(at=shown.at, revision=revision)
        try:
            if await payment_rows.sync_intent(session, shown.object, as_of=as_of, origin=origin):
                break
        except customers.UnknownCustomerError:
            break  # somebody put them on it at Stripe: its webhook brings both
        revision = await mirror.revision_of(session, models.PaymentIntent, id)
        await release(session)
        shown = await provider.retrieve_payment_intent(id)
    return shown.object


async def _page(
    session: AsyncSession,
    some: Select[Row],
    model: type[Row],
    *,
    status: str | None,
    limit: int,
    starting_after: str | None,
) -> list[Row]:
    """The rows of a page and one more, newest first, by (created, Stripe's id).

    `starting_after` may have another status by now: a list whose rows move on must still lead to its next page.
    """
    page = some.order_by(model.created.desc(), model.stripe_id.desc()).limit(limit + 1)
    if status is not None:
        page = page.where(mirror.table_of(model).c.status == status)
    if starting_after is not None:
        last = await session.scalar(some.where(model.stripe_id == starting_after))
        if last is None:
            raise _missing(model, param="starting_after")
        page = page.where(
            or_(
                model.created < last.created,
                and_(model.created == last.created, model.stripe_id < last.stripe_id),
            )
        )
    return list((await session.scalars(page)).all())
