"""Invoices made by hand: items, lines, the whole life, and previews."""

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe
from sandbox.driving import Receiver, Shop

START = int(datetime(2026, 9, 21, 12, tzinfo=UTC).timestamp())


async def item(shop: Shop, amount: int = 1000, description: str = "Setup", **params: Any) -> Any:
    defaults: Any = {"customer": shop.customer, "amount": amount, "currency": "usd", "description": description}
    return await shop.client.v1.invoice_items.create_async({**defaults, **params})


async def draft(shop: Shop, **params: Any) -> Any:
    defaults: Any = {"customer": shop.customer, "pending_invoice_items_behavior": "include"}
    return await shop.client.v1.invoices.create_async({**defaults, **params})


async def test_pending_items_join_the_invoice_newest_first(shop: Shop, receiver: Receiver) -> None:
    first, second = await item(shop), await item(shop, 250, "Advice")
    assert (first.invoice, first.proration, first.pricing.unit_amount_decimal) == (None, False, 1000)
    assert not hasattr(first, "net_amount")
    empty = await draft(shop, pending_invoice_items_behavior="exclude")
    assert (empty.total, empty.lines.data, empty.billing_reason, empty.auto_advance) == (0, [], "manual", False)
    invoice = await draft(shop)
    assert [(line.description, line.amount) for line in invoice.lines.data] == [("Advice", 250), ("Setup", 1000)]
    assert (invoice.total, invoice.amount_due, invoice.status, invoice.number) == (1250, 1250, "draft", None)
    line = invoice.lines.data[0]
    assert line.parent.invoice_item_details.invoice_item == second.id
    pending: Any = {"customer": shop.customer, "pending": True}
    assert (await shop.client.v1.invoice_items.list_async(pending)).data == []
    listed = await shop.client.v1.invoice_items.list_async({"invoice": invoice.id})
    assert [found.id for found in listed] == [second.id, first.id]
    await shop.sandbox.drain()
    assert {"invoiceitem.created", "invoice.created"} <= set(receiver.types())


async def test_the_same_text_and_amount_use_one_hidden_price(shop: Shop) -> None:
    first, again, dearer = [await item(shop, amount) for amount in (1000, 1000, 1100)]
    assert first.pricing.price_details == again.pricing.price_details
    assert dearer.pricing.price_details.product == first.pricing.price_details.product
    assert dearer.pricing.price_details.price != first.pricing.price_details.price
    assert len((await shop.client.v1.products.list_async()).data) == 2


async def test_a_pending_item_changes_and_goes(shop: Shop, receiver: Receiver) -> None:
    made = await item(shop)
    changed = await shop.client.v1.invoice_items.update_async(
        made.id, {"amount": 700, "description": "Cheaper", "metadata": {"a": "1"}}
    )
    assert (changed.amount, changed.description, changed.metadata.a) == (700, "Cheaper", "1")
    several = await shop.client.v1.invoice_items.update_async(made.id, {"unit_amount_decimal": "33.5", "quantity": 3})
    assert (several.amount, several.quantity) == (101, 3)
    assert (await shop.client.v1.invoice_items.delete_async(made.id)).deleted
    with pytest.raises(stripe.InvalidRequestError, match=r"No such Invoice Item: 'ii_\w+'\(livemode=false\)"):
        await shop.client.v1.invoice_items.retrieve_async(made.id)
    await shop.sandbox.drain()
    assert receiver.last("invoiceitem.deleted")["data"]["object"]["description"] == "Cheaper"


async def test_a_subscriptions_next_invoice_takes_pending_items_in(shop: Shop) -> None:
    made = await shop.subscribe()
    await item(shop)
    await item(shop, 5, "Other money", currency="eur")
    shop.clock.advance(days=32)
    renewed = (await shop.subscription(made.id)).latest_invoice
    assert [line.amount for line in renewed.lines.data] == [9900, 1000]
    assert renewed.total == renewed.amount_paid == 10_900


