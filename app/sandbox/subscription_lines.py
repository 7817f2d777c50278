"""The invoice lines of a subscription: licensed items in advance, used ones in arrears."""

from decimal import ROUND_HALF_UP, Decimal

from app.sandbox import discounts, invoice_lines, metering
from app.sandbox.money import written
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.subscription_rows import is_metered


def item_lines(sandbox: Sandbox, subscription: Row, items: list[Row] | None = None) -> list[Row]:
    """Make the lines for the current period of all or some items; during a trial they cost nothing.

    Of a metered item nothing is used yet: its line says zero.
    """
    return [
        _line(
            sandbox,
            subscription,
            item,
            Decimal(0) if is_metered(item) else Decimal(item["quantity"]),
            (item["current_period_start"], item["current_period_end"]),
        )
        for item in (subscription["items"]["data"] if items is None else items)
    ]


def usage_lines(sandbox: Sandbox, subscription: Row, items: list[Row], until: int) -> list[Row]:
    """Make the lines for what was used of metered items in their current period, up to ``until`` (exclusive)."""
    lines = []
    for item in items:
        if is_metered(item) and subscription["status"] != "trialing":
            start = item["current_period_start"]
            meter = item["price"]["recurring"]["meter"]
            used = metering.usage_of(sandbox, meter, subscription["customer"], start, until)
            lines.append(_line(sandbox, subscription, item, used, (start, until)))
    return lines


def _line(sandbox: Sandbox, subscription: Row, item: Row, quantity: Decimal, period: tuple[int, int]) -> Row:
    price = item["price"]
    trial = subscription["status"] == "trialing"
    unit = Decimal(price["unit_amount_decimal"])
    line = invoice_lines.line(
        sandbox,
        # Fractions of a unit price round half up on the line, as Stripe's do.
        amount=0 if trial else int((unit * quantity).quantize(Decimal(1), ROUND_HALF_UP)),
        currency=price["currency"],
        description=_description(sandbox, price, quantity, trial=trial),
        period=period,
        price=price,
        quantity=int(quantity),
        parent=_parent(subscription, item["id"]),
        subscription=subscription["id"],
        unit_amount_decimal="0" if trial else price["unit_amount_decimal"],
        metadata=dict(subscription["metadata"]),
        discounts=discounts.current(sandbox, item["discounts"]),
        tax_rates=item["tax_rates"],
    )
    line["quantity_decimal"] = str(quantity)
    return line


def _description(sandbox: Sandbox, price: Row, quantity: Decimal, *, trial: bool) -> str:
    name = sandbox.get("product", price["product"])["name"]
    if trial:
        return f"Trial period for {name}"
    recurring = price["recurring"]
    every = f"every {recurring['interval_count']} {recurring['interval']}s"
    each = f"/ {recurring['interval']}" if recurring["interval_count"] == 1 else every
    unit = written(Decimal(price["unit_amount_decimal"]), price["currency"])
    return f"{quantity} × {name} (at {unit} {each})"  # noqa: RUF001 - Stripe's sign


def _parent(subscription: Row, item: str) -> Row:
    return {
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": None,
            "proration": False,
            "proration_details": {"credited_items": None},
            "subscription": subscription["id"],
            "subscription_item": item,
        },
        "type": "subscription_item_details",
    }
