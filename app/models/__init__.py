"""All tables, imported here so that Alembic sees them."""

from app.db import Base
from app.models.api_call import ApiCall
from app.models.api_key import ApiKey
from app.models.audit import AuditRow
from app.models.catalog import Price
from app.models.checkout import CheckoutSession
from app.models.customer import Customer, PaymentMethod
from app.models.event import StripeEvent
from app.models.idempotency import IdempotencyKey
from app.models.invoice import Invoice
from app.models.outbox import OutboxMessage
from app.models.reconcile import Cursor, Difference, ReconcileRun
from app.models.replay import Replay
from app.models.subscription import Subscription

__all__ = [
    "ApiCall",
    "ApiKey",
    "AuditRow",
    "Base",
    "CheckoutSession",
    "Cursor",
    "Customer",
    "Difference",
    "IdempotencyKey",
    "Invoice",
    "OutboxMessage",
    "PaymentMethod",
    "Price",
    "ReconcileRun",
    "Replay",
    "StripeEvent",
    "Subscription",
]
