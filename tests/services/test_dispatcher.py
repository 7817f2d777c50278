"""Who works on what: nobody waits for customers that Stripe must be asked about, nor for another's bug."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from billing import Account
from sqlalchemy import func, select

from app import models
from app.worker import runner
from app.worker.dispatcher import MOST_WAITING, Dispatcher
from app.worker.inbox import Inbox


class Stuck(Inbox):
    """Is done with a customer that has to be worked on alone only when Stripe answers again."""

    answering = asyncio.Event()

    async def process_key(self, key: str) -> int:
        await self.answering.wait()
        return 0 if key else 1


@asynccontextmanager
async def dispatching(inbox: Stuck) -> AsyncIterator[None]:
    task = asyncio.create_task(Dispatcher(inbox, asyncio.Event(), concurrency=2, poll_seconds=0.1).run())
    yield
    inbox.answering.set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_customers_that_wait_for_stripe_keep_nobody_else_waiting(account: Account) -> None:
    strangers = [f"cus_stranger{n}" for n in range(MOST_WAITING + 100)]
    await account.buy(plan="pro")
    [simple] = account.events("customer.subscription.created")
    for key in strangers:
        event = simple | {"id": f"evt_{key}", "data": {"object": simple["data"]["object"] | {"customer": key}}}
        await account.deliver(event)
    await account.deliver(simple)
    box = account.inbox
    stuck = Stuck(sessions=box.sessions, redis=box.redis, provider=box.provider, max_attempts=12)
    deadline = asyncio.get_running_loop().time() + 20
    async with dispatching(stuck):
        while not await account.all(models.Subscription):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
    async with account.sessions() as session:
        put_off = models.StripeEvent.next_attempt_at > models.StripeEvent.received_at  # it may be due again by now
        waiting = models.StripeEvent.status == "pending"
        later = await session.scalar(select(func.count()).select_from(models.StripeEvent).where(waiting, put_off))
    assert later is not None
    assert later >= 90


async def test_a_chore_that_fails_is_done_again() -> None:
    done: list[int] = []
    thrice = asyncio.Event()

    async def chore() -> None:
        done.append(1)
        if len(done) == 1:
            raise TypeError("unforeseen")
        if len(done) == 3:
            thrice.set()

    task = asyncio.create_task(runner._every(0.01, chore))
    await asyncio.wait_for(thrice.wait(), timeout=5)
    task.cancel()
