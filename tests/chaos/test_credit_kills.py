"""Processes killed, databases crashed, links cut while uses are spent: what was answered is in the books, once."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from chaos.credit_load import Spending, Wish, lies, service_key, some_wishes
from chaos.forks import Billhook
from chaos.link import Link, link_to
from crediting import give
from sqlalchemy import make_url

from app.db import Sessions, create_engine, create_sessions
from app.embedded import PostgresServer, ValkeyServer

SEED = int(os.environ.get("BILLHOOK_SEED", random.randrange(10**6)))  # noqa: S311 - chooses moments, guards nothing
USERS = ["ada", "bob", "zoe"]
KILLS = 4  # of each process, before it may live
FOR_GOOD = 1000.0
HINT = f"BILLHOOK_SEED={SEED}"


async def fund(sessions: Sessions, wishes: list[Wish]) -> None:
    """Small grants, so that they run out all the time; less than what is wanted of the last user."""
    for user_id in USERS:
        wanted = sum(wish.quantity for wish in wishes if wish.user_id == user_id)
        for _ in range(wanted // (20 if user_id == USERS[-1] else 10) + 1):
            await give(sessions, 10, user_id=user_id)


async def end_well(sessions: Sessions, spending: Spending, wishes: list[Wish]) -> None:
    assert all(wish.fulfilled for wish in wishes)
    assert not any(wish.refused for wish in wishes if wish.user_id != USERS[-1])
    assert await lies(sessions, wishes) == [], HINT
    await spending.repeat([wish for wish in wishes if wish.made is not None][:20])
    assert await lies(sessions, wishes) == [], HINT


async def until(done: Awaitable[Any], trouble: Awaitable[Any]) -> None:
    """Trouble goes on until all is answered."""
    making = asyncio.ensure_future(trouble)
    try:
        await done
    finally:
        making.cancel()
        [end] = await asyncio.gather(making, return_exceptions=True)
    assert isinstance(end, asyncio.CancelledError), repr(end)


async def test_killed_at_any_moment_under_load_it_loses_and_repeats_no_charge(
    sessions: Sessions, billhook: Billhook
) -> None:
    choose = random.Random(SEED)  # noqa: S311 - repeatable on purpose
    wishes = some_wishes(choose, USERS, 400)
    await fund(sessions, wishes)
    urls = ["", ""]
    spending = Spending(urls, await service_key(sessions), connections=12)

    async def life(number: int) -> None:
        for seconds in [*(choose.uniform(0.1, 1.0) for _ in range(KILLS)), FOR_GOOD]:
            async with billhook.serving("--no-worker") as (server, urls[number]):
                await server.gone(seconds)

    await until(spending.fulfil(wishes), asyncio.gather(life(0), life(1)))
    assert spending.answers.keys() - {200, 201, 402, 503, "UnsupportedProtocol"}, "nobody noticed"
    async with billhook.serving("--no-worker") as (_, urls[0]):
        urls[1] = urls[0]
        await end_well(sessions, spending, wishes)


@pytest.fixture
async def link(postgres: PostgresServer, billhook: Billhook) -> AsyncIterator[Link]:
    """The only way from Billhook's processes to Postgres."""
    async with link_to(Path(postgres.run_dir) / ".s.PGSQL.5432", seed=SEED) as link:
        direct = make_url(billhook.env["DATABASE_URL"])
        through = direct.set(host="127.0.0.1", port=link.port, query={})
        billhook.env["DATABASE_URL"] = through.render_as_string(hide_password=False)
        yield link


async def test_over_a_link_that_is_cut_and_loses_answers_each_key_is_one_charge(
    sessions: Sessions, billhook: Billhook, link: Link
) -> None:
    choose = random.Random(SEED)  # noqa: S311 - repeatable on purpose
    wishes = some_wishes(choose, USERS, 100)
    await fund(sessions, wishes)
    spending = Spending([], await service_key(sessions), connections=8)

    async def trouble() -> None:
        while True:
            link.loss = choose.choice([0, 0.05])
            enough = spending.done + choose.randint(1, 15)
            while spending.done < enough:  # noqa: ASYNC110 - a load tells nobody how far it is
                await asyncio.sleep(0.005)
            link.reset()

    async with billhook.serving("--no-worker") as (_, url):
        spending.urls = [url]
        await until(spending.fulfil(wishes), trouble())
        link.loss = 0
        assert spending.answers[503], "nobody noticed"
        await end_well(sessions, spending, wishes)


async def test_when_postgres_falls_silent_charges_are_refused_and_soon_after_made(
    sessions: Sessions, billhook: Billhook, link: Link
) -> None:
    wishes = some_wishes(random.Random(SEED), USERS[:1], 30)  # noqa: S311 - repeatable on purpose
    await fund(sessions, wishes)
    async with billhook.serving("--no-worker") as (_, url):
        spending = Spending([url], await service_key(sessions), connections=8)
        await spending.fulfil(wishes[:10])
        link.silence()
        waiting = asyncio.create_task(spending.fulfil(wishes[10:]))
        while not spending.answers[503]:  # noqa: ASYNC110 - a load tells nobody how far it is
            await asyncio.sleep(0.05)
        link.heal()
        await waiting
        assert set(spending.answers) <= {200, 201, 503}
        await end_well(sessions, spending, wishes)


async def test_postgres_crashes_and_comes_back_and_no_charge_is_lost(
    billhook: Billhook, own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_postgres, "stop_signal", signal.SIGQUIT)  # "immediate": nothing is ended in good order
    billhook.env |= {"DATABASE_URL": own_postgres.url}
    wishes = some_wishes(random.Random(SEED), USERS, 300)  # noqa: S311 - repeatable on purpose
    async with AsyncExitStack() as stack:
        engine = create_engine(own_postgres.url, pool_size=4)
        stack.push_async_callback(engine.dispose)
        sessions = create_sessions(engine)
        await fund(sessions, wishes)
        _, url = await stack.enter_async_context(billhook.serving("--no-worker"))
        spending = Spending([url], await service_key(sessions), connections=8)
        working = asyncio.create_task(spending.fulfil(wishes))
        while spending.answers[201] < 100:  # noqa: ASYNC110 - a load tells nobody how far it is
            await asyncio.sleep(0.005)
        await engine.dispose()
        await asyncio.to_thread(own_postgres.stop)
        while not spending.answers[503]:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.01)
        own_postgres.start()
        await working
        assert set(spending.answers) <= {200, 201, 402, 503}
        await end_well(sessions, spending, wishes)


async def test_without_redis_charges_go_on(sessions: Sessions, billhook: Billhook, own_valkey: ValkeyServer) -> None:
    billhook.env |= {"REDIS_URL": own_valkey.url}
    wishes = some_wishes(random.Random(SEED), USERS, 200)  # noqa: S311 - repeatable on purpose
    await fund(sessions, wishes)
    async with billhook.serving("--no-worker") as (_, url):
        spending = Spending([url], await service_key(sessions), connections=8)
        await spending.fulfil(wishes[:50])
        await asyncio.to_thread(own_valkey.stop)
        await spending.fulfil(wishes[50:])
        assert set(spending.answers) <= {200, 201, 402}
        await end_well(sessions, spending, wishes)
