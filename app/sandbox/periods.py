"""Calendar arithmetic of billing periods, in UTC as Stripe's."""

import calendar
from datetime import UTC, datetime, timedelta

DAY = 86_400  # seconds


def boundary(anchor: int, interval: str, count: int) -> int:
    """Give the instant ``count`` intervals after the anchor; the 31st falls on the last day of a shorter month."""
    start = datetime.fromtimestamp(anchor, UTC)
    if interval in {"day", "week"}:
        return int((start + timedelta(days=count * (7 if interval == "week" else 1))).timestamp())
    months = start.month - 1 + count * (12 if interval == "year" else 1)
    year, month = start.year + months // 12, months % 12 + 1
    day = min(start.day, calendar.monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp())


def next_boundary(anchor: int, interval: str, interval_count: int, after: int) -> int:
    """Give the first boundary later than ``after``, counted from the anchor so that month ends don't drift."""
    cycles = 1
    while (instant := boundary(anchor, interval, cycles * interval_count)) <= after:
        cycles += 1
    return instant


def day(instant: int) -> str:
    """Write a date as invoice lines do: 21 Oct 2026."""
    date = datetime.fromtimestamp(instant, UTC)
    return f"{date.day} {date:%b %Y}"
