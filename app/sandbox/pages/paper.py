"""A bill as a PDF: a heading, what it is for line by line, and the sums, on as many pages as they need."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.sandbox.pages.pdf import HEIGHT, WIDTH, Page, document, wrap

_LEFT, _RIGHT = 54, WIDTH - 54
_TOP, _BOTTOM = HEIGHT - 72, 72
_QUANTITY, _DESCRIPTION_WIDTH = 420, 320
_LEADING = 14


@dataclass(frozen=True, slots=True)
class Line:
    """One line; ``when`` is what time it is for, "" where it is for none."""

    description: str
    quantity: str
    amount: str
    when: str = ""


@dataclass(frozen=True, slots=True)
class Paper:
    """What stands on it; the last of ``sums`` is the one that counts."""

    title: str
    number: str
    status: str
    facts: Sequence[tuple[str, str]]
    lines: Sequence[Line]
    sums: Sequence[tuple[str, str]]


def render(paper: Paper) -> bytes:
    pages = [Page()]
    y = _heading(pages[0], paper)
    for line in paper.lines:
        texts = wrap(line.description, _DESCRIPTION_WIDTH, 10)
        if y - _LEADING * (len(texts) + 1) < _BOTTOM:
            pages.append(Page())
            y = _columns(pages[-1], _TOP)
        y = _line(pages[-1], y, line, texts)
    if y - _LEADING * (len(paper.sums) + 2) < _BOTTOM:
        pages.append(Page())
        y = _TOP
    _sums(pages[-1], y, paper.sums)
    for count, page in enumerate(pages, start=1):
        what = f"Billhook sandbox: a test {paper.title.lower()}, no real money"
        footer = f"{paper.number}  ·  {what}  ·  Page {count} of {len(pages)}"
        page.text(_LEFT, _BOTTOM - 32, footer, size=8, grey=True)
    return document(pages, title=f"{paper.title} {paper.number}")


def _heading(page: Page, paper: Paper) -> float:
    page.text(_LEFT, _TOP, paper.title, size=24, bold=True)
    page.text_ending_at(_RIGHT, _TOP, paper.status.upper(), size=12, bold=True)
    y = _TOP - 36.0
    for name, value in [(f"{paper.title} number", paper.number), *paper.facts]:
        page.text(_LEFT, y, name, grey=True)
        page.text(_LEFT + 112, y, value)
        y -= _LEADING
    return _columns(page, y - 24)


def _columns(page: Page, y: float) -> float:
    page.text(_LEFT, y, "Description", grey=True)
    page.text_ending_at(_QUANTITY, y, "Qty")
    page.text_ending_at(_RIGHT, y, "Amount")
    page.rule(_LEFT, y - 6, _RIGHT - _LEFT)
    return y - 6 - _LEADING


def _line(page: Page, y: float, line: Line, texts: list[str]) -> float:
    page.text_ending_at(_QUANTITY, y, line.quantity)
    page.text_ending_at(_RIGHT, y, line.amount)
    for text in texts:
        page.text(_LEFT, y, text)
        y -= _LEADING
    if line.when:
        page.text(_LEFT, y, line.when, size=8, grey=True)
        y -= _LEADING
    return y - 4


def _sums(page: Page, y: float, sums: Sequence[tuple[str, str]]) -> None:
    page.rule(_LEFT, y + 6, _RIGHT - _LEFT)
    y -= 10
    for name, amount in sums:
        bold = name == sums[-1][0]
        page.text(_QUANTITY - 90, y, name, bold=bold)
        page.text_ending_at(_RIGHT, y, amount, bold=bold)
        y -= _LEADING + 2
