"""Payment methods: listing them and following Stripe."""

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.provider.objects import PaymentMethod
from app.services import customers, mirror, subscriptions
from app.services.mirror import AsOf, Origin


async def list_for_user(session: AsyncSession, *, user_id: str) -> list[tuple[models.PaymentMethod, bool]]:
    """Each with whether it is the one the next invoice is charged to; newest first.

    That is the live subscription's default where it has one (Checkout sets it there), else the customer's.
    """
    customer = await customers.find_for_user(session, user_id)
    if customer is None:
        return []
    alive = await subscriptions.live(session, user_id)
    default = next(
        (subscription.default_payment_method for subscription in alive if subscription.default_payment_method),
        customer.default_payment_method,
    )
    found = await session.scalars(
        select(models.PaymentMethod)
        .where(models.PaymentMethod.customer_id == customer.id, ~models.PaymentMethod.deleted)
        .order_by(models.PaymentMethod.created.desc(), models.PaymentMethod.stripe_id)
    )
    return [(method, method.stripe_id == default) for method in found]


async def sync(session: AsyncSession, method: PaymentMethod, *, as_of: AsOf, origin: Origin) -> bool:
    """Bring our row in line with Stripe's; one that left its customer stays as a tombstone. False when stale.

    Raises UnknownCustomerError before the customer it is attached to is stored.
    """
    customer = None if method.customer is None else await customers.of_object(session, method.customer)
    values = columns(method, None if customer is None else customer.id)
    return await mirror.upsert(session, models.PaymentMethod, method.id, values, as_of=as_of, origin=origin)


def columns(method: PaymentMethod, customer_id: UUID | None) -> dict[str, Any]:
    """What our row says when it shows this."""
    return {
        "customer_id": customer_id,
        "livemode": method.livemode,
        "created": method.created,
        "deleted": customer_id is None,
        "type": method.type,
        "brand": method.brand,
        "last4": method.last4,
        "exp_month": method.exp_month,
        "exp_year": method.exp_year,
    }
