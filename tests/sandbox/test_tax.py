"""Tax rates on invoices and subscriptions, and customers' tax ids."""

from typing import Any

import pytest
import stripe
from sandbox.driving import Receiver, Shop


async def rate(shop: Shop, percentage: float = 19, *, inclusive: bool = False, **params: Any) -> Any:
    defaults: Any = {"display_name": "VAT", "percentage": percentage, "inclusive": inclusive}
    return await shop.client.v1.tax_rates.create_async({**defaults, **params})


async def billed(shop: Shop, *amounts: int, currency: str = "usd", **params: Any) -> Any:
    for amount in amounts:
        made: Any = {"customer": shop.customer, "amount": amount, "currency": currency}
        await shop.client.v1.invoice_items.create_async(made)
    defaults: Any = {"customer": shop.customer, "pending_invoice_items_behavior": "include"}
    return await shop.client.v1.invoices.create_async({**defaults, **params})


async def test_a_rate_lives_and_is_archived(shop: Shop, receiver: Receiver) -> None:
    made = await rate(shop, 7.7, country="CH", tax_type="vat")
    assert (made.percentage, made.effective_percentage, made.active, made.rate_type) == (7.7, 7.7, True, "percentage")
    assert (made.flat_amount, made.jurisdiction_level, made.state) == (None, None, None)
    off = await shop.client.v1.tax_rates.update_async(made.id, {"active": False, "description": "old"})
    assert (off.active, (await shop.client.v1.tax_rates.retrieve_async(made.id)).description) == (False, "old")
    kept = await rate(shop, inclusive=True)
    listed = await shop.client.v1.tax_rates.list_async({"active": True, "inclusive": True})
    assert [row.id for row in listed] == [kept.id]
    with pytest.raises(stripe.InvalidRequestError, match="is inactive and cannot be applied"):
        await billed(shop, default_tax_rates=[made.id])
    await shop.sandbox.drain()
    assert receiver.last("tax_rate.updated")["data"]["previous_attributes"] == {"active": True, "description": None}


async def test_an_exclusive_rate_comes_on_top_line_by_line(shop: Shop) -> None:
    """15 % of 43 and of 484 is 6 and 73: each line rounds by itself, as Stripe's own example has it."""
    vat = await rate(shop, 15)
    invoice = await billed(shop, 484, 43, default_tax_rates=[vat.id])
    assert [line.taxes[0].amount for line in invoice.lines.data] == [6, 73]
    assert (invoice.subtotal, invoice.total, invoice.total_excluding_tax) == (527, 606, 527)
    (tax,) = invoice.total_taxes
    assert (tax.amount, tax.taxable_amount, tax.tax_behavior) == (79, 527, "exclusive")
    assert tax.tax_rate_details.tax_rate == vat.id
    assert invoice.default_tax_rates[0].id == vat.id


async def test_an_inclusive_rate_is_contained(shop: Shop) -> None:
    vat = await rate(shop, 20, inclusive=True)
    invoice = await billed(shop, 1000, default_tax_rates=[vat.id])
    assert (invoice.subtotal, invoice.subtotal_excluding_tax) == (1000, 833)
    assert (invoice.total, invoice.total_excluding_tax) == (1000, 833)
    tax = invoice.lines.data[0].taxes[0]
    assert (tax.amount, tax.taxable_amount, tax.tax_behavior) == (167, 833, "inclusive")


async def test_tax_is_on_what_is_left_after_discounts(shop: Shop) -> None:
    vat = await rate(shop, 10)
    await shop.client.v1.coupons.create_async({"id": "HALF", "percent_off": 50})
    invoice = await billed(shop, 1001, default_tax_rates=[vat.id], discounts=[{"coupon": "HALF"}])
    assert (invoice.subtotal, invoice.total_taxes[0].amount, invoice.total) == (1001, 50, 550)
    assert (invoice.total_discount_amounts[0].amount, invoice.total_excluding_tax) == (501, 500)


async def test_an_items_own_rates_come_before_the_invoices(shop: Shop) -> None:
    default, own = await rate(shop, 10), await rate(shop, 5)
    made: Any = {"customer": shop.customer, "amount": 1000, "currency": "usd", "tax_rates": [own.id]}
    item = await shop.client.v1.invoice_items.create_async(made)
    assert item.tax_rates[0].percentage == 5
    invoice = await billed(shop, 1000, default_tax_rates=[default.id])
    assert (invoice.total, [tax.amount for tax in invoice.total_taxes]) == (2150, [100, 50])
    changed = await shop.client.v1.invoice_items.update_async(item.id, {"tax_rates": ""})
    assert changed.tax_rates == []
    assert (await shop.client.v1.invoices.retrieve_async(invoice.id)).total == 2200


