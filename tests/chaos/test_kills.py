"""kill -9, at each system call of one webhook and at any moment: what was acknowledged is applied, once."""

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from billing import Account
from chaos import crowd, promises, strace
from chaos.forks import Billhook, Fork
from chaos.inbox import nothing_waits, stored, waiting
from chaos.load import Load, post

AT_ONCE = 3
DEATH_SECONDS = 10.0
QUIET_SECONDS = 0.05
KILLS = 5  # of each process under load, before it may live
FOR_GOOD = 1000.0


SEED = int(os.environ.get("BILLHOOK_SEED", random.randrange(10**6)))  # noqa: S311 - chooses moments, guards nothing


def subscribers(account: Account, most: int) -> list[dict[str, Any]]:
    return [crowd.subscription_created(account, f"user-{number}") for number in range(most)]


def unhandled(number: int) -> dict[str, Any]:
    """An event that is stored and ignored: it opens a server's connections."""
    data = {"object": {"id": f"in_{number}", "object": "invoice"}}
    head = {"id": f"evt_first_{number}", "object": "event", "type": "invoice.upcoming", "created": 1_790_000_000}
    return {**head, "livemode": False, "api_version": None, "data": data}


async def test_an_api_killed_at_any_system_call_of_a_webhook_loses_and_repeats_nothing(
    account: Account, billhook: Billhook, tmp_path: Path
) -> None:
    numbers, answered, at_once = itertools.count(), set[str](), asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def warm_server() -> AsyncIterator[tuple[Fork, str]]:
        async with billhook.serving("--no-worker") as (server, url):
            assert (await post(client, unhandled(next(numbers)), base_url=url)).status_code == 200
            yield server, url

    async def kill_at(step: strace.Step, event: dict[str, Any]) -> None:
        async with at_once, warm_server() as (server, url):
            async with strace.killing(server.pid, step):
                with suppress(httpx.TransportError):
                    assert (await post(client, event, base_url=url)).status_code == 200
                    answered.add(event["id"])
            assert event["id"] in answered or await server.gone(DEATH_SECONDS), step

    async with httpx.AsyncClient(headers={"Connection": "close"}) as client:
        async with warm_server() as (server, url), strace.watching(server.pid, tmp_path / "calls") as steps:
            await post(client, unhandled(next(numbers)), base_url=url)
        events = subscribers(account, len(steps))
        await asyncio.gather(*(kill_at(*both) for both in zip(steps, events, strict=True)))
        kept = await stored(account)
        assert answered <= kept
        assert {event["id"] for event in events} - kept, "nothing died before the commit"
        assert {event["id"] for event in events} & kept - answered, "nothing died between commit and answer"
        async with billhook.serving() as (_, url):
            again = [await post(client, event, base_url=url) for event in events]
            assert {answer.status_code for answer in again} == {200}
            await nothing_waits(account)
    assert await promises.broken(account, events) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("customer_is", ["known", "new"])
async def test_a_worker_killed_at_any_system_call_of_an_event_applies_it_once(
    account: Account, billhook: Billhook, tmp_path: Path, customer_is: str
) -> None:
    """A known customer's event goes with a batch; a new customer is asked of Stripe first, and done alone."""
    told = list[dict[str, Any]]()
    billhook.env["DATABASE_POOL_SIZE"] = "1"  # so that its first event prepares all statements of the next one

    async def subscribers(most: int) -> list[dict[str, Any]]:
        """The news of as many subscriptions, not told yet."""
        events = list[dict[str, Any]]()
        for _ in range(most):
            created, _, updated, subscribed = crowd.subscribe(account, f"user-{uuid4().hex}")[:4]
            await tell(*[created, updated] * (customer_is == "known"))
            events.append(subscribed)
        await account.process()
        return events

    async def tell(*events: dict[str, Any]) -> None:
        for event in events:
            told.append(event)
            await account.deliver(event)

    @asynccontextmanager
    async def worker_that_did(event: dict[str, Any]) -> AsyncIterator[Fork]:
        """A worker that has applied `event`, and what the one before it died of."""
        await account.redis.flushall()  # or it would wait a second for the dead one's lock
        async with billhook.working() as worker:
            await tell(event)
            await nothing_waits(account)
            await asyncio.sleep(QUIET_SECONDS)
            yield worker

    first, second = await subscribers(2)
    async with worker_that_did(first) as worker, strace.watching(worker.pid, tmp_path / "calls") as calls:
        await tell(second)
        await nothing_waits(account)
        await asyncio.sleep(QUIET_SECONDS)
    steps = strace.noticed(calls)
    if customer_is == "new":  # what the waits between them add has been seen with the known
        steps = [step for step in steps if step[0] in strace.OUTWARD]
    events = await subscribers(2 * len(steps))
    died_waiting = 0
    for step, warming, event in zip(steps, events[::2], events[1::2], strict=True):
        async with worker_that_did(warming) as worker, strace.killing(worker.pid, step):
            await tell(event)
            await worker.gone(DEATH_SECONDS if await waiting(account) else QUIET_SECONDS)
        died_waiting += await waiting(account)
    assert 0 < died_waiting < len(steps), "some died before the commit, some after it"
    [last] = await subscribers(1)
    async with worker_that_did(last):
        pass
    assert await promises.broken(account, told) == []


async def test_apis_and_workers_killed_at_any_moment_under_load_lose_and_repeat_nothing(
    account: Account, billhook: Billhook
) -> None:
    choose = random.Random(SEED)  # noqa: S311 - repeatable on purpose
    histories = [crowd.subscribe(account, f"user-{n}", quantities=(2, 3)) for n in range(20)]
    events = [event for history in histories for event in history]
    choose.shuffle(events)
    urls = ["", ""]
    load = Load(urls, connections=8, copies=2)

    async def api(number: int) -> None:
        for seconds in [*(choose.uniform(0.2, 1.5) for _ in range(KILLS)), FOR_GOOD]:
            async with billhook.serving("--no-worker") as (server, urls[number]):
                await server.gone(seconds)

    async def worker() -> None:
        for seconds in [*(choose.uniform(0.2, 1.5) for _ in range(KILLS)), FOR_GOOD]:
            async with billhook.working() as process:
                await process.gone(seconds)

    lives = [asyncio.create_task(life) for life in (api(0), api(1), worker(), worker())]
    try:
        await load.send(events)
    finally:
        for life in lives:
            life.cancel()
        ends = await asyncio.gather(*lives, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}
    assert load.acknowledged <= await stored(account), f"BILLHOOK_SEED={SEED}"
    assert load.answers.keys() - {200}, "nobody noticed"
    async with billhook.working():
        await nothing_waits(account)
    assert await promises.broken(account, events) == [], f"BILLHOOK_SEED={SEED}"
