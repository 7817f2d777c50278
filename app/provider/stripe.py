"""Stripe behind the interfaces of `protocol`: one client, and a part for each of Stripe's resources."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx

from app.provider.breaker import CircuitBreaker
from app.provider.protocol import BillingProvider
from app.provider.resources.catalog import StripeCatalog
from app.provider.resources.checkout import StripeCheckout
from app.provider.resources.customers import StripeCustomers
from app.provider.resources.events import StripeEvents
from app.provider.resources.invoices import StripeInvoices
from app.provider.resources.meters import StripeMeters
from app.provider.resources.payment_methods import StripePaymentMethods
from app.provider.resources.payments import StripePayments
from app.provider.resources.portal import StripePortal
from app.provider.resources.subscription_schedules import StripeSubscriptionSchedules
from app.provider.resources.subscriptions import StripeSubscriptions
from app.provider.resources.usage import StripeUsage
from app.provider.stripe_client import API_VERSION, StripeClient
from app.provider.throttle import Throttle


class StripeProvider(
    StripeCustomers,
    StripeCatalog,
    StripeMeters,
    StripeCheckout,
    StripePortal,
    StripeSubscriptions,
    StripeSubscriptionSchedules,
    StripeInvoices,
    StripePaymentMethods,
    StripePayments,
    StripeUsage,
    StripeEvents,
):
    """`BillingProvider` over Stripe's API; an async context manager. One per process and key."""

    livemode: bool

    def __init__(
        self,
        secret_key: str,
        *,
        base_url: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 20,
        max_network_retries: int = 2,
        api_version: str = API_VERSION,
        breaker: CircuitBreaker | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        """`timeout` is in seconds and covers an operation with its retries. `base_url` stands in for Stripe's hosts.

        With a `throttle` each request first waits for its turn, however long that takes.
        """
        self._client = StripeClient(
            secret_key,
            base_url=base_url,
            transport=transport,
            timeout=timeout,
            max_network_retries=max_network_retries,
            api_version=api_version,
            breaker=breaker or CircuitBreaker(),
            throttle=throttle,
        )
        self.livemode = self._client.livemode

    async def __aenter__(self) -> Self:
        await self.warm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def warm(self) -> None:
        """Spare the first request its imports."""
        await self._client.warm()

    async def aclose(self) -> None:
        await self._client.aclose()


if TYPE_CHECKING:
    _: type[BillingProvider] = StripeProvider
