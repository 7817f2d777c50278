"""Meter events: usage as it is reported, in the words of v1 and of v2; processed a moment later."""

from datetime import datetime
from typing import Any

from app.sandbox import metering
from app.sandbox.errors import ApiError
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.thin_events import written

#: What v2 says at once of a payload, v1 reports later.
_AT_ONCE = {
    "meter_event_no_customer_defined": "payload_no_customer_defined",
    "meter_event_invalid_value": "payload_invalid_value",
    "meter_event_value_too_many_digits": "payload_invalid_value",
}
MOST_AT_ONCE = 100  # events in one request to the stream


def create(sandbox: Sandbox, params: Row) -> Row:
    """Check meter, time and identifier at once, all else when it is processed."""
    event = _event(sandbox, params, params.get("timestamp", sandbox.now()))
    try:
        metering.check(sandbox, event)
        metering.accept(sandbox, event)
    except metering.RefusedError as refusal:
        refusal.code = None  # v1 names no code for these
        raise
    return {"object": "billing.meter_event", "created": sandbox.now(), "livemode": False, **event}


def create_checked(sandbox: Sandbox, params: Row) -> Row:
    """v2: the payload is checked at once as well, all but whether the customer exists."""
    event = _event(sandbox, params, _instant(sandbox, params))
    metering.check(sandbox, event)
    meter = metering.meter_named(sandbox, event["event_name"])
    fault = meter and metering.fault_of_payload(sandbox, meter, event["payload"])
    if meter and fault and fault.code in _AT_ONCE:
        key = meter["value_settings"]["event_payload_key"]
        absent = fault.code == "meter_event_invalid_value" and key not in event["payload"]
        raise ApiError(fault.message, code="payload_no_value_defined" if absent else _AT_ONCE[fault.code])
    metering.accept(sandbox, event)
    return {
        "object": "v2.billing.meter_event",
        "created": written(sandbox.now()),
        "livemode": False,
        **event,
        "timestamp": written(event["timestamp"]),
    }


def stream(sandbox: Sandbox, params: Row) -> Row:
    """Take up to a hundred events, none of which is looked at yet; the answer is empty."""
    if not 1 <= len(params["events"]) <= MOST_AT_ONCE:
        raise ApiError(f"`events` must have between 1 and {MOST_AT_ONCE} elements.", param="events")
    for given in params["events"]:
        event = _event(sandbox, given, _instant(sandbox, given))
        if not metering.is_taken(sandbox, event["identifier"]):
            metering.accept(sandbox, event)
    return {}


def whose(tree: Row) -> tuple[str, str] | None:
    """Give whom and what a request is about, of which Stripe handles one at a time."""
    payload = tree.get("payload")
    customer = payload.get("stripe_customer_id") if isinstance(payload, dict) else None
    return (str(tree.get("event_name")), customer) if isinstance(customer, str) else None


def _event(sandbox: Sandbox, params: Row, timestamp: int) -> Row:
    return {
        "event_name": params["event_name"],
        "identifier": params.get("identifier") or sandbox.new.uuid(),
        "payload": {key: value for key, value in params["payload"].items() if value is not None},
        "timestamp": timestamp,
    }


def _instant(sandbox: Sandbox, params: Row) -> int:
    """Read v2's time, an RFC 3339 string; now if there is none."""
    given: Any = params.get("timestamp")
    if given is None:
        return sandbox.now()
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ApiError(f"Invalid timestamp: {given}", param="timestamp")
    return int(moment.timestamp())


ROUTES = (
    route(
        "POST /v1/billing/meter_events",
        create,
        "billing.MeterEventCreateParams",
        "event_name identifier payload timestamp",
        exclusive=whose,
    ),
)
