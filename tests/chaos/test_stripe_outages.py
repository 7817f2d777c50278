"""Stripe answering badly, or not at all, while events need it: they are taken in, wait, and lose nothing."""

import asyncio
from collections.abc import Callable

import httpx
import pytest
from billing import Account
from chaos import crowd, promises
from chaos.inbox import nothing_waits, stored, waiting
from chaos.load import post
from serving import serving
from sqlalchemy import func, update
from starlette.applications import Starlette
from typing_extensions import override

from app import models
from app.main import create_app
from app.provider.breaker import CircuitBreaker
from app.provider.stripe import StripeProvider
from app.settings import Settings

Answer = Callable[[httpx.Request], httpx.Response]


def error(status: int, type: str, **headers: str) -> Answer:
    body = {"error": {"type": type, "message": "Not now."}}
    return lambda _request: httpx.Response(status, json=body, headers={"Stripe-Should-Retry": "false", **headers})


def silence(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("nothing came", request=request)


def nonsense(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, html="<h1>Something between us and Stripe</h1>")


OUTAGES = {
    "429": error(429, "rate_limit_error", **{"Retry-After": "1"}),
    "500": error(500, "api_error"),
    "a timeout": silence,
    "no JSON": nonsense,
}


class FaultyStripe(httpx.AsyncBaseTransport):
    """The sandbox, but while there is a `fault` every request gets that."""

    def __init__(self, app: Starlette) -> None:
        self._stripe = httpx.ASGITransport(app)
        self.fault: Answer | None = None
        self.refused = 0

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.fault is None:
            return await self._stripe.handle_async_request(request)
        self.refused += 1
        return self.fault(request)


@pytest.mark.parametrize("outage", OUTAGES)
async def test_while_stripe_is_ill_events_wait_and_afterwards_all_is_applied(
    account: Account, settings: Settings, sandbox_app: Starlette, outage: str
) -> None:
    stripe = FaultyStripe(sandbox_app)
    known = crowd.subscribe(account, "known", quantities=(2, 3))
    strangers = [crowd.subscribe(account, f"stranger-{n}", quantities=(2, 3)) for n in range(5)]
    async with (
        StripeProvider(
            settings.stripe_secret_key.get_secret_value(),
            base_url=account.sandbox.base_url,
            transport=stripe,
            max_network_retries=0,
            breaker=CircuitBreaker(pause=0.1),
        ) as provider,
        serving(create_app(settings, provider=provider)) as client,
    ):
        *before, last = known
        for event in before:
            assert (await post(client, event)).status_code == 200
        await nothing_waits(account)

        stripe.fault = OUTAGES[outage]
        # What has happened in between can't be known from an event's payload alone, so Stripe has to be asked.
        unseen = [event for history in strangers for event in reversed(history)]
        answers = await asyncio.gather(*(post(client, event) for event in [*unseen, last]))
        assert {answer.status_code for answer in answers} == {200}
        assert {event["id"] for event in [*unseen, last]} <= await stored(account)
        async with asyncio.timeout(20):
            while not stripe.refused or await status(account, last) != "processed":  # noqa: ASYNC110 - see nothing_waits
                await asyncio.sleep(0.02)
        assert await waiting(account)
        assert "dead" not in {row.status for row in await account.all(models.StripeEvent)}

        stripe.fault = None
        async with asyncio.timeout(20):
            while await waiting(account):
                await make_due(account)
                await asyncio.sleep(0.1)
    assert await promises.broken(account, [*known, *unseen]) == []


async def status(account: Account, event: dict[str, object]) -> str:
    return next(row.status for row in await account.all(models.StripeEvent) if row.event_id == event["id"])


async def make_due(account: Account) -> None:
    """Don't wait for the next attempts: have them now."""
    due = update(models.StripeEvent).where(models.StripeEvent.status == "pending").values(next_attempt_at=func.now())
    async with account.sessions.begin() as session:
        await session.execute(due)
