"""Moments as people type them on the command line."""

import re
from datetime import UTC, datetime

from app.cli.context import fail
from app.values import unix_now

HELP = "From then on: unix seconds, a date (2026-11-21, or with a time; UTC), or how long ago (90m, 12h, 7d)."

_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def unix_seconds(text: str | None) -> int | None:
    """`text` in unix seconds; None for None. Ends the command for what is no moment."""
    if text is None:
        return None
    if ago := re.fullmatch(r"(\d{1,4})([mhd])", text, re.ASCII):
        return unix_now() - int(ago[1]) * _SECONDS[ago[2]]
    if re.fullmatch(r"\d{9,10}", text, re.ASCII):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{text!r} is no moment: try 1795219200, 2026-11-21 or 7d")
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
