"""Changing plan and quantity in mid-period, to the second and the cent."""

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe
from sandbox.driving import Receiver, Shop

START = int(datetime(2026, 9, 21, 12, tzinfo=UTC).timestamp())


@pytest.fixture
async def item(shop: Shop) -> Any:
    """The item of a monthly subscription to Basic ($29), begun on 21 September 2026, 30 days before its end."""
    shop.clock.now = START
    made = await shop.subscribe(items=[{"price": shop.basic}])
    return made.items.data[0]


async def preview(shop: Shop, item: Any, **details: Any) -> Any:
    return await shop.client.v1.invoices.create_preview_async(
        {"subscription": item.subscription, "subscription_details": details}
    )


async def test_each_half_rounds_down_by_itself_as_recorded(shop: Shop) -> None:
    """Recorded at Stripe: 1000 to 1800 with 0.25 % of a 30-day month left is -3 and +4."""
    shop.clock.now = START
    prices = [
        await shop.client.v1.prices.create_async(
            {
                "currency": "usd",
                "unit_amount": cents,
                "recurring": {"interval": "month"},
                "product_data": {"name": name},
            }
        )
        for name, cents in (("Old", 1000), ("New", 1800))
    ]
    made = await shop.subscribe(items=[{"price": prices[0].id}])
    change: Any = {
        "items": [{"id": made.items.data[0].id, "price": prices[1].id}],
        "proration_date": made.items.data[0].current_period_end - 6480,
    }
    shown = await preview(shop, made.items.data[0], **change)
    assert [(line.description, line.amount) for line in shown.lines.data] == [
        ("1 × New (at $18.00 / month)", 1800),  # noqa: RUF001 - Stripe's sign
        ("Unused time on Old after 21 Oct 2026", -3),
        ("Remaining time on New after 21 Oct 2026", 4),
    ]
    updated = await shop.client.v1.subscriptions.update_async(made.id, change)
    assert updated.latest_invoice == made.latest_invoice
    shop.clock.advance(days=31)
    renewed = (await shop.subscription(made.id)).latest_invoice
    assert (renewed.total, [line.amount for line in renewed.lines.data]) == (1801, [1800, -3, 4])


async def test_always_invoice_charges_the_difference_at_once(shop: Shop, item: Any, receiver: Receiver) -> None:
    shop.clock.advance(days=15)
    change: Any = {"items": [{"id": item.id, "price": shop.pro}], "proration_behavior": "always_invoice"}
    shown = await preview(shop, item, **change)
    updated = await shop.client.v1.subscriptions.update_async(
        item.subscription, {**change, "expand": ["latest_invoice"]}
    )
    invoice = updated.latest_invoice
    assert (invoice.billing_reason, invoice.status) == ("subscription_update", "paid")
    assert [line.amount for line in invoice.lines.data] == [-1450, 4950]
    assert invoice.total == shown.total == 3500
    line = invoice.lines.data[0]
    assert line.parent.subscription_item_details.proration is True
    assert line.pricing.price_details.price == shop.basic
    assert updated.items.data[0].current_period_end == item.current_period_end
    await shop.sandbox.drain()
    event = receiver.last("customer.subscription.updated")["data"]
    assert event["previous_attributes"]["items"]["data"][0]["price"]["id"] == shop.basic
    assert event["object"]["items"]["data"][0]["price"]["id"] == shop.pro


async def test_a_preview_changes_nothing(shop: Shop, item: Any) -> None:
    shop.clock.advance(days=1)
    before = [event.id for event in await shop.client.v1.events.list_async({"limit": 100})]
    await preview(shop, item, items=[{"id": item.id, "quantity": 5}], proration_behavior="always_invoice")
    await preview(shop, item, cancel_now=True)
    await shop.client.v1.invoices.create_preview_async(
        {"customer": shop.customer, "subscription_details": {"items": [{"price": shop.pro}]}}
    )
    assert [event.id for event in await shop.client.v1.events.list_async({"limit": 100})] == before
    again = await shop.subscription(item.subscription)
    assert (again.status, again.items.data[0].quantity) == ("active", 1)
    assert (await shop.client.v1.customers.retrieve_async(shop.customer)).next_invoice_sequence == 2


async def test_the_next_invoice_is_previewed_as_it_comes(shop: Shop, item: Any) -> None:
    shop.clock.advance(days=15)
    await shop.client.v1.subscriptions.update_async(item.subscription, {"items": [{"id": item.id, "quantity": 2}]})
    shown = await preview(shop, item)
    assert (shown.status, shown.number, shown.billing_reason) == ("draft", None, "upcoming")
    shop.clock.advance(days=16)
    come = (await shop.subscription(item.subscription)).latest_invoice
    facts = [[(line.amount, line.description, line.period.start) for line in i.lines.data] for i in (shown, come)]
    assert facts[0] == facts[1]
    assert come.total == shown.total == 2 * 2900 + 1450


