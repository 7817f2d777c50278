"""Requests to /v2: JSON instead of forms, times as strings, failed work done anew instead of replayed."""

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from app.sandbox import params, rendering, thin_events
from app.sandbox.api import Api, Caller
from app.sandbox.errors import ApiError, required, unsupported
from app.sandbox.idempotency import fingerprint
from app.sandbox.resources import meter_event_adjustments, meter_events
from app.sandbox.route import Route, route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_SESSION_LASTS = 900  # seconds
_SESSION = "v2.billing.meter_event_session"
_STREAM = "/v2/billing/meter_event_stream"


class ApiV2(Api):
    """Answers /v2 for one sandbox."""

    @override
    async def answer(self, request: Request) -> Response:
        self._sandbox.tick()
        request_id = self._sandbox.new.mint("req_")
        headers = {"Request-Id": request_id}
        headers["Stripe-Version"] = request.headers.get("Stripe-Version", self._sandbox.api_version)
        try:
            if request.url.path == _STREAM:
                caller = Caller(self._sandbox, request_id)
                _authenticate_stream(self._sandbox, request)
            else:
                caller = Caller(self._enter(request, headers), request_id)
            async with self._sandbox.faults.around(request, headers):
                body = await self._answer(caller, request, headers)
            status = 200
        except ApiError as error:
            status, body = error.status, error.envelope(request_id)
        return self._respond(status, body, headers)

    async def _answer(self, caller: Caller, request: Request, headers: dict[str, str]) -> dict[str, Any]:
        found = _find(request)
        if found is None:
            raise unsupported(f"{request.method} {request.url.path} (yet)")
        operation, ids = found
        tree = _tree(await request.body()) if request.method == "POST" else _query(request)
        key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
        subject = operation.exclusive(tree) if operation.exclusive else None
        with self._exclusive.hold(subject):
            if key is None:
                await asyncio.sleep(self._latency)
                return self._done(caller, operation, tree, ids, None)
            headers["Idempotency-Key"] = key
            mark = fingerprint(request.method, request.url.path, tree)
            with self._idempotency.claim(caller.sandbox, f"v2:{key}", mark) as known:
                if known is not None:
                    return dict(known["body"])
                await asyncio.sleep(self._latency)
                return self._done(caller, operation, tree, ids, (key, mark))

    def _done(
        self, caller: Caller, operation: Route, tree: Row, ids: dict[str, str], idempotent: tuple[str, str] | None
    ) -> dict[str, Any]:
        """Validate and run; only what succeeded is kept for its key."""
        sandbox, request_id = caller.sandbox, caller.request_id
        values = params.read(operation.params, tree, operation.acts_on, f"{operation.method} {operation.path}")
        with sandbox.transaction():
            with sandbox.request(request_id, idempotent and idempotent[0]):
                body: dict[str, Any] = rendering.public(operation.handler(sandbox, values, **ids))
            if idempotent is not None:
                key, mark = idempotent
                self._idempotency.keep(sandbox, f"v2:{key}", mark, status=200, body=body, request_id=request_id)
        sandbox.deliveries.kick()
        return body


def _authenticate_stream(sandbox: Sandbox, request: Request) -> None:
    """The stream takes a session's token instead of a key."""
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    session = next((row for row in sandbox.rows(_SESSION) if row["authentication_token"] == token), None)
    if session is None:
        raise ApiError("Invalid authentication token.", status=401)
    if session["_expires_at"] <= sandbox.now():
        raise ApiError(
            "The meter event session has expired. Create a new one.",
            type="temporary_session_expired",
            code="billing_meter_event_session_expired",
        )


def _create_session(sandbox: Sandbox, _params: Row) -> Row:
    now = sandbox.now()
    return sandbox.insert(
        {
            "id": sandbox.new.mint("mtrevtses_test_"),
            "object": _SESSION,
            "authentication_token": sandbox.new.mint("mes_test_"),
            "created": thin_events.written(now),
            "expires_at": thin_events.written(now + _SESSION_LASTS),
            "livemode": False,
            "_expires_at": now + _SESSION_LASTS,
        }
    )


def _retrieve_event(sandbox: Sandbox, _params: Row, event: str) -> Row:
    return sandbox.get(thin_events.EVENT, event)


