"""kill -9 of a worker while it sends usage on: Stripe counts each event once, whenever the worker died."""

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from billing import ADA, Account
from chaos.forks import Billhook, Fork
from sqlalchemy import select, text
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from app import models
from app.db import transaction
from app.services.customers import Buyer
from app.services.usage import ledger
from app.services.usage.ledger import Given
from app.values import unix_now

MOMENTS = ("before", "after", "answered")
"""Stripe has not seen the event yet; has it, and nobody knows; has said so, and that is perhaps written down."""
EVENTS = 9
LIFE_SECONDS = 30.0
ZOE = Buyer(user_id="zoe", email="zoe@example.com", name="Zoe")


class Deadly:
    """The sandbox, but whoever first sends it an event of usage is killed; each in its moment."""

    def __init__(self, sandbox: Starlette) -> None:
        self.sandbox = sandbox
        self.worker: Fork | None = None
        self.met = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/billing/meter_events":
            await self.sandbox(scope, receive, send)
            return
        body = await receive()
        identifier = next(part[11:].decode() for part in body["body"].split(b"&") if part.startswith(b"identifier="))
        answers: list[Message] = []

        async def again() -> Message:
            return body

        async def keep(message: Message) -> None:
            answers.append(message)

        self.met[identifier] += 1
        moment = MOMENTS[int(identifier) % len(MOMENTS)] if self.met[identifier] == 1 else None
        if moment != "before":
            await self.sandbox(scope, again, keep)
        if moment in {None, "answered"}:
            for message in answers:
                await send(message)
        if moment is not None:
            assert self.worker is not None
            await asyncio.sleep(int(identifier) / 1000 if moment == "answered" else 0)
            await self.worker.kill()


@pytest.fixture
async def deadly(sandbox_app: Starlette, billhook: Billhook) -> AsyncIterator[Deadly]:
    deadly = Deadly(sandbox_app)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(deadly, log_config=None, access_log=False, date_header=False))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    billhook.env["STRIPE_API_BASE"] = f"http://127.0.0.1:{sock.getsockname()[1]}"
    yield deadly
    server.should_exit = True
    await task


async def rows(account: Account) -> list[models.UsageEvent]:
    async with account.sessions() as session:
        return list(await session.scalars(select(models.UsageEvent)))


async def wait_out(account: Account) -> None:
    """What the dead have taken comes up again after two minutes."""
    async with transaction(account.sessions) as session:
        await session.execute(text("UPDATE usage_events SET next_attempt_at = now() WHERE status = 'pending'"))
        await session.execute(text("DELETE FROM usage_leases"))


@pytest.mark.timeout(300)
async def test_usage_sent_by_workers_that_are_killed_is_counted_once(
    account: Account, billhook: Billhook, deadly: Deadly
) -> None:
    await account.buy(ADA, plan="basic")
    await account.buy(ZOE, plan="basic")
    await account.deliver_and_process(account.events())
    whose = itertools.cycle([ADA.user_id, ZOE.user_id])
    given = [
        Given(id=str(number), meter="api_calls", quantity=10**number % 997, user_id=next(whose))
        for number in range(EVENTS)
    ]
    async with transaction(account.sessions) as session:
        await ledger.record(session, account.plans, given, now=unix_now())
    unknown = set[str]()
    for _ in range(EVENTS + 1):
        async with billhook.working() as deadly.worker:
            async with asyncio.timeout(LIFE_SECONDS):
                while not await deadly.worker.gone(0.05):
                    if all(row.status == "sent" for row in await rows(account)):
                        break
        at_stripe = {event["identifier"] for event in account.sandbox.rows("_meter_event")}
        unknown |= {row.id for row in await rows(account) if row.id in at_stripe and row.status == "pending"}
        await wait_out(account)
    assert {row.status for row in await rows(account)} == {"sent"}
    assert set(deadly.met) == {event.id for event in given}
    assert {id for id in deadly.met if int(id) % len(MOMENTS) == 1} <= unknown, "nobody died with the outcome unknown"
    taken: list[dict[str, Any]] = account.sandbox.rows("_meter_event")
    assert sorted((event["identifier"], event["payload"]["value"]) for event in taken) == sorted(
        (event.id, str(event.quantity)) for event in given
    )