async def test_an_invoice_of_a_subscription_takes_its_own_items_alone(shop: Shop) -> None:
    made = await shop.subscribe()
    await item(shop, 300, "Anybody's")
    with pytest.raises(stripe.InvalidRequestError, match="Nothing to invoice for subscription"):
        await shop.client.v1.invoices.create_async({"subscription": made.id})
    await item(shop, 700, "Overage", subscription=made.id)
    invoice = await shop.client.v1.invoices.create_async({"subscription": made.id})
    assert (invoice.total, invoice.customer) == (700, shop.customer)
    assert invoice.parent.subscription_details.subscription == made.id


async def test_lines_are_added_changed_and_removed_on_a_draft(shop: Shop, receiver: Receiver) -> None:
    invoice = await draft(shop)
    lines: Any = [{"amount": 500, "description": "One"}, {"amount": 200, "description": "Two"}]
    added = await shop.client.v1.invoices.add_lines_async(invoice.id, {"lines": lines})
    one, two = added.lines.data
    assert (added.total, added.lines.total_count) == (700, 2)
    pending = await item(shop, 30, "Three")
    joined = await shop.client.v1.invoices.add_lines_async(invoice.id, {"lines": [{"invoice_item": pending.id}]})
    assert joined.total == 730
    changed = await shop.client.v1.invoices.update_lines_async(
        invoice.id, {"lines": [{"id": one.id, "amount": 600}], "invoice_metadata": {"po": "7"}}
    )
    assert (changed.total, changed.metadata.po) == (830, "7")
    line = await shop.client.v1.invoices.line_items.update_async(invoice.id, two.id, {"description": "Zwei"})
    assert (line.id, line.description) == (two.id, "Zwei")
    removal: Any = {
        "lines": [{"id": one.id, "behavior": "delete"}, {"id": joined.lines.data[2].id, "behavior": "unassign"}]
    }
    left = await shop.client.v1.invoices.remove_lines_async(invoice.id, removal)
    assert (left.total, [found.id for found in left.lines.data]) == (200, [two.id])
    assert (await shop.client.v1.invoice_items.retrieve_async(pending.id)).invoice is None
    page = await shop.client.v1.invoices.line_items.list_async(invoice.id)
    assert [found.id for found in page] == [two.id]
    await shop.sandbox.drain()
    assert receiver.last("invoice.updated")["data"]["previous_attributes"]["total"] == 830


async def test_a_deleted_draft_takes_its_items_with_it(shop: Shop, receiver: Receiver) -> None:
    made = await item(shop)
    invoice = await draft(shop)
    assert (await shop.client.v1.invoices.delete_async(invoice.id)).deleted
    with pytest.raises(stripe.InvalidRequestError, match="No such invoice"):
        await shop.client.v1.invoices.retrieve_async(invoice.id)
    with pytest.raises(stripe.InvalidRequestError, match="This invoice item has been deleted"):
        await shop.client.v1.invoice_items.update_async(made.id, {"amount": 1})
    with pytest.raises(stripe.InvalidRequestError, match="no longer editable"):
        await shop.client.v1.invoice_items.delete_async(made.id)
    await shop.sandbox.drain()
    assert receiver.last("invoice.deleted")["data"]["object"]["total"] == 1000


async def test_finalizing_numbers_opens_and_waits(shop: Shop, receiver: Receiver) -> None:
    await item(shop)
    invoice = await draft(shop)
    opened = await shop.client.v1.invoices.finalize_invoice_async(invoice.id)
    assert (opened.status, opened.attempted, opened.attempt_count, opened.ending_balance) == ("open", False, 0, 0)
    assert opened.number.endswith("-0001")
    assert opened.effective_at == opened.status_transitions.finalized_at == shop.sandbox.now()
    assert opened.hosted_invoice_url
    assert opened.invoice_pdf
    with pytest.raises(stripe.InvalidRequestError, match="already finalized"):
        await shop.client.v1.invoices.finalize_invoice_async(invoice.id)
    with pytest.raises(stripe.InvalidRequestError, match="Finalized invoices can't be updated in this way"):
        await shop.client.v1.invoices.update_async(invoice.id, {"description": "late"})
    with pytest.raises(stripe.InvalidRequestError, match="You can only delete draft invoices"):
        await shop.client.v1.invoices.delete_async(invoice.id)
    with pytest.raises(stripe.InvalidRequestError, match="can't be updated in this way"):
        await shop.client.v1.invoices.add_lines_async(invoice.id, {"lines": [{"amount": 1}]})
    noted = await shop.client.v1.invoices.update_async(invoice.id, {"metadata": {"seen": "yes"}})
    assert noted.metadata.seen == "yes"
    await shop.sandbox.drain()
    assert "invoice.finalized" in receiver.types()