async def test_a_downgrade_leaves_credit_for_the_next_invoice(shop: Shop) -> None:
    shop.clock.now = START
    made = await shop.subscribe()
    shop.clock.advance(days=15)
    change: Any = {
        "items": [{"id": made.items.data[0].id, "price": shop.basic}],
        "proration_behavior": "always_invoice",
        "expand": ["latest_invoice", "customer"],
    }
    down = await shop.client.v1.subscriptions.update_async(made.id, change)
    assert (down.latest_invoice.total, down.latest_invoice.amount_due, down.latest_invoice.status) == (-3500, 0, "paid")
    assert down.customer.balance == -3500
    shop.clock.advance(days=16)
    renewed = (await shop.subscription(made.id)).latest_invoice
    assert (renewed.total, renewed.starting_balance, renewed.amount_due, renewed.ending_balance) == (
        2900,
        -3500,
        0,
        -600,
    )


async def test_another_interval_begins_a_new_period_and_bills_it(shop: Shop, item: Any) -> None:
    product = (await shop.client.v1.prices.retrieve_async(shop.pro)).product
    yearly = await shop.client.v1.prices.create_async(
        {"currency": "usd", "unit_amount": 99_000, "recurring": {"interval": "year"}, "product": str(product)}
    )
    shop.clock.advance(days=15)
    await shop.client.v1.subscriptions.update_async(item.subscription, {"items": [{"id": item.id, "price": yearly.id}]})
    changed = await shop.subscription(item.subscription)
    assert [line.amount for line in changed.latest_invoice.lines.data] == [99_000, -1450]
    assert changed.billing_cycle_anchor == shop.sandbox.now()
    period = changed.items.data[0]
    assert period.current_period_end - period.current_period_start == 365 * 86_400


async def test_none_changes_the_plan_without_money(shop: Shop, item: Any) -> None:
    shop.clock.advance(days=15)
    change: Any = {"items": [{"id": item.id, "price": shop.pro}], "proration_behavior": "none"}
    await shop.client.v1.subscriptions.update_async(item.subscription, change)
    shop.clock.advance(days=16)
    assert (await shop.subscription(item.subscription)).latest_invoice.total == 9900


async def test_a_declined_upgrade_is_past_due_or_undone(shop: Shop, item: Any) -> None:
    failing = await shop.client.v1.payment_methods.attach_async(
        "pm_card_chargeCustomerFail", {"customer": shop.customer}
    )
    await shop.client.v1.subscriptions.update_async(item.subscription, {"default_payment_method": failing.id})
    change: Any = {"items": [{"id": item.id, "price": shop.pro}], "proration_behavior": "always_invoice"}
    with pytest.raises(stripe.CardError):
        await shop.client.v1.subscriptions.update_async(
            item.subscription, {**change, "payment_behavior": "error_if_incomplete"}
        )
    assert (await shop.subscription(item.subscription)).items.data[0].price.id == shop.basic
    late = await shop.client.v1.subscriptions.update_async(item.subscription, change)
    assert (late.status, late.items.data[0].price.id) == ("past_due", shop.pro)


async def test_canceling_with_prorate_and_invoice_now_gives_the_rest_back(shop: Shop, item: Any) -> None:
    shop.clock.advance(days=15)
    ended = await shop.client.v1.subscriptions.cancel_async(
        item.subscription, {"prorate": True, "invoice_now": True, "expand": ["latest_invoice"]}
    )
    assert (ended.status, ended.latest_invoice.total) == ("canceled", -1450)
    assert ended.canceled_at == ended.ended_at == shop.sandbox.now()
    assert ended.items.data[0].current_period_end == item.current_period_end


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"price": "BASIC"}], "Cannot add multiple subscription items with the same plan"),
        ([{"id": "si_nope", "quantity": 2}], "No such subscription_item: 'si_nope'"),
        ([{"id": "ITEM", "deleted": True}], "A subscription must have at least one active plan."),
        ([{"id": "ITEM", "quantity": -1}], "Invalid non-negative integer"),
    ],
)
async def test_a_senseless_change_is_refused(shop: Shop, item: Any, items: list[Any], message: str) -> None:
    names = {"BASIC": shop.basic, "ITEM": item.id}
    items = [{key: names.get(value, value) for key, value in entry.items()} for entry in items]
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.client.v1.subscriptions.update_async(item.subscription, {"items": items})
    assert message in str(refused.value.user_message)


