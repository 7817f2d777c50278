"""Whose time it is: the account's, or that of the test clock a customer is on."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from app.sandbox.store import Row

if TYPE_CHECKING:
    from app.sandbox.sandbox import Sandbox

KIND = "test_helpers.test_clock"
#: Where an object says whose it is; a dispute says it only through its charge.
_OWNERS = ("customer", "charge", "payment_intent", "subscription", "invoice")


def clock_of(sandbox: "Sandbox", *subjects: Any) -> Row | None:
    """Find the test clock of the first object named in these ids or request parameters that is on one."""
    if not sandbox.rows(KIND):
        return None
    for id in _ids(subjects):
        found = _clock(sandbox, id)
        if found is not None:
            return sandbox.find(KIND, found)
    return None


def is_on(sandbox: "Sandbox", row: Row, clock: str | None) -> bool:
    """Whether an object lives by this clock; None is the account's."""
    return id_of(sandbox, row) == clock


def id_of(sandbox: "Sandbox", row: Row) -> str | None:
    """Name the test clock an object, or a snapshot of one, lives by; None for the account's."""
    if "test_clock" not in row and row.get("customer"):
        row = sandbox.peek("customer", row["customer"]) or {}
    clock: str | None = row.get("test_clock")
    return clock


def _ids(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            if name != "metadata":  # an id in there is a note, not a request about that object
                yield from _ids(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _ids(item)


def _clock(sandbox: "Sandbox", id: str) -> str | None:
    row = (_subscription_with(sandbox, id) if id.startswith("si_") else sandbox.locate(id)) or {}
    if row.get("object") == KIND:
        return id
    clock: str | None = row.get("test_clock")
    if clock is not None:
        return clock
    owners = (row[name] for name in _OWNERS if isinstance(row.get(name), str))
    return next((found for owner in owners if (found := _clock(sandbox, owner)) is not None), None)


def _subscription_with(sandbox: "Sandbox", item: str) -> Row | None:
    """Find the subscription of an item, which has no table of its own."""
    rows = sandbox.rows("subscription")
    return next((row for row in rows if any(entry["id"] == item for entry in row["items"]["data"])), None)
