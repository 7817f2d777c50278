"""An invoice as a PDF: who owes what for which lines, on as many pages as they need."""

from app.sandbox.money import written
from app.sandbox.pages.pdf import HEIGHT, WIDTH, Page, document, wrap
from app.sandbox.periods import day
from app.sandbox.store import Row

_LEFT, _RIGHT = 54, WIDTH - 54
_TOP, _BOTTOM = HEIGHT - 72, 72
_QUANTITY, _DESCRIPTION_WIDTH = 420, 320
_LEADING = 14


def render(invoice: Row) -> bytes:
    number = invoice["number"]
    pages = [Page()]
    y = _heading(pages[0], invoice)
    for line in invoice["lines"]["data"]:
        texts = wrap(line["description"] or "", _DESCRIPTION_WIDTH, 10)
        if y - _LEADING * (len(texts) + 1) < _BOTTOM:
            pages.append(Page())
            y = _columns(pages[-1], _TOP)
        y = _line(pages[-1], y, line, texts)
    if y - _LEADING * (len(totals(invoice)) + 2) < _BOTTOM:
        pages.append(Page())
        y = _TOP
    _totals(pages[-1], y, invoice)
    for count, page in enumerate(pages, start=1):
        footer = f"{number}  ·  Billhook sandbox: a test invoice, no real money  ·  Page {count} of {len(pages)}"
        page.text(_LEFT, _BOTTOM - 32, footer, size=8, grey=True)
    return document(pages, title=f"Invoice {number}")


def totals(invoice: Row) -> list[tuple[str, int]]:
    """List the sums under an invoice's lines, the last being what is still due."""
    sums = [("Subtotal", invoice["subtotal"]), ("Total", invoice["total"])]
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


def _heading(page: Page, invoice: Row) -> float:
    page.text(_LEFT, _TOP, "Invoice", size=24, bold=True)
    page.text_ending_at(_RIGHT, _TOP, invoice["status"].upper(), size=12, bold=True)
    y = _TOP - 36.0
    for name, value in [("Invoice number", invoice["number"]), *facts(invoice)]:
        page.text(_LEFT, y, name, grey=True)
        page.text(_LEFT + 96, y, value)
        y -= _LEADING
    return _columns(page, y - 24)


def _columns(page: Page, y: float) -> float:
    page.text(_LEFT, y, "Description", grey=True)
    page.text_ending_at(_QUANTITY, y, "Qty")
    page.text_ending_at(_RIGHT, y, "Amount")
    page.rule(_LEFT, y - 6, _RIGHT - _LEFT)
    return y - 6 - _LEADING


def _line(page: Page, y: float, line: Row, texts: list[str]) -> float:
    page.text_ending_at(_QUANTITY, y, str(line["quantity"]))
    page.text_ending_at(_RIGHT, y, written(line["amount"], line["currency"]))
    for text in texts:
        page.text(_LEFT, y, text)
        y -= _LEADING
    if when := period(line):
        page.text(_LEFT, y, when, size=8, grey=True)
        y -= _LEADING
    return y - 4


def _totals(page: Page, y: float, invoice: Row) -> None:
    page.rule(_LEFT, y + 6, _RIGHT - _LEFT)
    y -= 10
    sums = totals(invoice)
    for name, amount in sums:
        bold = name == sums[-1][0]
        page.text(_QUANTITY - 90, y, name, bold=bold)
        page.text_ending_at(_RIGHT, y, written(amount, invoice["currency"]), bold=bold)
        y -= _LEADING + 2
