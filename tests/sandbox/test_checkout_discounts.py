"""Discounts, promotion codes and taxes in Checkout: the price shown is the price paid."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import stripe
from hosted_pages import PAYS, Reader
from hosted_pages import Shop as Visited
from sandbox.driving import GOOD, Receiver, Shop

from app.sandbox import checkout


@pytest.fixture
async def visited() -> AsyncIterator[Visited]:
    shop = Visited()
    yield shop
    await shop.aclose()


async def one_time(shop: Shop, cents: int, currency: str = "usd") -> str:
    price = await shop.client.v1.prices.create_async(
        {"currency": currency, "unit_amount": cents, "product_data": {"name": "Pack"}}
    )
    return str(price.id)


async def test_a_subscription_starts_with_its_coupon(shop: Shop, receiver: Receiver) -> None:
    await shop.client.v1.coupons.create_async({"id": "THIRD", "percent_off": 33.33, "duration": "forever"})
    vat = await shop.client.v1.tax_rates.create_async({"display_name": "VAT", "percentage": 19, "inclusive": False})
    session = await shop.session(
        line_items=[{"price": shop.pro, "quantity": 1}, {"price": await one_time(shop, 101), "quantity": 3}],
        discounts=[{"coupon": "THIRD"}],
        subscription_data={"default_tax_rates": [vat.id]},
        expand=["line_items", "discounts.coupon"],
    )
    assert session.discounts[0].coupon.percent_off == 33.33
    assert (session.amount_subtotal, session.amount_total) == (10_203, 8094)
    assert (session.total_details.amount_discount, session.total_details.amount_tax) == (3401, 1292)
    assert sum(line.amount_total for line in session.line_items.data) == 8094
    assert (await shop.client.v1.coupons.retrieve_async("THIRD")).times_redeemed == 0
    checkout.pay(shop.sandbox, session.id, GOOD)
    done = await shop.client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["invoice", "subscription"]})
    assert done.invoice.total == done.invoice.amount_paid == 8094
    assert len(done.subscription.discounts) == 1
    assert (await shop.client.v1.coupons.retrieve_async("THIRD")).times_redeemed == 1
    shop.clock.advance(days=32)
    renewed = (await shop.subscription(done.subscription.id)).latest_invoice
    assert renewed.total == 7854
    await shop.sandbox.drain()
    assert "customer.discount.created" in receiver.types()


@pytest.mark.parametrize(("currency", "cents", "paid"), [("usd", 505, 455), ("jpy", 505, 455), ("kwd", 5050, 4550)])
async def test_a_payment_takes_a_promotion_code(shop: Shop, currency: str, cents: int, paid: int) -> None:
    coupon = await shop.client.v1.coupons.create_async({"percent_off": 10 if currency != "kwd" else 9.900990099})
    code = await shop.client.v1.promotion_codes.create_async({"promotion": {"type": "coupon", "coupon": coupon.id}})
    session = await shop.session(
        mode="payment",
        line_items=[{"price": await one_time(shop, cents, currency), "quantity": 1}],
        discounts=[{"promotion_code": code.id}],
    )
    assert session.amount_total == paid - (1 if currency != "kwd" else 0)
    checkout.pay(shop.sandbox, session.id, GOOD)
    done = await shop.client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent"]})
    assert done.payment_intent.amount_received == session.amount_total
    assert (await shop.client.v1.promotion_codes.retrieve_async(code.id)).times_redeemed == 1


async def test_what_costs_nothing_takes_no_card(shop: Shop) -> None:
    await shop.client.v1.coupons.create_async({"id": "FREE", "percent_off": 100})
    session = await shop.session(
        mode="payment",
        line_items=[{"price": await one_time(shop, 500), "quantity": 1}],
        discounts=[{"coupon": "FREE"}],
    )
    checkout.pay(shop.sandbox, session.id, None)
    done = await shop.client.v1.checkout.sessions.retrieve_async(session.id)
    assert (done.status, done.payment_status, done.payment_intent) == ("complete", "no_payment_required", None)


async def test_a_coupon_waits_for_the_end_of_a_trial(shop: Shop) -> None:
    await shop.client.v1.coupons.create_async({"id": "HALF", "percent_off": 50})
    session = await shop.session(discounts=[{"coupon": "HALF"}], subscription_data={"trial_period_days": 7})
    assert (session.amount_total, session.total_details.amount_discount) == (0, 0)
    checkout.pay(shop.sandbox, session.id, GOOD)
    shop.clock.advance(days=8)
    bought = await shop.client.v1.checkout.sessions.retrieve_async(session.id)
    assert (await shop.subscription(str(bought.subscription))).latest_invoice.total == 4950


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"discounts": [{"coupon": "NOPE"}]}, "No such coupon: 'NOPE'"),
        ({"discounts": [{"coupon": "A"}, {"coupon": "B"}]}, "only apply one discount"),
        ({"discounts": [{"coupon": "A"}], "allow_promotion_codes": True}, "You may only specify one of"),
        ({"discounts": [{"coupon": "A"}], "mode": "setup", "currency": "usd"}, "in `setup` mode"),
        ({"line_items": [{"price": "PRO", "quantity": 1, "tax_rates": ["txr_nope"]}]}, "No such tax rate: 'txr_nope'"),
    ],
)
async def test_a_senseless_discount_is_refused(shop: Shop, params: dict[str, Any], message: str) -> None:
    if params.get("mode") == "setup":
        params = {**params, "line_items": None}
    if params.get("line_items"):
        params = {"line_items": [{**params["line_items"][0], "price": shop.pro}]}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.session(**params)
    assert message in str(refused.value.user_message)


async def test_the_page_applies_a_code_before_it_charges(visited: Visited) -> None:
    coupon = await visited.api("coupons", percent_off=50, duration="forever")
    await visited.api(
        "promotion_codes", code="HALF", **{"promotion[type]": "coupon", "promotion[coupon]": coupon["id"]}
    )
    session = await visited.session(await visited.price(), allow_promotion_codes="true")
    page = await visited.get(session["url"])
    applied = await visited.submit(page, **PAYS, promotion_code="half")
    assert applied.status_code == 200
    said = Reader(applied)
    assert "The code is applied. Nothing is charged yet" in said.text
    assert "Discount -$49.50" in said.text
    assert "Total due today $49.50" in said.text
    assert said.forms[0].fields["promotion_code"] == "half"
    assert said.forms[0].fields["number"] == ""
    assert await visited.events("checkout.session.completed") == []
    taken_off = await visited.submit(applied, promotion_code="")
    assert "Total due today $99.00" in Reader(taken_off).text
    again = await visited.submit(taken_off, promotion_code="HALF")
    assert (await visited.submit(again, **PAYS)).status_code == 303
    bought = await visited.api(f"checkout/sessions/{session['id']}")
    assert (bought["amount_total"], bought["discounts"][0]["coupon"]) == (4950, None)
    invoice = await visited.api(f"invoices/{bought['invoice']}")
    assert (invoice["amount_paid"], invoice["total"]) == (4950, 4950)
    hosted = Reader(await visited.get(invoice["hosted_invoice_url"])).text
    assert "Discount -$49.50" in hosted


async def test_the_page_says_why_a_code_is_not_for_this_buyer(visited: Visited) -> None:
    coupon = await visited.api("coupons", percent_off=50)
    minimum = {"restrictions[minimum_amount]": 20_000, "restrictions[minimum_amount_currency]": "usd"}
    await visited.api(
        "promotion_codes", code="BIG", **{"promotion[type]": "coupon", "promotion[coupon]": coupon["id"]}, **minimum
    )
    session = await visited.session(await visited.price(), allow_promotion_codes="true")
    answer = await visited.submit(await visited.get(session["url"]), **PAYS, promotion_code="BIG")
    assert answer.status_code == 400
    assert "does not meet the minimum amount requirement" in Reader(answer).text


async def test_a_code_typed_after_a_declined_card_changes_what_is_charged(visited: Visited) -> None:
    coupon = await visited.api("coupons", percent_off=50)
    await visited.api(
        "promotion_codes", code="HALF", **{"promotion[type]": "coupon", "promotion[coupon]": coupon["id"]}
    )
    session = await visited.session(await visited.price(), allow_promotion_codes="true")
    declined = await visited.submit(await visited.get(session["url"]), **PAYS | {"number": "4000000000000002"})
    applied = await visited.submit(declined, promotion_code="HALF")
    assert (await visited.submit(applied, **PAYS)).status_code == 303
    (charge,) = await visited.events("charge.succeeded")
    assert charge["data"]["object"]["amount"] == 4950
    (given_up,) = await visited.events("payment_intent.canceled")
    assert given_up["data"]["object"]["amount"] == 9900
