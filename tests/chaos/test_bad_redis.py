"""Redis slow, silent or full: what comes is taken in and applied as ever, in bounded time."""

from collections.abc import AsyncIterator

import pytest
from billing import Account
from chaos import crowd, promises
from chaos.forks import Billhook
from chaos.inbox import nothing_waits
from chaos.link import Link, link_to
from chaos.load import Load
from redis.exceptions import OutOfMemoryError

from app.embedded import ValkeyServer
from app.redis import create_redis


@pytest.fixture
async def link(own_valkey: ValkeyServer, billhook: Billhook) -> AsyncIterator[Link]:
    """The only way from Billhook's processes to Valkey."""
    async with link_to(own_valkey.run_dir / "valkey.sock", seed=1) as link:
        billhook.env["REDIS_URL"] = f"redis://127.0.0.1:{link.port}/0"
        yield link


async def all_goes_on(account: Account, url: str) -> None:
    """Everything is taken in and applied, both what batches can do and what has to be asked of Stripe, for a turn."""
    ready = [crowd.subscribe(account, f"user-{n}", quantities=(2, 3)) for n in range(10)]
    strangers = [crowd.subscribe(account, f"stranger-{n}", quantities=(2, 3)) for n in range(5)]
    events = [event for history in [*ready, *map(reversed, strangers)] for event in history]
    load = Load([url], connections=8)
    await load.send(events)
    assert set(load.answers) == {200}
    await nothing_waits(account)
    assert await promises.broken(account, events) == []


@pytest.mark.parametrize("delay", [0.1, 2.0])
async def test_with_a_slow_redis_all_goes_on(account: Account, billhook: Billhook, link: Link, delay: float) -> None:
    async with billhook.serving() as (_, url):
        link.delay = delay
        await all_goes_on(account, url)


async def test_with_a_redis_that_falls_silent_all_goes_on(account: Account, billhook: Billhook, link: Link) -> None:
    async with billhook.serving() as (_, url):
        link.silence()
        await all_goes_on(account, url)


async def test_with_a_full_redis_all_goes_on(account: Account, billhook: Billhook, own_valkey: ValkeyServer) -> None:
    redis = create_redis(own_valkey.url)
    await redis.config_set("maxmemory-policy", "noeviction")
    await redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        await redis.set("one", "more")
    billhook.env["REDIS_URL"] = own_valkey.url
    async with billhook.serving() as (_, url):
        await all_goes_on(account, url)
    await redis.aclose()
