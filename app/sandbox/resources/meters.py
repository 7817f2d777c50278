"""Meters: what is counted, from which events and how; and what they counted for a customer."""

import hashlib

from app.sandbox import lists, metering
from app.sandbox.errors import ApiError
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_MINUTE = 60


def create(sandbox: Sandbox, params: Row) -> Row:
    _claim_event_name(sandbox, params["event_name"])
    now = sandbox.now()
    row = sandbox.insert(
        {
            "id": sandbox.new.mint("mtr_test_"),
            "object": "billing.meter",
            "created": now,
            "customer_mapping": params.get(
                "customer_mapping", {"event_payload_key": "stripe_customer_id", "type": "by_id"}
            ),
            "default_aggregation": params["default_aggregation"],
            "display_name": params["display_name"],
            "event_name": params["event_name"],
            "event_time_window": params.get("event_time_window"),
            "livemode": False,
            "status": "active",
            "status_transitions": {"deactivated_at": None},
            "updated": now,
            "value_settings": params.get("value_settings", {"event_payload_key": "value"}),
        }
    )
    sandbox.emit("billing.meter.created", row)
    return row


def retrieve(sandbox: Sandbox, _params: Row, meter: str) -> Row:
    return sandbox.get("billing.meter", meter)


def update(sandbox: Sandbox, params: Row, meter: str) -> Row:
    row = sandbox.get("billing.meter", meter)
    with sandbox.updating("billing.meter.updated", row):
        if "display_name" in params and params["display_name"] != row["display_name"]:
            row.update(display_name=params["display_name"], updated=sandbox.now())
    return row


def deactivate(sandbox: Sandbox, _params: Row, meter: str) -> Row:
    row = sandbox.get("billing.meter", meter)
    if row["status"] == "inactive":
        raise ApiError("This meter is already inactive.")
    now = sandbox.now()
    row.update(status="inactive", status_transitions={"deactivated_at": now}, updated=now)
    sandbox.emit("billing.meter.deactivated", row)
    return row


def reactivate(sandbox: Sandbox, _params: Row, meter: str) -> Row:
    row = sandbox.get("billing.meter", meter)
    if row["status"] == "active":
        raise ApiError("This meter is already active.")
    _claim_event_name(sandbox, row["event_name"])
    row.update(status="active", status_transitions={"deactivated_at": None}, updated=sandbox.now())
    sandbox.emit("billing.meter.reactivated", row)
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox, "billing.meter", params, "/v1/billing/meters", lambda row: lists.matches(row, params, "status")
    )


def list_summaries(sandbox: Sandbox, params: Row, meter: str) -> Row:
    """Add up a customer's usage: over the whole range, or for each hour or day of it that has any, newest first."""
    row = sandbox.get("billing.meter", meter)
    sandbox.get("customer", params["customer"], param="customer", status=400)
    start, end = params["start_time"], params["end_time"]
    window = params.get("value_grouping_window")
    unit = _MINUTE if window is None else metering.WINDOWS[window]
    for name, moment in (("start_time", start), ("end_time", end)):
        if moment % unit:
            raise ApiError(f"`{name}` must be aligned with {window or 'minute'} boundaries.", param=name)
    if end <= start:
        raise ApiError("`end_time` must be later than `start_time`.", param="end_time")
    ranges = [(start, end)]
    if window is not None:
        used = metering.counted(sandbox, meter, params["customer"], start, end)
        begins = sorted({event["timestamp"] // unit * unit for event in used}, reverse=True)
        ranges = [(begin, begin + unit) for begin in begins]
    summaries = [_summary(sandbox, row, params["customer"], *range_) for range_ in ranges]
    return lists.embedded(summaries, params, f"/v1/billing/meters/{meter}/event_summaries")


def _summary(sandbox: Sandbox, meter: Row, customer: str, start: int, end: int) -> Row:
    value = metering.aggregated(sandbox, meter["id"], customer, start, end)
    # The id is the same at every asking, so that it can be a cursor.
    mark = hashlib.sha256(f"{meter['id']}/{customer}/{start}/{end}".encode()).hexdigest()
    return {
        "id": f"mtrusg_test_{mark[:40]}",
        "object": "billing.meter_event_summary",
        "aggregated_value": int(value) if value == value.to_integral_value() else float(value),
        "end_time": end,
        "livemode": False,
        "meter": meter["id"],
        "start_time": start,
    }


def _claim_event_name(sandbox: Sandbox, event_name: str) -> None:
    holder = metering.meter_named(sandbox, event_name)
    if holder is not None and holder["status"] == "active":
        raise ApiError(
            f"An active meter ({holder['id']}) already exists for event name `{event_name}`.", param="event_name"
        )


ROUTES = (
    route(
        "POST /v1/billing/meters",
        create,
        "billing.MeterCreateParams",
        "customer_mapping default_aggregation display_name event_name event_time_window value_settings",
    ),
    route("GET /v1/billing/meters", list_, "billing.MeterListParams", "status"),
    route("GET /v1/billing/meters/{meter}", retrieve, "billing.MeterRetrieveParams"),
    route("POST /v1/billing/meters/{meter}", update, "billing.MeterUpdateParams", "display_name"),
    route("POST /v1/billing/meters/{meter}/deactivate", deactivate, "billing.MeterDeactivateParams"),
    route("POST /v1/billing/meters/{meter}/reactivate", reactivate, "billing.MeterReactivateParams"),
    route(
        "GET /v1/billing/meters/{meter}/event_summaries",
        list_summaries,
        "billing.MeterListEventSummariesParams",
        "customer end_time start_time value_grouping_window",
    ),
)