async def test_an_empty_invoice_is_paid_at_once(shop: Shop) -> None:
    paid = await shop.client.v1.invoices.finalize_invoice_async((await draft(shop)).id)
    assert (paid.status, paid.attempted, paid.attempt_count, paid.amount_paid) == ("paid", True, 0, 0)
    assert paid.status_transitions.paid_at == paid.status_transitions.finalized_at


async def test_paying_a_draft_finalizes_and_charges(shop: Shop) -> None:
    await item(shop)
    invoice = await draft(shop)
    with pytest.raises(stripe.InvalidRequestError, match="no `default_payment_method` set"):
        await shop.client.v1.invoices.pay_async(invoice.id)
    assert (await shop.client.v1.invoices.retrieve_async(invoice.id)).status == "draft"
    paid = await shop.client.v1.invoices.pay_async(
        invoice.id, {"payment_method": "pm_card_visa", "expand": ["payments.data.payment.payment_intent"]}
    )
    assert (paid.status, paid.amount_paid, paid.attempt_count, paid.attempted) == ("paid", 1000, 1, True)
    assert paid.payments.data[0].payment.payment_intent.description == "Payment for Invoice"
    with pytest.raises(stripe.InvalidRequestError, match="Invoice is already paid"):
        await shop.client.v1.invoices.pay_async(invoice.id)
    with pytest.raises(stripe.InvalidRequestError, match="Invoices with `paid` payments cannot be voided"):
        await shop.client.v1.invoices.void_invoice_async(invoice.id)


async def test_a_declined_payment_leaves_it_open(shop: Shop, receiver: Receiver) -> None:
    await item(shop)
    invoice = await draft(shop)
    with pytest.raises(stripe.CardError) as refused:
        await shop.client.v1.invoices.pay_async(invoice.id, {"payment_method": "pm_card_chargeCustomerFail"})
    assert refused.value.code == "card_declined"
    late = await shop.client.v1.invoices.retrieve_async(invoice.id)
    assert (late.status, late.attempt_count, late.amount_remaining) == ("open", 1, 1000)
    await shop.sandbox.drain()
    assert "invoice.payment_failed" in receiver.types()


async def test_paid_out_of_band_is_no_attempt(shop: Shop) -> None:
    await item(shop)
    invoice = await draft(shop, auto_advance=True)
    paid = await shop.client.v1.invoices.pay_async(invoice.id, {"paid_out_of_band": True})
    assert (paid.status, paid.amount_paid, paid.attempt_count, paid.attempted) == ("paid", 1000, 0, False)
    assert paid.auto_advance is False


async def test_sending_finalizes_and_says_when_it_is_due(shop: Shop, receiver: Receiver) -> None:
    await item(shop)
    invoice = await draft(shop, collection_method="send_invoice", days_until_due=7)
    assert invoice.due_date == invoice.created + 7 * 86_400
    sent = await shop.client.v1.invoices.send_invoice_async(invoice.id)
    assert sent.status == "open"
    again = await shop.client.v1.invoices.send_invoice_async(invoice.id)
    assert again.to_dict() == sent.to_dict()
    await shop.sandbox.drain()
    assert receiver.types().count("invoice.sent") == 2


