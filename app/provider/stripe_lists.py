"""Stripe's lists, page by page: for those who compare with Stripe, or fetch what they missed."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from app.errors import NotFoundError, UnreadableAnswerError
from app.provider import mapping
from app.provider.protocol import Customer, Invoice, Page, PaymentMethod, Subscription
from app.provider.stripe_client import StripeClient

if TYPE_CHECKING:  # at run time the parameter types cost 20 ms and tell nobody anything
    from stripe.params import (
        CustomerListParams,
        CustomerPaymentMethodListParams,
        EventListParams,
        InvoiceListParams,
        SubscriptionItemListParams,
        SubscriptionListParams,
    )

PAGE_SIZE = 100  # the most Stripe gives at once (docs.stripe.com/api/pagination)

STRIPE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")

T = TypeVar("T")


class StripeLists:
    """The part of `StripeProvider` that reads lists."""

    _client: StripeClient

    async def list_customers(self, *, since: int | None, after: str | None) -> Page[Customer]:
        params: CustomerListParams = {"limit": PAGE_SIZE}
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page("/v1/customers", mapping.map_customer, params, after)

    async def list_payment_methods(self, customer: str, *, after: str | None) -> Page[PaymentMethod]:
        params: CustomerPaymentMethodListParams = {"limit": PAGE_SIZE}
        # Of the two lists there are, the customer's own one holds every type.
        path = object_path("/v1/customers", customer) + "/payment_methods"
        return await self._page(path, mapping.map_payment_method, params, after)

    async def list_subscriptions(self, *, since: int | None, after: str | None) -> Page[Subscription]:
        params: SubscriptionListParams = {"limit": PAGE_SIZE, "status": "all"}  # else the canceled ones are left out
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page("/v1/subscriptions", mapping.map_subscription, params, after)

    async def list_invoices(self, *, since: int | None, after: str | None) -> Page[Invoice]:
        params: InvoiceListParams = {"limit": PAGE_SIZE}
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page("/v1/invoices", mapping.map_invoice, params, after)

    async def list_events(
        self, *, types: Sequence[str], since: int, until: int, after: str | None
    ) -> Page[Mapping[str, Any]]:
        params: EventListParams = {
            "limit": PAGE_SIZE,
            "types": list(types),
            "created": {"gte": since, "lte": until},
        }
        return await self._page("/v1/events", dict, params, after)

    async def _page(
        self, path: str, read: Callable[[Mapping[str, Any]], T], params: Mapping[str, object], after: str | None
    ) -> Page[T]:
        answer = await self._client.send("get", path, params if after is None else {**params, "starting_after": after})
        objects: list[T] = []
        unreadable: list[str] = []
        rows = readable(mapping.rows, answer.data, request_id=answer.request_id)
        for row in rows:
            try:
                objects.append(read(await whole(self._client, row)))
            except mapping.UnreadableError:
                unreadable.append(str(row.get("id")))
        more = rows and answer.data.get("has_more")
        return Page(
            objects=objects, at=answer.at, next=str(rows[-1].get("id")) if more else None, unreadable=unreadable
        )


def object_path(path: str, id: str) -> str:
    """The address of one object. An id that Stripe can't have made is not found, and never becomes part of a URL."""
    if not STRIPE_ID.fullmatch(id):
        raise NotFoundError("Stripe knows no such object.")
    return f"{path}/{id}"


async def whole(client: StripeClient, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object of Stripe's with all of its items: a subscription shows only its first ones."""
    items = data.get("items")
    if not (isinstance(items, dict) and items.get("has_more")):
        return data
    params: SubscriptionItemListParams = {"subscription": str(data.get("id")), "limit": PAGE_SIZE}
    return {**data, "items": (await client.send("get", "/v1/subscription_items", params)).data}


def readable(read: Callable[[Mapping[str, Any]], T], data: Mapping[str, Any], *, request_id: str | None) -> T:
    """What an answer says. Raises UnreadableAnswerError where that can't be read."""
    try:
        return read(data)
    except mapping.UnreadableError as error:
        raise UnreadableAnswerError(
            "Stripe's answer has a shape that Billhook does not know.", provider_request_id=request_id
        ) from error
