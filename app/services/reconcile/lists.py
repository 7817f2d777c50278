"""Stripe's lists held against our rows, a page at a time and in both directions."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError, NotFoundError
from app.models.mirror import Mirrored
from app.provider.objects import MirroredObject, Page, PaymentMethod, Snapshot
from app.provider.protocol import BillingProvider
from app.services.event_effects import KINDS, Ref
from app.services.reconcile.differences import differs, known

LISTS: Mapping[str, Callable[[BillingProvider, int | None, str | None], Awaitable[Page[Any]]]] = {
    "customer": lambda provider, since, after: provider.list_customers(since=since, after=after),
    "product": lambda provider, since, after: provider.list_products(since=since, after=after),
    "price": lambda provider, since, after: provider.list_prices(since=since, after=after),
    "subscription": lambda provider, since, after: provider.list_subscriptions(since=since, after=after),
    "subscription_schedule": lambda provider, since, after: provider.list_subscription_schedules(
        since=since, after=after
    ),
    "invoice": lambda provider, since, after: provider.list_invoices(since=since, after=after),
    "credit_note": lambda provider, since, after: provider.list_credit_notes(since=since, after=after),
    "payment_intent": lambda provider, since, after: provider.list_payment_intents(since=since, after=after),
    "charge": lambda provider, since, after: provider.list_charges(since=since, after=after),
    "refund": lambda provider, since, after: provider.list_refunds(since=since, after=after),
    "dispute": lambda provider, since, after: provider.list_disputes(since=since, after=after),
}
"""In this order, so that what others depend on comes first. Payment methods are listed with their customers."""

_AT_ONCE = 8  # customers whose payment methods are asked for together
_MOST_UNLISTED = 1000
"""Of our rows a page may lack: with more, these lists are rather another account's."""
_RESTARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a list, newest first, the next page begins.

    `after` is the last object met, `second` when it was made, and `seen` all met so far that were made then too: our
    rows up to that second have been looked for, but for those of that second itself. `restarts` says how often the list
    was begun again.
    """

    after: str | None = None
    second: int | None = None
    seen: Sequence[str] = ()
    restarts: int = 0


@dataclass(slots=True, kw_only=True)
class Look:
    """What one page shows, and which of it, or of our rows made in the same time, is to be looked at again."""

    shown: dict[Ref, Snapshot[Any]] = field(default_factory=dict)
    suspects: list[Ref] = field(default_factory=list)
    unreadable: list[Ref] = field(default_factory=list)
    next: Place | None = None


async def look(session: AsyncSession, provider: BillingProvider, name: str, place: Place, *, since: int | None) -> Look:
    """Compare the page of a list that begins at `place`; `since` (unix seconds) leaves out what was made earlier.

    Raises ConflictError when it looks like another account's list.
    """
    await release(session)
    try:
        page = await LISTS[name](provider, since, place.after)
    except NotFoundError:
        if place.after is None or place.restarts == _RESTARTS:
            raise
        # What the page was to follow has been deleted since: there is nothing else to find the place by.
        return Look(next=Place(restarts=place.restarts + 1))
    met = {*(shown.id for shown in page.objects), *page.unreadable, *place.seen}
    found = Look(unreadable=[(name, id) for id in page.unreadable], next=_next(place, page))
    period = _period(KINDS[name].model, place, found.next, since)
    await _compare(session, name, page, found)
    found.suspects += await _unlisted(session, name, period, met)
    if name == "customer":
        await _look_at_methods(session, provider, page, found, former=and_(period, _not_among(models.Customer, met)))
    return found


async def not_listed(session: AsyncSession, refs: Iterable[Ref], *, since: int) -> set[Ref]:
    """Those of `refs` that a look at the lists since then wouldn't show, as far as our rows tell."""
    left = {ref for ref in refs if ref[0] in LISTS or ref[0] == "payment_method"}
    for name in LISTS:
        model = KINDS[name].model
        ids = [id for kind, id in left if kind == name]
        listed = await session.scalars(select(model.stripe_id).where(model.stripe_id.in_(ids), model.created >= since))
        left -= {(name, id) for id in listed}
    return left


