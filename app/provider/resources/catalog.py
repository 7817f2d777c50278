"""Products and prices at Stripe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.errors import NotFoundError
from app.provider.mapping.catalog import map_price, map_product
from app.provider.objects import Price, Product
from app.provider.resources.resource import Kind, StripeResource

if TYPE_CHECKING:
    from stripe.params import PriceCreateParams, PriceListParams, ProductCreateParams, ProductUpdateParams


PRODUCT = Kind("/v1/products", map_product)

PRICE = Kind("/v1/prices", map_price)

MAX_LOOKUP_KEYS = 10  # in one list call (docs.stripe.com/api/prices/list)


class StripeCatalog(StripeResource):
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
