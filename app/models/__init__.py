"""All tables, imported here so that Alembic sees them."""

from app.db import Base
from app.models.api_call import ApiCall
from app.models.api_key import ApiKey
from app.models.audit import AuditRow
from app.models.catalog import Price, Product
from app.models.checkout import CheckoutSession
from app.models.credits import (
    CreditAccount,
    CreditCharge,
    CreditGrant,
    CreditPurchase,
    CreditTopup,
    CreditTransfer,
)
from app.models.customer import Customer, PaymentMethod
from app.models.event import StripeEvent
from app.models.idempotency import IdempotencyKey
from app.models.invoice import CreditNote, Invoice
from app.models.outbox import OutboxMessage
from app.models.payment import Charge, Dispute, PaymentIntent, Refund
from app.models.reconcile import Cursor, Difference, ReconcileRun
from app.models.replay import Replay
from app.models.subscription import Subscription, SubscriptionPreview, SubscriptionSchedule
from app.models.usage import UsageEvent, UsageLease, UsageTotal

__all__ = [
    "ApiCall",
    "ApiKey",
    "AuditRow",
    "Base",
    "Charge",
    "CheckoutSession",
    "CreditAccount",
    "CreditCharge",
    "CreditGrant",
    "CreditNote",
    "CreditPurchase",
    "CreditTopup",
    "CreditTransfer",
    "Cursor",
    "Customer",
    "Difference",
    "Dispute",
    "IdempotencyKey",
    "Invoice",
    "OutboxMessage",
    "PaymentIntent",
    "PaymentMethod",
    "Price",
    "Product",
    "ReconcileRun",
    "Refund",
    "Replay",
    "StripeEvent",
    "Subscription",
    "SubscriptionPreview",
    "SubscriptionSchedule",
    "UsageEvent",
    "UsageLease",
    "UsageTotal",
]
