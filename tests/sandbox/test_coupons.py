"""Coupons, promotion codes, and the discounts they become."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import stripe
from sandbox.driving import Receiver, Shop

START = int(datetime(2026, 9, 21, 12, tzinfo=UTC).timestamp())


async def coupon(shop: Shop, **params: Any) -> Any:
    defaults: Any = {} if "amount_off" in params else {"percent_off": 25}
    return await shop.client.v1.coupons.create_async({**defaults, **params})


async def code(shop: Shop, of: Any, **params: Any) -> Any:
    promotion: Any = {"promotion": {"type": "coupon", "coupon": of.id}}
    return await shop.client.v1.promotion_codes.create_async({**promotion, **params})


async def totals(shop: Shop, subscription: str) -> list[int]:
    listed = await shop.client.v1.invoices.list_async({"subscription": subscription, "limit": 100})
    return [invoice.total for invoice in reversed(listed.data)]


async def test_a_coupon_lives_and_is_deleted(shop: Shop, receiver: Receiver) -> None:
    made = await coupon(shop, name="Quarter", applies_to={"products": []})
    assert (made.percent_off, made.duration, made.valid, made.times_redeemed) == (25.0, "once", True, 0)
    assert len(made.id) == 8
    changed = await shop.client.v1.coupons.update_async(made.id, {"name": "Vier", "metadata": {"a": "1"}})
    assert (changed.name, changed.metadata.a) == ("Vier", "1")
    with pytest.raises(stripe.InvalidRequestError) as taken:
        await coupon(shop, id=made.id)
    assert taken.value.code == "resource_already_exists"
    of_it = await code(shop, made)
    assert (await shop.client.v1.coupons.delete_async(made.id)).deleted
    assert (await shop.client.v1.promotion_codes.retrieve_async(of_it.id)).active is False
    with pytest.raises(stripe.InvalidRequestError, match=f"No such coupon: '{made.id}'"):
        await shop.client.v1.coupons.retrieve_async(made.id)
    assert (await shop.client.v1.coupons.list_async()).data == []
    await shop.sandbox.drain()
    assert receiver.last("coupon.updated")["data"]["previous_attributes"] == {
        "name": "Quarter",
        "metadata": {"a": None},
    }
    assert receiver.last("coupon.deleted")["data"]["object"]["valid"] is False


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ("", "Must provide percent_off or amount_off.", None),
        ("percent_off=5&amount_off=5", "Received both percent_off and amount_off parameters.", None),
        ("amount_off=5", "You must pass currency when passing amount_off", "currency"),
        ("percent_off=5&duration=repeating", "The duration_in_months param must be set", "duration"),
        ("percent_off=0", "greater than or equal to 0.01 (it currently is '0.0').", "percent_off"),
        ("percent_off=100.5", "less than or equal to 100 (it currently is '100.5').", "percent_off"),
        ("percent_off=5&redeem_by=1000", "You specified the value `1000` which is in the past.", "redeem_by"),
        (
            "percent_off=5&currency_options[eur][amount_off]=5",
            "You may only specify one of these parameters: currency_options, percent_off.",
            "currency_options",
        ),
        ("amount_off=5&currency=usd&currency_options=5", "Invalid object", "currency_options"),
        (
            "amount_off=5&currency=usd&currency_options[EUR][amount_off]=5",
            "Use `eur` instead of `EUR`.",
            "currency_options",
        ),
        ("percent_off=5&applies_to[products][]=prod_nope", "No such product: 'prod_nope'", "applies_to[products][0]"),
        ("percent_off=5&max_redemptions=0", "greater than or equal to 1.", "max_redemptions"),
    ],
)
async def test_a_senseless_coupon_is_refused(
    http: httpx.AsyncClient, body: str, message: str, param: str | None
) -> None:
    answer = await http.post("/v1/coupons", content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"]
    assert error.get("param") == param


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"code": "NO SPACE"}, "This value must match the regex pattern."),
        ({"code": "taken"}, "An active promotion code with `code: taken` already exists."),
        ({"expires_at": 1000}, "which is in the past."),
        ({"expires_at": 4_000_000_000}, "can be no more than five years in the future."),
        ({"customer": "cus_nope"}, "No such customer: 'cus_nope'"),
        ({"promotion": {"type": "coupon", "coupon": "NOPE"}}, "No such coupon: 'NOPE'"),
        ({"promotion": {"type": "coupon"}}, "You must pass promotion.coupon when passing promotion"),
    ],
)
async def test_a_senseless_promotion_code_is_refused(shop: Shop, params: dict[str, Any], message: str) -> None:
    made = await coupon(shop)
    await code(shop, made, code="TAKEN")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await code(shop, made, **params)
    assert message in str(refused.value.user_message)


async def test_a_promotion_code_is_found_by_its_text_and_turned_off(shop: Shop, receiver: Receiver) -> None:
    made = await code(shop, await coupon(shop), code="Spring-26")
    assert (made.active, made.restrictions.first_time_transaction) == (True, False)
    minted = await code(shop, await coupon(shop))
    assert minted.code == minted.code.upper()
    assert len(minted.code) == 8
    found = await shop.client.v1.promotion_codes.list_async({"code": "spring-26", "expand": ["data.promotion.coupon"]})
    assert [(row.id, row.promotion.coupon.percent_off) for row in found] == [(made.id, 25.0)]
    off = await shop.client.v1.promotion_codes.update_async(made.id, {"active": False})
    assert off.active is False
    assert (await shop.client.v1.promotion_codes.list_async({"active": True})).data[0].id == minted.id
    with pytest.raises(stripe.InvalidRequestError, match="cannot be redeemed because it is inactive"):
        await shop.subscribe(discounts=[{"promotion_code": made.id}])
    await shop.sandbox.drain()
    assert receiver.last("promotion_code.updated")["data"]["previous_attributes"] == {"active": True}


async def test_once_takes_off_the_first_invoice_and_is_gone(shop: Shop, receiver: Receiver) -> None:
    once = await coupon(shop, percent_off=33.33)
    made = await shop.subscribe(discounts=[{"coupon": once.id}], expand=["latest_invoice.discounts"])
    invoice = made.latest_invoice
    assert (invoice.subtotal, invoice.total, invoice.amount_paid) == (9900, 6600, 6600)
    assert [entry.amount for entry in invoice.total_discount_amounts] == [3300]
    assert invoice.discounts[0].source.coupon == once.id
    assert invoice.lines.data[0].discount_amounts[0].discount == invoice.discounts[0].id
    assert made.discounts == []
    shop.clock.advance(days=32)
    assert await totals(shop, made.id) == [6600, 9900]
    assert (await shop.client.v1.coupons.retrieve_async(once.id)).times_redeemed == 1
    await shop.sandbox.drain()
    story = [type for type in receiver.types() if type.startswith("customer.discount")]
    assert story == ["customer.discount.created", "customer.discount.deleted"]
    assert receiver.last("customer.discount.created")["data"]["object"]["subscription"] == made.id


async def test_once_waits_for_a_trial_to_end(shop: Shop) -> None:
    once = await coupon(shop, percent_off=50)
    made = await shop.subscribe(discounts=[{"coupon": once.id}], trial_period_days=7)
    assert len(made.discounts) == 1
    shop.clock.advance(days=40)
    assert await totals(shop, made.id) == [0, 4950, 9900]


async def test_repeating_ends_after_its_months(shop: Shop, receiver: Receiver) -> None:
    shop.clock.now = START
    repeating = await coupon(shop, duration="repeating", duration_in_months=3)
    made = await shop.subscribe(discounts=[{"coupon": repeating.id}], expand=["discounts"])
    assert made.discounts[0].end == int(datetime(2026, 12, 21, 12, tzinfo=UTC).timestamp())
    shop.clock.advance(days=130)
    assert await totals(shop, made.id) == [7425] * 3 + [9900] * 2
    assert (await shop.subscription(made.id)).discounts == []
    await shop.sandbox.drain()
    assert receiver.last("customer.discount.deleted")["data"]["object"]["id"] == made.discounts[0].id


async def test_forever_goes_on_until_it_is_deleted(shop: Shop) -> None:
    forever = await coupon(shop, amount_off=500, currency="usd", duration="forever")
    made = await shop.subscribe(discounts=[{"coupon": forever.id}])
    shop.clock.advance(days=32)
    assert await totals(shop, made.id) == [9400, 9400]
    await shop.client.v1.coupons.delete_async(forever.id)
    shop.clock.advance(days=31)
    assert (await totals(shop, made.id))[-1] == 9400
    dropped = await shop.client.v1.subscriptions.delete_discount_async(made.id)
    assert dropped.deleted
    shop.clock.advance(days=31)
    assert (await totals(shop, made.id))[-1] == 9900
    with pytest.raises(stripe.InvalidRequestError, match="No active discount for subscription"):
        await shop.client.v1.subscriptions.delete_discount_async(made.id)
    with pytest.raises(stripe.InvalidRequestError, match="No active discount for customer"):
        await shop.client.v1.customers.delete_discount_async(shop.customer)


async def test_discounts_are_replaced_kept_and_cleared(shop: Shop) -> None:
    first = await coupon(shop, duration="forever")
    second = await coupon(shop, percent_off=10, duration="forever")
    made = await shop.subscribe(discounts=[{"coupon": first.id}])
    (kept,) = made.discounts
    both = await shop.client.v1.subscriptions.update_async(
        made.id, {"discounts": [{"discount": kept}, {"coupon": second.id}]}
    )
    assert both.discounts[0] == kept
    shop.clock.advance(days=32)
    assert await totals(shop, made.id) == [7425, 6682]  # the second one takes its tenth off what the first left
    none = await shop.client.v1.subscriptions.update_async(made.id, {"discounts": ""})
    assert none.discounts == []


async def test_a_percentage_is_shared_out_to_the_last_cent(shop: Shop) -> None:
    await coupon(shop, id="THIRD", percent_off=33)
    for amount in (101, 101, 101):
        await shop.client.v1.invoice_items.create_async(
            {"customer": shop.customer, "amount": amount, "currency": "usd"}
        )
    made: Any = {
        "customer": shop.customer,
        "pending_invoice_items_behavior": "include",
        "discounts": [{"coupon": "THIRD"}],
    }
    invoice = await shop.client.v1.invoices.create_async(made)
    assert (invoice.subtotal, invoice.total) == (303, 203)
    shares = [line.discount_amounts[0].amount for line in invoice.lines.data]
    assert (sum(shares), sorted(shares)) == (100, [33, 33, 34])
    assert invoice.total_pretax_credit_amounts[0].amount == 100
    cleared = await shop.client.v1.invoices.update_async(invoice.id, {"discounts": ""})
    assert (cleared.total, cleared.total_discount_amounts) == (303, [])


async def test_an_items_discount_is_in_the_subtotal_already(shop: Shop) -> None:
    half = await coupon(shop, percent_off=50, duration="forever")
    made = await shop.subscribe(
        items=[{"price": shop.pro, "discounts": [{"coupon": half.id}]}, {"price": shop.basic}],
        expand=["latest_invoice"],
    )
    invoice = made.latest_invoice
    assert (invoice.subtotal, invoice.total, invoice.discounts) == (4950 + 2900, 7850, [])
    assert [line.amount for line in invoice.lines.data] == [9900, 2900]
    assert invoice.lines.data[0].discounts == made.items.data[0].discounts


async def test_a_coupon_for_one_product_leaves_the_others_alone(shop: Shop) -> None:
    product = (await shop.client.v1.prices.retrieve_async(shop.basic)).product
    only = await coupon(shop, percent_off=100, applies_to={"products": [product]}, expand=["applies_to"])
    assert only.applies_to.products == [product]
    made = await shop.subscribe(
        items=[{"price": shop.pro}, {"price": shop.basic}],
        discounts=[{"coupon": only.id}],
        expand=["latest_invoice"],
    )
    assert (made.latest_invoice.subtotal, made.latest_invoice.total) == (12_800, 9900)


async def test_it_never_takes_off_more_than_there_is(shop: Shop) -> None:
    huge = await coupon(shop, amount_off=1_000_000, currency="usd")
    made = await shop.subscribe(discounts=[{"coupon": huge.id}], expand=["latest_invoice"])
    assert (made.status, made.latest_invoice.total, made.latest_invoice.status) == ("active", 0, "paid")


@pytest.mark.parametrize(("currency", "total"), [("usd", 9400), ("jpy", 9000)])
async def test_an_amount_off_has_a_currency(shop: Shop, currency: str, total: int) -> None:
    options: Any = {"currency_options": {"jpy": {"amount_off": 900}}, "expand": ["currency_options"]}
    made = await coupon(shop, id="OFF", amount_off=500, currency="usd", **options)
    assert made.currency_options["jpy"].amount_off == 900
    price = await shop.client.v1.prices.create_async(
        {"currency": currency, "unit_amount": 9900, "recurring": {"interval": "month"}, "product_data": {"name": "P"}}
    )
    bought = await shop.subscribe(items=[{"price": price.id}], discounts=[{"coupon": "OFF"}], expand=["latest_invoice"])
    assert bought.latest_invoice.total == total
    euros = await shop.client.v1.prices.create_async(
        {"currency": "eur", "unit_amount": 9900, "recurring": {"interval": "month"}, "product_data": {"name": "E"}}
    )
    with pytest.raises(stripe.InvalidRequestError, match="cannot be applied to eur"):
        await shop.subscribe(items=[{"price": euros.id}], discounts=[{"coupon": "OFF"}])


async def test_redemptions_and_dates_run_out(shop: Shop) -> None:
    single = await coupon(shop, max_redemptions=1)
    await shop.subscribe(discounts=[{"coupon": single.id}])
    assert (await shop.client.v1.coupons.retrieve_async(single.id)).valid is False
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.subscribe(discounts=[{"coupon": single.id}])
    assert (refused.value.code, refused.value.param) == ("coupon_expired", "discounts[0][coupon]")
    dated = await coupon(shop, redeem_by=shop.sandbox.now() + 60)
    of_it = await code(shop, dated, expires_at=shop.sandbox.now() + 30)
    shop.clock.advance(seconds=45)
    assert (await shop.client.v1.promotion_codes.retrieve_async(of_it.id)).active is False
    assert (await shop.client.v1.coupons.retrieve_async(dated.id)).valid is True
    shop.clock.advance(seconds=45)
    assert (await shop.client.v1.coupons.retrieve_async(dated.id)).valid is False


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"restrictions": {"first_time_transaction": True}}, "the associated customer has prior transactions"),
        (
            {"restrictions": {"minimum_amount": 20_000, "minimum_amount_currency": "usd"}},
            "does not meet the minimum amount requirement",
        ),
        ({"max_redemptions": 1}, "it has been used the maximum number of times"),
    ],
)
async def test_a_code_says_why_it_is_not_for_this_customer(shop: Shop, rules: dict[str, Any], message: str) -> None:
    made = await code(shop, await coupon(shop), **rules)
    first = {"discounts": [{"promotion_code": made.id}]} if "minimum_amount" not in str(rules) else {}
    bought = await shop.subscribe(**first, expand=["latest_invoice.discounts"])
    assert not first or bought.latest_invoice.discounts[0].promotion_code == made.id
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.subscribe(discounts=[{"promotion_code": made.id}])
    assert message in str(refused.value.user_message)


async def test_another_customers_code_is_refused(shop: Shop) -> None:
    other = await shop.client.v1.customers.create_async({})
    made = await code(shop, await coupon(shop), customer=other.id)
    with pytest.raises(stripe.InvalidRequestError, match="restricted to another customer"):
        await shop.subscribe(discounts=[{"promotion_code": made.id}])


@pytest.mark.parametrize(
    ("discounts", "message"),
    [
        ([{"coupon": "A", "promotion_code": "B"}], "exactly one of"),
        ([{"discount": "di_nope"}], "No such discount: 'di_nope'"),
        ([{"promotion_code": "promo_nope"}], "No such promotion code: 'promo_nope'"),
    ],
)
async def test_a_senseless_discount_is_refused(
    http: httpx.AsyncClient, shop: Shop, discounts: Any, message: str
) -> None:
    fields = [f"customer={shop.customer}", f"items[0][price]={shop.pro}"]
    for index, entry in enumerate(discounts):
        fields += [f"discounts[{index}][{name}]={value}" for name, value in entry.items()]
    answer = await http.post("/v1/subscriptions", content="&".join(fields))
    assert message in answer.json()["error"]["message"]


async def test_a_change_gives_back_what_was_paid_and_discounts_the_rest(shop: Shop) -> None:
    """A quarter off $99 was $74.25, so half a period gives $37.125 back; half of $29 less a quarter is $10.875."""
    shop.clock.now = START
    forever = await coupon(shop, duration="forever")
    made = await shop.subscribe(discounts=[{"coupon": forever.id}])
    shop.clock.advance(days=15)
    change: Any = {
        "items": [{"id": made.items.data[0].id, "price": shop.basic}],
        "proration_behavior": "always_invoice",
        "expand": ["latest_invoice"],
    }
    changed = await shop.client.v1.subscriptions.update_async(made.id, change)
    lines = changed.latest_invoice.lines.data
    assert [line.amount for line in lines] == [-3713, 1087]
    assert [line.discount_amounts for line in lines] == [[], []]
    assert (changed.latest_invoice.total, changed.latest_invoice.total_discount_amounts) == (-2626, [])
    items = (await shop.client.v1.invoice_items.list_async({"invoice": changed.latest_invoice.id})).data
    assert [entry.amount for row in items for entry in row.proration_details.discount_amounts] == [1238, 362]


async def test_what_was_off_once_is_not_given_back(shop: Shop) -> None:
    shop.clock.now = START
    once = await coupon(shop, percent_off=100)
    made = await shop.subscribe(discounts=[{"coupon": once.id}])
    shop.clock.advance(days=15)
    ended = await shop.client.v1.subscriptions.cancel_async(
        made.id, {"prorate": True, "invoice_now": True, "expand": ["latest_invoice"]}
    )
    assert ended.latest_invoice.total == 0
