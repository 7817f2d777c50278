"""Redis may hold a lock, lose it, or be away: the work goes on and nobody else's lock is touched."""

import asyncio

import pytest
from redis.asyncio import Redis

from app import redis as locks
from app.redis import courtesy_lock, create_redis, is_seen, mark_seen


async def test_one_holds_the_lock_and_the_others_know(redis: Redis) -> None:
    async with courtesy_lock(redis, "x", wait=0) as first, courtesy_lock(redis, "x", wait=0) as second:
        assert (first, second) == (True, False)
    async with courtesy_lock(redis, "x", wait=0) as again:
        assert again


async def test_waiting_gets_the_lock_when_it_is_given_up(redis: Redis) -> None:
    order = []

    async def worker(name: str) -> None:
        async with courtesy_lock(redis, "x", wait=5) as held:
            assert held
            order.append(f"{name} in")
            await asyncio.sleep(0.05)
            order.append(f"{name} out")

    await asyncio.gather(*(worker(name) for name in "abc"))
    assert [step.split()[1] for step in order] == ["in", "out"] * 3


async def test_a_lock_is_extended_while_the_work_lasts(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.3)
    async with courtesy_lock(redis, "x", wait=0):
        await asyncio.sleep(0.8)
        async with courtesy_lock(redis, "x", wait=0) as second:
            assert not second


async def test_somebody_else_s_lock_is_never_released(redis: Redis) -> None:
    async with courtesy_lock(redis, "x", wait=0):
        await redis.set("billhook:lock:x", "another's token")  # ours ran out and another took it
    assert await redis.get("billhook:lock:x") == "another's token"


async def test_a_redis_that_is_away_stops_nothing() -> None:
    away = create_redis("unix:///nowhere")
    async with courtesy_lock(away, "x", wait=1) as held:
        assert not held
    await mark_seen(away, ["evt_1"])
    assert not await is_seen(away, "evt_1")
    await away.aclose()


async def test_a_seen_event_is_remembered_for_as_long_as_stripe_may_resend_it(redis: Redis) -> None:
    assert not await is_seen(redis, ":evt_1")
    await mark_seen(redis, [":evt_1"])
    assert await is_seen(redis, ":evt_1")
    assert await redis.ttl("billhook:seen::evt_1") > 29 * 24 * 3600
