"""Event rows: the snapshot, and which of its attributes an update changed."""

from typing import Any

from app.sandbox.store import Row

RETENTION = 30 * 86_400  # seconds Stripe keeps events

_ABSENT = object()


def event(id: str, type: str, shown: Row, previous: Row | None, *, created: int, request: Row) -> Row:
    """Build an Event around a rendered object. ``request`` is {id, idempotency_key}, nulls when time caused it."""
    data: Row = {"object": shown}
    if previous is not None:
        data["previous_attributes"] = previous
    return {
        "id": id,
        "object": "event",
        "created": created,
        "data": data,
        "livemode": False,
        "pending_webhooks": 0,
        "request": request,
        "type": type,
    }


def previous_attributes(before: Row, after: Row) -> Row:
    """Old values of the changed keys alone; in a nested hash only the touched keys, null where one is new."""
    changed: Row = {}
    for name in {**before, **after}:
        old: Any = before.get(name, _ABSENT)
        new: Any = after.get(name, _ABSENT)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changed[name] = previous_attributes(old, new)
        else:
            changed[name] = None if old is _ABSENT else old
    return changed


def wanted(endpoint: Row, type: str) -> bool:
    return endpoint["status"] == "enabled" and bool({"*", type} & set(endpoint["enabled_events"]))
