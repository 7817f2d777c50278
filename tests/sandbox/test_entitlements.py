"""Features of products, and the entitlements customers have by them."""

from typing import Any

import pytest
import stripe
from sandbox.driving import Receiver, Shop

Refused = stripe.InvalidRequestError
CHANGED = "entitlements.active_entitlement_summary.updated"


async def feature(shop: Shop, key: str, *products: str) -> Any:
    made = await shop.client.v1.entitlements.features.create_async({"name": key.upper(), "lookup_key": key})
    for product in products:
        await shop.client.v1.products.features.create_async(product, {"entitlement_feature": made.id})
    return made


async def product(shop: Shop, price: str) -> str:
    found = await shop.client.v1.prices.retrieve_async(price)
    return str(found.product)


async def entitled(shop: Shop) -> list[str]:
    found = await shop.client.v1.entitlements.active_entitlements.list_async({"customer": shop.customer})
    return sorted(entitlement.lookup_key for entitlement in found)


async def test_a_customer_is_entitled_to_what_their_live_products_grant(shop: Shop, receiver: Receiver) -> None:
    basic, pro = await product(shop, shop.basic), await product(shop, shop.pro)
    await feature(shop, "export", basic, pro)
    sso = await feature(shop, "sso", pro)
    assert await entitled(shop) == []
    subscription = await shop.subscribe()
    assert await entitled(shop) == ["export", "sso"]
    item = subscription["items"]["data"][0].id
    await shop.client.v1.subscriptions.update_async(subscription.id, {"items": [{"id": item, "price": shop.basic}]})
    assert await entitled(shop) == ["export"]
    shop.clock.advance(seconds=1)
    await shop.client.v1.subscriptions.cancel_async(subscription.id)
    assert await entitled(shop) == []
    await shop.sandbox.drain()
    told = [event["data"] for event in receiver.events if event["type"] == CHANGED]
    assert [len(data["object"]["entitlements"]["data"]) for data in told] == [2, 1, 0]
    assert told[0]["previous_attributes"] == {"entitlements": {"data": []}}
    assert {data["object"]["customer"] for data in told} == {shop.customer}
    assert sso.lookup_key == "sso"


async def test_entitlements_follow_the_clock_and_the_product_s_features(shop: Shop, receiver: Receiver) -> None:
    pro = await product(shop, shop.pro)
    made = await feature(shop, "sso", pro)
    await shop.subscribe(cancel_at_period_end=True)
    [entitlement] = (await shop.client.v1.entitlements.active_entitlements.list_async({"customer": shop.customer})).data
    found = await shop.client.v1.entitlements.active_entitlements.retrieve_async(
        entitlement.id, {"expand": ["feature"]}
    )
    assert found.feature.name == "SSO"
    [attached] = (await shop.client.v1.products.features.list_async(pro)).data
    assert attached.entitlement_feature.id == made.id
    assert (await shop.client.v1.products.features.retrieve_async(pro, attached.id)).id == attached.id
    assert (await shop.client.v1.products.features.delete_async(pro, attached.id)).deleted
    shop.clock.advance(seconds=1)
    await shop.sandbox.drain()
    assert receiver.types().count(CHANGED) == 2
    with pytest.raises(Refused):
        await shop.client.v1.entitlements.active_entitlements.retrieve_async(entitlement.id)
    await shop.client.v1.products.features.create_async(pro, {"entitlement_feature": made.id})
    assert await entitled(shop) == ["sso"]
    shop.clock.advance(days=32)
    assert await entitled(shop) == []


async def test_features_are_named_once_and_archived(shop: Shop) -> None:
    features = shop.client.v1.entitlements.features
    pro = await product(shop, shop.pro)
    made = await feature(shop, "sso", pro)
    with pytest.raises(Refused, match="already exists"):
        await feature(shop, "sso")
    with pytest.raises(Refused, match="already attached"):
        await shop.client.v1.products.features.create_async(pro, {"entitlement_feature": made.id})
    with pytest.raises(Refused):
        await features.create_async({"name": "long", "lookup_key": "k" * 81})
    await features.update_async(made.id, {"active": False, "name": "Old", "metadata": {"a": "1"}})
    assert (await features.retrieve_async(made.id)).name == "Old"
    assert [f.id for f in await features.list_async()] == []
    assert [f.id for f in await features.list_async({"archived": True, "lookup_key": "sso"})] == [made.id]
    other = await product(shop, shop.basic)
    with pytest.raises(Refused, match="Inactive"):
        await shop.client.v1.products.features.create_async(other, {"entitlement_feature": made.id})
    with pytest.raises(Refused):
        await shop.client.v1.products.features.retrieve_async(other, "prodft_nope")
