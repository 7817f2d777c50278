"""All tables, imported here so that Alembic sees them."""

from app.db import Base
from app.models.api_key import ApiKey
from app.models.audit import AuditRow
from app.models.catalog import Price
from app.models.checkout import CheckoutSession
from app.models.customer import Customer, PaymentMethod
from app.models.event import StripeEvent
from app.models.idempotency import IdempotencyKey
from app.models.invoice import Invoice
from app.models.subscription import Subscription

__all__ = [
    "ApiKey",
    "AuditRow",
    "Base",
    "CheckoutSession",
    "Customer",
    "IdempotencyKey",
    "Invoice",
    "PaymentMethod",
    "Price",
    "StripeEvent",
    "Subscription",
]
