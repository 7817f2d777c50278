"""`/_sandbox`: what Stripe has no request for - what is here, faults on demand, and beginning anew. Takes no key."""

from collections.abc import Callable
from functools import partial
from typing import Any, NotRequired

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from typing_extensions import TypedDict

from app.sandbox import account_settings, forms, lists, params
from app.sandbox.errors import ApiError
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_PAGES_ONLY_READ = "The sandbox takes this from programs alone, not from a page in a browser (it came with an Origin)."


class SettingsParams(TypedDict):
    """What `POST /_sandbox/settings` takes; see `account_settings.of`."""

    after_retries: NotRequired[str]
    retry_after_days: NotRequired[list[int]]


class ResetParams(TypedDict):
    """What `POST /_sandbox/reset` takes."""

    seed: NotRequired[int]
    webhook_endpoints: NotRequired[bool]


def control_routes(sandbox: Sandbox) -> list[BaseRoute]:
    def route(path: str, method: str, act: Callable[[Sandbox, Row], Row]) -> Route:
        return Route(path, partial(_answer, sandbox, act), methods=[method])

    return [
        route("/_sandbox", "GET", _describe),
        route("/_sandbox/faults", "GET", _list_faults),
        route("/_sandbox/faults", "POST", _add_fault),
        route("/_sandbox/faults", "DELETE", _clear_faults),
        route("/_sandbox/reset", "POST", _reset),
        route("/_sandbox/settings", "GET", _settings),
        route("/_sandbox/settings", "POST", _change_settings),
    ]


async def _answer(sandbox: Sandbox, act: Callable[[Sandbox, Row], Row], request: Request) -> Response:
    """Refuse what a foreign page may have sent, and say in Stripe's envelope what is wrong with the rest."""
    sandbox.tick()
    try:
        _refuse_pages(request)
        tree = forms.body(await request.body(), request.headers.get("Content-Type", ""))
        return JSONResponse(sandbox.shown(act(sandbox, tree)))
    except ApiError as error:
        return JSONResponse(error.envelope(None), error.status)


def _refuse_pages(request: Request) -> None:
    """There is no key to know the caller by, and what a foreign page sends carries its Origin."""
    if "Origin" in request.headers:
        raise ApiError(_PAGES_ONLY_READ, status=403, logged=False)


def _describe(sandbox: Sandbox, _tree: Row) -> Row:
    return {
        "object": "sandbox",
        "api_version": sandbox.api_version,
        "now": sandbox.now(),
        "accounts": [world.account for world in sandbox.worlds()[1:]],
        "objects": sandbox.census(),
        "webhook_endpoints": [
            {"id": row["id"], "url": row["url"], "connect": bool(row.get("_connect")), "status": row["status"]}
            for row in sandbox.rows("webhook_endpoint")
        ],
        "pending_deliveries": len(sandbox.pending_deliveries()),
        "faults": sandbox.faults.rows(),
    }


def _list_faults(sandbox: Sandbox, _tree: Row) -> Row:
    return lists.listing(sandbox.faults.rows(), "/_sandbox/faults")


def _add_fault(sandbox: Sandbox, tree: Row) -> Row:
    return sandbox.faults.create(tree)


def _clear_faults(sandbox: Sandbox, _tree: Row) -> Row:
    sandbox.faults.clear()
    return _list_faults(sandbox, _tree)


def _reset(sandbox: Sandbox, tree: Row) -> Row:
    given: Any = params.typed(ResetParams, tree)
    sandbox.reset(**given)
    return _describe(sandbox, tree)


def _settings(sandbox: Sandbox, _tree: Row) -> Row:
    return account_settings.of(sandbox)


def _change_settings(sandbox: Sandbox, tree: Row) -> Row:
    given: Any = params.typed(SettingsParams, tree)
    return account_settings.change(sandbox, **given)
