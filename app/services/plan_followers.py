"""Subscriptions follow when a price of theirs comes to belong to a plan, or to another one."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.services import catalog, mirror
from app.services.mirror import AsOf, Origin

_ROUNDS = 5
_MOST = 1000
"""Of one price, or product, that are changed along with it; of what is left, `reconcile` takes care."""


async def follow(session: AsyncSession, id: str, *, origin: Origin) -> None:
    """Have the subscriptions to a price, or to any price of a product, say the plan that it belongs to now."""
    found = await session.scalars(
        text("""
            SELECT stripe_id FROM subscriptions WHERE NOT deleted AND EXISTS (
                SELECT FROM jsonb_array_elements(items) AS item
                JOIN prices ON prices.stripe_id = item ->> 'price'
                LEFT JOIN products ON products.stripe_id = prices.product
                WHERE :id IN (prices.stripe_id, prices.product)
                AND coalesce(prices.plan, products.plan, item ->> 'plan') IS DISTINCT FROM item ->> 'plan'
            ) ORDER BY stripe_id LIMIT :most
        """),
        {"id": id, "most": _MOST},
    )
    for subscription in found.all():
        for _ in range(_ROUNDS):
            if await _retell(session, subscription, origin):
                break


async def _retell(session: AsyncSession, stripe_id: str, origin: Origin) -> bool:
    """False when somebody wrote the row meanwhile, who may not have known the plan yet."""
    row = await mirror.find_row(session, models.Subscription, stripe_id)
    if row is None:
        return True
    plans = await catalog.plans_of_prices(session, [item["price"] for item in row["items"]])
    items = [{**item, "plan": plans.get(item["price"], item["plan"])} for item in row["items"]]
    values = {"items": items, "plan": next((item["plan"] for item in items if item["plan"]), None)}
    as_of = AsOf(at=row["synced_at"], revision=row["revision"])
    return await mirror.upsert(session, models.Subscription, stripe_id, values, as_of=as_of, origin=origin)
