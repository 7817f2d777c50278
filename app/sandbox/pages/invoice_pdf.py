"""An invoice or credit note as a PDF: who owes what for which lines, or is given it back."""

from app.sandbox.money import written
from app.sandbox.pages.paper import Line, Paper
from app.sandbox.pages.paper import render as render_paper
from app.sandbox.periods import day
from app.sandbox.store import Row


def render(invoice: Row) -> bytes:
    currency = invoice["currency"]
    lines = [
        Line(line["description"] or "", str(line["quantity"]), written(line["amount"], currency), period(line))
        for line in invoice["lines"]["data"]
    ]
    sums = [(name, written(amount, currency)) for name, amount in totals(invoice)]
    return render_paper(Paper("Invoice", invoice["number"], invoice["status"], facts(invoice), lines, sums))


def render_credit_note(note: Row, invoice: Row) -> bytes:
    currency = note["currency"]
    lines = [
        Line(line["description"] or "Credit", str(line["quantity"] or ""), written(line["amount"], currency))
        for line in note["lines"]["data"]
    ]
    known = [
        ("Invoice number", invoice["number"]),
        ("Date of issue", day(note["effective_at"])),
        ("Memo", note["memo"]),
    ]
    changes = [("Discount", -note["discount_amount"]), *taxes(note)]
    sums = [("Subtotal", sum(line["amount"] for line in note["lines"]["data"])), *changes, ("Total", note["total"])]
    shown = [(name, written(amount, currency)) for name, amount in sums if amount or name in {"Subtotal", "Total"}]
    facts = [(name, value) for name, value in known if value]
    return render_paper(Paper("Credit note", note["number"], note["status"], facts, lines, shown))


def taxes(bill: Row) -> list[tuple[str, int]]:
    """List what comes on top and what is contained."""
    return [
        (name, sum(tax["amount"] for tax in bill["total_taxes"] if tax["tax_behavior"] == behavior))
        for name, behavior in (("Tax", "exclusive"), ("Tax, included", "inclusive"))
    ]


def totals(invoice: Row) -> list[tuple[str, int]]:
    """List the sums under an invoice's lines, the last being what is still due."""
    off = sum(entry["amount"] for entry in invoice["total_discount_amounts"])
    before = sum(line["amount"] for line in invoice["lines"]["data"])
    changes = [("Discount", -off), *taxes(invoice)]
    sums = [("Subtotal", before), *(change for change in changes if change[1]), ("Total", invoice["total"])]
    applied = (invoice["ending_balance"] or 0) - invoice["starting_balance"]
    if applied:
        sums.append(("Applied balance", -applied))
    if invoice["pre_payment_credit_notes_amount"]:
        sums.append(("Credited", -invoice["pre_payment_credit_notes_amount"]))
    if invoice["amount_paid"]:
        sums.append(("Amount paid", -invoice["amount_paid"]))
    return [*sums, ("Amount due", invoice["amount_remaining"])]


def facts(invoice: Row) -> list[tuple[str, str]]:
    """List what stands below an invoice's number."""
    dates = [
        ("Date of issue", invoice["effective_at"]),
        ("Date due", invoice["due_date"]),
        ("Date paid", invoice["status_transitions"]["paid_at"]),
    ]
    billed_to = [("Bill to", invoice["customer_name"]), ("Email", invoice["customer_email"])]
    return [
        *((name, day(date)) for name, date in dates if date),
        *((name, value) for name, value in billed_to if value),
    ]


def period(line: Row) -> str:
    """Write the time a line is for; nothing for one that is for a moment."""
    start, end = line["period"]["start"], line["period"]["end"]
    return f"{day(start)} to {day(end)}" if end > start else ""
