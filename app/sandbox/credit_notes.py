"""Credit notes: what they take back of an invoice's lines, with the discounts and taxes those had."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from app.sandbox import discounts, taxes, totals
from app.sandbox.errors import ApiError, missing, required
from app.sandbox.lists import sublist
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def draft(sandbox: Sandbox, invoice: Row, params: Row) -> Row:
    """Build a credit note of its lines, or of one amount; nothing is stored or moved yet."""
    if "lines" in params and "amount" in params:
        raise ApiError("You may only specify one of these parameters: amount, lines.", param="amount")
    if "lines" in params:
        lines = [_line(sandbox, invoice, entry, f"lines[{n}]") for n, entry in enumerate(params["lines"])]
    elif "amount" in params:
        _positive(params["amount"], "amount")
        lines = [_custom(sandbox, invoice, {"unit_amount": params["amount"]}, "amount")]
    else:
        raise ApiError("You must pass one of `amount`, `lines` or `shipping_cost`.", code="parameter_missing")
    id = sandbox.new.mint("cn_")
    taxed = [tax for line in lines for tax in line["taxes"]]
    subtotal = sum(line["amount"] for line in lines)
    net = sum(discounts.net(line) for line in lines)
    total = net + taxes.total(taxed, "exclusive")
    contained = sum(
        taxes.total(taxes.on(line["amount"], line["tax_rates"], invoice["customer_tax_exempt"]), "inclusive")
        for line in lines
    )
    off = totals.combined(entry for line in lines for entry in line["discount_amounts"])
    issued = sum(row["invoice"] == invoice["id"] for row in sandbox.rows("credit_note"))
    return {
        "id": id,
        "object": "credit_note",
        "amount": total,
        "amount_shipping": 0,
        "created": sandbox.now(),
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_account": None,
        "customer_balance_transaction": None,
        "discount_amount": sum(entry["amount"] for entry in off),
        "discount_amounts": off,
        "effective_at": params.get("effective_at", sandbox.now()),
        "invoice": invoice["id"],
        "lines": sublist(lines, f"/v1/credit_notes/{id}/lines"),
        "livemode": False,
        "memo": params.get("memo"),
        "metadata": {},
        "number": f"{invoice['number']}-CN-{issued + 1:02}",
        "out_of_band_amount": params.get("out_of_band_amount"),
        "pdf": f"{sandbox.base_url}/credit_notes/{id}/pdf",
        "post_payment_amount": 0,
        "pre_payment_amount": 0,
        "pretax_credit_amounts": [{**entry, "type": "discount"} for entry in off],
        "reason": params.get("reason"),
        "refunds": [],
        "shipping_cost": None,
        "status": "issued",
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal - contained,
        "total": total,
        "total_excluding_tax": net - taxes.total(taxed, "inclusive"),
        "total_taxes": taxes.combined(taxed),
        "type": "post_payment" if invoice["status"] == "paid" else "pre_payment",
        "voided_at": None,
    }


def _line(sandbox: Sandbox, invoice: Row, entry: Row, at: str) -> Row:
    if entry["type"] == "custom_line_item":
        return _custom(sandbox, invoice, entry, at)
    if "invoice_line_item" not in entry:
        raise required(f"{at}[invoice_line_item]")
    line = next((line for line in invoice["lines"]["data"] if line["id"] == entry["invoice_line_item"]), None)
    if line is None:
        raise missing("invoice_line_item", entry["invoice_line_item"], param=f"{at}[invoice_line_item]", status=400)
    if ("amount" in entry) == ("quantity" in entry):
        raise ApiError("You must pass exactly one of `amount` and `quantity` of an invoice line.", param=at)
    quantity = entry.get("quantity")
    if quantity is None:
        amount = entry["amount"]
    else:
        _positive(quantity, f"{at}[quantity]")
        amount = _part(line["amount"], quantity, line["quantity"] or 1)
    _positive(amount, f"{at}[amount]")
    already = sum(
        credited["amount"]
        for note in sandbox.rows("credit_note")
        if note["invoice"] == invoice["id"] and note["status"] == "issued"
        for credited in note["lines"]["data"]
        if credited["invoice_line_item"] == line["id"]
    )
    if already + amount > line["amount"]:
        raise ApiError(
            f"The amount to credit ({amount}) is greater than what is left of the invoice line "
            f"({line['amount'] - already}).",
            param=f"{at}[amount]",
        )
    off = [
        {"amount": _part(taken["amount"], amount, line["amount"]), "discount": taken["discount"]}
        for taken in line["discount_amounts"]
    ]
    return _row(
        sandbox,
        invoice,
        entry,
        amount=amount,
        description=line["description"],
        discount_amounts=off,
        invoice_line_item=line["id"],
        quantity=quantity,
        tax_rates=line["_tax_rates"] or invoice["default_tax_rates"],
        unit_amount=None,
        unit_amount_decimal=None,
    )


def _custom(sandbox: Sandbox, invoice: Row, entry: Row, at: str) -> Row:
    """Build a line of its own; a bare ``amount`` is one of these, taxes included."""
    if "unit_amount" not in entry and "unit_amount_decimal" not in entry:
        raise required(f"{at}[unit_amount]")
    unit = Decimal(entry.get("unit_amount_decimal") or entry["unit_amount"])
    quantity = entry.get("quantity", 1)
    _positive(quantity, f"{at}[quantity]")
    amount = int((unit * quantity).quantize(Decimal(1), ROUND_HALF_UP))
    _positive(amount, f"{at}[unit_amount]")
    whole = unit == unit.to_integral_value()
    return _row(
        sandbox,
        invoice,
        entry,
        amount=amount,
        description=entry.get("description"),
        discount_amounts=[],
        invoice_line_item=None,
        quantity=quantity,
        tax_rates=taxes.chosen(sandbox, entry.get("tax_rates"), at=f"{at}[tax_rates]"),
        unit_amount=int(unit) if whole else None,
        unit_amount_decimal=str(unit.normalize() if not whole else int(unit)),
    )


def _row(sandbox: Sandbox, invoice: Row, entry: Row, **fields: Any) -> Row:
    row: Row = {
        "id": sandbox.new.mint("cnli_"),
        "object": "credit_note_line_item",
        "livemode": False,
        "metadata": dict(entry.get("metadata") or {}),
        "type": entry.get("type", "custom_line_item"),
        **fields,
    }
    row["discount_amount"] = sum(taken["amount"] for taken in row["discount_amounts"])
    row["pretax_credit_amounts"] = [{**taken, "type": "discount"} for taken in row["discount_amounts"]]
    row["taxes"] = taxes.on(discounts.net(row), row["tax_rates"], invoice["customer_tax_exempt"])
    return row


def _part(whole: int, numerator: int, denominator: int) -> int:
    return int((Decimal(whole) * numerator / denominator).quantize(Decimal(1), ROUND_HALF_UP))


def _positive(value: int, param: str) -> None:
    if value < 1:
        raise ApiError("This value must be greater than or equal to 1.", code="parameter_invalid_integer", param=param)
