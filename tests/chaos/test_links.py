"""A bad link to Postgres: everything is answered in bounded time, and what is acknowledged is applied, once."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from billing import Account
from chaos import crowd, promises
from chaos.forks import Billhook
from chaos.inbox import nothing_waits, stored
from chaos.link import Link, link_to
from chaos.load import Load, post
from sqlalchemy import make_url

from app.embedded import PostgresServer

SEED = int(os.environ.get("BILLHOOK_SEED", random.randrange(10**6)))  # noqa: S311 - chooses moments, guards nothing
HEALED_SECONDS = 5


@pytest.fixture
async def link(postgres: PostgresServer, billhook: Billhook) -> AsyncIterator[Link]:
    """The only way from Billhook's processes to Postgres."""
    async with link_to(Path(postgres.run_dir) / ".s.PGSQL.5432", seed=SEED) as link:
        direct = make_url(billhook.env["DATABASE_URL"])
        through = direct.set(host="127.0.0.1", port=link.port, query={})
        billhook.env["DATABASE_URL"] = through.render_as_string(hide_password=False)
        yield link


def histories(account: Account, people: int) -> list[dict[str, Any]]:
    several = [crowd.subscribe(account, f"user-{n}", quantities=(2, 3)) for n in range(people)]
    return [event for together in zip(*several, strict=True) for event in together]


async def end_well(account: Account, events: list[dict[str, Any]], load: Load) -> None:
    assert load.acknowledged <= await stored(account), f"BILLHOOK_SEED={SEED}"
    await nothing_waits(account)
    assert await promises.broken(account, events) == [], f"BILLHOOK_SEED={SEED}"


async def test_over_a_slow_link_everything_is_only_slower(account: Account, billhook: Billhook, link: Link) -> None:
    events = histories(account, 3)
    async with billhook.serving() as (_, url):
        link.delay = 0.01
        load = Load([url], connections=16)
        await load.send(events)
        assert set(load.answers) == {200}
        await end_well(account, events, load)


async def test_over_a_link_that_is_cut_again_and_again_nothing_is_lost_or_repeated(
    account: Account, billhook: Billhook, link: Link
) -> None:
    events = histories(account, 12)
    choose = random.Random(SEED)  # noqa: S311 - repeatable on purpose

    async def cut() -> None:
        while True:
            await asyncio.sleep(choose.uniform(0.02, 0.2))
            link.reset()

    async with billhook.serving() as (_, url):
        cutting = asyncio.create_task(cut())
        load = Load([url], connections=8, copies=2)
        await load.send(events)
        cutting.cancel()
        assert set(load.answers) == {200, 503}
        await end_well(account, events, load)


async def test_answers_lost_after_the_commit_make_duplicates_and_nothing_else(
    account: Account, billhook: Billhook, link: Link
) -> None:
    events = histories(account, 15)
    async with billhook.serving() as (_, url):
        link.loss = 0.05
        load = Load([url], connections=8)
        await load.send(events)
        link.loss = 0
        assert set(load.answers) == {200, 503}
        assert any(outcome == "duplicate" for _, outcome in load.outcomes), f"BILLHOOK_SEED={SEED}"
        await end_well(account, events, load)


async def test_when_postgres_falls_silent_every_delivery_is_refused_and_soon_after_taken_in(
    account: Account, billhook: Billhook, link: Link
) -> None:
    first, *events = histories(account, 2)
    async with billhook.serving() as (_, url), httpx.AsyncClient(base_url=url) as client:
        assert (await post(client, first)).status_code == 200
        link.silence()
        refused = await asyncio.gather(*(post(client, event) for event in events))
        assert {answer.status_code for answer in refused} == {503}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
        link.heal()
        load = Load([url], connections=8)
        async with asyncio.timeout(HEALED_SECONDS):
            await load.send(events[:1])
        await load.send(events)
        await end_well(account, [first, *events], load)
