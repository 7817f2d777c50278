"""Credit notes before and after payment."""

from typing import Any

import pytest
import stripe
from sandbox.driving import Receiver, Shop


async def opened(shop: Shop, *amounts: int, currency: str = "usd", **params: Any) -> Any:
    for amount in amounts:
        made: Any = {"customer": shop.customer, "amount": amount, "currency": currency}
        await shop.client.v1.invoice_items.create_async(made)
    defaults: Any = {"customer": shop.customer, "pending_invoice_items_behavior": "include"}
    draft = await shop.client.v1.invoices.create_async({**defaults, **params})
    return await shop.client.v1.invoices.finalize_invoice_async(draft.id)


async def paid(shop: Shop, *amounts: int, **params: Any) -> Any:
    invoice = await opened(shop, *amounts, **params)
    return await shop.client.v1.invoices.pay_async(invoice.id, {"payment_method": "pm_card_visa"})


async def note(shop: Shop, invoice: Any, **params: Any) -> Any:
    return await shop.client.v1.credit_notes.create_async({"invoice": invoice.id, **params})


async def test_an_open_invoice_asks_less_and_more_again(shop: Shop, receiver: Receiver) -> None:
    invoice = await opened(shop, 1000)
    made = await note(shop, invoice, amount=300, memo="Sorry", reason="order_change", metadata={"a": "1"})
    assert (made.type, made.pre_payment_amount, made.post_payment_amount) == ("pre_payment", 300, 0)
    assert (made.number, made.status, made.total) == (f"{invoice.number}-CN-01", "issued", 300)
    less = await shop.client.v1.invoices.retrieve_async(
        invoice.id, {"expand": ["payments.data.payment.payment_intent"]}
    )
    assert (less.total, less.amount_due, less.amount_remaining) == (1000, 700, 700)
    assert (less.pre_payment_credit_notes_amount, less.payments.data[0].amount_requested) == (300, 700)
    assert less.payments.data[0].payment.payment_intent.amount == 700
    voided = await shop.client.v1.credit_notes.void_credit_note_async(made.id)
    assert (voided.status, voided.voided_at) == ("void", shop.sandbox.now())
    assert (await shop.client.v1.invoices.retrieve_async(invoice.id)).amount_remaining == 1000
    with pytest.raises(stripe.InvalidRequestError, match="already been voided"):
        await shop.client.v1.credit_notes.void_credit_note_async(made.id)
    await shop.sandbox.drain()
    assert {"credit_note.created", "credit_note.voided", "invoice.updated"} <= set(receiver.types())


async def test_crediting_all_of_it_settles_the_invoice(shop: Shop) -> None:
    invoice = await opened(shop, 1000)
    await note(
        shop,
        invoice,
        lines=[{"type": "invoice_line_item", "invoice_line_item": invoice.lines.data[0].id, "quantity": 1}],
    )
    done = await shop.client.v1.invoices.retrieve_async(invoice.id, {"expand": ["payments"]})
    assert (done.status, done.amount_due, done.amount_paid) == ("paid", 0, 0)
    assert done.payments.data[0].status == "canceled"


async def test_a_paid_invoice_is_refunded_credited_and_settled_outside(shop: Shop, receiver: Receiver) -> None:
    invoice = await paid(shop, 1000)
    made = await note(
        shop,
        invoice,
        amount=600,
        refund_amount=300,
        credit_amount=200,
        out_of_band_amount=100,
        expand=["refunds.refund"],
    )
    assert (made.type, made.post_payment_amount, made.out_of_band_amount) == ("post_payment", 600, 100)
    assert (made.refunds[0].amount_refunded, made.refunds[0].refund.amount) == (300, 300)
    assert (await shop.client.v1.customers.retrieve_async(shop.customer)).balance == -200
    after = await shop.client.v1.invoices.retrieve_async(invoice.id)
    assert (after.status, after.amount_paid, after.post_payment_credit_notes_amount) == ("paid", 1000, 600)
    with pytest.raises(stripe.InvalidRequestError, match="You can only void a credit note of an open invoice"):
        await shop.client.v1.credit_notes.void_credit_note_async(made.id)
    with pytest.raises(stripe.InvalidRequestError, match=r"greater than what is left to credit .* \(\$4.00\)"):
        await note(shop, invoice, amount=401, refund_amount=401)
    await shop.sandbox.drain()
    assert {"credit_note.created", "refund.created", "charge.refunded", "customer.updated"} <= set(receiver.types())


async def test_a_refund_made_before_is_linked(shop: Shop) -> None:
    invoice = await paid(shop, 1000)
    payments = await shop.client.v1.invoice_payments.list_async({"invoice": invoice.id})
    refund = await shop.client.v1.refunds.create_async(
        {"payment_intent": str(payments.data[0].payment.payment_intent), "amount": 250}
    )
    made = await note(shop, invoice, amount=250, refunds=[{"refund": refund.id}])
    assert [(entry.refund, entry.amount_refunded) for entry in made.refunds] == [(refund.id, 250)]


