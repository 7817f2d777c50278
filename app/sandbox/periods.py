"""Calendar arithmetic of billing periods, in UTC as Stripe's."""

import calendar
from datetime import UTC, datetime, timedelta
from typing import Any

DAY = 86_400  # seconds
_MONTHS = {"month": 1, "year": 12}
_DAYS = {"day": 1, "week": 7}
_SHORTEST = {**_DAYS, "month": 28, "year": 365}
_LONGEST = {**_DAYS, "month": 31, "year": 366}


def boundary(anchor: int, interval: str, count: int) -> int:
    """Give the instant ``count`` intervals after the anchor; the 31st falls on the last day of a shorter month."""
    start = datetime.fromtimestamp(anchor, UTC)
    if interval in _DAYS:
        return int((start + timedelta(days=count * _DAYS[interval])).timestamp())
    months = start.month - 1 + count * _MONTHS[interval]
    year, month = start.year + months // 12, months % 12 + 1
    day = min(start.day, calendar.monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp())


def window(anchor: int, recurring: dict[str, Any], moment: int) -> tuple[int, int]:
    """Give the full billing period that ``moment`` is in, counted from the anchor so that month ends don't drift.

    ``recurring`` is a price's {interval, interval_count}. The period includes its start and excludes its end.
    """
    interval, every = recurring["interval"], recurring["interval_count"]
    # Never too late, for the loop only goes up: the fewest cycles after the anchor, the most before it.
    length = _LONGEST[interval] if moment >= anchor else _SHORTEST[interval]
    cycles = (moment - anchor) // (length * DAY * every) - 1
    while boundary(anchor, interval, (cycles + 1) * every) <= moment:
        cycles += 1
    return boundary(anchor, interval, cycles * every), boundary(anchor, interval, (cycles + 1) * every)


def divide(shorter: dict[str, Any], longer: dict[str, Any]) -> bool:
    """Whether so many of the one ``recurring`` make exactly one of the other, as months make a year."""
    for table in (_DAYS, _MONTHS):
        if shorter["interval"] in table and longer["interval"] in table:
            small, large = (table[r["interval"]] * r["interval_count"] for r in (shorter, longer))
            return bool(large % small == 0)
    # A day goes into everything; weeks don't go into months.
    return (shorter["interval"], shorter["interval_count"]) == ("day", 1)


def day(instant: int) -> str:
    """Write a date as invoice lines do: 21 Oct 2026."""
    date = datetime.fromtimestamp(instant, UTC)
    return f"{date.day} {date:%b %Y}"
