"""Usage: meter events as they come in, what they add up to, and the reports about those that were no good."""

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from app.sandbox import thin_events
from app.sandbox.errors import ApiError, unsupported
from app.sandbox.periods import DAY
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_PAST = 35 * DAY  # seconds an event may lie behind
_AHEAD = 300  # seconds it may lie ahead
_UNIQUE_FOR = DAY  # seconds an identifier stays taken, and an event can be canceled
_MAX_IDENTIFIER = 100
_MAX_DIGITS = 15  # before the point; 12 after it
_MAX_SCALE = -12
_SAMPLES = 5  # errors of one kind a report names; the others are only counted
WINDOWS = {"hour": 3600, "day": DAY}
"""What usage is grouped by, in seconds."""


class RefusedError(ApiError):
    """A meter event refused at once. ``code`` is v2's; v1 says the same without one."""


class Fault(NamedTuple):
    """What turned out to be wrong with an accepted event."""

    code: str
    message: str


def meter_named(sandbox: Sandbox, event_name: str) -> Row | None:
    """Find the meter that counts these events: the active one, else one that was deactivated."""
    named = [meter for meter in sandbox.rows("billing.meter") if meter["event_name"] == event_name]
    return next((meter for meter in named if meter["status"] == "active"), named[-1] if named else None)


def check(sandbox: Sandbox, event: Row) -> None:
    """Hold an event to what is checked before it is accepted: its meter and its time."""
    name, now = event["event_name"], sandbox.now()
    meter = meter_named(sandbox, name)
    if meter is None or meter["status"] != "active":
        code = "no_meter" if meter is None else "archived_meter"
        raise RefusedError(f'No active meter found for event name "{name}".', code=code, param="event_name")
    if (fault := _untimely(event["timestamp"], now)) is not None:
        raise RefusedError(fault.message, code=fault.code, param="timestamp")


def accept(sandbox: Sandbox, event: Row) -> Row:
    """Take {event_name, identifier, payload, timestamp} in, to be processed with the next tick of the clock."""
    identifier = event["identifier"]
    if not 1 <= len(identifier) <= _MAX_IDENTIFIER:
        raise RefusedError(f"Invalid string: must be at most {_MAX_IDENTIFIER} characters.", param="identifier")
    if is_taken(sandbox, identifier):
        raise RefusedError(f"An event already exists with identifier {identifier}.", code="duplicate_meter_event")
    row = {
        **event,
        "id": sandbox.new.mint("_mev_"),
        "object": "_meter_event",
        "created": sandbox.now(),
        "customer": None,
        "meter": None,
        "status": "accepted",
        "value": None,
    }
    taken = sandbox.find("_meter_identifier", identifier)
    if taken is None:
        taken = sandbox.insert({"id": identifier, "object": "_meter_identifier"})
    taken.update(created=sandbox.now(), event=row["id"])
    sandbox.insert({"id": row["id"], "object": "_meter_inbox"})
    return sandbox.insert(row)


def is_taken(sandbox: Sandbox, identifier: str) -> bool:
    """Whether an event with this identifier came in the last day."""
    taken = sandbox.find("_meter_identifier", identifier)
    return taken is not None and taken["created"] + _UNIQUE_FOR > sandbox.now()


def cancel(sandbox: Sandbox, event_name: str, identifier: str) -> None:
    """Take an event back, which can be done within a day of its receipt."""
    taken = sandbox.find("_meter_identifier", identifier)
    event = taken and sandbox.get("_meter_event", taken["event"])
    if event is None or event["event_name"] != event_name or event["created"] + _UNIQUE_FOR <= sandbox.now():
        raise RefusedError(
            f"No meter event with identifier {identifier} was received in the last 24 hours.",
            code="resource_missing",
            param="cancel[identifier]",
        )
    event["status"] = "canceled"


def process(sandbox: Sandbox) -> None:
    """Count what was accepted, and report what can't be counted: one report for each meter."""
    reports: dict[str | None, list[tuple[Row, Fault]]] = {}
    for waiting in sandbox.rows("_meter_inbox"):
        event = sandbox.get("_meter_event", waiting["id"])
        sandbox.forget("_meter_inbox", waiting["id"])
        if event["status"] == "canceled":
            continue
        meter = meter_named(sandbox, event["event_name"])
        fault = _fault(sandbox, meter, event)
        event["status"] = "counted" if fault is None else "refused"
        if meter is not None:
            event["meter"] = meter["id"]
        if fault is not None:
            reports.setdefault(event["meter"], []).append((event, fault))
        elif meter is not None:
            event["customer"] = event["payload"][meter["customer_mapping"]["event_payload_key"]]
            event["value"] = event["payload"].get(meter["value_settings"]["event_payload_key"])
    for meter_id, wrong in reports.items():
        _report(sandbox, meter_id, wrong)
    for taken in sandbox.rows("_meter_identifier"):
        if taken["created"] + _UNIQUE_FOR <= sandbox.now():
            sandbox.forget("_meter_identifier", taken["id"])


