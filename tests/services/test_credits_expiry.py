"""Holds and grants that run out by themselves: the worker ends each once, however many workers there are."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from app.db import Sessions, transaction
from app.models import CreditAccount, CreditCharge, CreditGrant, CreditTransfer
from app.provider.stripe import StripeProvider
from app.services.catalog import Credits
from app.services.credits import accounts, verify
from app.services.credits.accounts import Identity
from app.services.credits.charges import Charged, Charger, Order
from app.settings import Settings
from app.values import unix_now
from app.worker import credits as worker
from app.worker import runner

RULES = Credits(free_uses=3, low_at=-1, hold_seconds=60)


@pytest.fixture
async def charger(engine: AsyncEngine, sessions: Sessions) -> AsyncIterator[Charger]:
    charger = Charger(engine, sessions=sessions, rules=RULES)
    yield charger
    await charger.aclose()


async def hold(charger: Charger, user_id: str = "ada", quantity: int = 1, **said: Any) -> Charged:
    identity = Identity(user_id=user_id)
    return await charger.charge(Order(identity=identity, key=uuid4().hex, quantity=quantity, hold=True, **said))


async def grant(sessions: Sessions, uses: int, *, user_id: str = "ada", expires_at: int | None = None) -> None:
    async with transaction(sessions) as session:
        book, _ = await accounts.open_or_create(session, RULES, Identity(user_id=user_id), unix_now())
        book.grant(uses, expires_at=expires_at)
        await book.close()


async def lapse(sessions: Sessions) -> None:
    """As if the time of every hold and grant were over."""
    async with transaction(sessions) as session:
        past = {"past": unix_now() - 1}
        await session.execute(text("UPDATE credit_charges SET expires_at = :past WHERE expires_at IS NOT NULL"), past)
        await session.execute(text("UPDATE credit_grants SET expires_at = :past WHERE expires_at IS NOT NULL"), past)
        await session.execute(
            text("UPDATE credit_accounts SET expires_next = :past WHERE expires_next IS NOT NULL"), past
        )


async def account(sessions: Sessions, user_id: str = "ada") -> CreditAccount:
    async with sessions() as session:
        return await accounts.get(session, user_id=user_id)


async def is_right(sessions: Sessions) -> bool:
    async with sessions() as session:
        return not [one async for found in verify.slices(session) for one in found.violations]


async def test_a_lapsed_hold_gives_back_what_it_held(charger: Charger, sessions: Sessions) -> None:
    held = await hold(charger, quantity=2)
    later = await hold(charger, quantity=1)
    assert await worker.expire_holds(sessions, RULES) == 0
    async with transaction(sessions) as session:
        over = text("UPDATE credit_charges SET expires_at = :past WHERE id = :id")
        await session.execute(over, {"past": unix_now(), "id": held.id})
    with capture_logs() as logs:
        assert await worker.expire_holds(sessions, RULES) == 1
    assert [(log["event"], log["charge_id"]) for log in logs] == [("charge_expired", str(held.id))]
    found = await account(sessions)
    assert (found.free, found.held) == (2, 1)
    async with sessions() as session:
        rows = await session.execute(select(CreditCharge.id, CreditCharge.status))
        assert {row.id: row.status for row in rows} == {held.id: "expired", later.id: "held"}
    assert await is_right(sessions)


async def test_what_is_left_of_an_expired_grant_is_written_off(charger: Charger, sessions: Sessions) -> None:
    await grant(sessions, 5, expires_at=unix_now() + 100)
    await grant(sessions, 7)
    await charger.charge(Order(identity=Identity(user_id="ada"), key="k", quantity=4))  # three free, one that expires
    assert await worker.expire_grants(sessions, RULES) == 0
    await lapse(sessions)
    with capture_logs() as logs:
        assert await worker.expire_grants(sessions, RULES) == 1
    assert [(log["event"], log["uses"]) for log in logs] == [("grants_expired", 4)]
    found = await account(sessions)
    assert (found.paid, found.expires_next) == (7, None)
    assert await worker.expire_grants(sessions, RULES) == 0
    assert await is_right(sessions)


async def test_a_grant_that_was_spent_whole_expires_without_a_transfer(charger: Charger, sessions: Sessions) -> None:
    await grant(sessions, 5, expires_at=unix_now() + 100)
    for quantity in (3, 3, 2):
        await charger.charge(Order(identity=Identity(user_id="ada"), key=uuid4().hex, quantity=quantity))
    await lapse(sessions)
    assert await worker.expire_grants(sessions, RULES) == 0
    async with sessions() as session:
        assert not (await session.scalars(select(CreditGrant.open).where(CreditGrant.expires_at.is_not(None)))).one()
        assert "expire" not in (await session.scalars(select(CreditTransfer.kind))).all()
    assert (await account(sessions)).expires_next is None
    assert await is_right(sessions)


async def test_what_a_hold_gives_back_of_an_expired_grant_expires_at_once(charger: Charger, sessions: Sessions) -> None:
    await grant(sessions, 5, expires_at=unix_now() + 100)
    await hold(charger, quantity=6)
    await lapse(sessions)
    assert await worker.expire_grants(sessions, RULES) == 1
    assert await worker.expire_holds(sessions, RULES) == 1
    found = await account(sessions)
    assert (found.free, found.paid, found.held) == (3, 0, 0)
    async with sessions() as session:
        expired = select(CreditTransfer.amount).where(CreditTransfer.destination == "expired")
        assert sum((await session.scalars(expired)).all()) == 5
    assert await is_right(sessions)


async def test_several_workers_end_each_hold_once(
    charger: Charger, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SLICE", 7)
    for n in range(10):
        for _ in range(3):
            await hold(charger, f"user-{n}")
        await grant(sessions, 4, user_id=f"user-{n}", expires_at=unix_now() + 100)
    await lapse(sessions)
    workers = [chore(sessions, RULES) for chore in (worker.expire_holds, worker.expire_grants) for _ in range(3)]
    ended = await asyncio.gather(*workers)
    # A hold's end opens the books, which writes the grant off too.
    assert sum(ended[:3]) == 30
    assert sum(ended[3:]) <= 10
    for n in range(10):
        found = await account(sessions, f"user-{n}")
        assert (found.free, found.paid, found.held) == (3, 0, 0)
    assert await is_right(sessions)


async def test_one_that_cannot_be_ended_keeps_no_other(charger: Charger, sessions: Sessions) -> None:
    broken = await hold(charger, "ada", quantity=2)
    await hold(charger, "bob")
    await lapse(sessions)
    async with transaction(sessions) as session:
        await session.execute(text("UPDATE credit_charges SET expires_at = 1 WHERE id = :id"), {"id": broken.id})
        await session.execute(text("UPDATE credit_accounts SET held = 0 WHERE user_id = 'ada'"))
    with capture_logs() as logs:
        assert await worker.expire_holds(sessions, RULES) == 1
    assert [(log["event"], log.get("id")) for log in logs if log["log_level"] == "error"] == [
        ("credits_not_expired", str(broken.id))
    ]
    assert (await account(sessions, "bob")).held == 0


async def test_the_worker_looks_by_itself(
    charger: Charger, sessions: Sessions, settings: Settings, redis: Redis, provider: StripeProvider
) -> None:
    await grant(sessions, 5, expires_at=unix_now() + 100)
    await hold(charger, quantity=4)
    await lapse(sessions)
    stop = asyncio.Event()
    working = asyncio.create_task(runner.run(settings, sessions=sessions, redis=redis, provider=provider, stop=stop))
    for _ in range(600):
        found = await account(sessions)
        if not found.held and not found.paid:
            break
        await asyncio.sleep(0.1)
    stop.set()
    await working
    assert (found.free, found.paid, found.held, found.expires_next) == (3, 0, 0, None)
    assert await is_right(sessions)
