"""Lines of invoices, and the invoice items that wait to become some."""

from collections.abc import Sequence

from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def line(
    sandbox: Sandbox,
    *,
    amount: int,
    currency: str,
    description: str | None,
    period: tuple[int, int],
    price: Row,
    quantity: int,
    parent: Row | None,
    subscription: str | None = None,
    unit_amount_decimal: str | None = None,
    metadata: Row | None = None,
    discountable: bool = True,
    discounts: Sequence[str] = (),
    tax_rates: Sequence[Row] = (),
) -> Row:
    """Build a line; what discounts and taxes make of it is counted when the invoice is (``totals.recount``)."""
    return {
        "id": sandbox.new.mint("il_"),
        "object": "line_item",
        "amount": amount,
        "currency": currency,
        "description": description,
        "discount_amounts": [],
        "discountable": discountable,
        "discounts": list(discounts),
        "invoice": None,
        "livemode": False,
        "metadata": metadata or {},
        "parent": parent,
        "period": {"end": period[1], "start": period[0]},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": unit_amount_decimal,
        },
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subscription": subscription,
        "subtotal": amount,
        "taxes": [],
        "_tax_rates": list(tax_rates),
    }


def of_item(sandbox: Sandbox, item: Row) -> Row:
    """Make the line of an invoice item: a proration on a subscription's item, or something sold besides."""
    return line(
        sandbox,
        amount=item["amount"],
        currency=item["currency"],
        description=item["description"],
        period=(item["period"]["start"], item["period"]["end"]),
        price={"id": item["pricing"]["price_details"]["price"], "product": item["pricing"]["price_details"]["product"]},
        quantity=item["quantity"],
        parent=_parent(item),
        subscription=item["_subscription"],
        unit_amount_decimal=item["pricing"]["unit_amount_decimal"],
        metadata=dict(item["metadata"]),
        discountable=item["discountable"],
        discounts=item["discounts"],
        tax_rates=item["tax_rates"],
    )


def item_of(line: Row) -> str | None:
    """Give the id of the invoice item that a line was made of."""
    parent = line["parent"] or {}
    details = parent.get("invoice_item_details") or parent.get("subscription_item_details") or {}
    found: str | None = details.get("invoice_item")
    return found


def pending(sandbox: Sandbox, customer: str, currency: str | None, subscription: str | None = None) -> list[Row]:
    """List what waits for the next invoice, newest first, as it will stand on it.

    An item of no subscription in particular joins any; one of a subscription joins that one's alone. Without a
    ``currency`` all are meant.
    """
    return [
        row
        for row in reversed(sandbox.rows("invoiceitem"))
        if row["invoice"] is None
        and row["customer"] == customer
        and currency in {None, row["currency"]}
        and row["_subscription"] in {None, subscription}
    ]


def _parent(item: Row) -> Row:
    if item["_subscription_item"] is None:
        return {
            "invoice_item_details": {
                "invoice_item": item["id"],
                "proration": item["proration"],
                "proration_details": {"credited_items": None},
                "subscription": item["_subscription"],
            },
            "subscription_item_details": None,
            "type": "invoice_item_details",
        }
    return {
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": item["id"],
            "proration": item["proration"],
            "proration_details": {"credited_items": _credited(item)},
            "subscription": item["_subscription"],
            "subscription_item": item["_subscription_item"],
        },
        "type": "subscription_item_details",
    }


def _credited(item: Row) -> Row | None:
    """Name the invoice's lines that a credit gives back."""
    credited = (item.get("proration_details") or {}).get("credited_items") or {}
    lines: Row | None = credited.get("invoice_line_item_details")
    return lines
