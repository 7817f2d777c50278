"""Discounts on prorations: a charge for the rest of a period is discounted, a credit gives back what was paid."""

from collections.abc import Sequence
from fractions import Fraction

from app.sandbox import catalog, discounts, invoice_lines
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def of_rest(sandbox: Sandbox, subscription: Row, item: Row, full: int) -> list[Row]:
    """List what a full cycle of an item, costing ``full``, is discounted by when the rest of it is charged.

    What is for one invoice only waits for the next one.
    """
    lines = [
        {
            "amount": full if other["id"] == item["id"] else catalog.amount(other["price"], other.get("quantity") or 0),
            "currency": subscription["currency"],
            "discountable": True,
            "discount_amounts": [],
            "pricing": {"price_details": {"product": other["price"]["product"]}},
            "item": other["id"],
            "discounts": other["discounts"],
        }
        for other in subscription["items"]["data"]
        if other["price"]["unit_amount_decimal"] is not None
    ]
    for line in lines:
        for id in _lasting(sandbox, line["discounts"]):
            discounts.take(sandbox, id, [line])
    for id in _lasting(sandbox, subscription["discounts"]):
        discounts.take(sandbox, id, lines)
    return next((line["discount_amounts"] for line in lines if line["item"] == item["id"]), [])


def of_charged(sandbox: Sandbox, charged: Row | None) -> list[tuple[Fraction, str]]:
    """List which parts of what was charged had been taken off, by discount: a credit gives back no more than was paid.

    ``charged`` are an invoice item's ``credited_items``.
    """
    if charged is None:
        return []
    if charged["type"] == "invoice_item":
        sources = [_of_item(sandbox.get("invoiceitem", charged["invoice_item"]))]
    else:
        details = charged["invoice_line_item_details"]
        lines = sandbox.get("invoice", details["invoice"])["lines"]["data"]
        sources = [_of_line(sandbox, line) for line in lines if line["id"] in details["invoice_line_items"]]
    gross = sum(cost for cost, _ in sources)
    return [(Fraction(entry["amount"], gross), entry["discount"]) for _, taken in sources for entry in taken if gross]


def _of_line(sandbox: Sandbox, line: Row) -> tuple[int, list[Row]]:
    """Give what a line cost before discounts, and those; a proration's are in its amount already."""
    id = invoice_lines.item_of(line)
    item = sandbox.find("invoiceitem", id) if id is not None else None
    if item is not None and item.get("proration"):
        return _of_item(item)
    return line["amount"], line["discount_amounts"]


def _of_item(proration: Row) -> tuple[int, list[Row]]:
    taken = proration["proration_details"]["discount_amounts"]
    return proration["amount"] + sum(entry["amount"] for entry in taken), taken


def _lasting(sandbox: Sandbox, ids: Sequence[str]) -> list[str]:
    return [
        id for id in discounts.current(sandbox, ids) if sandbox.get("discount", id)["_coupon"]["duration"] != "once"
    ]