async def test_a_new_price_sets_the_quantity_to_one(shop: Shop, item: Any) -> None:
    await shop.client.v1.subscription_items.update_async(item.id, {"quantity": 4})
    changed = await shop.client.v1.subscription_items.update_async(item.id, {"price": shop.pro})
    assert changed.quantity == 1


async def price(shop: Shop, amount: int | str, currency: str = "usd", **recurring: Any) -> str:
    """Make a monthly price, or one with other ``recurring``; ``amount`` as text may have decimals."""
    unit = {"unit_amount": amount} if isinstance(amount, int) else {"unit_amount_decimal": amount}
    made = await shop.client.v1.prices.create_async(
        {
            "currency": currency,
            "recurring": {"interval": "month", **recurring},
            "product_data": {"name": f"For {amount} {currency}"},
            **unit,
        }
    )
    return str(made.id)


@pytest.mark.parametrize(
    ("currency", "amounts", "quantity", "lines"),
    [
        # 11 of 30 days are left. Of 1000 yen that is 366.67, of 3 x 1777 it is 1954.7: both go down.
        ("jpy", (1000, 1777), 3, [-367, 1954]),
        # Three decimals: 9.990 and 25.005 KWD; 3663 and 9168.5 fils.
        ("kwd", (9990, 25_005), 1, [-3663, 9168]),
        ("usd", (1, 3), 1, [-1, 1]),
        # A quantity of 7 at 12.345 cents: of 86.415 cents 31.6855 are left, not of the 86 it would round to.
        ("usd", ("12.345", "12.345"), 7, [-5, 31]),
    ],
)
async def test_every_currency_is_prorated_in_its_own_smallest_unit(
    shop: Shop, currency: str, amounts: tuple[int | str, int | str], quantity: int, lines: list[int]
) -> None:
    shop.clock.now = START
    old, new = [await price(shop, amount, currency) for amount in amounts]
    made = await shop.subscribe(items=[{"price": old}])
    shop.clock.advance(days=19)
    change: Any = {
        "items": [{"id": made.items.data[0].id, "price": new, "quantity": quantity}],
        "proration_behavior": "always_invoice",
    }
    shown = await preview(shop, made.items.data[0], **change)
    by_bill: Any = {"collection_method": "send_invoice", "days_until_due": 1}  # cards take no single fils
    changed = await shop.client.v1.subscriptions.update_async(
        made.id, {**change, **by_bill, "expand": ["latest_invoice"]}
    )
    for invoice in (shown, changed.latest_invoice):
        assert [line.amount for line in invoice.lines.data] == lines
        assert invoice.total == sum(lines)


async def test_a_credit_names_the_line_it_gives_back(shop: Shop, item: Any) -> None:
    shop.clock.advance(days=15)
    change: Any = {"items": [{"id": item.id, "price": shop.pro}]}
    await shop.client.v1.subscriptions.update_async(item.subscription, change)
    first = (await shop.client.v1.invoices.list_async({"subscription": item.subscription})).data[0]
    credit, charge = (await shop.client.v1.invoice_items.list_async({"customer": shop.customer})).data
    assert credit.proration_details.credited_items.to_dict() == {
        "invoice_item": None,
        "invoice_line_item_details": {"invoice": first.id, "invoice_line_items": [first.lines.data[0].id]},
        "type": "invoice_line_items",
    }
    assert charge.proration_details.credited_items is None
    change["items"][0]["quantity"] = 2
    await shop.client.v1.subscriptions.update_async(item.subscription, change)
    again = (await shop.client.v1.invoice_items.list_async({"customer": shop.customer})).data[0]
    assert again.proration_details.credited_items.invoice_item == charge.id


async def test_several_items_change_in_one_request(shop: Shop, item: Any, receiver: Receiver) -> None:
    added = await price(shop, 600)
    shop.clock.advance(days=10)
    change: Any = {
        "items": [{"id": item.id, "quantity": 3}, {"price": added, "quantity": 2}],
        "proration_behavior": "always_invoice",
        "expand": ["latest_invoice"],
    }
    changed = await shop.client.v1.subscriptions.update_async(item.subscription, change)
    # Two thirds of the period are left: of 2900 once, of 3 x 2900, and of 2 x 600.
    assert sorted(line.amount for line in changed.latest_invoice.lines.data) == [-1934, 800, 5800]
    assert [i.quantity for i in changed.items.data] == [3, 2]
    assert changed.quantity is None
    shop.clock.advance(days=10)
    less: Any = {
        "items": [{"id": item.id, "quantity": 1}, {"id": changed.items.data[1].id, "deleted": True}],
        "proration_behavior": "always_invoice",
        "expand": ["latest_invoice"],
    }
    reduced = await shop.client.v1.subscriptions.update_async(item.subscription, less)
    assert sorted(line.amount for line in reduced.latest_invoice.lines.data) == [-2900, -400, 966]
    await shop.sandbox.drain()
    assert receiver.types().count("invoiceitem.created") == 6


