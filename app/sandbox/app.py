"""The sandbox as an ASGI app: Stripe's API under /v1, and the hosted pages."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from app.sandbox import invoicing
from app.sandbox.api import Api
from app.sandbox.api_v2 import ApiV2
from app.sandbox.checkout import line_items
from app.sandbox.control import control_routes
from app.sandbox.delivery import RETRY_DELAYS
from app.sandbox.lists import sublist
from app.sandbox.oauth import OAuth
from app.sandbox.pages.routes import page_routes
from app.sandbox.passing_time import pass_time
from app.sandbox.resources import coupons, tax_ids
from app.sandbox.resources.charges import refunds_of
from app.sandbox.resources.customers import subscriptions_of
from app.sandbox.sandbox import Sandbox

_METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH"]

#: (object, field) of what is shown only when it is expanded, and what makes it.
_INCLUDES = {
    ("charge", "refunds"): refunds_of,
    ("checkout.session", "line_items"): line_items,
    ("customer", "subscriptions"): subscriptions_of,
    ("customer", "sources"): lambda _, row: sublist([], f"/v1/customers/{row['id']}/sources"),
    ("coupon", "applies_to"): coupons.applies_to,
    ("coupon", "currency_options"): coupons.currency_options,
    ("customer", "tax_ids"): tax_ids.of_customer,
    ("invoice", "confirmation_secret"): invoicing.confirmation_secret,
    ("invoice", "payments"): invoicing.payments_of,
}


def create_sandbox(
    *,
    secret_key: str = "sk_test_billhook",  # noqa: S107 - a test key that opens nothing
    base_url: str = "http://localhost:12111",
    state_file: Path | None = None,
    webhook_client: httpx.AsyncClient | None = None,
    seed: int | None = None,
    retry_delays: Sequence[float] = RETRY_DELAYS,
    now: Callable[[], float] = time.time,
    latency: float = 0.0,
) -> Starlette:
    """Build a sandbox; its state is at ``app.state.sandbox``. ValueError for anything but a test key.

    ``base_url`` is where the hosted pages are reached, ``state_file`` keeps the state over restarts,
    ``webhook_client`` delivers (an ASGI transport in tests), ``now`` moves time, ``latency`` is how long
    each request takes, in seconds.
    """
    if not secret_key.startswith(("sk_test_", "rk_test_")):
        raise ValueError("The sandbox takes a test key (sk_test_… or rk_test_…) and refuses all others.")
    sandbox = Sandbox(
        base_url=base_url,
        state_file=state_file,
        webhook_client=webhook_client,
        seed=seed,
        retry_delays=retry_delays,
        now=now,
        passing_time=pass_time,
        includes=_INCLUDES,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        clock = asyncio.create_task(_tick(sandbox))
        try:
            yield
        finally:
            clock.cancel()
            await asyncio.gather(clock, return_exceptions=True)
            await sandbox.aclose()

    api = Api(sandbox, secret_key, latency)
    api_v2 = ApiV2(sandbox, secret_key, latency)
    routes = [Route("/v1/{path:path}", api.answer, methods=_METHODS), *page_routes(sandbox), *control_routes(sandbox)]
    connect = OAuth(sandbox, secret_key)
    routes += [Route(f"/oauth/{name}", getattr(connect, name), methods=["POST"]) for name in ("token", "deauthorize")]
    routes += [Route("/v2/{path:path}", api_v2.answer, methods=_METHODS)]
    routes += [Route("/{path:path}", api.unknown, methods=_METHODS)]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.sandbox = sandbox
    return app


async def _tick(sandbox: Sandbox) -> None:
    """Let time pass without requests, and pick up deliveries of an earlier life."""
    while True:
        sandbox.tick()
        sandbox.deliveries.kick()
        await asyncio.sleep(1)
