"""Test clocks: time that stands still for some customers until it is told to advance."""

from app.sandbox import clocks, lists
from app.sandbox.errors import ApiError
from app.sandbox.periods import DAY, boundary
from app.sandbox.resources import customers
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_LASTS = 30 * DAY
_OWNED = ("invoiceitem", "invoice", "subscription_schedule", "subscription", "checkout.session")


def create(sandbox: Sandbox, params: Row) -> Row:
    customer = None
    if "customer" in params:
        customer = sandbox.get("customer", params["customer"], param="customer", status=400)
        if any(row["customer"] == customer["id"] for row in sandbox.rows("subscription")) or customer["test_clock"]:
            raise ApiError(
                "The customer already has a test clock or subscriptions, so it can't be attached to this one.",
                param="customer",
            )
    row = sandbox.insert(
        {
            "id": sandbox.new.mint("clock_"),
            "object": clocks.KIND,
            "created": sandbox.now(),
            "deletes_after": sandbox.now() + _LASTS,
            "frozen_time": params["frozen_time"],
            "livemode": False,
            "name": params.get("name"),
            "status": "ready",
            "status_details": {},
        }
    )
    _announce(sandbox, "created", row)
    if customer is not None:
        with sandbox.updating("customer.updated", customer):
            customer["test_clock"] = row["id"]
    return row


def retrieve(sandbox: Sandbox, _params: Row, test_clock: str) -> Row:
    return _get(sandbox, test_clock)


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(sandbox, clocks.KIND, params, "/v1/test_helpers/test_clocks", lambda _: True)


def advance(sandbox: Sandbox, params: Row, test_clock: str) -> Row:
    """Begin to advance; the clock arrives with the next tick, having let everything on the way happen."""
    row = _get(sandbox, test_clock)
    to = params["frozen_time"]
    if row["status"] == "advancing":
        raise ApiError("Test clock advancement underway - cannot perform modifications.", status=429)
    if to <= row["frozen_time"]:
        raise ApiError("The new frozen time must be after the test clock's current frozen time.", param="frozen_time")
    if to > (limit := _furthest(sandbox, row)):
        raise ApiError(
            "The new frozen time cannot be more than two intervals in the future from the shortest subscription of "
            f"this test clock, or two years without subscriptions: not later than {limit}.",
            param="frozen_time",
        )
    row.update(status="advancing", status_details={"advancing": {"target_frozen_time": to}})
    _announce(sandbox, "advancing", row)
    sandbox.tick_soon()
    return row


def target(clock: Row) -> int:
    """Give where an advancing clock is going."""
    moment: int = clock["status_details"]["advancing"]["target_frozen_time"]
    return moment


def arrive(sandbox: Sandbox, id: str) -> None:
    """Let an advancing clock be where it was going, everything on the way being done."""
    row = _get(sandbox, id)
    row.update(frozen_time=target(row), status="ready", status_details={})
    _announce(sandbox, "ready", row)


def delete(sandbox: Sandbox, _params: Row, test_clock: str) -> Row:
    """Delete the clock and all that is on it."""
    row = _get(sandbox, test_clock)
    owned = [owned for kind in _OWNED for owned in sandbox.rows(kind) if clocks.is_on(sandbox, owned, test_clock)]
    with sandbox.at(row["frozen_time"]):
        for customer in sandbox.rows("customer"):
            if customer["test_clock"] == test_clock:
                customers.delete(sandbox, {}, customer["id"])
    for gone in owned:
        sandbox.forget(gone["object"], gone["id"])
    _announce(sandbox, "deleted", row)
    row.clear()
    row.update({"id": test_clock, "object": clocks.KIND, "deleted": True})
    return row


def _furthest(sandbox: Sandbox, clock: Row) -> int:
    now: int = clock["frozen_time"]
    cycles = [
        boundary(now, item["price"]["recurring"]["interval"], 2 * item["price"]["recurring"]["interval_count"])
        for row in sandbox.rows("subscription")
        if row["test_clock"] == clock["id"] and row["ended_at"] is None
        for item in row["items"]["data"]
    ]
    return min(cycles, default=boundary(now, "year", 2))


def _announce(sandbox: Sandbox, what: str, clock: Row) -> None:
    """Emit an event about the clock itself, which is no object on it: in the account's time."""
    with sandbox.at(int(sandbox.time())):
        sandbox.emit(f"test_helpers.test_clock.{what}", clock)


def _get(sandbox: Sandbox, id: str) -> Row:
    return sandbox.get(clocks.KIND, id, param="test_clock")


_PATH = "/v1/test_helpers/test_clocks"
ROUTES = (
    route(f"POST {_PATH}", create, "test_helpers.TestClockCreateParams", "customer frozen_time name"),
    route(f"GET {_PATH}", list_, "test_helpers.TestClockListParams"),
    route(f"GET {_PATH}/{{test_clock}}", retrieve, "test_helpers.TestClockRetrieveParams"),
    route(f"POST {_PATH}/{{test_clock}}/advance", advance, "test_helpers.TestClockAdvanceParams", "frozen_time"),
    route(f"DELETE {_PATH}/{{test_clock}}", delete, "test_helpers.TestClockDeleteParams"),
)
