"""Stripe behind the interfaces of `protocol`: what is asked of it, and the answers as our values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import httpx

from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.provider import mapping
from app.provider.breaker import CircuitBreaker
from app.provider.protocol import (
    BillingProvider,
    CheckoutSession,
    Customer,
    Envelope,
    Event,
    Invoice,
    PaymentMethod,
    PortalFlow,
    Price,
    Product,
    Snapshot,
    Subscription,
)
from app.provider.stripe_client import API_VERSION, NO_PARAMS, OURS, Answer, Blame, StripeClient
from app.provider.stripe_lists import StripeLists, object_path, readable, whole
from app.provider.stripe_signature import is_signed
from app.provider.throttle import Throttle

if TYPE_CHECKING:  # at run time the parameter types cost 20 ms and tell nobody anything
    from stripe.params import (
        CustomerCreateParams,
        CustomerUpdateParams,
        PriceCreateParams,
        PriceListParams,
        ProductCreateParams,
        ProductUpdateParams,
        PromotionCodeListParams,
        SubscriptionCancelParams,
        SubscriptionUpdateParams,
    )
    from stripe.params.billing_portal import SessionCreateParams as PortalSessionCreateParams
    from stripe.params.billing_portal import SessionCreateParamsFlowData as PortalFlowData
    from stripe.params.checkout import SessionCreateParams as CheckoutSessionCreateParams

MAX_LOOKUP_KEYS = 10  # in one list call (docs.stripe.com/api/prices/list)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Kind(Generic[T]):
    """One of Stripe's resources: where it lives and how it is read."""

    path: str
    read: Callable[[Mapping[str, Any]], T]


CUSTOMER = _Kind("/v1/customers", mapping.map_customer)
PRODUCT = _Kind("/v1/products", mapping.map_product)
PRICE = _Kind("/v1/prices", mapping.map_price)
SUBSCRIPTION = _Kind("/v1/subscriptions", mapping.map_subscription)
INVOICE = _Kind("/v1/invoices", mapping.map_invoice)
PAYMENT_METHOD = _Kind("/v1/payment_methods", mapping.map_payment_method)
CHECKOUT_SESSION = _Kind("/v1/checkout/sessions", mapping.map_checkout_session)
PROMOTION_CODE = _Kind("/v1/promotion_codes", mapping.map_id)
PORTAL_SESSION = _Kind("/v1/billing_portal/sessions", mapping.map_url)

CUSTOMER_BLAME = Blame(params={"email": "email", "name": "name"})
CHECKOUT_BLAME = Blame(
    params={
        "customer": "customer",
        "line_items[0][price]": "price",
        "line_items[0][quantity]": "quantity",
        "success_url": "success_url",
        "cancel_url": "cancel_url",
        "client_reference_id": "client_reference_id",
        "discounts[0][promotion_code]": "promotion_code",
        "code": "promotion_code",
    }
)
EXPIRE_BLAME = Blame(conflict="This checkout session is no longer open.")
PORTAL_BLAME = Blame(
    params={
        "customer": "customer",
        "return_url": "return_url",
        "flow_data[subscription_cancel][subscription]": "subscription",
        "flow_data[subscription_update][subscription]": "subscription",
    }
)
SUBSCRIPTION_BLAME = Blame(
    params={"cancellation_details[comment]": "reason"},
    conflict="The present state of the subscription does not allow this.",
)


