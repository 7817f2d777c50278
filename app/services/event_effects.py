"""What each event means: which object it is about, how to fetch that object, and which service follows it.

An event says "this object changed". Its payload is applied when it is certainly newer than our row; otherwise the
object is fetched once for all events that wait for it. Fetching is done by the caller, outside any transaction.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.errors import BillingError, NotFoundError
from app.models.mirror import Mirrored
from app.provider.objects import CheckoutSession, Event, MirroredObject, Snapshot, Subscription, customer_of
from app.provider.payment_objects import Dispute, Refund
from app.provider.protocol import BillingProvider
from app.services import (
    catalog,
    checkout,
    credit_notes,
    customers,
    invoices,
    mirror,
    payment_methods,
    payment_rows,
    prices,
    products,
)
from app.services.event_types import kind_of
from app.services.mirror import AsOf, Origin, Row
from app.services.subscriptions import following, schedules, trials

Ref = tuple[str, str]
"""An object's type and id, e.g. ("subscription", "sub_…")."""


class StaleError(Exception):
    """The object `ref` must be fetched, which this round didn't do: plan again with it."""

    def __init__(self, ref: Ref) -> None:
        super().__init__(f"{ref[0]} {ref[1]} must be fetched")
        self.ref = ref


@dataclass(frozen=True, slots=True)
class Kind:
    """How to follow one type of object."""

    model: type[Mirrored]
    fetch: Callable[[BillingProvider, str], Awaitable[Snapshot[Any]]]
    sync: Callable[..., Awaitable[bool]]
    columns: Callable[[Any, Any, Mapping[str, str]], dict[str, Any]]
    """What its row says, from the object, its customer's row id and the plans of its prices."""


KINDS: Mapping[str, Kind] = {
    "customer": Kind(
        models.Customer,
        lambda provider, id: provider.retrieve_customer(id),
        customers.sync,
        lambda customer, _id, _plans: customers.columns(customer),
    ),
    "payment_method": Kind(
        models.PaymentMethod,
        lambda provider, id: provider.retrieve_payment_method(id),
        payment_methods.sync,
        lambda method, customer_id, _plans: payment_methods.columns(method, customer_id),
    ),
    "subscription": Kind(
        models.Subscription,
        lambda provider, id: provider.retrieve_subscription(id),
        following.sync,
        following.columns,
    ),
    "subscription_schedule": Kind(
        models.SubscriptionSchedule,
        lambda provider, id: provider.retrieve_subscription_schedule(id),
        schedules.sync,
        lambda schedule, customer_id, _plans: schedules.columns(schedule, customer_id),
    ),
    "invoice": Kind(
        models.Invoice,
        lambda provider, id: provider.retrieve_invoice(id),
        invoices.sync,
        lambda invoice, customer_id, _plans: invoices.columns(invoice, customer_id),
    ),
    "credit_note": Kind(
        models.CreditNote,
        lambda provider, id: provider.retrieve_credit_note(id),
        credit_notes.sync,
        lambda note, customer_id, _plans: credit_notes.columns(note, customer_id),
    ),
    "checkout.session": Kind(
        models.CheckoutSession,
        lambda provider, id: provider.retrieve_checkout_session(id),
        checkout.sync,
        lambda session, customer_id, _plans: checkout.columns(session, customer_id),
    ),
    "payment_intent": Kind(
        models.PaymentIntent,
        lambda provider, id: provider.retrieve_payment_intent(id),
        payment_rows.sync_intent,
        lambda intent, customer_id, _plans: payment_rows.intent_columns(intent, customer_id),
    ),
    "charge": Kind(
        models.Charge,
        lambda provider, id: provider.retrieve_charge(id),
        payment_rows.sync_charge,
        lambda charge, customer_id, _plans: payment_rows.charge_columns(charge, customer_id),
    ),
    "refund": Kind(
        models.Refund,
        lambda provider, id: provider.retrieve_refund(id),
        payment_rows.sync_refund,
        lambda refund, customer_id, _plans: payment_rows.refund_columns(refund, customer_id),
    ),
    "dispute": Kind(
        models.Dispute,
        lambda provider, id: provider.retrieve_dispute(id),
        payment_rows.sync_dispute,
        lambda dispute, customer_id, _plans: payment_rows.dispute_columns(dispute, customer_id),
    ),
    "product": Kind(
        models.Product,
        lambda provider, id: provider.retrieve_product(id),
        products.sync,
        lambda product, _id, _plans: products.columns(product),
    ),
    "price": Kind(
        models.Price,
        lambda provider, id: provider.retrieve_price(id),
        prices.sync,
        lambda price, _id, _plans: prices.columns(price),
    ),
}


