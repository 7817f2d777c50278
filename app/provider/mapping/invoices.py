"""Lines of Stripe's invoices, of any API generation from 2024-06-20 on, and credit notes, as our values."""

from collections.abc import Mapping
from typing import Any

from app.provider.invoice_objects import CreditNote, InvoiceLine
from app.provider.mapping.reading import (
    UnreadableError,
    flag,
    integer,
    mapping_of,
    maybe,
    ref,
    rows,
    text,
    time,
    within,
    word,
)


def map_lines(invoice: Mapping[str, Any]) -> tuple[InvoiceLine, ...]:
    """All of an invoice's lines. UnreadableError where only the first ten are shown, as by events."""
    if (lines := invoice.get("lines")) is None:
        return ()
    if mapping_of(lines).get("has_more"):
        raise UnreadableError("the page of lines is not the whole list")
    return tuple(_line(row) for row in rows(lines))


def discounted(invoice: Mapping[str, Any]) -> int:
    """What all discounts take off."""
    return _sum(invoice.get("total_discount_amounts"))


def taxed(invoice: Mapping[str, Any]) -> int:
    """All taxes, those contained in the prices as well."""
    # Until 2025-03-31.basil they were called tax amounts.
    taxes = invoice.get("total_taxes")
    return _sum(invoice.get("total_tax_amounts") if taxes is None else taxes)


def map_credit_note(data: Mapping[str, Any]) -> CreditNote:
    return CreditNote(
        id=word(data.get("id")),
        customer=ref(data.get("customer")),
        invoice=ref(data.get("invoice")),
        status=word(data.get("status")),
        type=word(data.get("type")),
        currency=word(data.get("currency")),
        subtotal=integer(data.get("subtotal")),
        total=integer(data.get("total")),
        number=maybe(text, data.get("number")),
        reason=maybe(word, data.get("reason")),
        memo=maybe(text, data.get("memo")),
        pdf=maybe(text, data.get("pdf")),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )


def _line(data: Mapping[str, Any]) -> InvoiceLine:
    # Until 2025-03-31.basil price and proration stood on the line itself.
    price = within(data, "pricing", "price_details", "price") or data.get("price")
    parents = ("subscription_item_details", "invoice_item_details")
    proration = data.get("proration") is True or any(within(data, "parent", at, "proration") is True for at in parents)
    return InvoiceLine(
        id=word(data.get("id")),
        description=maybe(text, data.get("description")),
        amount=integer(data.get("amount")),
        quantity=maybe(integer, data.get("quantity")),
        price=maybe(ref, price),
        period_start=maybe(time, within(data, "period", "start")),
        period_end=maybe(time, within(data, "period", "end")),
        proration=proration,
    )


def _sum(entries: Any) -> int:
    return sum(integer(row.get("amount")) for row in rows({"data": entries or []}))
