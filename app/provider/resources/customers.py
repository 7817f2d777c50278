"""Customers at Stripe."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from app.provider.mapping.customers import map_customer
from app.provider.objects import Customer, Page, Snapshot
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource
from app.provider.stripe_client import Blame

if TYPE_CHECKING:
    from stripe.params import CustomerCreateParams, CustomerListParams, CustomerUpdateParams


CUSTOMER = Kind("/v1/customers", map_customer)

CUSTOMER_BLAME = Blame(params={"email": "email", "name": "name"})


class StripeCustomers(StripeResource):
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

    async def list_customers(self, *, since: int | None, after: str | None) -> Page[Customer]:
        params: CustomerListParams = {"limit": PAGE_SIZE}
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page("/v1/customers", map_customer, params, after)
