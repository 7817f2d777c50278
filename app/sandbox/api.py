"""One API request: who asks, for what, with which parameters; then the answer in Stripe's envelope."""

import asyncio
import json
import re
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.sandbox import authentication, forms, params, rendering, routes
from app.sandbox.errors import ApiError
from app.sandbox.exclusive import Exclusive
from app.sandbox.idempotency import Idempotency, fingerprint
from app.sandbox.route import Route
from app.sandbox.sandbox import Sandbox

_VERSION = re.compile(r"20\d\d-\d\d-\d\d(\.[a-z]+)?")


@dataclass(frozen=True)
class Caller:
    """In whose world a request works, and the id it goes by."""

    sandbox: Sandbox
    request_id: str


class Api:
    """Answers /v1 for the platform and its accounts."""

    def __init__(self, sandbox: Sandbox, secret_key: str, latency: float) -> None:
        self._sandbox = sandbox
        self._secret_key = secret_key
        self._latency = latency
        self._idempotency = Idempotency()
        self._exclusive = Exclusive()

    async def answer(self, request: Request) -> Response:
        self._sandbox.tick()
        request_id = self._sandbox.new.mint("req_")
        headers = {"Request-Id": request_id}
        headers["Stripe-Version"] = request.headers.get("Stripe-Version", self._sandbox.api_version)
        try:
            _check_version(headers["Stripe-Version"])
            caller = Caller(self._enter(request, headers), request_id)
            route, ids = _find(request)
            async with self._sandbox.faults.around(request, headers):
                status, body = await self._run(caller, request, route, ids, headers)
        except ApiError as error:
            status, body = error.status, error.envelope(request_id)
        return self._respond(status, body, headers)

    async def unknown(self, request: Request) -> Response:
        """Answer everything that is neither API nor page."""
        error = _unrecognized(request)
        return self._respond(error.status, error.envelope(None), {})

    async def _run(
        self, caller: Caller, request: Request, route: Route, ids: dict[str, str], headers: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        query = request.url.query
        body = (await request.body()).decode("utf-8", "replace") if request.method != "GET" else ""
        tree = forms.parse("&".join(filter(None, (query, body))))
        key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
        subject = route.exclusive(tree) if route.exclusive else None
        if key is None:
            with self._exclusive.hold(subject):
                await asyncio.sleep(self._latency)
                return self._perform(caller, route, tree, ids, None)
        headers["Idempotency-Key"] = key
        mark = fingerprint(request.method, request.url.path, tree)
        with self._exclusive.hold(subject), self._idempotency.claim(caller.sandbox, key, mark) as known:
            if known is not None:
                headers["Idempotent-Replayed"] = "true"
                headers["Original-Request"] = known["request_id"]
                return known["status"], known["body"]
            await asyncio.sleep(self._latency)
            return self._perform(caller, route, tree, ids, (key, mark))

    def _perform(
        self,
        caller: Caller,
        route: Route,
        tree: forms.Tree,
        ids: dict[str, str],
        idempotent: tuple[str, str] | None,
    ) -> tuple[int, dict[str, Any]]:
        """Validate and run; from there on the outcome, refusals included, is what the key stands for."""
        sandbox, request_id = caller.sandbox, caller.request_id
        values = params.read(route.params, tree, route.acts_on, f"{route.method} {route.path}")
        expansions = values.pop("expand", [])
        key, mark = idempotent or (None, "")
        # The outcome and the key that stands for it are written together, so no crash can part them.
        with sandbox.transaction():
            try:
                with (
                    sandbox.request(request_id, key),
                    sandbox.at_clock_of(ids, values),
                    sandbox.transaction(),
                ):
                    row = route.handler(sandbox, values, **ids)
                    status, body = 200, rendering.expand(sandbox, rendering.public(row), expansions)
            except ApiError as error:
                status, body = error.status, error.envelope(request_id)
            if key is not None:
                self._idempotency.keep(sandbox, key, mark, status=status, body=body, request_id=request_id)
        sandbox.deliveries.kick()
        return status, body

    def _enter(self, request: Request, headers: dict[str, str]) -> Sandbox:
        """Find out in whose world the request works; the answer names the account that was asked for."""
        if "Stripe-Account" in request.headers:
            headers["Stripe-Account"] = request.headers["Stripe-Account"]
        return authentication.enter(self._sandbox, self._secret_key, request)

    def _respond(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> Response:
        return Response(
            json.dumps(body, indent=2, ensure_ascii=False),
            status,
            # Date is the account's clock; a server in front must not add its own (uvicorn: date_header=False).
            {**headers, "Date": formatdate(self._sandbox.now(), usegmt=True)},
            "application/json",
        )


def _check_version(version: str) -> None:
    if not _VERSION.fullmatch(version):
        raise ApiError(f"Invalid Stripe API version: {version}", logged=False)


def _find(request: Request) -> tuple[Route, dict[str, str]]:
    found = routes.find(request.method, request.url.path)
    if found is None:
        raise _unrecognized(request)
    return found


def _unrecognized(request: Request) -> ApiError:
    if routes.is_beyond(request.url.path):
        return ApiError(
            f"The Billhook sandbox does not implement {request.method} {request.url.path} (yet).",
            code="sandbox_unsupported",
            status=404,
            logged=False,
        )
    return ApiError(
        f"Unrecognized request URL ({request.method}: {request.url.path}). "
        f"Please see https://stripe.com/docs {authentication.HELP}",
        status=404,
        logged=False,
    )
