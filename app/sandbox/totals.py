"""The sums of an invoice: what its lines cost, less discounts, with taxes, against the customer's balance."""

from collections.abc import Iterable
from typing import Any

from app.sandbox import discounts, taxes
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def recount(sandbox: Sandbox, invoice: Row) -> None:
    """Bring a draft's discounts, taxes and amounts in line with its lines."""
    lines = invoice["lines"]["data"]
    invoice["lines"]["total_count"] = len(lines)
    for line in lines:
        line["discount_amounts"] = []
        for id in line["discounts"]:
            discounts.take(sandbox, id, [line])
    exempt = invoice["customer_tax_exempt"]
    subtotal = sum(discounts.net(line) for line in lines)
    contained = [tax for line in lines for tax in taxes.on(discounts.net(line), _rates(invoice, line), exempt)]
    for id in invoice["discounts"]:
        discounts.take(sandbox, id, lines)
    for line in lines:
        line["taxes"] = taxes.on(discounts.net(line), _rates(invoice, line), exempt)
        line["pretax_credit_amounts"] = _credits(line["discount_amounts"])
    net = sum(discounts.net(line) for line in lines)
    taxed = [tax for line in lines for tax in line["taxes"]]
    total = net + taxes.total(taxed, "exclusive")
    off = combined(entry for line in lines for entry in line["discount_amounts"])
    invoice.update(
        subtotal=subtotal,
        subtotal_excluding_tax=subtotal - taxes.total(contained, "inclusive"),
        total=total,
        total_discount_amounts=off,
        total_excluding_tax=net - taxes.total(taxed, "inclusive"),
        total_pretax_credit_amounts=_credits(off),
        total_taxes=taxes.combined(taxed),
    )
    weigh(sandbox, invoice)


def weigh(sandbox: Sandbox, invoice: Row) -> None:
    """Set what is due, given the customer's balance of now: a credit pays, a debt is collected with the invoice."""
    customer = sandbox.get("customer", invoice["customer"])
    balance = customer["balance"] if customer["currency"] in {None, invoice["currency"]} else 0
    due = max(invoice["total"] + balance, 0)
    invoice.update(starting_balance=balance, amount_due=due, amount_remaining=due)


def combined(entries: Iterable[Row]) -> list[Row]:
    """Add up discount amounts, one entry per discount."""
    sums: dict[str, int] = {}
    for entry in entries:
        sums[entry["discount"]] = sums.get(entry["discount"], 0) + entry["amount"]
    return [{"amount": amount, "discount": id} for id, amount in sums.items()]


def _rates(invoice: Row, line: Row) -> list[Row]:
    rates: list[Row] = line["_tax_rates"] or invoice["default_tax_rates"]
    return rates


def _credits(discount_amounts: list[Row]) -> list[dict[str, Any]]:
    return [{**entry, "type": "discount"} for entry in discount_amounts]
