"""Thin events: they name an object and show nothing of it, and go to event destinations that asked for them."""

from datetime import UTC, datetime
from typing import Any

from app.sandbox import events
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

EVENT = "v2.core.event"
DESTINATION = "v2.core.event_destination"


def written(instant: int) -> str:
    """Write a time as v2 does: 2026-11-21T08:00:00.000Z."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def emit(sandbox: Sandbox, type: str, related: Row | None, data: Row) -> None:
    """Store the event and queue a notification of it. ``related`` is {id, type, url}, None if there is no object."""
    event: Row = {
        "id": sandbox.new.mint("evt_test_"),
        "object": EVENT,
        "changes": None,
        "context": None,
        "created": written(sandbox.now()),
        "data": data,
        "livemode": False,
        "reason": None,
        "snapshot_event": None,
        "type": type,
    }
    if related:
        event["related_object"] = related
    sandbox.insert(event)
    for destination in sandbox.rows(DESTINATION):
        if events.wanted(destination, type):
            sandbox.enqueue(event, destination)


def add_destination(sandbox: Sandbox, url: str, secret: str | None = None, **fields: Any) -> Row:
    """Register a webhook endpoint for thin events; its ``_secret`` signs (a fresh one unless given)."""
    now = written(sandbox.now())
    with sandbox.transaction():
        return sandbox.insert(
            {
                "id": sandbox.new.mint("ed_test_"),
                "object": DESTINATION,
                "amazon_eventbridge": None,
                "azure_event_grid": None,
                "created": now,
                "description": "",
                "enabled_events": ["*"],
                "event_payload": "thin",
                "events_from": ["@self"],
                "livemode": False,
                "metadata": {},
                "name": "",
                "snapshot_api_version": None,
                "status": "enabled",
                "status_details": None,
                "type": "webhook_endpoint",
                "updated": now,
                "webhook_endpoint": None,
                "_secret": secret or sandbox.new.mint("whsec_"),
                "_url": url,
                **fields,
            }
        )