@dataclass(slots=True)
class Fetches:
    """Which objects must be asked of Stripe, each with its row's revision from before the asking, and the answers."""

    revisions: dict[Ref, int] = field(default_factory=dict)
    answers: dict[Ref, Snapshot[MirroredObject] | Exception | None] = field(default_factory=dict)
    applied: set[Ref] = field(default_factory=set)


async def plan(session: AsyncSession, events: Iterable[Event], *, also: Iterable[Ref] = ()) -> Fetches:
    """What to fetch before `events` (of one customer, oldest first) can be applied. Reads only.

    `also` is what an earlier round found missing.
    """
    rows: dict[Ref, Row | None] = {}
    shown_at: dict[Ref, int] = {}
    fetches = Fetches()

    async def row(ref: Ref) -> Row | None:
        if ref not in rows:
            rows[ref] = await mirror.find_row(session, KINDS[ref[0]].model, ref[1])
        return rows[ref]

    async def need(ref: Ref) -> None:
        found = await row(ref)
        fetches.revisions[ref] = mirror.NO_ROW if found is None else int(found["revision"])

    for missing in also:
        await need(missing)
    for event, ref in [(event, ref) for event in events if (ref := ref_of(event)) is not None]:
        found = await row(ref)
        latest = shown_at.get(ref, -1 if found is None else int(found["synced_at"]))
        if event.object is not None and event.created > latest:
            shown_at[ref] = event.created
        elif event.object is None or not await _is_known(session, ref, event.object, found):
            await need(ref)
        for needed in requirements(event):
            if await row(needed) is None and needed not in shown_at:
                await need(needed)
    return fetches


async def _is_known(session: AsyncSession, ref: Ref, shown: MirroredObject, row: Row | None) -> bool:
    """Whether a payload that isn't newer only says what our row says too. Most events of one second do."""
    if row is None or ref[0] == "customer":
        return False
    plans = {}
    if isinstance(shown, Subscription):
        plans = await catalog.plans_of_prices(session, [item.price.id for item in shown.items])
    return mirror.shows(row, KINDS[ref[0]].columns(shown, row.get("customer_id"), plans))


def owners(fetches: Fetches) -> set[str]:
    """The customers whose rows the answers will change."""
    objects = [answer.object for answer in fetches.answers.values() if isinstance(answer, Snapshot)]
    return {owner for found in objects if (owner := customer_of(found)) is not None}


async def fetch(provider: BillingProvider, fetches: Fetches) -> None:
    """Ask Stripe for everything planned. Failures are kept per object: one must not stop another's events."""
    for ref in fetches.revisions:
        try:
            fetches.answers[ref] = await KINDS[ref[0]].fetch(provider, ref[1])
        except NotFoundError:
            fetches.answers[ref] = None
        except Exception as error:  # noqa: BLE001 - re-raised for each event that depends on it
            fetches.answers[ref] = error


async def apply(session: AsyncSession, event: Event, fetches: Fetches) -> None:
    """Bring our rows in line with what `event` tells of. Raises StaleError when a fetch is needed first."""
    ref = ref_of(event)
    if ref is None:
        raise ValueError(f"{event.type} carries no {kind_of(event.type)}")
    origin = Origin(actor="stripe", stripe_event_id=event.id)
    try:
        await _apply_requirements(session, event, ref, fetches, origin)
        if ref in fetches.revisions:
            await _apply_fetch(session, ref, fetches, origin)
        elif event.object is None or not await _sync(
            session, ref, event.object, as_of=AsOf(at=event.created), origin=origin, fetches=fetches
        ):
            raise StaleError(ref)
        if announces_more(event):
            await trials.announce_end(session, ref[1], stripe_event_id=event.id)
    except customers.UnknownCustomerError as error:
        customer = ("customer", error.stripe_id)
        if customer in fetches.revisions:
            raise  # Stripe doesn't know this customer either
        raise StaleError(customer) from error