@pytest.mark.parametrize(("exempt", "reason"), [("exempt", "customer_exempt"), ("reverse", "reverse_charge")])
async def test_an_exempt_customer_pays_no_tax(shop: Shop, exempt: Any, reason: str) -> None:
    vat = await rate(shop)
    await shop.client.v1.customers.update_async(shop.customer, {"tax_exempt": exempt})
    invoice = await billed(shop, 1000, default_tax_rates=[vat.id])
    assert (invoice.total, invoice.total_taxes[0].amount, invoice.total_taxes[0].taxability_reason) == (1000, 0, reason)


async def test_a_subscriptions_rates_are_on_every_invoice(shop: Shop) -> None:
    vat, reduced = await rate(shop), await rate(shop, 7)
    made = await shop.subscribe(
        items=[{"price": shop.pro}, {"price": shop.basic, "tax_rates": [reduced.id]}],
        default_tax_rates=[vat.id],
        expand=["latest_invoice"],
    )
    assert made.default_tax_rates[0].id == vat.id
    assert made.items.data[1].tax_rates[0].id == reduced.id
    assert made.latest_invoice.total == made.latest_invoice.amount_paid == 9900 + 1881 + 2900 + 203
    shop.clock.advance(days=32)
    assert (await shop.subscription(made.id)).latest_invoice.total == 14_884
    free = await shop.client.v1.subscriptions.update_async(made.id, {"default_tax_rates": ""})
    assert free.default_tax_rates == []


async def test_a_proration_is_taxed_as_its_item_is(shop: Shop) -> None:
    vat = await rate(shop, 10)
    made = await shop.subscribe(items=[{"price": shop.basic}], default_tax_rates=[vat.id])
    change: Any = {
        "items": [{"id": made.items.data[0].id, "price": shop.pro}],
        "proration_behavior": "always_invoice",
        "proration_date": made.items.data[0].current_period_start,
        "expand": ["latest_invoice"],
    }
    changed = await shop.client.v1.subscriptions.update_async(made.id, change)
    assert [line.taxes[0].amount for line in changed.latest_invoice.lines.data] == [-290, 990]
    assert changed.latest_invoice.total == 7700


@pytest.mark.parametrize(("currency", "cents", "tax"), [("jpy", 999, 190), ("kwd", 12_345, 2346)])
async def test_any_currency_is_taxed_in_its_own_units(shop: Shop, currency: str, cents: int, tax: int) -> None:
    vat = await rate(shop)
    invoice = await billed(shop, cents, currency=currency, default_tax_rates=[vat.id])
    assert (invoice.total_taxes[0].amount, invoice.total) == (tax, cents + tax)


async def test_rates_of_both_kinds_or_too_many_are_refused(shop: Shop) -> None:
    kinds = [(await rate(shop)).id, (await rate(shop, inclusive=True)).id]
    with pytest.raises(stripe.InvalidRequestError, match="does not implement inclusive and exclusive"):
        await billed(shop, default_tax_rates=kinds)
    with pytest.raises(stripe.InvalidRequestError, match="at most 5 tax rates"):
        await billed(shop, default_tax_rates=[kinds[0]] * 6)
    with pytest.raises(stripe.InvalidRequestError, match="must be between 0 and 100"):
        await rate(shop, 101)


async def test_tax_ids_come_go_and_are_on_invoices(shop: Shop, receiver: Receiver) -> None:
    v1 = shop.client.v1
    customer = await v1.customers.create_async(
        {"tax_id_data": [{"type": "eu_vat", "value": "DE 123456789"}], "expand": ["tax_ids"]}
    )
    (first,) = customer.tax_ids.data
    assert (first.country, first.value, first.verification.status) == ("DE", "DE123456789", "pending")
    second = await v1.customers.tax_ids.create_async(customer.id, {"type": "gb_vat", "value": "GB000000000"})
    assert (second.verification.status, second.owner.customer) == ("verified", customer.id)
    listed = await v1.customers.tax_ids.list_async(customer.id)
    assert [row.id for row in listed] == [second.id, first.id]
    invoice = await v1.invoices.create_async({"customer": customer.id})
    assert [(row.type, row.value) for row in invoice.customer_tax_ids] == [
        ("eu_vat", "DE123456789"),
        ("gb_vat", "GB000000000"),
    ]
    assert (await v1.customers.tax_ids.retrieve_async(customer.id, first.id)).id == first.id
    assert (await v1.customers.tax_ids.delete_async(customer.id, first.id)).deleted
    with pytest.raises(stripe.InvalidRequestError, match="No such tax_id"):
        await v1.customers.tax_ids.retrieve_async(shop.customer, second.id)
    await v1.customers.delete_async(customer.id)
    await shop.sandbox.drain()
    assert receiver.types().count("customer.tax_id.deleted") == 2


async def test_a_wrong_tax_id_makes_no_customer(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.client.v1.customers.create_async({"tax_id_data": [{"type": "eu_vat", "value": "123"}]})
    assert (refused.value.code, refused.value.param) == ("tax_id_invalid", "tax_id_data[0][value]")
    assert len((await shop.client.v1.customers.list_async()).data) == 1
