"""The page a buyer lands on: right at once, while the same news comes by webhook and while Stripe is slow."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from billing import URLS, Account, card
from chaos.inbox import nothing_waits
from chaos.load import post
from serving import API, Bearer, bearer, serving
from starlette.applications import Starlette
from typing_extensions import override

from app import models
from app.main import create_app
from app.provider.stripe import StripeProvider
from app.sandbox import checkout as hosted
from app.services.identity import mint_development_token
from app.settings import Settings

BUYERS = 25
POOL = 3


async def open_checkout(client: httpx.AsyncClient, who: Bearer, plan: str = "basic") -> httpx.Response:
    return await client.post(f"{API}/checkout/session", json={"plan": plan, **URLS}, headers=who)


async def test_landing_while_the_webhooks_of_the_same_purchase_are_applied(
    account: Account, settings: Settings
) -> None:
    """Page and worker write the same rows, and must not each wait for what the other holds."""
    busy = settings.model_copy(update={"worker_concurrency": BUYERS, "database_pool_size": 2 * BUYERS})
    async with serving(create_app(busy, provider=account.provider)) as client:

        async def purchase(number: int) -> httpx.Response:
            who = bearer(mint_development_token(settings, f"user-{number}", email="ada@example.com"))
            session_id = (await open_checkout(client, who)).json()["session_id"]
            hosted.pay(account.sandbox, session_id, card())
            customer = account.sandbox.get("checkout.session", session_id)["customer"]
            news = [e for e in account.events() if customer in {e["data"]["object"].get(k) for k in ("customer", "id")}]
            assert len(news) > 5
            arrivals = asyncio.gather(*(post(client, event) for event in news))
            await asyncio.sleep(number % 5 * 0.02)  # so that some land before the worker comes, and some after
            page = await client.get(f"{API}/checkout/session/{session_id}", headers=who)
            assert {answer.status_code for answer in await arrivals} == {200}
            return page

        landed = await asyncio.gather(*(purchase(number) for number in range(BUYERS)))
        await nothing_waits(account)

    assert [page.status_code for page in landed] == [200] * BUYERS
    shown = [page.json()["subscription"] for page in landed]
    assert {(bought["plan"], bought["status"]) for bought in shown} == {("basic", "trialing")}
    assert [row.last_error for row in await account.all(models.StripeEvent) if row.last_error] == []
    assert [row.status for row in await account.all(models.Subscription)] == ["trialing"] * BUYERS


class SilentStripe(httpx.AsyncBaseTransport):
    """The sandbox, which answers requests for `path` only once it is told to."""

    def __init__(self, app: Starlette) -> None:
        self._stripe = httpx.ASGITransport(app)
        self.path = "/nothing"
        self.asked = asyncio.Event()
        self.speak = asyncio.Event()

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith(self.path):
            self.asked.set()
            await self.speak.wait()
        return await self._stripe.handle_async_request(request)


Work = Callable[[httpx.AsyncClient, int], Coroutine[Any, Any, httpx.Response]]


@pytest.fixture
def small_pool(settings: Settings) -> Settings:
    return settings.model_copy(update={"worker_in_serve": False, "database_pool_size": POOL})


@pytest.fixture
def silent(sandbox_app: Starlette) -> SilentStripe:
    return SilentStripe(sandbox_app)


@pytest.fixture
async def client(account: Account, small_pool: Settings, silent: SilentStripe) -> AsyncIterator[httpx.AsyncClient]:
    key, url = small_pool.stripe_secret_key.get_secret_value(), account.sandbox.base_url
    async with (
        StripeProvider(key, base_url=url, transport=silent) as provider,
        serving(create_app(small_pool, provider=provider)) as client,
    ):
        yield client


@asynccontextmanager
async def waiting(silent: SilentStripe, path: str, *requests: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """All `requests` have been sent and wait for Stripe, or for who waits for Stripe; in the end they are answered."""
    silent.path = path
    tasks = [asyncio.create_task(request) for request in requests]
    await silent.asked.wait()
    await asyncio.sleep(0.3)  # the others have come as far as they can
    assert not any(task.done() for task in tasks)
    yield
    silent.speak.set()
    assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {200}


async def goes_on(client: httpx.AsyncClient, account: Account, settings: Settings) -> None:
    """An event is taken in and a user's plan is told, both at once."""
    somebody = bearer(mint_development_token(settings, "somebody"))
    async with asyncio.timeout(1):
        assert (await post(client, account.events()[0])).status_code == 200
        assert (await client.get(f"{API}/entitlements", headers=somebody)).status_code == 200


async def test_first_time_buyers_who_wait_for_stripe_hold_up_nobody(
    client: httpx.AsyncClient, account: Account, small_pool: Settings, silent: SilentStripe
) -> None:
    buyers = [bearer(mint_development_token(small_pool, f"user-{n}")) for n in range(2 * POOL)]
    async with waiting(silent, "/v1/customers", *(open_checkout(client, who) for who in buyers)):
        await goes_on(client, account, small_pool)


async def test_one_buyer_who_clicks_impatiently_holds_up_nobody(
    client: httpx.AsyncClient, account: Account, small_pool: Settings, silent: SilentStripe
) -> None:
    who = bearer(mint_development_token(small_pool, "ada"))
    assert (await open_checkout(client, who)).status_code == 200
    async with waiting(silent, "/v1/checkout/", *(open_checkout(client, who) for _ in range(2 * POOL))):
        await goes_on(client, account, small_pool)


async def test_landed_buyers_who_wait_for_stripe_hold_up_nobody(
    client: httpx.AsyncClient, account: Account, small_pool: Settings, silent: SilentStripe
) -> None:
    pages = []
    for number in range(2 * POOL):
        who = bearer(mint_development_token(small_pool, f"user-{number}"))
        session_id = (await open_checkout(client, who)).json()["session_id"]
        hosted.pay(account.sandbox, session_id, card())
        pages.append(client.get(f"{API}/checkout/session/{session_id}", headers=who))
    async with waiting(silent, "/v1/checkout/", *pages):
        await goes_on(client, account, small_pool)
