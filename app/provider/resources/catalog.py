"""Products and prices at Stripe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.provider.mapping.catalog import map_price, map_product
from app.provider.objects import Page, Price, Product, Snapshot
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource
from app.provider.stripe_client import Blame

if TYPE_CHECKING:
    from stripe.params import (
        PriceCreateParams,
        PriceListParams,
        PriceUpdateParams,
        ProductCreateParams,
        ProductListParams,
        ProductUpdateParams,
    )


PRODUCT = Kind("/v1/products", map_product)

PRICE = Kind("/v1/prices", map_price)

PRODUCT_BLAME = Blame(
    params={"id": "id", "name": "name", "description": "description", "metadata": "metadata"},
    conflict="The present state of the product does not allow this.",
)

PRICE_BLAME = Blame(
    params={
        "product": "product",
        "currency": "currency",
        "unit_amount": "amount_minor",
        "recurring[interval]": "interval",
        "recurring[interval_count]": "interval_count",
        "recurring[meter]": "meter",
        "lookup_key": "lookup_key",
        "nickname": "nickname",
        "metadata": "metadata",
    },
    # The one Stripe names: "This price cannot be archived because it is the default price of its product."
    conflict="The present state of the price does not allow this; a product's default price can't be archived.",
)

MAX_LOOKUP_KEYS = 10  # in one list call (docs.stripe.com/api/prices/list)


class StripeCatalog(StripeResource):
    async def retrieve_product(self, id: str) -> Snapshot[Product]:
        return await self._retrieve(PRODUCT, id)

    async def list_products(self, *, since: int | None = None, after: str | None = None) -> Page[Product]:
        params: ProductListParams = {"limit": PAGE_SIZE}
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page(PRODUCT.path, map_product, params, after)

    async def create_product(
        self,
        *,
        id: str | None,
        name: str,
        description: str | None,
        metadata: Mapping[str, str],
        idempotency_key: str,
    ) -> Snapshot[Product]:
        params: ProductCreateParams = {"name": name, "metadata": dict(metadata)}
        if id is not None:
            params["id"] = id
        if description:  # Stripe refuses an empty one
            params["description"] = description
        return await self._post(PRODUCT, params, idempotency_key=idempotency_key, blame=PRODUCT_BLAME)

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
        params: ProductUpdateParams = {}
        if name is not None:
            params["name"] = name
        if description is not None:
            params["description"] = description
        if active is not None:
            params["active"] = active
        if default_price is not None:
            params["default_price"] = default_price
        if metadata is not None:
            params["metadata"] = dict(metadata)
        return await self._post(PRODUCT, params, id=id, idempotency_key=idempotency_key, blame=PRODUCT_BLAME)

    async def retrieve_price(self, id: str) -> Snapshot[Price]:
        return await self._retrieve(PRICE, id)

    async def list_prices(
        self,
        *,
        since: int | None = None,
        after: str | None = None,
        product: str | None = None,
        active: bool | None = None,
    ) -> Page[Price]:
        params: PriceListParams = {"limit": PAGE_SIZE}
        if since is not None:
            params["created"] = {"gte": since}
        if product is not None:
            params["product"] = product
        if active is not None:
            params["active"] = active
        return await self._page(PRICE.path, map_price, params, after)

    async def find_prices(self, lookup_keys: Sequence[str]) -> Sequence[Snapshot[Price]]:
        found: list[Snapshot[Price]] = []
        for start in range(0, len(lookup_keys), MAX_LOOKUP_KEYS):
            some = list(lookup_keys[start : start + MAX_LOOKUP_KEYS])
            params: PriceListParams = {"lookup_keys": some, "limit": PAGE_SIZE}
            page = await self._page(PRICE.path, map_price, params, None)
            found += [Snapshot(object=price, at=page.at) for price in page.objects]
        return found

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
        params: PriceCreateParams = {
            "product": product,
            "currency": currency,
            "unit_amount": unit_amount,
            "metadata": dict(metadata),
        }
        if interval is not None:
            params["recurring"] = {"interval": interval, "interval_count": interval_count}
            if meter is not None:
                params["recurring"] |= {"usage_type": "metered", "meter": meter}
        if nickname is not None:
            params["nickname"] = nickname
        if lookup_key is not None:
            params["lookup_key"] = lookup_key
            params["transfer_lookup_key"] = transfer_lookup_key
        return await self._post(PRICE, params, idempotency_key=idempotency_key, blame=PRICE_BLAME)

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
        params: PriceUpdateParams = {}
        if active is not None:
            params["active"] = active
        if nickname is not None:
            params["nickname"] = nickname
        if lookup_key is not None:
            params["lookup_key"] = lookup_key
            params["transfer_lookup_key"] = transfer_lookup_key
        if metadata is not None:
            params["metadata"] = dict(metadata)
        return await self._post(PRICE, params, id=id, idempotency_key=idempotency_key, blame=PRICE_BLAME)