class StripeProvider(StripeLists):
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

    def verify_signature(self, payload: bytes, header: str, *, secrets: Sequence[bytes], now: int) -> bool:
        return is_signed(payload, header, secrets=secrets, now=now)

    def parse_envelope(self, payload: Mapping[str, Any]) -> Envelope:
        return mapping.map_envelope(payload)

    def parse_event(self, payload: Mapping[str, Any]) -> Event:
        return mapping.map_event(payload)

    async def create_customer(
        self, *, email: str | None, name: str | None, metadata: Mapping[str, str], idempotency_key: str
    ) -> Snapshot[Customer]:
        params: CustomerCreateParams = {"metadata": dict(metadata)}
        if email:
            params["email"] = email
        if name:
            params["name"] = name
        return await self._post(CUSTOMER, params, idempotency_key=idempotency_key, blame=CUSTOMER_BLAME)

    async def update_customer(self, id: str, *, email: str | None, name: str | None) -> Snapshot[Customer]:
        params: CustomerUpdateParams = {}
        if email:
            params["email"] = email
        if name:
            params["name"] = name
        return await self._post(CUSTOMER, params, id=id, blame=CUSTOMER_BLAME)

    async def retrieve_customer(self, id: str) -> Snapshot[Customer]:
        return await self._retrieve(CUSTOMER, id)

    async def list_prices(self, *, lookup_keys: Sequence[str]) -> Sequence[Price]:
        prices: list[Price] = []
        for start in range(0, len(lookup_keys), MAX_LOOKUP_KEYS):
            params: PriceListParams = {"lookup_keys": list(lookup_keys[start : start + MAX_LOOKUP_KEYS]), "limit": 100}
            prices += await self._list(PRICE, params)
        return prices

    async def retrieve_product(self, id: str) -> Product | None:
        try:
            return (await self._retrieve(PRODUCT, id)).object
        except NotFoundError:
            return None

    async def save_product(
        self, *, id: str, name: str, description: str | None, metadata: Mapping[str, str], exists: bool
    ) -> Product:
        if exists:
            # Only the empty text takes a description away.
            update: ProductUpdateParams = {
                "active": True,  # somebody may have archived what is on sale
                "name": name,
                "description": description or "",
                "metadata": dict(metadata),
            }
            return (await self._post(PRODUCT, update, id=id)).object
        create: ProductCreateParams = {"id": id, "name": name, "metadata": dict(metadata)}
        if description:
            create["description"] = description
        return (await self._post(PRODUCT, create)).object

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
        params: PriceCreateParams = {
            "product": product,
            "currency": currency,
            "unit_amount": unit_amount,
            "lookup_key": lookup_key,
            "transfer_lookup_key": True,
            "metadata": dict(metadata),
        }
        if interval:
            params["recurring"] = {"interval": interval}
        return (await self._post(PRICE, params, idempotency_key=idempotency_key)).object

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
        params: CheckoutSessionCreateParams = {
            "mode": "subscription",
            "customer": customer,
            "line_items": [{"price": price, "quantity": quantity}],
            "success_url": success_url,
            "cancel_url": cancel_url,
            "metadata": dict(metadata),
            "subscription_data": {"metadata": dict(metadata)},
        }
        if client_reference_id:
            params["client_reference_id"] = client_reference_id
        if trial_period_days:
            params["subscription_data"]["trial_period_days"] = trial_period_days
        if promotion_code:
            params["discounts"] = [{"promotion_code": await self._find_promotion_code(promotion_code)}]
        else:
            params["allow_promotion_codes"] = True
        return await self._post(CHECKOUT_SESSION, params, idempotency_key=idempotency_key, blame=CHECKOUT_BLAME)

    async def _find_promotion_code(self, text: str) -> str:
        params: PromotionCodeListParams = {"code": text, "active": True, "limit": 1}
        found = await self._list(PROMOTION_CODE, params, blame=CHECKOUT_BLAME)
        if not found:
            raise InvalidRequestError("There is no such promotion code.", param="promotion_code")
        return found[0]

    async def retrieve_checkout_session(self, id: str) -> Snapshot[CheckoutSession]:
        return await self._retrieve(CHECKOUT_SESSION, id)

    async def expire_checkout_session(self, id: str) -> Snapshot[CheckoutSession]:
        return await self._post(CHECKOUT_SESSION, id=id, action="/expire", blame=EXPIRE_BLAME)

    async def create_portal_session(
        self, *, customer: str, return_url: str, flow: PortalFlow | None, subscription: str | None
    ) -> str:
        params: PortalSessionCreateParams = {"customer": customer, "return_url": return_url}
        if flow:
            params["flow_data"] = _flow_data(flow, subscription)
        answer = await self._client.send("post", PORTAL_SESSION.path, params, blame=PORTAL_BLAME)
        return readable(PORTAL_SESSION.read, answer.data, request_id=answer.request_id)

    async def retrieve_subscription(self, id: str) -> Snapshot[Subscription]:
        return await self._retrieve(SUBSCRIPTION, id)

    async def set_cancel_at_period_end(
        self, id: str, *, cancel: bool, reason: str | None = None, idempotency_key: str
    ) -> Snapshot[Subscription]:
        params: SubscriptionUpdateParams = {"cancel_at_period_end": cancel}
        if reason:
            params["cancellation_details"] = {"comment": reason}
        snapshot = await self._post(
            SUBSCRIPTION, params, id=id, idempotency_key=idempotency_key, blame=SUBSCRIPTION_BLAME
        )
        if not cancel and snapshot.object.cancel_at is not None:
            # In flexible billing mode the portal cancels by date (docs.stripe.com/billing/subscriptions/billing-mode/
            # compare), and Stripe takes only one of the two parameters in a request.
            params = {"cancel_at": ""}
            snapshot = await self._post(
                SUBSCRIPTION, params, id=id, idempotency_key=f"{idempotency_key}-at", blame=SUBSCRIPTION_BLAME
            )
        return snapshot

    async def cancel_subscription(
        self, id: str, *, reason: str | None = None, idempotency_key: str
    ) -> Snapshot[Subscription]:
        params: SubscriptionCancelParams = {}
        if reason:
            params["cancellation_details"] = {"comment": reason}
        path = object_path(SUBSCRIPTION.path, id)
        try:
            answer = await self._client.send(
                "delete", path, params, idempotency_key=idempotency_key, blame=SUBSCRIPTION_BLAME
            )
        except (NotFoundError, ConflictError):
            # DELETE knows no idempotency key: Stripe refuses the second one, and the first may have been ours.
            snapshot = await self._retrieve(SUBSCRIPTION, id)
            if snapshot.object.status != "canceled":
                raise
            return snapshot
        return await self._snapshot(SUBSCRIPTION, answer)

    async def retrieve_invoice(self, id: str) -> Snapshot[Invoice]:
        return await self._retrieve(INVOICE, id)

    async def retrieve_payment_method(self, id: str) -> Snapshot[PaymentMethod]:
        return await self._retrieve(PAYMENT_METHOD, id)

    async def _retrieve(self, kind: _Kind[T], id: str) -> Snapshot[T]:
        return await self._snapshot(kind, await self._client.send("get", object_path(kind.path, id)))

    async def _list(self, kind: _Kind[T], params: Mapping[str, object], *, blame: Blame = OURS) -> Sequence[T]:
        answer = await self._client.send("get", kind.path, params, blame=blame)
        return readable(
            lambda page: [kind.read(row) for row in mapping.rows(page)], answer.data, request_id=answer.request_id
        )

    async def _post(
        self,
        kind: _Kind[T],
        params: Mapping[str, object] = NO_PARAMS,
        *,
        id: str | None = None,
        action: str = "",
        idempotency_key: str | None = None,
        blame: Blame = OURS,
    ) -> Snapshot[T]:
        """Create one, or change the one with `id`."""
        path = kind.path if id is None else object_path(kind.path, id) + action
        answer = await self._client.send("post", path, params, idempotency_key=idempotency_key, blame=blame)
        if answer.replayed:
            # Its body is what was true the first time, its Date is now: a snapshot must not mix the two.
            return await self._retrieve(kind, str(answer.data.get("id")))
        return await self._snapshot(kind, answer)

    async def _snapshot(self, kind: _Kind[T], answer: Answer) -> Snapshot[T]:
        data = await whole(self._client, answer.data)
        return Snapshot(object=readable(kind.read, data, request_id=answer.request_id), at=answer.at)


def _flow_data(flow: PortalFlow, subscription: str | None) -> "PortalFlowData":
    if flow == "payment_method_update":
        return {"type": flow}
    if subscription is None:
        raise InvalidRequestError("This page of the portal is about a subscription.", param="subscription")
    if flow == "subscription_cancel":
        return {"type": flow, "subscription_cancel": {"subscription": subscription}}
    return {"type": flow, "subscription_update": {"subscription": subscription}}


if TYPE_CHECKING:
    _: type[BillingProvider] = StripeProvider
