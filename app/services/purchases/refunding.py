"""Giving back the money of a purchase of credits, which takes its uses back."""

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError
from app.models import CreditPurchase
from app.provider.payment_objects import Refund
from app.provider.payment_protocol import RefundReason
from app.provider.protocol import BillingProvider
from app.services import payments
from app.services.purchases import reading

log = structlog.get_logger(__name__)


async def refund(
    session: AsyncSession,
    provider: BillingProvider,
    *,
    id: str,
    amount: int | None,
    reason: RefundReason | None,
    idempotency_key: str,
    actor: str,
) -> tuple[CreditPurchase, Refund]:
    """Give the money back, all that is left of it or `amount`, and take the uses for it back at once.

    `id` is as for `reading.get`. Raises NotFoundError, and ConflictError for what is not paid or has nothing left to
    refund.
    """
    row = await reading.get_known(session, id, None)
    if row.payment_intent is None or row.status not in {"succeeded", "mismatched"}:
        raise ConflictError("This purchase is not paid.", code="purchase_not_paid")
    made = await payments.refund(
        session,
        provider,
        payment_id=row.payment_intent,
        amount=amount,
        reason=reason,
        idempotency_key=idempotency_key,
        actor=actor,
    )
    log.info("purchase_refunded", purchase_id=str(row.id), refund=made.id, amount=made.amount)
    await session.refresh(row)
    return row, made
