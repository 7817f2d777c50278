"""Changing a subscription's items: what is given back and charged for the rest of the period, to the second."""

from app.sandbox.catalog import amount
from app.sandbox.periods import day
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def prorate_change(
    sandbox: Sandbox,
    subscription: Row,
    item: str,
    *,
    before: tuple[Row, int] | None,
    after: tuple[Row, int] | None,
    period: tuple[int, int],
    date: int,
) -> None:
    """Leave pending invoice items for one item's change at ``date``.

    ``before`` and ``after`` are price and quantity; None for an item that is new, or that goes.
    """
    if after is not None:
        _prorate(sandbox, subscription, item, *after, period=period, date=date, sign=1)
    if before is not None:
        # The credit comes second: lists and invoices show the newest first, and Stripe's show the credit first.
        _prorate(sandbox, subscription, item, *before, period=period, date=date, sign=-1)


def _prorate(
    sandbox: Sandbox,
    subscription: Row,
    item: str,
    price: Row,
    quantity: int,
    *,
    period: tuple[int, int],
    date: int,
    sign: int,
) -> None:
    """Leave one pending item for the rest of the period. Each half rounds towards minus infinity by itself."""
    start, end = period
    cents = sign * amount(price, quantity) * (end - date) // (end - start)
    name = sandbox.get("product", price["product"])["name"]
    what = name if quantity == 1 else f"{quantity} × {name}"  # noqa: RUF001 - Stripe's sign
    time = "Remaining" if sign > 0 else "Unused"
    sandbox.insert(
        {
            "id": sandbox.new.mint("ii_"),
            "object": "invoiceitem",
            "amount": cents,
            "currency": price["currency"],
            "customer": subscription["customer"],
            "customer_account": None,
            "date": sandbox.now(),
            "description": f"{time} time on {what} after {day(date)}",
            "discountable": False,
            "discounts": [],
            "frozen_fields": ["pricing", "quantity", "discounts"],
            "invoice": None,
            "invoicing_rules": [],
            "livemode": False,
            "metadata": {},
            "net_amount": cents,
            "parent": {
                "subscription_details": {
                    "subscription": subscription["id"],
                    "subscription_item": item,
                },
                "type": "subscription_details",
            },
            "period": {"end": end, "start": date},
            "pricing": {
                "price_details": {"price": price["id"], "product": price["product"]},
                "type": "price_details",
                "unit_amount_decimal": None,
            },
            "proration": True,
            "proration_details": {"credited_items": None, "discount_amounts": []},
            "quantity": quantity,
            "quantity_decimal": str(quantity),
            "tax_rates": [],
            "test_clock": None,
            "_product": price["product"],
            "_subscription": subscription["id"],
            "_subscription_item": item,
        }
    )