async def test_items_of_different_intervals_renew_each_in_its_time(shop: Shop) -> None:
    shop.clock.now = START
    yearly = await price(shop, 12_000, interval="year")
    made = await shop.subscribe(items=[{"price": shop.basic}, {"price": yearly}], expand=["latest_invoice"])
    assert made.latest_invoice.total == 2900 + 12_000
    monthly_end, yearly_end = (i.current_period_end for i in made.items.data)
    assert (monthly_end, yearly_end) == (START + 30 * 86_400, START + 365 * 86_400)
    for cancel_at, end in (
        ("min_period_end", monthly_end),
        ("max_period_end", yearly_end),
        ("max_billed_until", yearly_end),
    ):
        changed = await shop.client.v1.subscriptions.update_async(made.id, {"cancel_at": cancel_at})
        assert changed.cancel_at == end
    await shop.client.v1.subscriptions.update_async(made.id, {"cancel_at": ""})
    shop.clock.now = monthly_end
    renewed = await shop.subscription(made.id)
    assert renewed.latest_invoice.total == 2900
    assert renewed.items.data[1].current_period_end == yearly_end
    # A yearly seat more is charged for the rest of the year, not of the month: 335 of 365 days.
    shop.clock.now = monthly_end
    more: Any = {
        "items": [{"id": made.items.data[1].id, "quantity": 2}],
        "proration_behavior": "always_invoice",
        "expand": ["latest_invoice"],
    }
    grown = await shop.client.v1.subscriptions.update_async(made.id, more)
    assert [line.amount for line in grown.latest_invoice.lines.data] == [-11_014, 22_027]
    shop.clock.now = yearly_end
    assert (await shop.subscription(made.id)).latest_invoice.total == 2900 + 24_000


async def test_an_item_of_another_interval_joins_the_running_cycle(shop: Shop, item: Any) -> None:
    yearly = await price(shop, 36_500, interval="year")
    shop.clock.advance(days=10)
    added = await shop.client.v1.subscription_items.create_async(
        {"subscription": item.subscription, "price": yearly, "proration_behavior": "always_invoice"}
    )
    assert (added.current_period_start, added.current_period_end) == (START + 10 * 86_400, START + 365 * 86_400)
    assert (await shop.subscription(item.subscription)).latest_invoice.total == 35_500


async def test_intervals_that_do_not_divide_each_other_are_refused(shop: Shop, item: Any) -> None:
    weekly = await price(shop, 500, interval="week")
    with pytest.raises(stripe.InvalidRequestError, match="must divide each other"):
        await shop.client.v1.subscription_items.create_async({"subscription": item.subscription, "price": weekly})


@pytest.mark.parametrize(
    ("behavior", "waiting"),
    [("create_prorations", [2900, -1450]), ("none", []), ("always_invoice", [])],
)
async def test_a_moved_anchor_begins_a_period_without_an_invoice(
    shop: Shop, item: Any, behavior: Any, waiting: list[int]
) -> None:
    before = (await shop.subscription(item.subscription)).latest_invoice
    shop.clock.advance(days=15)
    move: Any = {"billing_cycle_anchor": {"type": "now"}, "proration_behavior": behavior}
    moved = await shop.client.v1.subscriptions.update_async(item.subscription, move)
    now = shop.sandbox.now()
    period = moved.items.data[0]
    assert (moved.billing_cycle_anchor, moved.start_date) == (now, START)
    assert (period.current_period_start, period.current_period_end) == (now, now + 31 * 86_400)
    pending = await shop.client.v1.invoice_items.list_async({"customer": shop.customer, "pending": True})
    assert [line.amount for line in pending] == waiting
    latest = (await shop.subscription(item.subscription)).latest_invoice
    assert (latest.id == before.id) == (behavior != "always_invoice")
    if behavior == "always_invoice":
        assert latest.total == 1450


async def test_an_unchanged_anchor_stays(shop: Shop, item: Any) -> None:
    shop.clock.advance(days=15)
    keep: Any = {"billing_cycle_anchor": {"type": "unchanged"}}
    kept = await shop.client.v1.subscriptions.update_async(item.subscription, keep)
    assert (kept.billing_cycle_anchor, kept.items.data[0].current_period_end) == (START, START + 30 * 86_400)


