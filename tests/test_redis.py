"""Redis may hold a lock, lose it, or be away: the work goes on and nobody else's lock is touched."""

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app import redis as locks
from app.embedded import ValkeyServer
from app.observability import registry
from app.redis import courtesy_lock, create_redis


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


async def test_who_lost_the_lock_does_not_release_the_next_owner_s(redis: Redis) -> None:
    async with courtesy_lock(redis, "x", wait=0) as first:
        await redis.flushall()  # as after a fail-over, or when it ran out during a long pause of ours
        second = courtesy_lock(redis, "x", wait=0)
        assert (first, await second.__aenter__()) == (True, True)
    async with courtesy_lock(redis, "x", wait=0) as third:
        assert not third
    await second.__aexit__(None, None, None)
    assert await redis.keys() == []


async def test_who_lost_the_lock_does_not_extend_the_next_owner_s(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.3)
    async with courtesy_lock(redis, "x", wait=0):
        await redis.set("billhook:lock:x", "another's token", px=1000)
        await asyncio.sleep(0.4)
        assert 0 < await redis.pttl("billhook:lock:x") <= 600


HOLDER = """
import asyncio, sys
from app import redis as locks

locks.LOCK_SECONDS = 0.5

async def hold():
    async with locks.create_redis(sys.argv[1]) as redis, locks.courtesy_lock(redis, "x", wait=0) as held:
        print("held" if held else "not held", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(hold())
"""


@asynccontextmanager
async def holder(valkey: ValkeyServer) -> AsyncIterator[Process]:
    """Another process that has the lock, until it reads a line or is killed."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLDER, valkey.url, stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_another_process_s_lock_is_waited_for(redis: Redis, valkey: ValkeyServer) -> None:
    async with holder(valkey) as process:
        async with courtesy_lock(redis, "x", wait=1) as held:  # twice as long as its lock would last unextended
            assert not held
        assert process.stdin is not None
        process.stdin.write(b"\n")
        async with courtesy_lock(redis, "x", wait=20) as held:
            assert held


async def test_the_lock_of_a_killed_process_runs_out(redis: Redis, valkey: ValkeyServer) -> None:
    async with holder(valkey) as process:
        process.kill()
        await process.wait()
        async with courtesy_lock(redis, "x", wait=20) as held:
            assert held


async def test_a_redis_that_is_away_stops_nothing() -> None:
    away = create_redis("unix:///nowhere")
    async with courtesy_lock(away, "x", wait=1) as held:
        assert not held
    await away.aclose()


@contextmanager
def counted(outcome: str, *, times: int = 1) -> Iterator[None]:
    """The body takes the lock of a customer's events with this outcome."""

    def count() -> float:
        labels = {"lock": "events", "outcome": outcome}
        return registry.get_sample_value("billing_lock_waits_total", labels) or 0

    before = count()
    yield
    assert count() - before == times


async def test_how_the_lock_was_come_by_is_counted_by_its_kind(redis: Redis) -> None:
    with counted("acquired"):
        holding = courtesy_lock(redis, "events:cus_1", wait=0)
        await holding.__aenter__()
    with counted("timed_out"):
        async with courtesy_lock(redis, "events:cus_1", wait=0.1):
            pass
    with counted("waited"):
        waiting = courtesy_lock(redis, "events:cus_1", wait=20)
        taking = asyncio.create_task(waiting.__aenter__())
        await asyncio.sleep(0.3)  # by now it has asked once
        await holding.__aexit__(None, None, None)
        assert await taking
        await waiting.__aexit__(None, None, None)
    away = create_redis("unix:///nowhere")
    with counted("away"):
        async with courtesy_lock(away, "events:cus_1", wait=1):
            pass
    await away.aclose()
    assert registry.get_sample_value("billing_lock_wait_seconds_count", {"lock": "events"})


async def test_the_benchmark_of_the_locks_runs() -> None:
    script = Path(__file__).parent.parent / "benchmarks" / "locks.py"
    few = ("--customers", "5", "--latency", "0", "--rounds", "1")
    process = await asyncio.create_subprocess_exec(sys.executable, script, *few, stdout=PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    asked = re.findall(r"(with Redis|without) +(\d+) requests", output.decode())
    assert [name for name, _ in asked] == ["with Redis", "without"]
    assert all(int(requests) >= 5 for _, requests in asked)
