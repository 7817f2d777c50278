"""What Billhook asks of a payment provider: frozen values and small interfaces, no provider's library.

Times are unix seconds, amounts minor units, ids and statuses the provider's own strings (Stripe's spelling).
Statuses stay plain strings so that one we have never heard of survives the journey into the database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

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
    metadata: Mapping[str, str] = field(default_factory=dict)
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    id: str
    name: str
    active: bool
    metadata: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None


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
    default_payment_method: str | None = None
    latest_invoice: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """`paid_at` comes from the status transitions; `subscription` from `parent` (or the pre-basil field)."""

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


MirroredObject = Customer | Subscription | Invoice | PaymentMethod | CheckoutSession


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


class WebhookVerifier(Protocol):
    def verify_signature(self, payload: bytes, header: str, *, secrets: Sequence[bytes], now: int) -> bool:
        """Whether one of `secrets` signed `payload` within 300 s of `now`, before or after. Never raises."""
        ...

    def parse_envelope(self, payload: Mapping[str, Any]) -> Envelope:
        """Read a decoded event of any API generation, but not its object. Raises ValueError when it is none at all."""
        ...

    def parse_event(self, payload: Mapping[str, Any]) -> Event:
        """Read a decoded event with its object. Raises ValueError exactly where `parse_envelope` does."""
        ...


class CustomerProvider(Protocol):
    async def create_customer(
        self, *, email: str | None, name: str | None, metadata: Mapping[str, str], idempotency_key: str
    ) -> Snapshot[Customer]: ...

    async def update_customer(self, id: str, *, email: str | None, name: str | None) -> Snapshot[Customer]:
        """Set what is given; None leaves as it is."""
        ...

    async def retrieve_customer(self, id: str) -> Snapshot[Customer]:
        """A deleted customer comes back with `deleted` set. Raises NotFoundError for an id Stripe never had."""
        ...

    async def list_customers(self, *, since: int | None, after: str | None) -> Page[Customer]:
        """Those made since then; without the deleted ones."""
        ...


class CatalogProvider(Protocol):
    async def list_prices(self, *, lookup_keys: Sequence[str]) -> Sequence[Price]: ...

    async def retrieve_product(self, id: str) -> Product | None: ...

    async def save_product(
        self, *, id: str, name: str, description: str | None, metadata: Mapping[str, str], exists: bool
    ) -> Product: ...

    async def create_price(
        self,
        *,
        product: str,
        currency: str,
        unit_amount: int,
        interval: str | None,
        lookup_key: str,
        metadata: Mapping[str, str],
        idempotency_key: str,
    ) -> Price:
        """Takes the lookup key over from whichever price held it (`transfer_lookup_key`)."""
        ...


class CheckoutProvider(Protocol):
    async def create_subscription_session(
        self,
        *,
        customer: str,
        price: str,
        quantity: int,
        success_url: str,
        cancel_url: str,
        client_reference_id: str | None,
        trial_period_days: int | None,
        promotion_code: str | None,
        metadata: Mapping[str, str],
        idempotency_key: str,
    ) -> Snapshot[CheckoutSession]:
        """`promotion_code` is the text a buyer types; without one, Checkout shows a field for it.

        Raises InvalidRequestError(param="promotion_code") when no active code of that text exists. `metadata` goes
        on the session and on the subscription it makes.
        """
        ...

    async def retrieve_checkout_session(self, id: str) -> Snapshot[CheckoutSession]: ...

    async def expire_checkout_session(self, id: str) -> Snapshot[CheckoutSession]:
        """Raises ConflictError when the session is no longer open."""
        ...


PortalFlow = Literal["payment_method_update", "subscription_cancel", "subscription_update"]


class PortalProvider(Protocol):
    async def create_portal_session(
        self, *, customer: str, return_url: str, flow: PortalFlow | None, subscription: str | None
    ) -> str:
        """The page's URL. `subscription` is needed by the subscription flows."""
        ...


class SubscriptionProvider(Protocol):
    async def retrieve_subscription(self, id: str) -> Snapshot[Subscription]: ...

    async def list_subscriptions(self, *, since: int | None, after: str | None) -> Page[Subscription]:
        """Those made since then, whatever their status."""
        ...

    async def set_cancel_at_period_end(
        self, id: str, *, cancel: bool, reason: str | None = None, idempotency_key: str
    ) -> Snapshot[Subscription]:
        """Schedule the end of a subscription for the end of its period, or take that back.

        `reason` is the customer's own words (`cancellation_details.comment`).
        """
        ...

    async def cancel_subscription(
        self, id: str, *, reason: str | None = None, idempotency_key: str
    ) -> Snapshot[Subscription]:
        """End it at once. No proration, no refund."""
        ...


class InvoiceProvider(Protocol):
    async def retrieve_invoice(self, id: str) -> Snapshot[Invoice]: ...

    async def list_invoices(self, *, since: int | None, after: str | None) -> Page[Invoice]: ...


class PaymentMethodProvider(Protocol):
    async def retrieve_payment_method(self, id: str) -> Snapshot[PaymentMethod]: ...

    async def list_payment_methods(self, customer: str, *, after: str | None) -> Page[PaymentMethod]:
        """Those attached to the customer. Raises NotFoundError for a customer that is gone."""
        ...


class EventProvider(Protocol):
    async def list_events(
        self, *, types: Sequence[str], since: int, until: int, after: str | None
    ) -> Page[Mapping[str, Any]]:
        """Events of at most 20 types, as the webhook would have shown them. Stripe keeps them for 30 days."""
        ...


class BillingProvider(
    WebhookVerifier,
    CustomerProvider,
    CatalogProvider,
    CheckoutProvider,
    PortalProvider,
    SubscriptionProvider,
    InvoiceProvider,
    PaymentMethodProvider,
    EventProvider,
    Protocol,
):
    """All of it. `livemode` says which of Stripe's two worlds the key opens.

    Every operation raises the kinds of `app.errors`: NotFoundError (404), InvalidRequestError, PaymentFailedError
    (402, with `decline_code`), ConflictError (409, idempotency), RateLimitedError (429), UnavailableError (no
    answer, or 5xx), ProviderError (401/403: our key).
    """

    livemode: bool

    async def aclose(self) -> None: ...
