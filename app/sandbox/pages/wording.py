"""What people read of prices, cards and states, in the same words on every page."""

from app.sandbox.catalog import amount
from app.sandbox.money import written
from app.sandbox.store import Row

_BRANDS = {"amex": "American Express", "diners": "Diners Club", "jcb": "JCB", "unionpay": "UnionPay"}
_TONES = {
    "active": "good",
    "trialing": "good",
    "paid": "good",
    "succeeded": "good",
    "open": "warn",
    "past_due": "warn",
    "incomplete": "warn",
    "pending": "warn",
    "unpaid": "bad",
    "uncollectible": "bad",
    "failed": "bad",
}


def price_of(price: Row, quantity: int) -> str:
    """Write what a quantity costs and how often: "$99.00 per month", "500 XAF every 3 months", "$5.00"."""
    cost = written(amount(price, quantity), price["currency"])
    recurring = price["recurring"]
    if recurring is None:
        return cost
    if recurring["interval_count"] == 1:
        return f"{cost} per {recurring['interval']}"
    return f"{cost} every {recurring['interval_count']} {recurring['interval']}s"


def each(price: Row, quantity: int) -> str:
    """Write what a line's total is made of; nothing where the total says it all."""
    if quantity == 1:
        return price_of(price, 1) if price["recurring"] else ""
    # A price below the minor unit can't be written as an amount of money; its total can.
    return f"Qty {quantity}" if price["unit_amount"] is None else f"Qty {quantity} at {price_of(price, 1)}"


def card(method: Row) -> str:
    brand = method["card"]["brand"]
    return f"{_BRANDS.get(brand, brand.title())} •••• {method['card']['last4']}"


def status(status: str) -> str:
    return status.replace("_", " ").capitalize()


def tone(status: str) -> str:
    """Name the CSS class of a status's colour; quiet for what is neither good nor bad."""
    return _TONES.get(status, "")