async def test_voiding_and_giving_up_keep_the_amounts(shop: Shop) -> None:
    opened = []
    for _ in range(2):
        await item(shop)
        opened.append(await shop.client.v1.invoices.finalize_invoice_async((await draft(shop)).id))
    voided = await shop.client.v1.invoices.void_invoice_async(opened[0].id)
    lost = await shop.client.v1.invoices.mark_uncollectible_async(opened[1].id)
    assert (voided.status, voided.amount_due, voided.amount_remaining) == ("void", 1000, 1000)
    assert (lost.status, lost.amount_remaining) == ("uncollectible", 1000)
    assert lost.status_details.uncollectible.reason == "user_forgiven"
    assert voided.status_transitions.voided_at == lost.status_transitions.marked_uncollectible_at == shop.sandbox.now()
    with pytest.raises(stripe.InvalidRequestError, match="isn't open"):
        await shop.client.v1.invoices.mark_uncollectible_async(opened[0].id)
    with pytest.raises(stripe.InvalidRequestError, match="already been marked uncollectible"):
        await shop.client.v1.invoices.mark_uncollectible_async(opened[1].id)
    found = await shop.client.v1.invoices.list_async({"customer": shop.customer, "status": "void"})
    assert [invoice.id for invoice in found] == [voided.id]
    late = await shop.client.v1.invoices.pay_async(lost.id, {"payment_method": "pm_card_visa"})
    assert late.status == "paid"


async def test_the_customers_balance_pays_first_and_comes_back_with_a_void(shop: Shop) -> None:
    v1 = shop.client.v1
    credit: Any = {"amount": -300, "currency": "usd", "description": "Sorry"}
    made = await v1.customers.balance_transactions.create_async(shop.customer, credit)
    assert (made.type, made.ending_balance) == ("adjustment", -300)
    await item(shop)
    opened = await v1.invoices.finalize_invoice_async((await draft(shop)).id)
    assert (opened.total, opened.starting_balance, opened.amount_due, opened.ending_balance) == (1000, -300, 700, 0)
    await v1.invoices.void_invoice_async(opened.id)
    assert (await v1.customers.retrieve_async(shop.customer)).balance == -300
    listed = await v1.customers.balance_transactions.list_async(shop.customer)
    assert [(entry.type, entry.amount, entry.ending_balance) for entry in listed] == [
        ("unapplied_from_invoice", -300, -300),
        ("applied_to_invoice", 300, 0),
        ("adjustment", -300, -300),
    ]
    found = await v1.customers.balance_transactions.retrieve_async(shop.customer, made.id)
    assert found.description == "Sorry"


async def test_auto_advance_says_when_and_keeps_to_it(shop: Shop) -> None:
    await item(shop)
    invoice = await draft(shop, auto_advance=True)
    times = (invoice.automatically_finalizes_at - invoice.created, invoice.next_payment_attempt - invoice.created)
    assert times == (3601, 3600)
    off = await shop.client.v1.invoices.update_async(invoice.id, {"auto_advance": False})
    assert (off.automatically_finalizes_at, off.next_payment_attempt) == (None, None)
    on = await shop.client.v1.invoices.update_async(invoice.id, {"auto_advance": True})
    assert on.automatically_finalizes_at == invoice.automatically_finalizes_at
    await shop.default_card("pm_card_visa")
    shop.clock.advance(seconds=3700)
    paid = await shop.client.v1.invoices.retrieve_async(invoice.id)
    assert (paid.status, paid.amount_paid, paid.attempt_count) == ("paid", 1000, 1)
    assert paid.status_transitions.finalized_at == invoice.created + 3601


