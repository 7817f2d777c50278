"""Background requests to Stripe: how many a second, over all processes, and what a turn is taken for."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from provider.scripted_stripe import Reply, ScriptedStripe, refusal
from provider.stripe_data import LATEST, shown
from pydantic import SecretStr
from redis.asyncio import Redis
from typing_extensions import override

from app.embedded import ValkeyServer
from app.errors import UnavailableError
from app.provider import stripe_client
from app.provider.breaker import CircuitBreaker
from app.provider.stripe import StripeProvider
from app.provider.throttle import Throttle
from app.redis import create_redis
from app.settings import Settings
from app.worker.provider import background_provider

CUSTOMER = shown(LATEST, "customer.updated")
SUBSCRIPTION = shown(LATEST, "customer.subscription.updated")
DOWN = refusal(503, type="api_error", message="Down")


async def seconds_for(turns: int, *throttles: Throttle) -> float:
    """How long `turns` take that are asked for at once, by turns of the throttles."""
    started = time.monotonic()
    await asyncio.gather(*(throttles[number % len(throttles)].turn() for number in range(turns)))
    return time.monotonic() - started


async def test_processes_share_one_budget(redis: Redis, valkey: ValkeyServer) -> None:
    other = create_redis(valkey.url)
    throttles = [Throttle(client, per_second=10) for client in (redis, other)]
    assert await seconds_for(21, *throttles) >= 2  # each alone, its half would take one
    await other.aclose()


async def test_an_idle_budget_is_given_at_once_and_no_more_than_that_in_any_second(redis: Redis) -> None:
    throttle = Throttle(redis, per_second=5)
    went: list[float] = []

    async def one() -> None:
        await throttle.turn()
        went.append(time.monotonic())

    await asyncio.gather(*(one() for _ in range(11)))
    # What is measured is when a turn was told of, a little after it was given: hence not quite a second.
    assert all(later - earlier > 0.9 for earlier, later in zip(went, went[5:], strict=False))


async def test_whoever_came_first_goes_first(redis: Redis) -> None:
    throttle = Throttle(redis, per_second=10)
    order: list[int] = []

    async def one(number: int) -> None:
        await throttle.turn()
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(12)))
    assert order == list(range(12))


async def test_without_redis_each_process_keeps_to_the_rate_alone() -> None:
    away = create_redis("unix:///nowhere")
    assert await seconds_for(6, Throttle(away, per_second=10)) >= 0.5
    await away.aclose()


async def test_redis_is_left_alone_for_a_moment_after_it_failed(redis: Redis, valkey: ValkeyServer) -> None:
    client = create_redis("unix:///nowhere")
    throttle = Throttle(client, per_second=10)
    await throttle.turn()
    client.connection_pool.reset()
    client.connection_pool.connection_kwargs["path"] = valkey.url.removeprefix("unix://")  # it is back
    await throttle.turn()
    assert await redis.keys() == []
    throttle._resume_at = time.monotonic()
    await throttle.turn()
    [counted] = await redis.keys()
    assert await redis.llen(counted) == 1
    await client.aclose()


class Slow(Throttle):
    """Counts the turns, each of which takes `seconds`."""

    @override
    def __init__(self, *, seconds: float = 0) -> None:
        self.turns = 0
        self._seconds = seconds

    @override
    async def turn(self) -> float:
        self.turns += 1
        started = time.monotonic()
        await asyncio.sleep(self._seconds)
        return time.monotonic() - started


@asynccontextmanager
async def asking(
    stripe: ScriptedStripe, throttle: Throttle, *, deadline: float = 20, breaker: CircuitBreaker | None = None
) -> AsyncIterator[StripeProvider]:
    transport = httpx.ASGITransport(stripe)
    async with StripeProvider(
        "sk_test_Qabc", transport=transport, timeout=deadline, breaker=breaker, throttle=throttle
    ) as provider:
        yield provider


async def test_every_try_and_every_page_takes_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe_client, "FIRST_PAUSE", 0.01)
    page = {"object": "list", "data": [CUSTOMER], "has_more": False}
    more_items = {**SUBSCRIPTION, "items": {**SUBSCRIPTION["items"], "has_more": True}}
    stripe = ScriptedStripe(DOWN, Reply(body=CUSTOMER), Reply(body=page), Reply(body=more_items), Reply(body=page))
    throttle = Slow()
    async with asking(stripe, throttle) as provider:
        await provider.retrieve_customer("cus_Qabc")
        await provider.list_customers(since=None, after=None)
        assert throttle.turns == len(stripe.requests) == 3
        with pytest.raises(Exception, match="shape"):  # a customer is no subscription item; but it was asked for
            await provider.retrieve_subscription("sub_Qabc")
    assert throttle.turns == len(stripe.requests) == 5


async def test_waiting_for_a_turn_uses_up_none_of_stripe_s_time() -> None:
    breaker = CircuitBreaker(threshold=1)
    async with asking(
        ScriptedStripe(Reply(body=CUSTOMER)), Slow(seconds=0.3), deadline=0.2, breaker=breaker
    ) as provider:
        assert (await provider.retrieve_customer("cus_Qabc")).object.id == CUSTOMER["id"]
    breaker.check()


async def test_a_breaker_that_opened_during_the_wait_is_heeded() -> None:
    breaker, stripe = CircuitBreaker(threshold=1), ScriptedStripe(Reply(body=CUSTOMER))
    async with asking(stripe, Slow(seconds=0.1), breaker=breaker) as provider:
        waiting = asyncio.create_task(provider.retrieve_customer("cus_Qabc"))
        await asyncio.sleep(0)
        breaker.failed()
        with pytest.raises(UnavailableError):
            await waiting
    assert stripe.requests == []


async def test_the_sandbox_has_no_limit_and_stripe_s_is_the_setting_s(settings: Settings, redis: Redis) -> None:
    at_stripe = settings.model_copy(
        update={"stripe_api_base": None, "stripe_background_requests_per_second": 7, "redis_url": SecretStr("")}
    )
    at_stripe.__dict__.pop("sandboxed", None)
    async with background_provider(settings, redis) as provider:
        assert provider._client._throttle is None
    async with background_provider(at_stripe, redis) as provider:
        assert provider._client._throttle is not None
        assert provider._client._throttle._item.amount == 7
