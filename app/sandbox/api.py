"""One API request: who asks, for what, with which parameters; then the answer in Stripe's envelope."""

import asyncio
import base64
import binascii
import json
import re
from email.utils import formatdate
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.sandbox import forms, params, rendering, routes
from app.sandbox.errors import ApiError
from app.sandbox.idempotency import Idempotency, fingerprint
from app.sandbox.route import Route
from app.sandbox.sandbox import Sandbox

_VERSION = re.compile(r"20\d\d-\d\d-\d\d(\.[a-z]+)?")
_HELP = "or we can help at https://support.stripe.com/."
_NO_KEY = (
    "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth "
    "(e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details, "
    f"{_HELP}"
)
_SHOWN = 4  # last characters of a wrong key that Stripe repeats


class Api:
    """Answers /v1 for one sandbox."""

    def __init__(self, sandbox: Sandbox, secret_key: str, latency: float) -> None:
        self._sandbox = sandbox
        self._secret_key = secret_key
        self._latency = latency
        self._idempotency = Idempotency(sandbox)

    async def answer(self, request: Request) -> Response:
        self._sandbox.tick()
        request_id = self._sandbox.new.mint("req_")
        headers = {"Request-Id": request_id}
        headers["Stripe-Version"] = request.headers.get("Stripe-Version", self._sandbox.api_version)
        try:
            _check_version(headers["Stripe-Version"])
            self._authenticate(request)
            route, ids = _find(request)
            status, body = await self._run(request, route, ids, request_id, headers)
        except ApiError as error:
            status, body = error.status, error.envelope(request_id)
        return self._respond(status, body, headers)

    async def unknown(self, request: Request) -> Response:
        """Answer everything that is neither API nor page."""
        error = _unrecognized(request)
        return self._respond(error.status, error.envelope(None), {})

    async def _run(
        self, request: Request, route: Route, ids: dict[str, str], request_id: str, headers: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        query = request.url.query
        body = (await request.body()).decode("utf-8", "replace") if request.method != "GET" else ""
        tree = forms.parse("&".join(filter(None, (query, body))))
        key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
        if key is None:
            await asyncio.sleep(self._latency)
            return self._perform(route, tree, ids, request_id, None)
        headers["Idempotency-Key"] = key
        mark = fingerprint(request.method, request.url.path, tree)
        with self._idempotency.claim(key, mark) as known:
            if known is not None:
                headers["Idempotent-Replayed"] = "true"
                headers["Original-Request"] = known["request_id"]
                return known["status"], known["body"]
            await asyncio.sleep(self._latency)
            return self._perform(route, tree, ids, request_id, (key, mark))

    def _perform(
        self,
        route: Route,
        tree: forms.Tree,
        ids: dict[str, str],
        request_id: str,
        idempotent: tuple[str, str] | None,
    ) -> tuple[int, dict[str, Any]]:
        """Validate and run; from there on the outcome, refusals included, is what the key stands for."""
        sandbox = self._sandbox
        values = params.read(route.params, tree, route.acts_on, f"{route.method} {route.path}")
        expansions = values.pop("expand", [])
        key, mark = idempotent or (None, "")
        # The outcome and the key that stands for it are written together, so no crash can part them.
        with sandbox.transaction():
            try:
                with sandbox.request(request_id, key), sandbox.transaction():
                    row = route.handler(sandbox, values, **ids)
                    status, body = 200, rendering.expand(sandbox, rendering.public(row), expansions)
            except ApiError as error:
                status, body = error.status, error.envelope(request_id)
            if key is not None:
                self._idempotency.keep(key, mark, status=status, body=body, request_id=request_id)
        sandbox.deliveries.kick()
        return status, body

    def _authenticate(self, request: Request) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                given = ""
        elif scheme.lower() != "bearer":
            given = ""
        given = given.strip()
        if not given:
            raise ApiError(_NO_KEY, status=401)
        if given == self._secret_key:
            return
        prefix = re.match(r"[a-z]+_(?:test|live)_", given)
        shown = prefix[0] if prefix else ""
        hidden = len(given) - len(shown) - _SHOWN
        masked = shown + ("*" * hidden + given[-_SHOWN:] if hidden > 0 else "****")
        if "_live_" in shown:
            raise ApiError(
                f"This is the Billhook sandbox, it refuses live keys ({shown}****). Live keys belong to Stripe alone.",
                status=401,
            )
        raise ApiError(f"Invalid API Key provided: {masked}", status=401)

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
        f"Unrecognized request URL ({request.method}: {request.url.path}). Please see https://stripe.com/docs {_HELP}",
        status=404,
        logged=False,
    )