def _next(place: Place, page: Page[MirroredObject]) -> Place | None:
    if page.next is None:
        return None
    seconds = [shown.created for shown in page.objects]
    if place.second is not None:
        seconds.append(place.second)
    if not seconds:
        return Place(after=page.next, seen=page.unreadable, restarts=place.restarts)
    # Renewals make hundreds of invoices in one second, over several pages.
    lowest = min(seconds)
    seen = [shown.id for shown in page.objects if shown.created == lowest] + list(page.unreadable)
    seen = [*(place.seen if place.second == lowest else ()), *seen]
    return Place(after=page.next, second=lowest, seen=seen, restarts=place.restarts)


def _period(model: type[Mirrored], place: Place, next_place: Place | None, since: int | None) -> ColumnElement[bool]:
    """Our rows that this page should have shown, or one before it: made after what the next page begins with."""
    bounds = []
    if place.second is not None:
        bounds.append(model.created <= place.second)
    if since is not None:
        bounds.append(model.created >= since)
    if next_place is not None:
        bounds.append(model.created > (2**62 if next_place.second is None else next_place.second))
    return and_(true(), *bounds)


def _not_among(model: type[Mirrored], ids: Iterable[str]) -> ColumnElement[bool]:
    return model.stripe_id.not_in(list(ids))


async def _compare(session: AsyncSession, name: str, page: Page[MirroredObject], found: Look) -> None:
    ours = await known(session, name, page.objects)
    for shown in page.objects:
        found.shown[name, shown.id] = Snapshot(object=shown, at=page.at)
        if differs(name, shown, ours) is not None:
            found.suspects.append((name, shown.id))


async def _unlisted(session: AsyncSession, name: str, period: ColumnElement[bool], met: Iterable[str]) -> list[Ref]:
    """Our rows that Stripe's list should have shown and didn't."""
    model = KINDS[name].model
    ours = select(model.stripe_id).where(period, ~model.deleted, _not_among(model, met))
    unlisted = [(name, id) for id in (await session.scalars(ours.limit(_MOST_UNLISTED + 1))).all()]
    if len(unlisted) > _MOST_UNLISTED:
        raise ConflictError(
            f"More than {_MOST_UNLISTED} {name}s are here that Stripe does not list: is it the right key?",
            code="reconcile_wrong_account",
        )
    return unlisted


async def _look_at_methods(
    session: AsyncSession,
    provider: BillingProvider,
    page: Page[MirroredObject],
    found: Look,
    *,
    former: ColumnElement[bool],
) -> None:
    """The payment methods of the page's customers, and of the `former` ones it should have shown and didn't."""
    people = [person.id for person in page.objects]
    await release(session)
    pages: list[Page[PaymentMethod]] = []
    for start in range(0, len(people), _AT_ONCE):
        several = await asyncio.gather(*(_methods(provider, id) for id in people[start : start + _AT_ONCE]))
        pages += [listed for one in several for listed in one]
    met = set[str]()
    for listed in pages:
        await _compare(session, "payment_method", listed, found)
        found.unreadable += [("payment_method", id) for id in listed.unreadable]
        met |= {*(method.id for method in listed.objects), *listed.unreadable}
    ours = (
        select(models.PaymentMethod.stripe_id)
        .join(models.Customer, models.Customer.id == models.PaymentMethod.customer_id)
        .where(
            or_(models.Customer.stripe_id.in_(people), former),
            ~models.PaymentMethod.deleted,
            _not_among(models.PaymentMethod, met),
        )
    )
    found.suspects += [("payment_method", id) for id in (await session.scalars(ours)).all()]


async def _methods(provider: BillingProvider, customer: str) -> list[Page[PaymentMethod]]:
    pages: list[Page[PaymentMethod]] = []
    after = None
    while True:
        try:
            page = await provider.list_payment_methods(customer, after=after)
        except NotFoundError:  # deleted since the list was made
            return pages
        pages.append(page)
        if (after := page.next) is None:
            return pages