async def test_an_invoice_that_collects_itself_and_fails_stays_open(shop: Shop) -> None:
    await item(shop)
    invoice = await draft(shop, auto_advance=True)
    await shop.default_card("pm_card_chargeCustomerFail")
    shop.clock.advance(hours=2)
    late = await shop.client.v1.invoices.retrieve_async(invoice.id)
    assert (late.status, late.attempt_count, late.attempted) == ("open", 1, True)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"collection_method": "send_invoice"}, "you must specify 'due_date' or 'days_until_due'."),
        ({"days_until_due": 5}, "You can only specify 'due_date' or 'days_until_due'"),
        ({"pending_invoice_items_behavior": "bogus"}, "must be one of include or exclude"),
        ({"customer": "cus_nope"}, "No such customer: 'cus_nope'"),
        ({"default_tax_rates": ["txr_nope"]}, "No such tax rate: 'txr_nope'"),
        ({"discounts": [{"coupon": "NOPE"}]}, "No such coupon: 'NOPE'"),
        ({"application_fee_amount": 5}, "does not implement the parameter `application_fee_amount`"),
    ],
)
async def test_a_senseless_invoice_is_refused(shop: Shop, params: dict[str, Any], message: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await draft(shop, **params)
    assert message in str(refused.value.user_message)
    assert (await shop.client.v1.invoices.list_async()).data == []


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"currency": ""}, "currency"),
        ({"quantity": 2}, "quantity"),
        ({"unit_amount_decimal": "5"}, "amount"),
        ({"invoice": "in_nope"}, "invoice"),
        ({"subscription": "sub_nope"}, "subscription"),
        ({"tax_rates": ["txr_nope"]}, "tax_rates[0]"),
    ],
)
async def test_a_senseless_item_is_refused(shop: Shop, params: dict[str, Any], param: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await item(shop, **params)
    assert refused.value.param == param


@pytest.mark.parametrize(("currency", "cents"), [("jpy", 500), ("kwd", 1500)])
async def test_any_currency_is_billed_in_its_own_units(shop: Shop, currency: str, cents: int) -> None:
    await item(shop, cents, currency=currency)
    invoice = await draft(shop)
    assert (invoice.currency, invoice.total) == (currency, cents)
    paid = await shop.client.v1.invoices.pay_async(invoice.id, {"payment_method": "pm_card_visa"})
    assert (paid.status, paid.amount_paid) == ("paid", cents)


async def test_a_preview_takes_items_and_discounts_along(shop: Shop) -> None:
    shop.clock.now = START
    made = await shop.subscribe()
    await shop.client.v1.coupons.create_async({"id": "TENTH", "percent_off": 10})
    params: Any = {
        "subscription": made.id,
        "discounts": [{"coupon": "TENTH"}],
        "invoice_items": [{"amount": 100, "currency": "usd", "description": "Extra"}],
    }
    shown = await shop.client.v1.invoices.create_preview_async(params)
    assert [line.amount for line in shown.lines.data] == [9900, 100]
    assert (shown.subtotal, shown.total, shown.total_discount_amounts[0].amount) == (10_000, 9000, 1000)
    assert (await shop.client.v1.coupons.retrieve_async("TENTH")).times_redeemed == 0
    plain = await shop.client.v1.invoices.create_preview_async({"customer": shop.customer})
    assert (plain.total, plain.parent.subscription_details.subscription) == (9900, made.id)


async def test_a_preview_of_what_is_pending_without_a_subscription(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.client.v1.invoices.create_preview_async({"customer": shop.customer})
    assert refused.value.code == "invoice_upcoming_none"
    made = await item(shop)
    change: Any = {"customer": shop.customer, "invoice_items": [{"invoiceitem": made.id, "amount": 1200}]}
    shown = await shop.client.v1.invoices.create_preview_async(change)
    assert (shown.total, shown.id.startswith("upcoming_in_"), shown.billing_reason) == (1200, True, "upcoming")
    assert (await shop.client.v1.invoice_items.retrieve_async(made.id)).amount == 1000


async def test_a_new_subscriptions_first_invoice_is_previewed(shop: Shop) -> None:
    await shop.client.v1.coupons.create_async({"id": "HALF", "percent_off": 50})
    params: Any = {
        "customer": shop.customer,
        "subscription_details": {"items": [{"price": shop.pro, "quantity": 2}]},
        "discounts": [{"coupon": "HALF"}],
    }
    shown = await shop.client.v1.invoices.create_preview_async(params)
    assert (shown.subtotal, shown.total) == (19_800, 9900)
    assert (await shop.client.v1.subscriptions.list_async({"status": "all"})).data == []