async def test_lines_give_back_their_discounts_and_taxes(shop: Shop) -> None:
    await shop.client.v1.coupons.create_async({"id": "TENTH", "percent_off": 10})
    rate = await shop.client.v1.tax_rates.create_async({"display_name": "VAT", "percentage": 20, "inclusive": False})
    invoice = await opened(shop, 1000, 500, discounts=[{"coupon": "TENTH"}], default_tax_rates=[rate.id])
    assert invoice.total == 1620
    whole = invoice.lines.data[1]
    line: Any = {"type": "invoice_line_item", "invoice_line_item": whole.id, "amount": 500}
    made = await note(shop, invoice, lines=[line])
    assert (made.subtotal, made.discount_amount, made.total_taxes[0].amount, made.total) == (500, 50, 90, 540)
    assert made.total_excluding_tax == 450
    with pytest.raises(stripe.InvalidRequestError, match="greater than what is left of the invoice line"):
        await note(shop, invoice, lines=[{**line, "amount": 501}])
    custom: Any = {"type": "custom_line_item", "description": "Goodwill", "unit_amount": 15, "quantity": 2}
    extra = await note(shop, invoice, lines=[custom])
    assert (extra.total, extra.lines.data[0].description, extra.number[-2:]) == (30, "Goodwill", "02")
    listed = await shop.client.v1.credit_notes.list_async({"invoice": invoice.id})
    assert [row.id for row in listed] == [extra.id, made.id]
    assert len((await shop.client.v1.credit_notes.line_items.list_async(made.id)).data) == 1


async def test_a_preview_issues_nothing(shop: Shop) -> None:
    invoice = await opened(shop, 1000)
    wanted: Any = {"invoice": invoice.id, "amount": 300}
    shown = await shop.client.v1.credit_notes.preview_async(wanted)
    assert (shown.total, shown.pre_payment_amount) == (300, 300)
    assert len((await shop.client.v1.credit_notes.preview_lines.list_async(wanted)).data) == 1
    assert (await shop.client.v1.credit_notes.list_async({"customer": shop.customer})).data == []
    assert (await shop.client.v1.invoices.retrieve_async(invoice.id)).amount_due == 1000


async def test_memo_and_metadata_change_later(shop: Shop, receiver: Receiver) -> None:
    made = await note(shop, await opened(shop, 1000), amount=1)
    changed = await shop.client.v1.credit_notes.update_async(made.id, {"memo": "Late", "metadata": {"b": "2"}})
    assert (changed.memo, changed.metadata.b) == ("Late", "2")
    assert (await shop.client.v1.credit_notes.retrieve_async(made.id)).memo == "Late"
    await shop.sandbox.drain()
    assert receiver.last("credit_note.updated")["data"]["previous_attributes"] == {
        "memo": None,
        "metadata": {"b": None},
    }


@pytest.mark.parametrize(("currency", "cents"), [("jpy", 500), ("kwd", 1230)])
async def test_any_currency_is_credited_in_its_own_units(shop: Shop, currency: str, cents: int) -> None:
    invoice = await paid(shop, 2 * cents, currency=currency)
    made = await note(shop, invoice, amount=cents, refund_amount=cents)
    assert (made.currency, made.total) == (currency, cents)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "You must pass one of `amount`, `lines` or `shipping_cost`."),
        ({"amount": 0}, "greater than or equal to 1."),
        ({"amount": 1001}, "greater than what is left to credit on the invoice ($10.00)"),
        ({"amount": 5, "refund_amount": 5}, "You can only pass `refund_amount` for a paid invoice."),
        ({"amount": 5, "lines": [{"type": "custom_line_item"}]}, "You may only specify one of these parameters"),
        ({"lines": [{"type": "custom_line_item"}]}, "Missing required param: lines[0][unit_amount]."),
        (
            {"lines": [{"type": "invoice_line_item", "invoice_line_item": "il_nope", "amount": 1}]},
            "No such invoice_line_item",
        ),
        ({"invoice": "in_nope", "amount": 5}, "No such invoice: 'in_nope'"),
    ],
)
async def test_a_senseless_credit_note_is_refused(shop: Shop, params: dict[str, Any], message: str) -> None:
    invoice = await opened(shop, 1000)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.client.v1.credit_notes.create_async({"invoice": invoice.id, **params})
    assert message in str(refused.value.user_message)


async def test_what_a_paid_invoice_gives_back_adds_up(shop: Shop) -> None:
    invoice = await paid(shop, 1000)
    with pytest.raises(stripe.InvalidRequestError, match=r"\(\$1.00\) must equal the credit note amount \(\$3.00\)"):
        await note(shop, invoice, amount=300, refund_amount=100)


async def test_a_draft_has_no_credit_notes(shop: Shop) -> None:
    draft = await shop.client.v1.invoices.create_async({"customer": shop.customer})
    with pytest.raises(stripe.InvalidRequestError, match="This invoice is draft"):
        await note(shop, draft, amount=5)
