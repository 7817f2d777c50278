"""What Billhook asks of a payment provider: small interfaces over the values of `objects`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, Unpack

from app.provider.customer_objects import Address, CustomerChanges, SetupIntent, TaxId
from app.provider.invoice_protocol import InvoiceProvider
from app.provider.objects import (
    CheckoutSession,
    Customer,
    Envelope,
    Event,
    Meter,
    Page,
    PaymentMethod,
    Price,
    Product,
    Snapshot,
    Subscription,
)
from app.provider.payment_protocol import FutureUsage, PaymentProvider
from app.provider.subscription_protocol import SubscriptionProvider, SubscriptionScheduleProvider
from app.provider.usage_objects import MeterErrorReport, MeterSummary


class WebhookVerifier(Protocol):
    def verify_signature(self, payload: bytes, header: str, *, secrets: Sequence[bytes], now: int) -> bool:
        """Whether one of `secrets` signed `payload` within 300 s of `now`, before or after. Never raises."""
        ...

    def construct_event(self, payload: bytes, header: str, *secrets: str, now: int | None = None) -> Event:
        """Verify and parse in one step, as of unix second `now` (the clock's by default).

        Raises InvalidRequestError with the code `invalid_signature` or `invalid_event`.
        """
        ...

    def parse_envelope(self, payload: Mapping[str, Any]) -> Envelope:
        """Read a decoded event of any API generation, but not its object. Raises ValueError when it is none at all."""
        ...

    def parse_event(self, payload: Mapping[str, Any]) -> Event:
        """Read a decoded event with its object. Raises ValueError exactly where `parse_envelope` does."""
        ...


class CustomerProvider(Protocol):
    async def create_customer(
        self,
        *,
        email: str | None = None,
        name: str | None = None,
        phone: str | None = None,
        address: Address | None = None,
        metadata: Mapping[str, str],
        tax_ids: Sequence[tuple[str, str]] = (),
        payment_method: str | None = None,
        idempotency_key: str,
    ) -> Snapshot[Customer]:
        """`tax_ids` are (type, value), at most 5; `payment_method` is attached and becomes the default."""
        ...

    async def update_customer(
        self, id: str, *, idempotency_key: str | None = None, **changes: Unpack[CustomerChanges]
    ) -> Snapshot[Customer]: ...

    async def retrieve_customer(self, id: str) -> Snapshot[Customer]:
        """A deleted customer comes back with `deleted` set. Raises NotFoundError for an id Stripe never had."""
        ...

    async def delete_customer(self, id: str) -> Snapshot[Customer]:
        """For good, with what hangs on it: subscriptions are canceled, cards detached. Twice is no error."""
        ...

    async def list_customers(
        self, *, email: str | None = None, since: int | None = None, after: str | None = None
    ) -> Page[Customer]:
        """Those with this address (Stripe heeds its case), made since then; without the deleted ones."""
        ...

    async def create_tax_id(self, customer: str, *, type: str, value: str, idempotency_key: str) -> TaxId: ...

    async def list_tax_ids(self, customer: str) -> Sequence[TaxId]:
        """All of them, newest first; Stripe allows a customer five."""
        ...

    async def delete_tax_id(self, customer: str, id: str) -> None: ...


class CatalogProvider(Protocol):
    async def retrieve_product(self, id: str) -> Snapshot[Product]:
        """Raises NotFoundError for one that was deleted, too."""
        ...

    async def list_products(self, *, since: int | None = None, after: str | None = None) -> Page[Product]:
        """Those made since then, archived ones too."""
        ...

    async def create_product(
        self,
        *,
        id: str | None,
        name: str,
        description: str | None,
        metadata: Mapping[str, str],
        idempotency_key: str,
    ) -> Snapshot[Product]:
        """Raises ConflictError where there is one with this `id`."""
        ...

    async def update_product(
        self,
        id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        active: bool | None = None,
        default_price: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Snapshot[Product]:
        """Set what is given; None leaves as it is, the empty text takes away. `metadata` changes only its own keys."""
        ...

    async def retrieve_price(self, id: str) -> Snapshot[Price]: ...

    async def list_prices(
        self,
        *,
        since: int | None = None,
        after: str | None = None,
        product: str | None = None,
        active: bool | None = None,
    ) -> Page[Price]:
        """Those made since then; with `active`, only those that are, or aren't."""
        ...

    async def find_prices(self, lookup_keys: Sequence[str]) -> Sequence[Snapshot[Price]]:
        """Those that hold these keys, archived ones too."""
        ...

    async def create_price(
        self,
        *,
        product: str,
        currency: str,
        unit_amount: int,
        interval: str | None,
        interval_count: int = 1,
        meter: str | None = None,
        nickname: str | None = None,
        lookup_key: str | None,
        transfer_lookup_key: bool,
        metadata: Mapping[str, str],
        idempotency_key: str,
    ) -> Snapshot[Price]:
        """One-time without an `interval`; metered with a `meter` (its id), else licensed.

        `transfer_lookup_key` takes the key over from whichever price holds it; without it, a key that is taken raises
        InvalidRequestError(param="lookup_key").
        """
        ...

    async def update_price(
        self,
        id: str,
        *,
        active: bool | None = None,
        nickname: str | None = None,
        lookup_key: str | None = None,
        transfer_lookup_key: bool = False,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Snapshot[Price]:
        """As `update_product`. What a price costs can't be changed, ever (docs.stripe.com/api/prices/update)."""
        ...


class MeterProvider(Protocol):
    async def list_meters(self) -> Sequence[Meter]:
        """All of them, inactive ones too."""
        ...

    async def create_meter(self, *, display_name: str, event_name: str, formula: str, idempotency_key: str) -> Meter:
        """Events name their customer as `stripe_customer_id` and their value as `value`."""
        ...

    async def rename_meter(self, id: str, *, display_name: str) -> Meter: ...

    async def reactivate_meter(self, id: str) -> Meter: ...


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

    async def create_payment_session(
        self,
        *,
        customer: str,
        price: str,
        success_url: str,
        cancel_url: str | None,
        client_reference_id: str | None,
        description: str | None,
        setup_future_usage: FutureUsage | None,
        metadata: Mapping[str, str],
        idempotency_key: str,
    ) -> Snapshot[CheckoutSession]:
        """For one of what is bought once. `metadata` goes on the session and on the payment intent it makes."""
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


class PaymentMethodProvider(Protocol):
    async def retrieve_payment_method(self, id: str) -> Snapshot[PaymentMethod]: ...

    async def list_payment_methods(self, customer: str, *, after: str | None = None) -> Page[PaymentMethod]:
        """Those attached to the customer. Raises NotFoundError for a customer that is gone."""
        ...

    async def attach_payment_method(self, id: str, *, customer: str, idempotency_key: str) -> Snapshot[PaymentMethod]:
        """Raises PaymentFailedError where the network refuses the card."""
        ...

    async def detach_payment_method(self, id: str, *, idempotency_key: str) -> Snapshot[PaymentMethod]:
        """For good: it can't be attached again. Twice is no error."""
        ...

    async def set_subscription_payment_method(
        self, subscription: str, *, payment_method: str, idempotency_key: str
    ) -> Snapshot[Subscription]:
        """What its invoices are charged to, before the customer's default."""
        ...

    async def create_setup_intent(self, *, customer: str, idempotency_key: str) -> SetupIntent:
        """For a method that is to be charged while its owner is away."""
        ...

    async def retrieve_setup_intent(self, id: str) -> SetupIntent: ...

    async def cancel_setup_intent(self, id: str, *, idempotency_key: str) -> SetupIntent: ...


class UsageProvider(Protocol):
    async def create_meter_event(
        self,
        *,
        event_name: str,
        customer: str,
        value: int,
        identifier: str,
        timestamp: int,
        idempotency_key: str,
    ) -> None:
        """Report usage, one call at a time for each customer and meter. Stripe processes it later.

        Raises ConflictError(code="duplicate_meter_event") for an `identifier` of the last day, InvalidRequestError for
        what Stripe doesn't take, with the code `no_meter` while there is no active meter of that name.
        """
        ...

    async def cancel_meter_event(self, *, event_name: str, identifier: str, idempotency_key: str) -> None:
        """Take an event back. Raises InvalidRequestError for one that Stripe didn't receive in the last 24 hours."""
        ...

    async def list_meter_summaries(
        self, meter: str, *, customer: str, start_time: int, end_time: int
    ) -> Sequence[MeterSummary]:
        """What Stripe counted in between (unix seconds at full minutes), some time after it was reported."""
        ...

    async def retrieve_meter_error_report(self, event: str) -> MeterErrorReport:
        """What a thin event named `v1.billing.meter.error_report_triggered` or `no_meter_found` is about."""
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
    MeterProvider,
    CheckoutProvider,
    PortalProvider,
    SubscriptionProvider,
    SubscriptionScheduleProvider,
    InvoiceProvider,
    PaymentMethodProvider,
    PaymentProvider,
    UsageProvider,
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
