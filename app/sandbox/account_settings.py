"""What the sandbox's account has set in Stripe's Dashboard, where the API has no say: how failed payments go on."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from app.sandbox.errors import ApiError
from app.sandbox.store import Row

if TYPE_CHECKING:
    from app.sandbox.sandbox import Sandbox

_KIND = "_settings"
_ID = "account"
_DEFAULTS: Row = {"retry_after_days": [3, 3, 4, 4], "after_retries": "cancel"}
_ENDS = ("cancel", "pause", "past_due", "unpaid")
_MOST_RETRIES = 8
_LONGEST_WAIT = 60  # days


def of(sandbox: "Sandbox") -> Row:
    """Give the settings in force.

    ``retry_after_days``: days from each failed attempt to the next one; as many entries as there are retries.
    ``after_retries``: what becomes of the subscription after the last one (``cancel``, ``pause``, ``past_due`` or
    ``unpaid``).
    """
    return {**_DEFAULTS, **((sandbox.find(_KIND, _ID) or {}).get("values") or {})}


def change(sandbox: "Sandbox", **values: Any) -> Row:
    """Set some of them, for all payments that fail from now on; ApiError for what makes no sense."""
    for name, value in values.items():
        if name not in _DEFAULTS:
            raise ApiError(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)
        if not _CHECKS[name](value):
            raise ApiError(_SENSE[name], param=name)
    with sandbox.transaction():
        sandbox.insert({"id": _ID, "object": _KIND, "values": {**of(sandbox), **values}})
    return of(sandbox)


def _are_waits(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MOST_RETRIES
        and all(type(days) is int and 0 < days <= _LONGEST_WAIT for days in value)
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "retry_after_days": _are_waits,
    "after_retries": lambda value: value in _ENDS,
}
_SENSE = {
    "retry_after_days": f"retry_after_days is a list of up to {_MOST_RETRIES} whole numbers of days, each from 1 to "
    f"{_LONGEST_WAIT}.",
    "after_retries": f"after_retries must be one of {', '.join(_ENDS)}.",
}
