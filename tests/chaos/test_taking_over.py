"""Taking over and filling gaps while webhooks come and workers apply them: everything is announced, and once."""

import asyncio
import random
from datetime import timedelta

from billing import Account
from chaos import crowd, promises
from chaos.forks import Billhook
from chaos.inbox import nothing_waits
from chaos.load import Load

from app.services.event_types import HANDLED
from app.worker.backfill import sync
from app.worker.reconcile import fetch_missed

HALF_AN_HOUR = 1800
LOST = 0.3


async def test_sync_and_filling_gaps_swallow_and_repeat_nothing_of_what_webhooks_tell(
    account: Account, billhook: Billhook
) -> None:
    box = account.sandbox
    with box.at(box.now() - HALF_AN_HOUR):  # what is younger than five minutes is believed to be on its way
        histories = [crowd.subscribe(account, f"user-{n}", quantities=(2, 3)) for n in range(25)]
    first, *events = [event for together in zip(*histories, strict=True) for event in together]
    choose = random.Random(1)  # noqa: S311 - repeatable on purpose
    arriving = [event for event in events if event["type"] not in HANDLED or choose.random() > LOST]
    taken = 0

    async def take_over() -> None:
        nonlocal taken
        while True:
            await sync(account.sessions, account.provider, actor="cli", since=None, watch=lambda _page: None)
            await fetch_missed(account.sessions, account.provider, every=timedelta())
            taken += 1

    async with billhook.serving() as (_, url), billhook.working():
        load = Load([url], connections=8, copies=2)
        await load.send([first])  # what is older than this would be history
        taking = asyncio.create_task(take_over())
        await load.send(arriving)
        while taken < 2 and not taking.done():  # noqa: ASYNC110 - it counts for nobody else
            await asyncio.sleep(0.02)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        assert taking.cancelled()
        await nothing_waits(account)
    assert set(load.answers) == {200}
    assert await promises.broken(account, [first, *events]) == []
