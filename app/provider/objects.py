"""What a payment provider tells: frozen values, and no provider's library.

Times are unix seconds, amounts minor units, ids and statuses the provider's own strings (Stripe's spelling).
Statuses stay plain strings so that one we have never heard of survives the journey into the database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.provider.invoice_objects import CreditNote, InvoiceLine
from app.provider.payment_objects import Charge, Dispute, PaymentIntent, Refund
from app.provider.subscription_objects import SubscriptionSchedule

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Generic[T_co]):
    """An object as the provider showed it, with the provider's clock (`Date` header) at that moment."""

    object: T_co
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T_co]):
    """A part of a list, newest first, with the provider's clock (`Date` header) at that moment.

    `next` is what the following page is asked for with (`after`), None at the end. `unreadable` has the ids of objects
    whose shape the mapper does not know.
    """

    objects: Sequence[T_co]
    at: int
    next: str | None
    unreadable: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    id: str
    email: str | None = None
    name: str | None = None
    default_payment_method: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted: bool = False
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    id: str
    product: str
    active: bool
    currency: str
    unit_amount: int | None
    interval: str | None  # day, week, month, year; None for a one-time price
    interval_count: int = 1
    lookup_key: str | None = None
    nickname: str | None = None
    usage_type: str | None = None  # licensed, metered; None for a one-time price
    meter: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted: bool = False
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    id: str
    name: str
    active: bool
    description: str | None = None
    default_price: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted: bool = False
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    id: str
    display_name: str
    event_name: str
    formula: str  # sum, count, last
    status: str  # active, inactive


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionItem:
    id: str
    price: Price
    quantity: int
    current_period_start: int | None
    current_period_end: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """`current_period_start` is the earliest and `current_period_end` the latest of the items' periods."""

    id: str
    customer: str
    status: str
    items: Sequence[SubscriptionItem]
    currency: str | None
    current_period_start: int | None
    current_period_end: int | None
    cancel_at_period_end: bool
    cancel_at: int | None = None
    canceled_at: int | None = None
    ended_at: int | None = None
    trial_start: int | None = None
    trial_end: int | None = None
    pause_collection: str | None = None  # keep_as_draft, mark_uncollectible, void
    pause_resumes_at: int | None = None
    paused_reason: str | None = None  # why `status` is paused: pause_requested, trial_end_without_payment_method, …
    default_payment_method: str | None = None
    latest_invoice: str | None = None
    collection_method: str | None = None  # charge_automatically, send_invoice
    schedule: str | None = None
    discounts: Sequence[str] = ()
    pending_update_expires_at: int | None = None
    pending_items: Sequence[tuple[str, str, int]] = ()  # (id, price, quantity) once a change that waits is paid
    metadata: Mapping[str, str] = field(default_factory=dict)
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """`paid_at` comes from the status transitions; `subscription` from `parent` (or the pre-basil field).

    `discount` is what all discounts took off, those of single lines too, and `tax` all taxes, those contained in
    prices too.
    """

    id: str
    customer: str | None
    status: str | None
    currency: str
    amount_due: int
    amount_paid: int
    amount_remaining: int
    subtotal: int
    total: int
    number: str | None = None
    subscription: str | None = None
    billing_reason: str | None = None
    description: str | None = None
    hosted_invoice_url: str | None = None
    invoice_pdf: str | None = None
    period_start: int | None = None
    period_end: int | None = None
    due_date: int | None = None
    paid_at: int | None = None
    attempt_count: int = 0
    next_payment_attempt: int | None = None
    discount: int = 0
    tax: int = 0
    lines: Sequence[InvoiceLine] = ()
    deleted: bool = False
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentMethod:
    """`customer` is None once detached. Card fields are None for other types."""

    id: str
    type: str
    customer: str | None
    brand: str | None = None
    last4: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutSession:
    """`url` is None once the session is no longer open; `subscription` until the buyer has paid."""

    id: str
    mode: str  # subscription, payment, setup
    status: str | None  # open, complete, expired
    payment_status: str  # paid, unpaid, no_payment_required
    url: str | None
    customer: str | None
    expires_at: int
    subscription: str | None = None
    payment_intent: str | None = None
    invoice: str | None = None
    client_reference_id: str | None = None
    currency: str | None = None
    amount_total: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    livemode: bool = False
    created: int = 0


MirroredObject = (
    Customer
    | Subscription
    | Invoice
    | PaymentMethod
    | CheckoutSession
    | PaymentIntent
    | Charge
    | Refund
    | Dispute
    | Product
    | Price
    | CreditNote
    | SubscriptionSchedule
)


def customer_of(shown: MirroredObject) -> str | None:
    """The Stripe customer an object belongs to (its own id for a customer); None where it names none."""
    return shown.id if isinstance(shown, Customer) else getattr(shown, "customer", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a webhook event says of itself: enough to file it, cheap to read.

    `object_type` and `object_id` name the object it tells of, where there is one. `customer` is the Stripe customer
    that object belongs to (its own id for a customer), taken from `previous_attributes` where the object no longer
    says (a detached payment method). `account` is the connected account it came from.
    """

    id: str
    type: str
    created: int
    livemode: bool
    account: str | None
    api_version: str | None
    object_type: str | None
    object_id: str | None
    customer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Envelope):
    """One webhook event, parsed whole.

    `object` is the mapped `data.object`, or None when it is of a kind Billhook does not mirror or of a shape the
    mapper does not fully know; then `object_type` and `object_id` still say what to fetch.
    """

    object: MirroredObject | None
