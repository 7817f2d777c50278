"""Changing a subscription in mid-period: what is given back and charged for the rest of it, to the second."""

from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any

from app.sandbox import proration_discounts, subscription_rows
from app.sandbox.periods import day
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def credit(sandbox: Sandbox, subscription: Row, item: Row, date: int) -> Row | None:
    """Give back an item's time from ``date`` to the end of its period, as it was paid for; None if there is none."""
    return _prorate(sandbox, subscription, item, date, sign=-1)


def charge(sandbox: Sandbox, subscription: Row, item: Row, date: int) -> Row | None:
    """Charge an item's time from ``date`` to the end of its period; None if there is none."""
    return _prorate(sandbox, subscription, item, date, sign=1)


def span(subscription: Row, item: Row) -> tuple[int, int]:
    """Give the full cycle whose end is the item's period's: what its price pays for."""
    start, end = item["current_period_start"], item["current_period_end"]
    return min(start, subscription_rows.cycle(subscription, item, end - 1)[0]), end


def _prorate(sandbox: Sandbox, subscription: Row, item: Row, date: int, *, sign: int) -> Row | None:
    """Leave one pending item for the rest of the period. Each rounds towards minus infinity by itself, as recorded."""
    start, end = span(subscription, item)
    price = item["price"]
    if subscription_rows.is_metered(item) or date >= end:
        return None  # usage is billed in arrears; and of a period that is over there is no rest
    quantity = item["quantity"]
    full = Fraction(Decimal(price["unit_amount_decimal"])) * quantity
    part = Fraction(end - date, end - start)
    taken = _taken_off(sandbox, subscription, item, full, sign)
    cents = floor(sign * (full - sum(off for off, _ in taken)) * part)
    name = sandbox.get("product", price["product"])["name"]
    what = name if quantity == 1 else f"{quantity} × {name}"  # noqa: RUF001 - Stripe's sign
    time = "Remaining" if sign > 0 else "Unused"
    row = _pending(
        sandbox,
        subscription,
        item["id"],
        amount=cents,
        currency=price["currency"],
        description=f"{time} time on {what} after {day(date)}",
        period={"end": end, "start": date},
        pricing=_pricing(price, None),
        proration=True,
        proration_details={
            "credited_items": item.get("_charged_by") if sign < 0 else None,
            "discount_amounts": [{"amount": round(off * part), "discount": id} for off, id in taken],
        },
        quantity=quantity,
        quantity_decimal=str(quantity),
        tax_rates=list(item["tax_rates"]),
    )
    if sign > 0:
        item["_charged_by"] = {
            "invoice_item": row["id"],
            "invoice_line_item_details": None,
            "type": "invoice_item",
        }
    return row


def _taken_off(sandbox: Sandbox, subscription: Row, item: Row, full: Fraction, sign: int) -> list[tuple[Fraction, str]]:
    """Give what a full cycle is discounted by, and by which discounts: now for a charge, then for a credit."""
    if sign < 0:
        return [(full * part, id) for part, id in proration_discounts.of_charged(sandbox, item.get("_charged_by"))]
    cost = floor(full)
    taken = proration_discounts.of_rest(sandbox, subscription, item, cost)
    return [(Fraction(entry["amount"]), entry["discount"]) for entry in taken]


def leave_pending(sandbox: Sandbox, subscription: Row, line: Row) -> None:
    """Keep a line for usage for the next invoice."""
    item = line["parent"]["subscription_item_details"]["subscription_item"]
    price = {"id": line["pricing"]["price_details"]["price"], "product": line["pricing"]["price_details"]["product"]}
    _pending(
        sandbox,
        subscription,
        item,
        **{name: line[name] for name in ("amount", "currency", "description", "period", "quantity")},
        pricing=_pricing(price, line["pricing"]["unit_amount_decimal"]),
        proration=False,
        proration_details=None,
        quantity_decimal=line["quantity_decimal"],
        tax_rates=line["_tax_rates"],
    )


def _pricing(price: Row, unit_amount_decimal: str | None) -> Row:
    return {
        "price_details": {"price": price["id"], "product": price["product"]},
        "type": "price_details",
        "unit_amount_decimal": unit_amount_decimal,
    }


def _pending(sandbox: Sandbox, subscription: Row, item: str, **fields: Any) -> Row:
    row = sandbox.insert(
        {
            "id": sandbox.new.mint("ii_"),
            "object": "invoiceitem",
            "customer": subscription["customer"],
            "customer_account": None,
            "date": sandbox.now(),
            "discountable": False,
            "discounts": [],
            "frozen_fields": ["pricing", "quantity", "discounts"],
            "invoice": None,
            "invoicing_rules": [],
            "livemode": False,
            "metadata": {},
            "net_amount": fields["amount"],
            "parent": {
                "subscription_details": {"subscription": subscription["id"], "subscription_item": item},
                "type": "subscription_details",
            },
            "test_clock": subscription["test_clock"],
            **fields,
            "_subscription": subscription["id"],
            "_subscription_item": item,
        }
    )
    sandbox.emit("invoiceitem.created", row)
    return row
