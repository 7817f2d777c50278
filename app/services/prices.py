"""Prices: what Stripe charges, as operators keep it and as Stripe shows it. What one costs can never be changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import NotFoundError, UnavailableError
from app.provider.objects import Price, Snapshot
from app.provider.protocol import CatalogProvider
from app.services import mirror, plan_followers, products
from app.services.catalog import plan_named, plans_of_prices
from app.services.mirror import NO_ROW, AsOf, Origin

_SYNC_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPrice:
    """`unit_amount` in minor units, per `interval_count` intervals; without an `interval`, once. Metered by `meter`."""

    product: str
    currency: str
    unit_amount: int
    interval: str | None
    interval_count: int
    meter: str | None
    nickname: str | None
    lookup_key: str | None
    transfer_lookup_key: bool
    metadata: Mapping[str, str]


async def list_page(
    session: AsyncSession,
    *,
    active: bool | None,
    product: str | None,
    lookup_key: str | None,
    limit: int,
    starting_after: str | None,
) -> list[models.Price]:
    """Newest first, up to `limit` + 1 of them, so that the caller sees whether there are more."""
    table = models.Price
    page = select(table).where(~table.deleted).order_by(table.created.desc(), table.stripe_id.desc()).limit(limit + 1)
    if active is not None:
        page = page.where(table.active == active)
    if product is not None:
        page = page.where(table.product == product)
    if lookup_key is not None:
        page = page.where(table.lookup_key == lookup_key)
    if starting_after is not None:
        last = await get(session, starting_after, param="starting_after")
        same_second = and_(table.created == last.created, table.stripe_id < last.stripe_id)
        page = page.where(or_(table.created < last.created, same_second))
    return list((await session.scalars(page)).all())


async def get(session: AsyncSession, id: str, *, param: str | None = None) -> models.Price:
    """Raises NotFoundError, naming `param`."""
    found = await session.scalar(
        select(models.Price)
        .where(models.Price.stripe_id == id, ~models.Price.deleted)
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFoundError("There is no such price.", code="price_not_found", param=param)
    return found


async def create(
    session: AsyncSession, provider: CatalogProvider, new: NewPrice, *, idempotency_key: str, actor: str
) -> models.Price:
    """Raises NotFoundError for a product that isn't there."""
    await products.get(session, new.product, param="product")
    holder = await _holder(session, new.lookup_key)
    await release(session)
    made = await provider.create_price(
        product=new.product,
        currency=new.currency,
        unit_amount=new.unit_amount,
        interval=new.interval,
        interval_count=new.interval_count,
        meter=new.meter,
        nickname=new.nickname,
        lookup_key=new.lookup_key,
        transfer_lookup_key=new.transfer_lookup_key,
        metadata=new.metadata,
        idempotency_key=idempotency_key,
    )
    former = await _former(provider, holder, made)
    return await _store(session, provider, made, former, revision=NO_ROW, actor=actor)


async def change(
    session: AsyncSession,
    provider: CatalogProvider,
    id: str,
    *,
    active: bool | None = None,
    nickname: str | None = None,
    lookup_key: str | None = None,
    transfer_lookup_key: bool = False,
    metadata: Mapping[str, str] | None = None,
    idempotency_key: str,
    actor: str,
) -> models.Price:
    """Set what is given; None leaves as it is. An archived (inactive) price keeps its subscribers."""
    revision = (await get(session, id)).revision
    holder = await _holder(session, lookup_key)
    await release(session)
    changed = await provider.update_price(
        id,
        active=active,
        nickname=nickname,
        lookup_key=lookup_key,
        transfer_lookup_key=transfer_lookup_key,
        metadata=metadata,
        idempotency_key=idempotency_key,
    )
    former = await _former(provider, holder, changed)
    return await _store(session, provider, changed, former, revision=revision, actor=actor)


@dataclass(frozen=True, slots=True)
class _Former:
    """Whoever held the lookup key before, as Stripe shows it now; `revision` from before it was asked."""

    shown: Snapshot[Price]
    revision: int


async def _holder(session: AsyncSession, lookup_key: str | None) -> models.Price | None:
    if not lookup_key:
        return None
    holding = select(models.Price).where(models.Price.lookup_key == lookup_key, ~models.Price.deleted)
    return await session.scalar(holding.order_by(models.Price.created.desc()).limit(1))


async def _former(provider: CatalogProvider, holder: models.Price | None, taker: Snapshot[Price]) -> _Former | None:
    if holder is None or holder.stripe_id == taker.object.id:
        return None
    return _Former(await provider.retrieve_price(holder.stripe_id), holder.revision)


async def _store(
    session: AsyncSession,
    provider: CatalogProvider,
    shown: Snapshot[Price],
    former: _Former | None,
    *,
    revision: int,
    actor: str,
) -> models.Price:
    """If a webhook overtook us, Stripe is asked again: which of the two states is newer can't be told.

    Of the `former` holder of a lookup key that webhook is as good as our own reading.
    """
    id, origin = shown.object.id, Origin(actor=actor)
    for _ in range(_SYNC_ROUNDS):
        if await sync(session, shown.object, as_of=AsOf(at=shown.at, revision=revision), origin=origin):
            if former is not None:
                as_of = AsOf(at=former.shown.at, revision=former.revision)
                await sync(session, former.shown.object, as_of=as_of, origin=origin)
            return await get(session, id)
        revision = await mirror.revision_of(session, models.Price, id)
        await release(session)
        shown = await provider.retrieve_price(id)
    raise UnavailableError("The price is changing too fast; try again.", retry_after=1)


async def sync(session: AsyncSession, price: Price, *, as_of: AsOf, origin: Origin) -> bool:
    """Bring our row in line with Stripe's price, and its subscriptions with it; False when `as_of` is stale."""
    before = await plans_of_prices(session, [price.id])
    applied = await mirror.upsert(session, models.Price, price.id, columns(price), as_of=as_of, origin=origin)
    if applied and await plans_of_prices(session, [price.id]) != before:
        await plan_followers.follow(session, price.id, origin=origin)
    return applied


def columns(price: Price) -> dict[str, Any]:
    """What our row says when it shows this.

    A price that names no plan keeps the one it had: it loses its lookup key when a newer one takes over, but not its
    subscribers.
    """
    plan = plan_named(price)
    return {
        "livemode": price.livemode,
        "created": price.created,
        "deleted": price.deleted,
        "product": price.product,
        "lookup_key": price.lookup_key,
        "nickname": price.nickname,
        "currency": price.currency,
        "unit_amount": price.unit_amount,
        "interval": price.interval,
        "interval_count": price.interval_count,
        "usage_type": price.usage_type,
        "meter": price.meter,
        "active": price.active,
        "stripe_metadata": dict(price.metadata),
        **({"plan": plan} if plan else {}),
    }