def announces_more(event: Event) -> bool:
    """Whether the event itself is news, beside what it changes."""
    return event.type.removeprefix("v1.") == trials.WILL_END


async def _apply_requirements(session: AsyncSession, event: Event, ref: Ref, fetches: Fetches, origin: Origin) -> None:
    """First what the event's own row depends on, if it was missing. What merely helps may fail on its own."""
    for fetched in fetches.revisions:
        needless = fetched == ref or fetched[0] != "customer" or fetched in fetches.applied
        if not needless and await mirror.find_row(session, models.Customer, fetched[1]) is None:
            await _apply_fetch(session, fetched, fetches, origin)
    for helpful in requirements(event):
        answer = fetches.answers.get(helpful)
        if helpful[0] == "charge" and isinstance(answer, BillingError) and answer.retryable:
            raise answer  # nothing else will ever tell whose the event's own is
        if helpful[0] != "customer" and isinstance(answer, Snapshot):
            with suppress(StaleError):  # somebody has written it meanwhile, which is as good
                await _apply_fetch(session, helpful, fetches, origin)


async def _apply_fetch(session: AsyncSession, ref: Ref, fetches: Fetches, origin: Origin) -> None:
    if ref in fetches.applied:
        return
    answer = fetches.answers[ref]
    if isinstance(answer, Exception):
        raise answer
    revision = fetches.revisions[ref]
    if answer is None:
        done = await mirror.bury(session, KINDS[ref[0]].model, ref[1], revision=revision, origin=origin)
    else:
        as_of = AsOf(at=answer.at, revision=revision)
        done = await _sync(session, ref, answer.object, as_of=as_of, origin=origin, fetches=fetches)
    if not done:
        raise StaleError(ref)
    fetches.applied.add(ref)


async def _sync(session: AsyncSession, ref: Ref, found: Any, *, as_of: AsOf, origin: Origin, fetches: Fetches) -> bool:
    """The kind's own sync; a customer whose user has another one makes us look at that other one first."""
    try:
        return await KINDS[ref[0]].sync(session, found, as_of=as_of, origin=origin)
    except customers.UserTakenError as error:
        other = ("customer", error.stripe_id)
        if other not in fetches.revisions:
            raise StaleError(other) from error
        await _apply_fetch(session, other, fetches, origin)
    try:
        return await customers.sync(session, found, as_of=as_of, origin=origin)
    except customers.UserTakenError:
        return await customers.sync(session, found, as_of=as_of, origin=origin, claim_user=False)


def ref_of(event: Event) -> Ref | None:
    """The object an event tells of; None when it names none, or another kind than its type says."""
    kind = kind_of(event.type)
    if kind is None or event.object_id is None:
        return None
    # What a thin event calls its object's type is not what the object calls itself.
    return (kind, event.object_id) if event.type.startswith("v1.") or kind == event.object_type else None


def requirements(event: Event) -> list[Ref]:
    """Objects whose rows must exist before the event's own can be written, or that its buyer expects at once."""
    needed: list[Ref] = []
    if event.customer is not None and event.object_type != "customer":
        needed.append(("customer", event.customer))
    if isinstance(event.object, CheckoutSession) and event.object.subscription is not None:
        needed.append(("subscription", event.object.subscription))
    if isinstance(event.object, Dispute | Refund) and event.customer is None and event.object.charge is not None:
        needed.append(("charge", event.object.charge))  # which knows whose it is
    if isinstance(event.object, Subscription):
        for item in event.object.items:
            if catalog.plan_named(item.price) is None:  # our rows may know its plan, or its product's
                needed += [("price", item.price.id), ("product", item.price.product)]
    return needed
