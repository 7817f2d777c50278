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
from app.errors import NotFoundError
from app.models.mirror import Mirrored
from app.provider.protocol import BillingProvider, CheckoutSession, Event, MirroredObject, Snapshot
from app.services import checkout, customers, invoices, mirror, payment_methods, subscriptions
from app.services.mirror import AsOf, Origin

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


KINDS: Mapping[str, Kind] = {
    "customer": Kind(models.Customer, lambda provider, id: provider.retrieve_customer(id), customers.sync),
    "payment_method": Kind(
        models.PaymentMethod, lambda provider, id: provider.retrieve_payment_method(id), payment_methods.sync
    ),
    "subscription": Kind(
        models.Subscription, lambda provider, id: provider.retrieve_subscription(id), subscriptions.sync
    ),
    "invoice": Kind(models.Invoice, lambda provider, id: provider.retrieve_invoice(id), invoices.sync),
    "checkout.session": Kind(
        models.CheckoutSession, lambda provider, id: provider.retrieve_checkout_session(id), checkout.sync
    ),
}

HANDLED: Mapping[str, str] = {
    # The customer's name, address and default payment method; whether they still exist.
    **dict.fromkeys(("customer.created", "customer.updated", "customer.deleted"), "customer"),
    # Access hangs on these.
    **dict.fromkeys(
        (
            "customer.subscription.created",
            "customer.subscription.updated",
            "customer.subscription.deleted",
            "customer.subscription.paused",
            "customer.subscription.resumed",
            "customer.subscription.trial_will_end",
            "customer.subscription.pending_update_applied",
            "customer.subscription.pending_update_expired",
        ),
        "subscription",
    ),
    # Every event after which an invoice looks different. invoice.upcoming is not one: it has no id yet.
    **dict.fromkeys(
        (
            "invoice.created",
            "invoice.updated",
            "invoice.deleted",
            "invoice.finalized",
            "invoice.finalization_failed",
            "invoice.paid",
            "invoice.payment_succeeded",
            "invoice.payment_failed",
            "invoice.payment_action_required",
            "invoice.payment_attempt_required",
            "invoice.marked_uncollectible",
            "invoice.voided",
            "invoice.overdue",
            "invoice.overpaid",
            "invoice.sent",
        ),
        "invoice",
    ),
    **dict.fromkeys(
        (
            "payment_method.attached",
            "payment_method.detached",
            "payment_method.updated",
            "payment_method.automatically_updated",
        ),
        "payment_method",
    ),
    # How a purchase ended; for delayed methods the money comes, or doesn't, with the async_ ones.
    **dict.fromkeys(
        (
            "checkout.session.completed",
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
            "checkout.session.expired",
        ),
        "checkout.session",
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
    rows: dict[Ref, Mapping[str, Any] | None] = {}
    shown_at: dict[Ref, int] = {}
    fetches = Fetches()

    async def row(ref: Ref) -> Mapping[str, Any] | None:
        if ref not in rows:
            rows[ref] = await mirror.find_row(session, KINDS[ref[0]].model, ref[1])
        return rows[ref]

    async def need(ref: Ref) -> None:
        found = await row(ref)
        fetches.revisions[ref] = mirror.NO_ROW if found is None else int(found["revision"])

    for missing in also:
        await need(missing)
    for event in events:
        if (ref := _ref(event)) is None:
            continue
        found = await row(ref)
        latest = shown_at.get(ref, -1 if found is None else int(found["synced_at"]))
        if event.object is None or event.created <= latest:
            await need(ref)
        else:
            shown_at[ref] = event.created
        for needed in _requirements(event):
            if await row(needed) is None and needed not in shown_at:
                await need(needed)
    return fetches


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
    ref = _ref(event)
    if ref is None:
        raise ValueError(f"{event.type} carries no {HANDLED.get(event.type)}")
    origin = Origin(actor="stripe", stripe_event_id=event.id)
    try:
        await _apply_requirements(session, event, ref, fetches, origin)
        if ref in fetches.revisions:
            await _apply_fetch(session, ref, fetches, origin)
        elif event.object is None or not await _sync(
            session, ref, event.object, as_of=AsOf(at=event.created), origin=origin, fetches=fetches
        ):
            raise StaleError(ref)
    except customers.UnknownCustomerError as error:
        customer = ("customer", error.stripe_id)
        if customer in fetches.revisions:
            raise  # Stripe doesn't know this customer either
        raise StaleError(customer) from error


async def _apply_requirements(session: AsyncSession, event: Event, ref: Ref, fetches: Fetches, origin: Origin) -> None:
    """First what the event's own row depends on, if it was missing. What merely helps may fail on its own."""
    for fetched in fetches.revisions:
        needless = fetched == ref or fetched[0] != "customer" or fetched in fetches.applied
        if not needless and await mirror.find_row(session, models.Customer, fetched[1]) is None:
            await _apply_fetch(session, fetched, fetches, origin)
    for helpful in _requirements(event):
        if helpful[0] != "customer" and isinstance(fetches.answers.get(helpful), Snapshot):
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


def _ref(event: Event) -> Ref | None:
    kind = HANDLED.get(event.type)
    return None if kind is None or kind != event.object_type or event.object_id is None else (kind, event.object_id)


def _requirements(event: Event) -> list[Ref]:
    """Objects whose rows must exist before the event's own can be written, or that its buyer expects at once."""
    needed: list[Ref] = []
    if event.customer is not None and event.object_type != "customer":
        needed.append(("customer", event.customer))
    if isinstance(event.object, CheckoutSession) and event.object.subscription is not None:
        needed.append(("subscription", event.object.subscription))
    return needed