async def test_canceling_says_why_and_with_prorate_alone_leaves_the_credit_waiting(shop: Shop, item: Any) -> None:
    shop.clock.advance(days=15)
    why: Any = {"comment": "Too many features", "feedback": "too_complex"}
    ended = await shop.client.v1.subscriptions.cancel_async(
        item.subscription, {"prorate": True, "cancellation_details": why, "expand": ["latest_invoice"]}
    )
    assert ended.latest_invoice.total == 2900
    assert ended.cancellation_details.to_dict() == {
        **why,
        "feedback_option": None,
        "reason": "cancellation_requested",
    }
    pending = await shop.client.v1.invoice_items.list_async({"customer": shop.customer, "pending": True})
    assert [line.amount for line in pending] == [-1450]


async def test_usage_is_billed_in_arrears(shop: Shop) -> None:
    shop.clock.now = START
    v1 = shop.client.v1
    meter = await v1.billing.meters.create_async(
        {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
    )
    made = await v1.prices.create_async(
        {
            "currency": "usd",
            "unit_amount_decimal": "0.25",
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            "product_data": {"name": "API calls"},
        }
    )
    subscription = await shop.subscribe(items=[{"price": made.id}, {"price": shop.basic}], expand=["latest_invoice"])
    metered = subscription.items.data[0]
    assert "quantity" not in metered.to_dict()
    assert metered.plan.meter == meter.id
    assert sorted(line.amount for line in subscription.latest_invoice.lines.data) == [0, 2900]

    async def use(calls: int) -> None:
        payload = {"stripe_customer_id": shop.customer, "value": str(calls)}
        await v1.billing.meter_events.create_async({"event_name": "calls", "payload": payload})

    shop.clock.advance(days=3)
    await use(1000)
    shop.clock.advance(days=10)
    await use(1003)
    shop.clock.now = START + 30 * 86_400
    renewed = (await shop.subscription(subscription.id)).latest_invoice
    used = "2003 × API calls (at $0.0025 / month)"  # noqa: RUF001 - Stripe's sign
    line = next(line for line in renewed.lines.data if line.description == used)
    assert (line.amount, line.quantity, line.period.start, line.period.end) == (501, 2003, START, shop.sandbox.now())
    assert renewed.total == 2900 + 501
    with pytest.raises(stripe.InvalidRequestError, match="cannot set the quantity for metered plans"):
        await v1.subscription_items.update_async(metered.id, {"quantity": 2})
    shop.clock.advance(days=2)
    await use(400)
    shop.clock.advance(days=1)
    ended = await v1.subscriptions.cancel_async(subscription.id, {"invoice_now": True, "expand": ["latest_invoice"]})
    assert ended.latest_invoice.total == 100


async def test_an_end_in_mid_period_gives_the_rest_back_at_once(shop: Shop, item: Any) -> None:
    async def waiting() -> list[int]:
        found = await shop.client.v1.invoice_items.list_async({"customer": shop.customer, "pending": True})
        return [line.amount for line in found]

    shop.clock.advance(days=5)
    update = shop.client.v1.subscriptions.update_async
    await update(item.subscription, {"cancel_at": START + 20 * 86_400})
    assert await waiting() == [-967]  # a third of 2900, rounded down
    await update(item.subscription, {"cancel_at": START + 15 * 86_400})
    assert await waiting() == [-1450]
    await update(item.subscription, {"cancel_at": START + 20 * 86_400, "proration_behavior": "none"})
    assert await waiting() == []
    await update(item.subscription, {"cancel_at": START + 15 * 86_400})
    shop.clock.now = START + 15 * 86_400
    ended = await shop.subscription(item.subscription)
    assert (ended.status, ended.latest_invoice.total) == ("canceled", -1450)
    assert (await shop.client.v1.customers.retrieve_async(shop.customer)).balance == -1450


async def test_the_last_period_is_billed_as_far_as_it_goes(shop: Shop, item: Any) -> None:
    second = datetime(2026, 11, 6, 0, tzinfo=UTC)  # 15.5 of 31 days
    await shop.client.v1.subscriptions.update_async(item.subscription, {"cancel_at": int(second.timestamp())})
    shop.clock.now = START + 30 * 86_400
    assert (await shop.subscription(item.subscription)).latest_invoice.total == 1450
    # Staying after all costs the half that was given back.
    await shop.client.v1.subscriptions.update_async(item.subscription, {"cancel_at": ""})
    found = await shop.client.v1.invoice_items.list_async({"customer": shop.customer, "pending": True})
    assert [line.amount for line in found] == [1450]
