"""Products: what is sold, as operators keep it and as Stripe shows it."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import NotFoundError, UnavailableError
from app.provider.objects import Product, Snapshot
from app.provider.protocol import CatalogProvider
from app.services import mirror, plan_followers
from app.services.catalog import PLAN_METADATA
from app.services.mirror import NO_ROW, AsOf, Origin

_SYNC_ROUNDS = 5


async def list_page(
    session: AsyncSession, *, active: bool | None, limit: int, starting_after: str | None
) -> list[models.Product]:
    """Newest first, up to `limit` + 1 of them, so that the caller sees whether there are more."""
    table = models.Product
    page = select(table).where(~table.deleted).order_by(table.created.desc(), table.stripe_id.desc()).limit(limit + 1)
    if active is not None:
        page = page.where(table.active == active)
    if starting_after is not None:
        last = await get(session, starting_after, param="starting_after")
        same_second = and_(table.created == last.created, table.stripe_id < last.stripe_id)
        page = page.where(or_(table.created < last.created, same_second))
    return list((await session.scalars(page)).all())


async def get(session: AsyncSession, id: str, *, param: str | None = None) -> models.Product:
    """Raises NotFoundError, naming `param`."""
    found = await session.scalar(
        select(models.Product)
        .where(models.Product.stripe_id == id, ~models.Product.deleted)
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFoundError("There is no such product.", code="product_not_found", param=param)
    return found


async def create(
    session: AsyncSession,
    provider: CatalogProvider,
    *,
    name: str,
    description: str | None,
    metadata: Mapping[str, str],
    idempotency_key: str,
    actor: str,
) -> models.Product:
    await release(session)
    made = await provider.create_product(
        id=None, name=name, description=description, metadata=metadata, idempotency_key=idempotency_key
    )
    return await _store(session, provider, made, revision=NO_ROW, actor=actor)


async def change(
    session: AsyncSession,
    provider: CatalogProvider,
    id: str,
    *,
    name: str | None = None,
    description: str | None = None,
    active: bool | None = None,
    metadata: Mapping[str, str] | None = None,
    idempotency_key: str,
    actor: str,
) -> models.Product:
    """Set what is given; None leaves as it is. An archived (inactive) product keeps its prices and subscribers."""
    revision = (await get(session, id)).revision
    await release(session)
    changed = await provider.update_product(
        id, name=name, description=description, active=active, metadata=metadata, idempotency_key=idempotency_key
    )
    return await _store(session, provider, changed, revision=revision, actor=actor)


async def _store(
    session: AsyncSession, provider: CatalogProvider, shown: Snapshot[Product], *, revision: int, actor: str
) -> models.Product:
    """If a webhook overtook us, Stripe is asked again: which of the two states is newer can't be told."""
    id = shown.object.id
    for _ in range(_SYNC_ROUNDS):
        as_of = AsOf(at=shown.at, revision=revision)
        if await sync(session, shown.object, as_of=as_of, origin=Origin(actor=actor)):
            return await get(session, id)
        revision = await mirror.revision_of(session, models.Product, id)
        await release(session)
        shown = await provider.retrieve_product(id)
    raise UnavailableError("The product is changing too fast; try again.", retry_after=1)


async def sync(session: AsyncSession, product: Product, *, as_of: AsOf, origin: Origin) -> bool:
    """Bring our row in line with Stripe's product, and its subscriptions with it; False when `as_of` is stale."""
    row = await mirror.find_row(session, models.Product, product.id)
    values = columns(product)
    applied = await mirror.upsert(session, models.Product, product.id, values, as_of=as_of, origin=origin)
    if applied and "plan" in values and (row is None or row["plan"] != values["plan"]):
        await plan_followers.follow(session, product.id, origin=origin)
    return applied


def columns(product: Product) -> dict[str, Any]:
    """What our row says when it shows this. A product that names no plan keeps the one it had."""
    plan = product.metadata.get(PLAN_METADATA)
    return {
        "livemode": product.livemode,
        "created": product.created,
        "deleted": product.deleted,
        "name": product.name,
        "description": product.description,
        "active": product.active,
        "default_price": product.default_price,
        "stripe_metadata": dict(product.metadata),
        **({"plan": plan} if plan else {}),
    }
