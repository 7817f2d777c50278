"""Two APIs and two workers on one database, and every event to both: each is stored once and applied once."""

import asyncio
from contextlib import AsyncExitStack

from billing import Account
from chaos import crowd, promises
from chaos.forks import Billhook
from chaos.inbox import nothing_waits
from chaos.load import Load

COPIES = 4


async def test_two_apis_and_two_workers_share_the_work_and_repeat_none_of_it(
    account: Account, billhook: Billhook
) -> None:
    histories = [crowd.subscribe(account, f"user-{n}", quantities=(2, 3, 4)) for n in range(30)]
    events = [event for together in zip(*histories, strict=True) for event in together]
    async with AsyncExitStack() as processes:
        for _ in range(2):
            await processes.enter_async_context(billhook.working())
        urls = [(await processes.enter_async_context(billhook.serving("--no-worker")))[1] for _ in range(2)]
        loads = [Load([url], connections=8, copies=COPIES // 2) for url in urls]
        await asyncio.gather(*(load.send(events) for load in loads))
        assert [set(load.answers) for load in loads] == [{200}, {200}]
        await nothing_waits(account)
    outcomes = loads[0].outcomes + loads[1].outcomes
    first = {id: outcomes[id, "stored"] + outcomes[id, "ignored"] for id, _ in outcomes}
    assert {event["id"] for event in events} == {id for id, times in first.items() if times == 1}
    assert outcomes.total() == COPIES * len(events)
    assert await promises.broken(account, events) == []
