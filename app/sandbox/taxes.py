"""Taxes by tax rates: what each adds to a line, or is already contained in it."""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from app.sandbox.errors import ApiError, unsupported
from app.sandbox.rendering import public
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_MOST = 5  # https://docs.stripe.com/billing/taxes/tax-rates
_REASONS = {"exempt": "customer_exempt", "reverse": "reverse_charge"}


def chosen(sandbox: Sandbox, ids: Sequence[str] | None, *, at: str) -> list[Row]:
    """Find the rates that a parameter names, as they stand on what they apply to."""
    rates = []
    for index, id in enumerate(ids or []):
        rate = sandbox.get("tax_rate", id, param=f"{at}[{index}]", status=400)
        if not rate["active"]:
            raise ApiError(f"The tax rate {id} is inactive and cannot be applied.", param=f"{at}[{index}]")
        rates.append(public(rate))
    if len(rates) > _MOST:
        raise ApiError(f"You can apply at most {_MOST} tax rates.", param=at)
    if len({rate["inclusive"] for rate in rates}) > 1:
        raise unsupported("inclusive and exclusive tax rates on one line", param=at)
    return rates


def on(amount: int, rates: Sequence[Row], tax_exempt: str) -> list[Row]:
    """List the taxes on an amount, rounded per rate to the minor unit, half away from zero.

    An inclusive rate is contained in the amount, an exclusive one comes on top.
    """
    contained = sum((Decimal(str(rate["percentage"])) for rate in rates if rate["inclusive"]), Decimal(0))
    taxable = Decimal(amount) / (1 + contained / 100)
    amounts = [
        0 if tax_exempt in _REASONS else _rounded(taxable * Decimal(str(rate["percentage"])) / 100) for rate in rates
    ]
    return [
        {
            "amount": tax,
            "tax_behavior": "inclusive" if rate["inclusive"] else "exclusive",
            "tax_rate_details": {"tax_rate": rate["id"]},
            "taxability_reason": _REASONS.get(tax_exempt, "not_available"),
            "taxable_amount": amount - (sum(amounts) if rate["inclusive"] else 0),
            "type": "tax_rate_details",
        }
        for rate, tax in zip(rates, amounts, strict=True)
    ]


def total(taxes: Sequence[Row], behavior: str) -> int:
    return sum(tax["amount"] for tax in taxes if tax["tax_behavior"] == behavior)


def combined(taxes: Sequence[Row]) -> list[Row]:
    """Add up the taxes of all lines, one entry per rate."""
    sums: dict[Any, Row] = {}
    for tax in taxes:
        key = tax["tax_rate_details"]["tax_rate"]
        entry = sums.setdefault(key, {**tax, "amount": 0, "taxable_amount": 0})
        entry["amount"] += tax["amount"]
        entry["taxable_amount"] += tax["taxable_amount"]
    return list(sums.values())


def _rounded(amount: Decimal) -> int:
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))
