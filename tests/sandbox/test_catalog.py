"""Customers, products and prices: the facts that were recorded at Stripe."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
import stripe
from sandbox.driving import Receiver, Shop


async def test_a_new_customer_has_exactly_stripes_keys(http: httpx.AsyncClient) -> None:
    made = (await http.post("/v1/customers", data={"email": "ada@example.com"})).json()
    named = ["customer_account", "default_source", "delinquent", "description", "discount", "email", "invoice_prefix"]
    assert list(made) == [
        *("id", "object", "address", "balance", "created", "currency"),
        *named,
        *("invoice_settings", "livemode", "metadata", "name", "next_invoice_sequence", "phone"),
        *("preferred_locales", "shipping", "tax_exempt", "test_clock"),
    ]
    assert made["id"].startswith("cus_")
    assert len(made["id"]) == len("cus_") + 14
    assert made["invoice_settings"] == dict.fromkeys(
        ("custom_fields", "default_payment_method", "footer", "rendering_options")
    )


async def test_invoice_prefixes_are_unique_and_upper_case(shop: Shop) -> None:
    customers = shop.client.v1.customers
    for bad in ("a", "abc", "AB_1", "A" * 13):
        with pytest.raises(stripe.InvalidRequestError, match="must be 1–12 uppercase letters or numbers"):  # noqa: RUF001
            await customers.update_async(shop.customer, {"invoice_prefix": bad})
    await customers.update_async(shop.customer, {"invoice_prefix": "ADA"})
    await customers.update_async(shop.customer, {"invoice_prefix": "ADA"})
    with pytest.raises(stripe.InvalidRequestError, match=f"is taken by customer: {shop.customer}"):
        await customers.create_async({"invoice_prefix": "ADA"})
    made = await shop.subscribe(expand=["latest_invoice"])
    assert made.latest_invoice.number == "ADA-0001"


async def test_a_deleted_customer_is_a_stub_and_takes_no_more(shop: Shop, receiver: Receiver) -> None:
    await shop.client.v1.customers.delete_async(shop.customer)
    stub = await shop.client.v1.customers.retrieve_async(shop.customer)
    assert stub.to_dict() == {"id": shop.customer, "object": "customer", "deleted": True}
    with pytest.raises(stripe.InvalidRequestError, match="No such customer") as refused:
        await shop.client.v1.payment_methods.attach_async("pm_card_visa", {"customer": shop.customer})
    assert (refused.value.http_status, refused.value.param) == (400, "customer")
    await shop.sandbox.drain()
    event = receiver.last("customer.deleted")["data"]
    assert "deleted" not in event["object"]
    assert "previous_attributes" not in event


async def test_a_product_with_a_default_price_makes_both(client: Any, receiver: Receiver, shop: Shop) -> None:
    price = {"currency": "usd", "unit_amount_decimal": "123.45", "recurring": {"interval": "month"}}
    product = await client.v1.products.create_async({"name": "P", "default_price_data": price})
    made = await client.v1.prices.retrieve_async(product.default_price)
    assert (made.unit_amount, str(made.unit_amount_decimal)) == (None, "123.45")
    await shop.sandbox.drain()
    created, priced = receiver.last("product.created"), receiver.last("price.created")
    assert created["data"]["object"]["default_price"] == made.id
    assert created["request"] == priced["request"]


async def test_a_deleted_product_is_gone(client: Any, receiver: Receiver, shop: Shop) -> None:
    product = await client.v1.products.create_async({"name": "P"})
    await client.v1.products.delete_async(product.id)
    with pytest.raises(stripe.InvalidRequestError, match="No such product") as refused:
        await client.v1.products.retrieve_async(product.id)
    assert refused.value.http_status == 404
    await shop.sandbox.drain()
    assert receiver.last("product.deleted")["data"]["object"]["active"] is False


async def test_a_lookup_key_moves_only_when_told_to(shop: Shop, receiver: Receiver) -> None:
    prices = shop.client.v1.prices
    old = await another_price(shop)
    await prices.update_async(old, {"lookup_key": "pro"})
    await prices.update_async(old, {"active": False})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await prices.update_async(shop.basic, {"lookup_key": "pro"})
    assert refused.value.user_message == f"A price (`{old}`) already uses that lookup key."
    await prices.update_async(shop.basic, {"lookup_key": "pro", "transfer_lookup_key": True})
    assert [p.id for p in await prices.list_async({"lookup_keys": ["pro"]})] == [shop.basic]
    await shop.sandbox.drain()
    changes = [(e["data"]["object"]["id"], e["data"]["previous_attributes"]) for e in receiver.events[-2:]]
    assert changes == [(old, {"lookup_key": "pro"}), (shop.basic, {"lookup_key": None})]
    await prices.update_async(shop.basic, {"lookup_key": ""})
    assert list(await prices.list_async({"lookup_keys": ["pro"]})) == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"unit_amount": 5}, "You must specify either `product` or `product_data` when creating a price."),
        (
            {"unit_amount": 5, "product": "prod_x", "product_data": {"name": "x"}},
            "You may only specify one of these parameters: product, product_data.",
        ),
        (
            {"product_data": {"name": "x"}},
            "Prices require an `unit_amount` or `unit_amount_decimal` parameter to be set.",
        ),
        ({"unit_amount": 5, "product": "prod_nope"}, "No such product: 'prod_nope'"),
        (
            {
                "unit_amount": 5,
                "product_data": {"name": "x"},
                "recurring": {"interval": "month", "usage_type": "metered"},
            },
            "Starting with Stripe version `2025-03-31.basil`, metered prices must be backed by meters.",
        ),
        (
            {"unit_amount": 5, "product_data": {"name": "x"}, "billing_scheme": "tiered"},
            "The Billhook sandbox does not implement the parameter `billing_scheme` of POST /v1/prices.",
        ),
    ],
)
async def test_a_senseless_price_is_refused(client: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.prices.create_async({"currency": "usd", **params})
    assert refused.value.user_message == message
    assert list(await client.v1.products.list_async()) == []


async def test_a_product_that_has_prices_stays(shop: Shop) -> None:
    product = (await shop.client.v1.prices.retrieve_async(shop.pro)).product
    with pytest.raises(stripe.InvalidRequestError, match="it has one or more user-created prices"):
        await shop.client.v1.products.delete_async(product)


async def test_an_archived_price_sells_nothing(shop: Shop) -> None:
    old = await another_price(shop)
    await shop.client.v1.prices.update_async(old, {"active": False})
    with pytest.raises(stripe.InvalidRequestError, match="The price specified is inactive"):
        await replace(shop, pro=old).session()


async def another_price(shop: Shop) -> str:
    """Of the product pro, whose default price stays what it is."""
    product = (await shop.client.v1.prices.retrieve_async(shop.pro)).product
    terms = {"currency": "usd", "unit_amount": 8900, "recurring": {"interval": "month"}}
    return str((await shop.client.v1.prices.create_async({"product": product, **terms})).id)


async def test_a_product_s_default_price_can_t_be_archived(shop: Shop) -> None:
    prices, products = shop.client.v1.prices, shop.client.v1.products
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await prices.update_async(shop.pro, {"active": False, "nickname": "Old"})
    assert refused.value.user_message == (
        "This price cannot be archived because it is the default price of its product."
    )
    kept = await prices.retrieve_async(shop.pro)
    assert (kept.active, kept.nickname) == (True, None)
    await products.update_async(kept.product, {"default_price": await another_price(shop)})
    assert (await prices.update_async(shop.pro, {"active": False})).active is False
