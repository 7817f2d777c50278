"""Payment methods and setup intents at Stripe."""

from typing import TYPE_CHECKING

from app.errors import ConflictError
from app.provider.customer_objects import SetupIntent
from app.provider.mapping.customers import map_payment_method, map_setup_intent
from app.provider.objects import Page, PaymentMethod, Snapshot, Subscription
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource, object_path
from app.provider.resources.subscriptions import SUBSCRIPTION
from app.provider.stripe_client import Blame

if TYPE_CHECKING:
    from stripe.params import (
        CustomerPaymentMethodListParams,
        PaymentMethodAttachParams,
        SetupIntentCreateParams,
        SubscriptionUpdateParams,
    )


PAYMENT_METHOD = Kind("/v1/payment_methods", map_payment_method)

SETUP_INTENT = Kind("/v1/setup_intents", map_setup_intent)

ATTACH_BLAME = Blame(params={"customer": "customer"}, conflict="The payment method belongs to a customer already.")
DETACH_BLAME = Blame(conflict="The payment method belongs to no customer.")
DEFAULT_BLAME = Blame(
    params={"default_payment_method": "payment_method"}, conflict="The subscription's present state does not allow it."
)
SETUP_BLAME = Blame(
    params={"customer": "customer"}, conflict="The present state of the setup intent does not allow this."
)


class StripePaymentMethods(StripeResource):
    async def retrieve_payment_method(self, id: str) -> Snapshot[PaymentMethod]:
        return await self._retrieve(PAYMENT_METHOD, id)

    async def list_payment_methods(self, customer: str, *, after: str | None = None) -> Page[PaymentMethod]:
        params: CustomerPaymentMethodListParams = {"limit": PAGE_SIZE}
        # Of the two lists there are, the customer's own one holds every type.
        path = object_path("/v1/customers", customer) + "/payment_methods"
        return await self._page(path, map_payment_method, params, after)

    async def attach_payment_method(self, id: str, *, customer: str, idempotency_key: str) -> Snapshot[PaymentMethod]:
        params: PaymentMethodAttachParams = {"customer": customer}
        return await self._post(
            PAYMENT_METHOD, params, id=id, action="/attach", idempotency_key=idempotency_key, blame=ATTACH_BLAME
        )

    async def detach_payment_method(self, id: str, *, idempotency_key: str) -> Snapshot[PaymentMethod]:
        try:
            return await self._post(
                PAYMENT_METHOD, id=id, action="/detach", idempotency_key=idempotency_key, blame=DETACH_BLAME
            )
        except ConflictError:
            snapshot = await self._retrieve(PAYMENT_METHOD, id)
            if snapshot.object.customer is not None:
                raise
            return snapshot

    async def set_subscription_payment_method(
        self, subscription: str, *, payment_method: str, idempotency_key: str
    ) -> Snapshot[Subscription]:
        params: SubscriptionUpdateParams = {"default_payment_method": payment_method}
        return await self._post(
            SUBSCRIPTION, params, id=subscription, idempotency_key=idempotency_key, blame=DEFAULT_BLAME
        )

    async def create_setup_intent(self, *, customer: str, idempotency_key: str) -> SetupIntent:
        params: SetupIntentCreateParams = {"customer": customer, "usage": "off_session"}
        made = await self._post(SETUP_INTENT, params, idempotency_key=idempotency_key, blame=SETUP_BLAME)
        return made.object

    async def retrieve_setup_intent(self, id: str) -> SetupIntent:
        return (await self._retrieve(SETUP_INTENT, id)).object

    async def cancel_setup_intent(self, id: str, *, idempotency_key: str) -> SetupIntent:
        canceled = await self._post(
            SETUP_INTENT, id=id, action="/cancel", idempotency_key=idempotency_key, blame=SETUP_BLAME
        )
        return canceled.object
