"""Checkout sessions at Stripe."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from app.provider.mapping.checkout import map_checkout_session
from app.provider.objects import CheckoutSession, Snapshot
from app.provider.payment_protocol import FutureUsage
from app.provider.resources.promotion_codes import StripePromotionCodes
from app.provider.resources.resource import Kind
from app.provider.stripe_client import Blame

if TYPE_CHECKING:
    from stripe.params.checkout import SessionCreateParams as CheckoutSessionCreateParams


CHECKOUT_SESSION = Kind("/v1/checkout/sessions", map_checkout_session)

CHECKOUT_BLAME = Blame(
    params={
        "customer": "customer",
        "line_items[0][price]": "price",
        "line_items[0][quantity]": "quantity",
        "success_url": "success_url",
        "cancel_url": "cancel_url",
        "client_reference_id": "client_reference_id",
        "discounts[0][promotion_code]": "promotion_code",
    }
)

EXPIRE_BLAME = Blame(conflict="This checkout session is no longer open.")


class StripeCheckout(StripePromotionCodes):
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
            params["discounts"] = [{"promotion_code": await self.find_promotion_code(promotion_code)}]
        else:
            params["allow_promotion_codes"] = True
        return await self._post(CHECKOUT_SESSION, params, idempotency_key=idempotency_key, blame=CHECKOUT_BLAME)

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
        params: CheckoutSessionCreateParams = {
            "mode": "payment",
            "customer": customer,
            "line_items": [{"price": price, "quantity": 1}],
            "success_url": success_url,
            "metadata": dict(metadata),
            "payment_intent_data": {"metadata": dict(metadata)},
        }
        if cancel_url:
            params["cancel_url"] = cancel_url
        if client_reference_id:
            params["client_reference_id"] = client_reference_id
        if description:
            params["payment_intent_data"]["description"] = description
        if setup_future_usage:
            params["payment_intent_data"]["setup_future_usage"] = setup_future_usage
        return await self._post(CHECKOUT_SESSION, params, idempotency_key=idempotency_key, blame=CHECKOUT_BLAME)

    async def retrieve_checkout_session(self, id: str) -> Snapshot[CheckoutSession]:
        return await self._retrieve(CHECKOUT_SESSION, id)

    async def expire_checkout_session(self, id: str) -> Snapshot[CheckoutSession]:
        return await self._post(CHECKOUT_SESSION, id=id, action="/expire", blame=EXPIRE_BLAME)
