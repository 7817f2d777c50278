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
    before = [event.id for event in await shop.client.v1.events.list_async({"limit": 100})]
    shop.clock.advance(days=1)
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
