"""Bringing Stripe in line with plans.yaml: what differs, and mending it so that doing it again changes nothing."""

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol
from uuid import uuid4

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError, NotFoundError
from app.provider import objects
from app.provider.objects import Price, Product, Snapshot
from app.provider.protocol import CatalogProvider, MeterProvider
from app.services import audit, mirror, prices, products
from app.services.catalog import PLAN_METADATA, PREFIX, Catalog, Meter, Pack, Plan, Terms
from app.services.derived_keys import with_derived_key
from app.services.mirror import NO_ROW, AsOf, Origin


class Provider(CatalogProvider, MeterProvider, Protocol):
    """What applying takes of Stripe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that `apply` does, or would do.

    `id` is what the catalogue knows it by: a product's id, a price's lookup key (an old price's id), a meter's event
    name. `fields` has what differs: {field: (Stripe's, the file's)}.
    """

    what: Literal["meter", "product", "price"]
    id: str
    action: Literal["keep", "create", "update", "replace", "reactivate", "archive"]
    fields: Mapping[str, tuple[object, object]] = field(default_factory=dict)


Shown = Snapshot[Product] | Snapshot[Price]


@dataclass(frozen=True, slots=True)
class _Step:
    """A change, and how it is made; what that shows is stored here."""

    change: Change
    make: Callable[[Provider], Awaitable[Sequence[Shown]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stripe:
    """What is there: products by id, prices by lookup key, and the active prices of our products."""

    products: Mapping[str, Snapshot[Product]]
    holders: Mapping[str, Snapshot[Price]]
    active: Sequence[Snapshot[Price]]
    meters: Sequence[objects.Meter]


async def diff(provider: Provider, catalog: Catalog) -> list[Change]:
    """Everything the catalogue says and whether Stripe says so too. Changes nothing.

    Raises ConflictError where Stripe can't be brought in line.
    """
    return [step.change for step in _steps(catalog, await _look(provider, catalog))]


async def apply(
    session: AsyncSession, provider: Provider, catalog: Catalog, *, actor: str = "cli", archive: bool = False
) -> list[Change]:
    """Make Stripe say what the catalogue says, and our rows with it; answers what was done and what was kept.

    A new amount makes a new price that takes the lookup key over; subscribers keep the old one. Only with `archive` are
    old prices, and products that are no longer in the file, taken off sale. Each step stands for itself: what an
    interrupted run left undone, the next one does. Raises ConflictError, before the first step, as `diff`.
    """
    revisions = await _revisions(session)
    offered = await _offered(session)
    await release(session)
    stripe = await _look(provider, catalog)
    steps = [step for step in _steps(catalog, stripe) if archive or step.change.action != "archive"]
    shown = [one for step in steps for one in await step.make(provider)]
    shown += await _mend(provider, stripe, shown, offered)
    latest = {one.object.id: one for one in shown}
    for one in latest.values():
        await _store(session, one, revisions, Origin(actor=actor))
    done = [
        f"{step.change.action} {step.change.what} {step.change.id}" for step in steps if step.change.action != "keep"
    ]
    if done:
        await audit.record(session, actor=actor, action="catalog.applied", subject="plans", after={"changes": done})
    return [step.change for step in steps]


async def _look(provider: Provider, catalog: Catalog) -> _Stripe:
    found: dict[str, Snapshot[Product]] = {}
    after: str | None = None
    while True:
        page = await provider.list_products(since=None, after=after)
        found |= {one.id: Snapshot(object=one, at=page.at) for one in page.objects if one.id.startswith(PREFIX)}
        if (after := page.next) is None:
            break
    active: list[Snapshot[Price]] = []
    for id in found:
        while True:
            listed = await provider.list_prices(since=None, after=after, product=id, active=True)
            active += [Snapshot(object=price, at=listed.at) for price in listed.objects]
            if (after := listed.next) is None:
                break
    keys = [terms.lookup_key for sold in catalog.sold for terms in sold.terms]
    holders = await provider.find_prices(keys)
    return _Stripe(
        products=found,
        holders={price.object.lookup_key or "": price for price in holders},
        active=active,
        meters=await provider.list_meters() if catalog.meters else (),
    )


def _steps(catalog: Catalog, stripe: _Stripe) -> list[_Step]:
    """In the order they are to be made: what others need first, what takes away last."""
    steps = [_meter_step(catalog, meter, stripe.meters) for meter in catalog.meters.values()]
    for sold in catalog.sold:
        steps.append(_product_step(sold, stripe.products.get(sold.product_id)))
        steps += [_price_step(sold, terms, stripe.holders.get(terms.lookup_key)) for terms in sold.terms]
    return steps + list(_archive_steps(catalog, stripe))


def _meter_step(catalog: Catalog, meter: Meter, there: Sequence[objects.Meter]) -> _Step:
    named = sorted((one for one in there if one.event_name == meter.event_name), key=lambda one: one.status)
    if not named:
        _refuse_renamed(catalog, meter, there)
        return _Step(Change(what="meter", id=meter.event_name, action="create"), lambda p: _create_meter(p, meter))
    found = named[0]  # "active" comes before "inactive"; of one event name only one can be active
    if found.formula != meter.aggregation:
        raise ConflictError(
            f"Meter {meter.key}: Stripe counts {meter.event_name} by {found.formula}, which can't be changed. "
            f"Keep `aggregation: {found.formula}`, or choose another event_name.",
            code="meter_differs",
        )
    renamed = {} if found.display_name == meter.name else {"name": (found.display_name, meter.name)}
    asleep = found.status != "active"
    action: Literal["reactivate", "update", "keep"] = "reactivate" if asleep else "update" if renamed else "keep"

    async def make(provider: Provider) -> Sequence[Shown]:
        if asleep:
            await provider.reactivate_meter(found.id)
        if renamed:
            await provider.rename_meter(found.id, display_name=meter.name)
        return ()

    return _Step(Change(what="meter", id=meter.event_name, action=action, fields=renamed), make)


def _refuse_renamed(catalog: Catalog, meter: Meter, there: Sequence[objects.Meter]) -> None:
    """A meter of the same name that the file doesn't know is the one whose event name was changed in the file."""
    known = {one.event_name for one in catalog.meters.values()}
    for other in there:
        if other.status == "active" and other.display_name == meter.name and other.event_name not in known:
            raise ConflictError(
                f"Meter {meter.key}: at Stripe {meter.name!r} counts {other.event_name}, and a meter's event_name "
                f"can't be changed. Keep `event_name: {other.event_name}`, or give the new meter another `name`.",
                code="meter_differs",
            )


async def _create_meter(provider: Provider, meter: Meter) -> Sequence[Shown]:
    await with_derived_key(
        f"billhook-meter-{_digest(meter.event_name, meter.name, meter.aggregation)}",
        lambda key: provider.create_meter(
            display_name=meter.name, event_name=meter.event_name, formula=meter.aggregation, idempotency_key=key
        ),
        usable=lambda made: made.status == "active",
    )
    return ()


def _product_step(sold: Plan | Pack, found: Snapshot[Product] | None) -> _Step:
    wanted = {"name": sold.name, "description": sold.description, "active": True, "plan": sold.key}

    async def update(provider: Provider) -> Sequence[Shown]:
        changed = await provider.update_product(
            sold.product_id,
            name=sold.name,
            description=sold.description,
            active=True,
            metadata={PLAN_METADATA: sold.key},
        )
        return [changed]

    async def create(provider: Provider) -> Sequence[Shown]:
        try:
            made = await provider.create_product(
                id=sold.product_id,
                name=sold.name,
                description=sold.description or None,
                metadata={PLAN_METADATA: sold.key},
                idempotency_key=uuid4().hex,  # the product's id is what makes it one
            )
        except ConflictError:  # somebody else has just made it
            return await update(provider)
        return [made]

    if found is None:
        return _Step(Change(what="product", id=sold.product_id, action="create"), create)
    there = {
        "name": found.object.name,
        "description": found.object.description or "",
        "active": found.object.active,
        "plan": found.object.metadata.get(PLAN_METADATA),
    }
    fields = {name: (there[name], value) for name, value in wanted.items() if there[name] != value}
    if fields:
        return _Step(Change(what="product", id=sold.product_id, action="update", fields=fields), update)
    return _Step(Change(what="product", id=sold.product_id, action="keep"), lambda _: _kept(found))


def _price_step(sold: Plan | Pack, terms: Terms, found: Snapshot[Price] | None) -> _Step:
    if found is None:
        change = Change(what="price", id=terms.lookup_key, action="create")
        return _Step(change, lambda p: _create_price(p, sold, terms, None))
    there = found.object
    named = there.metadata.get(PLAN_METADATA)
    compared = {
        "plan": (named or sold.key, sold.key),
        "amount": (there.unit_amount, terms.amount),
        "currency": (there.currency, terms.currency),
        "interval": (there.interval, terms.interval),
        "interval_count": (there.interval_count, 1),
        "usage_type": (there.usage_type, None if terms.interval is None else "licensed"),
        "product": (there.product, sold.product_id),
    }
    fields = {name: pair for name, pair in compared.items() if pair[0] != pair[1]}
    if fields:
        change = Change(what="price", id=terms.lookup_key, action="replace", fields=fields)
        return _Step(change, lambda p: _create_price(p, sold, terms, there))
    if not there.active or named is None:
        missing = {} if named else {"plan": (None, sold.key)}
        action: Literal["update", "reactivate"] = "update" if there.active else "reactivate"
        change = Change(what="price", id=terms.lookup_key, action=action, fields=missing)
        return _Step(change, lambda p: _offer(p, there, sold.key))
    return _Step(Change(what="price", id=terms.lookup_key, action="keep"), lambda _: _kept(found))


async def _create_price(
    provider: Provider, sold: Plan | Pack, terms: Terms, replaced: Price | None
) -> Sequence[Snapshot[Price]]:
    """The new price, and what became of the one it replaced."""
    if replaced is not None and PLAN_METADATA not in replaced.metadata:
        await _name_plan(provider, replaced, sold.key)
    made = await with_derived_key(
        f"billhook-price-{_digest(sold.key, terms, replaced and replaced.id)}",
        lambda key: provider.create_price(
            product=sold.product_id,
            currency=terms.currency,
            unit_amount=terms.amount,
            interval=terms.interval,
            lookup_key=terms.lookup_key,
            transfer_lookup_key=True,
            metadata={PLAN_METADATA: sold.key},
            idempotency_key=key,
        ),
        usable=lambda made: made.object.active and made.object.lookup_key == terms.lookup_key,
    )
    return [made] if replaced is None else [made, await provider.retrieve_price(replaced.id)]


def _archive_steps(catalog: Catalog, stripe: _Stripe) -> Iterator[_Step]:
    """What earlier files sold: replaced prices, and products with all they cost. What others made is left alone."""
    wanted = {terms.lookup_key for sold in catalog.sold for terms in sold.terms}
    keys = {sold.product_id: sold.terms[0].lookup_key for sold in catalog.sold}
    for price in stripe.active:
        shown = price.object
        ours = shown.metadata.get(PLAN_METADATA) and (shown.lookup_key or PREFIX).startswith(PREFIX)
        if not ours or shown.lookup_key in wanted:
            continue
        change = Change(what="price", id=shown.id, action="archive", fields={"active": (True, False)})
        if stripe.products[shown.product].object.default_price != shown.id:
            yield _Step(change, partial(_archive_price, price=shown))
        elif (successor := keys.get(shown.product)) is not None:
            yield _Step(change, partial(_archive_default, price=shown, successor=successor))
        # Of what is not sold at all, Stripe keeps the default price; archiving the product takes it off sale too.
    for id, product in stripe.products.items():
        plan = product.object.metadata.get(PLAN_METADATA)
        if product.object.active and id not in keys and plan is not None and id == f"{PREFIX}{plan}":
            yield _Step(
                Change(what="product", id=id, action="archive", fields={"active": (True, False)}),
                partial(_archive_product, id=id),
            )


async def _archive_product(provider: Provider, id: str) -> Sequence[Shown]:
    return [await provider.update_product(id, active=False)]


async def _archive_default(provider: Provider, price: Price, *, successor: str) -> Sequence[Shown]:
    """Stripe archives no product's default price: first the price that holds the lookup key `successor` becomes it."""
    [holder] = await provider.find_prices([successor])
    product = await provider.update_product(price.product, default_price=holder.object.id)
    return [product, await provider.update_price(price.id, active=False)]


async def _offer(provider: Provider, price: Price, plan: str) -> Sequence[Shown]:
    return [await provider.update_price(price.id, active=True, metadata={PLAN_METADATA: plan})]


async def _name_plan(provider: Provider, price: Price, plan: str) -> None:
    """So that its subscribers keep the plan whenever it loses its lookup key, by which alone it is known yet."""
    await provider.update_price(price.id, metadata={PLAN_METADATA: plan})


async def _archive_price(provider: Provider, price: Price) -> Sequence[Shown]:
    return [await provider.update_price(price.id, active=False)]


async def _kept(found: Shown) -> Sequence[Shown]:
    return [found]


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


async def _revisions(session: AsyncSession) -> dict[str, int]:
    """Our rows' revisions before Stripe was asked, of all that may come to be a plan's."""
    product, price = models.Product, models.Price
    named = or_(price.lookup_key.startswith(PREFIX, autoescape=True), price.product.startswith(PREFIX, autoescape=True))
    queries = (
        select(product.stripe_id, product.revision).where(product.stripe_id.startswith(PREFIX, autoescape=True)),
        select(price.stripe_id, price.revision).where(or_(price.plan.is_not(None), named)),
    )
    return {row.stripe_id: row.revision for query in queries for row in await session.execute(query)}


async def _offered(session: AsyncSession) -> set[str]:
    """The prices of our products that are active as our rows have it."""
    price = models.Price
    ours = price.product.startswith(PREFIX, autoescape=True)
    return set((await session.scalars(select(price.stripe_id).where(ours, price.active, ~price.deleted))).all())


async def _mend(provider: Provider, stripe: _Stripe, shown: Sequence[Shown], offered: set[str]) -> list[Shown]:
    """What else Stripe shows of our products: also what an earlier run changed there, which then broke off."""
    told = {one.object.id for one in shown}
    listed: list[Shown] = [*stripe.products.values(), *stripe.active]
    found = [one for one in listed if one.object.id not in told]
    active = {one.object.id for one in stripe.active}
    for id in sorted(offered - active - told):
        with suppress(NotFoundError):  # deleted at Stripe, as a webhook will tell, or `reconcile`
            found.append(await provider.retrieve_price(id))
    return found


async def _store(session: AsyncSession, shown: Shown, revisions: Mapping[str, int], origin: Origin) -> None:
    """Have our row say what Stripe showed; a webhook that was there first says it too, or something newer."""
    as_of = AsOf(at=shown.at, revision=revisions.get(shown.object.id, NO_ROW))
    if isinstance(shown.object, Product):
        row = await mirror.find_row(session, models.Product, shown.object.id)
        if not mirror.shows(row, products.columns(shown.object)):
            await products.sync(session, shown.object, as_of=as_of, origin=origin)
    else:
        row = await mirror.find_row(session, models.Price, shown.object.id)
        if not mirror.shows(row, prices.columns(shown.object)):
            await prices.sync(session, shown.object, as_of=as_of, origin=origin)
