"""Payment methods at Stripe."""

from typing import TYPE_CHECKING

from app.provider.mapping.customers import map_payment_method
from app.provider.objects import Page, PaymentMethod, Snapshot
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource, object_path

if TYPE_CHECKING:
    from stripe.params import CustomerPaymentMethodListParams


PAYMENT_METHOD = Kind("/v1/payment_methods", map_payment_method)


class StripePaymentMethods(StripeResource):
    async def retrieve_payment_method(self, id: str) -> Snapshot[PaymentMethod]:
        return await self._retrieve(PAYMENT_METHOD, id)

    async def list_payment_methods(self, customer: str, *, after: str | None) -> Page[PaymentMethod]:
        params: CustomerPaymentMethodListParams = {"limit": PAGE_SIZE}
        # Of the two lists there are, the customer's own one holds every type.
        path = object_path("/v1/customers", customer) + "/payment_methods"
        return await self._page(path, map_payment_method, params, after)
