"""Meter event adjustments: an event taken back within a day."""

from app.sandbox import metering
from app.sandbox.errors import required
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.thin_events import written


def create(sandbox: Sandbox, params: Row) -> Row:
    if not params.get("cancel", {}).get("identifier"):
        raise required("cancel[identifier]")
    return {"object": "billing.meter_event_adjustment", **_canceled(sandbox, params)}


def create_v2(sandbox: Sandbox, params: Row) -> Row:
    return {
        "id": sandbox.new.mint("mtrevtadj_test_"),
        "object": "v2.billing.meter_event_adjustment",
        "created": written(sandbox.now()),
        **_canceled(sandbox, params),
    }


def _canceled(sandbox: Sandbox, params: Row) -> Row:
    identifier = params["cancel"]["identifier"]
    metering.cancel(sandbox, params["event_name"], identifier)
    return {
        "cancel": {"identifier": identifier},
        "event_name": params["event_name"],
        "livemode": False,
        "status": "pending",
        "type": params["type"],
    }


ROUTES = (
    route(
        "POST /v1/billing/meter_event_adjustments",
        create,
        "billing.MeterEventAdjustmentCreateParams",
        "cancel.identifier event_name type",
    ),
)
