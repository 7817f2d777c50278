"""What Billhook asks of a payment provider: small interfaces over the values of `objects`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from app.provider.objects import (
    CheckoutSession,
    Customer,
    Envelope,
    Event,
    Invoice,
    Page,
    PaymentMethod,
    Price,
    Product,
    Snapshot,
    Subscription,
)


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