def fault_of_payload(sandbox: Sandbox, meter: Row, payload: Row) -> Fault | None:
    """Say what is wrong with a payload: whom it is about, or how much it says."""
    key = meter["customer_mapping"]["event_payload_key"]
    if not payload.get(key):
        return Fault("meter_event_no_customer_defined", f"Customer mapping key {key} not found in payload.")
    customer = sandbox.find("customer", payload[key])
    if customer is None or customer.get("deleted"):
        return Fault("meter_event_customer_not_found", f"No customer found with ID {payload[key]}.")
    if meter["default_aggregation"]["formula"] == "count":
        return None
    return _fault_of_value(meter["value_settings"]["event_payload_key"], payload)


def usage_of(sandbox: Sandbox, meter_id: str, customer_id: str, start: int, end: int) -> Decimal:
    """Give what a customer used in [start, end), as it is billed: never below zero."""
    process(sandbox)
    return max(aggregated(sandbox, meter_id, customer_id, start, end), Decimal(0))


def refuse_credits(sandbox: Sandbox, customer: str, price: Row) -> None:
    """Refuse a metered price where Stripe would spend billing credits on it, for invoices here know nothing of them."""
    if price["recurring"]["usage_type"] == "metered" and any(
        grant["customer"] == customer and grant["voided_at"] is None and not grant.get("_expired")
        for grant in sandbox.rows("billing.credit_grant")
    ):
        raise unsupported("metered prices for a customer who has billing credits: invoices don't apply them")


def aggregated(sandbox: Sandbox, meter_id: str, customer_id: str, start: int, end: int) -> Decimal:
    """Add up what was counted in [start, end), by the meter's formula."""
    meter = sandbox.get("billing.meter", meter_id)
    return _aggregate(meter, counted(sandbox, meter_id, customer_id, start, end))


def counted(sandbox: Sandbox, meter_id: str, customer_id: str, start: int, end: int) -> list[Row]:
    """List the events that count, by their own time and then by when they came."""
    found = [
        event
        for event in sandbox.rows("_meter_event")
        if event["status"] == "counted"
        and (event["meter"], event["customer"]) == (meter_id, customer_id)
        and start <= event["timestamp"] < end
    ]
    return sorted(found, key=lambda event: event["timestamp"])


def _aggregate(meter: Row, events: Iterable[Row]) -> Decimal:
    if (window := meter["event_time_window"]) is not None:
        # Of pre-aggregated events the latest in each hour or day is the one that counts.
        events = {event["timestamp"] // WINDOWS[window]: event for event in events}.values()
    values = [event["value"] for event in events]
    formula = meter["default_aggregation"]["formula"]
    if formula == "count":
        return Decimal(len(values))
    if formula == "last":
        return Decimal(values[-1]) if values else Decimal(0)
    return sum((Decimal(value) for value in values), Decimal(0))


def _untimely(timestamp: int, now: int) -> Fault | None:
    if timestamp < now - _PAST:
        return Fault(
            "timestamp_too_far_in_past",
            "The event timestamp cannot be more than 35 days in past. Expected a timestamp greater than or equal to "
            f"{now - _PAST}.",
        )
    if timestamp > now + _AHEAD:
        return Fault(
            "timestamp_in_future",
            "The event timestamp cannot be more than 5 minutes in future. Expected a timestamp less than or equal to "
            f"{now + _AHEAD}.",
        )
    return None


def _fault(sandbox: Sandbox, meter: Row | None, event: Row) -> Fault | None:
    """Say what is wrong with an accepted event; those of the stream were not looked at before."""
    if meter is None:
        return Fault("no_meter", f"No meter found with event name {event['event_name']}.")
    if meter["status"] != "active":
        return Fault("archived_meter", f"The meter {meter['id']} is archived.")
    untimely = _untimely(event["timestamp"], event["created"])
    return untimely or fault_of_payload(sandbox, meter, event["payload"])


def _fault_of_value(key: str, payload: Row) -> Fault | None:
    given = payload.get(key)
    try:
        value = Decimal(given or "")
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        return Fault("meter_event_invalid_value", f"Value mapping key {key} is missing or not a number: {given}.")
    exponent: Any = value.as_tuple().exponent  # an int, for the value is finite
    if value.adjusted() >= _MAX_DIGITS or exponent < _MAX_SCALE:
        return Fault("meter_event_value_too_many_digits", f"The value {given} has too many digits.")
    return None


def _report(sandbox: Sandbox, meter_id: str | None, wrong: list[tuple[Row, Fault]]) -> None:
    by_code: dict[str, list[tuple[Row, Fault]]] = {}
    for entry in wrong:
        by_code.setdefault(entry[1].code, []).append(entry)
    error_types = [
        {
            "code": code,
            "error_count": len(entries),
            "sample_errors": [
                {"error_message": fault.message, "request": {"identifier": event["identifier"]}}
                for event, fault in entries[:_SAMPLES]
            ],
        }
        for code, entries in by_code.items()
    ]
    count = len(wrong)
    thin_events.emit(
        sandbox,
        "v1.billing.meter.no_meter_found" if meter_id is None else "v1.billing.meter.error_report_triggered",
        None
        if meter_id is None
        else {"id": meter_id, "type": "billing.meter", "url": f"/v1/billing/meters/{meter_id}"},
        {
            "developer_message_summary": f"There {'is' if count == 1 else 'are'} {count} invalid event"
            f"{'' if count == 1 else 's'}",
            "reason": {"error_count": count, "error_types": error_types},
            "validation_end": thin_events.written(sandbox.now()),
            "validation_start": thin_events.written(min(event["created"] for event, _ in wrong)),
        },
    )