def _create_destination(sandbox: Sandbox, params: Row) -> Row:
    if params["event_payload"] != "thin":
        raise unsupported("event destinations for snapshots: create a webhook endpoint", param="event_payload")
    if params["type"] != "webhook_endpoint":
        raise unsupported(f"event destinations of type {params['type']}", param="type")
    if "webhook_endpoint" not in params:
        raise required("webhook_endpoint")
    fields = {name: params[name] for name in ("description", "enabled_events", "metadata", "name") if name in params}
    row = thin_events.add_destination(sandbox, params["webhook_endpoint"]["url"], **fields)
    shown = {"webhook_endpoint.signing_secret": row["_secret"], "webhook_endpoint.url": row["_url"]}
    included = {name.partition(".")[2]: shown[name] for name in params.get("include", ()) if name in shown}
    none: Row = {"signing_secret": None, "url": None}
    return {**row, "webhook_endpoint": {**none, **included} if included else None}


def _retrieve_destination(sandbox: Sandbox, _params: Row, event_destination: str) -> Row:
    return sandbox.get(thin_events.DESTINATION, event_destination)


def _list_destinations(sandbox: Sandbox, _params: Row) -> Row:
    rows = sandbox.rows(thin_events.DESTINATION)
    return {"data": rows[::-1], "next_page_url": None, "previous_page_url": None}


def _delete_destination(sandbox: Sandbox, _params: Row, event_destination: str) -> Row:
    row = sandbox.get(thin_events.DESTINATION, event_destination)
    row.clear()
    row.update({"id": event_destination, "object": thin_events.DESTINATION, "deleted": True})
    return row


def _find(request: Request) -> tuple[Route, dict[str, str]] | None:
    for known in ROUTES:
        if known.method == request.method and (match := known.pattern.fullmatch(request.url.path)) is not None:
            return known, match.groupdict()
    return None


def _query(request: Request) -> Row:
    # The SDK's fetch_event says in `usage[0]=…` what it is used for.
    return {name: value for name, value in request.query_params.items() if not name.startswith("usage[")}


def _tree(body: bytes) -> Row:
    """Read a JSON body into the tree that forms make: lists by index; every value here is a string."""
    try:
        read = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("Invalid JSON in the request body.") from error
    if not isinstance(read, dict):
        raise ApiError("The request body must be a JSON object.")
    return {name: _branch(value, name) for name, value in read.items() if value is not None}


def _branch(value: Any, at: str) -> Any:
    if isinstance(value, dict):
        return {name: _branch(inner, f"{at}.{name}") for name, inner in value.items()}
    if isinstance(value, list):
        return {str(index): _branch(inner, f"{at}[{index}]") for index, inner in enumerate(value)}
    if not isinstance(value, str):
        raise ApiError(f"Invalid value for field `{at}`: expected a string.", param=at)
    return value


ROUTES = (
    route(
        "POST /v2/billing/meter_events",
        meter_events.create_checked,
        "v2.billing.MeterEventCreateParams",
        "event_name identifier payload timestamp",
        exclusive=meter_events.whose,
    ),
    route(
        "POST /v2/billing/meter_event_adjustments",
        meter_event_adjustments.create_v2,
        "v2.billing.MeterEventAdjustmentCreateParams",
        "cancel event_name type",
    ),
    route("POST /v2/billing/meter_event_session", _create_session, "v2.billing.MeterEventSessionCreateParams"),
    route(f"POST {_STREAM}", meter_events.stream, "v2.billing.MeterEventStreamCreateParams", "events"),
    route("GET /v2/core/events/{event}", _retrieve_event, "v2.core.EventRetrieveParams"),
    route(
        "POST /v2/core/event_destinations",
        _create_destination,
        "v2.core.EventDestinationCreateParams",
        "description enabled_events event_payload include name type webhook_endpoint",
    ),
    route("GET /v2/core/event_destinations", _list_destinations, "v2.core.EventDestinationListParams"),
    route(
        "GET /v2/core/event_destinations/{event_destination}",
        _retrieve_destination,
        "v2.core.EventDestinationRetrieveParams",
    ),
    route(
        "DELETE /v2/core/event_destinations/{event_destination}",
        _delete_destination,
        "v2.core.EventDestinationDeleteParams",
    ),
)
