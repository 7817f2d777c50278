"""Customers and their tax ids at Stripe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from app.errors import NotFoundError
from app.provider.customer_objects import Address, CustomerChanges, TaxId
from app.provider.mapping.customers import map_customer, map_tax_id
from app.provider.objects import Customer, Page, Snapshot
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource, object_path, readable
from app.provider.stripe_client import Blame

if TYPE_CHECKING:
    from stripe.params import (
        CustomerCreateParams,
        CustomerListParams,
        CustomerTaxIdCreateParams,
        CustomerUpdateParams,
    )


CUSTOMER = Kind("/v1/customers", map_customer)

CUSTOMER_BLAME = Blame(
    params={
        **{name: name for name in ("email", "name", "phone", "metadata", "payment_method")},
        **{f"address[{part}]": "address" for part in Address.__annotations__},
        "invoice_settings[default_payment_method]": "default_payment_method",
        **{f"tax_id_data[{number}][{part}]": "tax_ids" for number in range(5) for part in ("type", "value")},
    }
)
# A tax id whose check digits are wrong is the caller's mistake, wherever Stripe points.
TAX_ID_BLAME = Blame(params={"type": "type", "value": "value"}, conflict="The customer can't have this tax id.")


class StripeCustomers(StripeResource):
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
        params: CustomerCreateParams = {"metadata": dict(metadata)}
        if email:
            params["email"] = email
        if name:
            params["name"] = name
        if phone:
            params["phone"] = phone
        if address:
            params["address"] = address
        if tax_ids:
            params["tax_id_data"] = [{"type": kind, "value": value} for kind, value in tax_ids]
        if payment_method:
            params["payment_method"] = payment_method
            params["invoice_settings"] = {"default_payment_method": payment_method}
        return await self._post(CUSTOMER, params, idempotency_key=idempotency_key, blame=CUSTOMER_BLAME)

    async def update_customer(
        self, id: str, *, idempotency_key: str | None = None, **changes: Unpack[CustomerChanges]
    ) -> Snapshot[Customer]:
        # Only the empty text takes a value away.
        params: CustomerUpdateParams = {}
        if "email" in changes:
            params["email"] = changes["email"] or ""
        if "name" in changes:
            params["name"] = changes["name"] or ""
        if "phone" in changes:
            params["phone"] = changes["phone"] or ""
        if "address" in changes:
            params["address"] = changes["address"] or ""
        if "metadata" in changes:
            params["metadata"] = {key: value or "" for key, value in changes["metadata"].items()}
        if "default_payment_method" in changes:
            params["invoice_settings"] = {"default_payment_method": changes["default_payment_method"]}
        return await self._post(CUSTOMER, params, id=id, idempotency_key=idempotency_key, blame=CUSTOMER_BLAME)

    async def retrieve_customer(self, id: str) -> Snapshot[Customer]:
        return await self._retrieve(CUSTOMER, id)

    async def delete_customer(self, id: str) -> Snapshot[Customer]:
        try:
            answer = await self._client.send("delete", object_path(CUSTOMER.path, id))
        except NotFoundError:
            # DELETE knows no idempotency key: the second one is refused, and of a deleted customer a stub is left.
            return await self._retrieve(CUSTOMER, id)
        return await self._snapshot(CUSTOMER, answer)

    async def list_customers(
        self, *, email: str | None = None, since: int | None = None, after: str | None = None
    ) -> Page[Customer]:
        params: CustomerListParams = {"limit": PAGE_SIZE}
        if email is not None:
            params["email"] = email
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page("/v1/customers", map_customer, params, after)

    async def create_tax_id(self, customer: str, *, type: str, value: str, idempotency_key: str) -> TaxId:
        params: CustomerTaxIdCreateParams = {"type": type, "value": value}
        path = object_path(CUSTOMER.path, customer) + "/tax_ids"
        made = await self._client.send("post", path, params, idempotency_key=idempotency_key, blame=TAX_ID_BLAME)
        return readable(map_tax_id, made.data, request_id=made.request_id)

    async def list_tax_ids(self, customer: str) -> Sequence[TaxId]:
        path = object_path(CUSTOMER.path, customer) + "/tax_ids"
        return (await self._page(path, map_tax_id, {"limit": PAGE_SIZE}, None)).objects

    async def delete_tax_id(self, customer: str, id: str) -> None:
        await self._client.send("delete", object_path(object_path(CUSTOMER.path, customer) + "/tax_ids", id))
