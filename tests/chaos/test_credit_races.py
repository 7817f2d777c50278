"""Everybody spends at once what is not enough for all, and meanwhile it is bought, given, taken back and expires."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from chaos.credit_load import Spending, Wish, lies, service_key
from chaos.forks import Billhook
from crediting import RULES, account, audit, available, buy, give, opened, order, take_back
from sqlalchemy import text

from app.db import Sessions, create_engine, create_sessions, transaction
from app.errors import BillingError
from app.services import audit as audit_log
from app.services import customers
from app.services.credits import expiry, grants, holds
from app.services.credits.charges import Charged, Charger, InsufficientCreditsError
from app.values import unix_now

USERS = ["ada", "bob", "zoe"]
PATIENCE = 60.0


async def chargers_of(stack: AsyncExitStack, url: str, most: int) -> list[Charger]:
    """Each as in a process of its own."""
    made = []
    for _ in range(most):
        engine, own = create_engine(url, pool_size=10), create_engine(url, pool_size=1)
        charger = Charger(own, sessions=create_sessions(engine), rules=RULES)
        for end in (engine.dispose, own.dispose, charger.aclose):
            stack.push_async_callback(end)
        made.append(charger)
    return made


@pytest.fixture
async def chargers(database_url: str) -> AsyncIterator[list[Charger]]:
    async with AsyncExitStack() as stack:
        yield await chargers_of(stack, database_url, 2)


async def test_500_charges_of_20_uses_over_http_on_two_processes_are_20(sessions: Sessions, billhook: Billhook) -> None:
    await give(sessions, 10)  # and the three free ones
    await give(sessions, 7)
    wishes = [Wish("ada", 1) for _ in range(500)]
    async with billhook.serving("--no-worker") as (_, one), billhook.serving("--no-worker") as (_, other):
        spending = Spending([one, other], await service_key(sessions), connections=24)
        await spending.fulfil(wishes)
    assert spending.answers == {201: 20, 402: 480}
    assert sorted(wish.made["balance_after"] for wish in wishes if wish.made is not None) == list(range(20))
    assert await available(sessions) == 0
    assert await lies(sessions, wishes) == []


async def test_orders_of_several_uses_and_holds_never_take_more_than_there_is(
    sessions: Sessions, chargers: list[Charger]
) -> None:
    choose = random.Random(5)  # noqa: S311 - repeatable on purpose
    for uses in (4, 6, 10, 17):
        await give(sessions, uses)
    orders = [order(quantity=choose.choice([1, 2, 3, 7]), hold=choose.random() < 0.5) for _ in range(200)]
    turns = itertools.cycle(chargers)
    outcomes = await asyncio.gather(*(next(turns).charge(it) for it in orders), return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, Charged)]
    assert all(isinstance(outcome, Charged | InsufficientCreditsError) for outcome in outcomes)
    left = 40 - sum(charged.quantity for charged in made)
    refused = [it.quantity for it, outcome in zip(orders, outcomes, strict=True) if not isinstance(outcome, Charged)]
    assert 0 <= left < min(refused), "somebody was refused what was there"
    assert min(charged.balance_after for charged in made) == left == await available(sessions)
    assert (await account(sessions)).held == sum(charged.quantity for charged in made if charged.status == "held")
    assert await audit(sessions) == []


class Crowd:
    """What webhooks, operators, clients and the schedule do, all of it to few accounts; each in its transaction."""

    def __init__(self, sessions: Sessions, chargers: list[Charger], seed: int) -> None:
        self.made: list[Charged] = []
        self._sessions = sessions
        self._chargers = chargers
        self._choose = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._sold: dict[str, list[UUID]] = {}
        self._room = asyncio.Semaphore(9)  # of the pool's ten connections

    async def everything(self, times: int) -> list[BillingError]:
        """Returns the refusals."""
        for user_id in USERS:
            self._sold[user_id] = [await buy(self._sessions, 20, user_id=user_id) for _ in range(3)]
        doings = [self.spend] * 4 + [self.webhook] * 2 + [self.operate, self.write_off, self.begin_purchase]
        pick = self._choose.choice
        outcomes = await asyncio.gather(*(self._do(pick(doings), pick(USERS)) for _ in range(times)))
        return [error for error in outcomes if error is not None]

    async def _do(self, doing: Callable[[str], Awaitable[None]], user_id: str) -> BillingError | None:
        async with self._room:
            try:
                await doing(user_id)
            except BillingError as error:
                return error
            return None

    async def spend(self, user_id: str) -> None:
        hold, quantity = self._choose.random() < 0.5, self._choose.randint(1, 4)
        charged = await self._choose.choice(self._chargers).charge(order(user_id, quantity=quantity, hold=hold))
        self.made.append(charged)
        if not hold:
            return
        async with transaction(self._sessions) as session:
            if self._choose.random() < 0.5:
                await holds.capture(session, RULES, charge_id=charged.id, quantity=1, now=unix_now())
            else:
                await holds.release(session, RULES, charge_id=charged.id, now=unix_now())

    async def webhook(self, user_id: str) -> None:
        """Customer, audit log, purchase, books: in the order that all keep to."""
        async with transaction(self._sessions) as session:
            await customers.lock(session, f"cus_{user_id}")
            await audit_log.record(session, actor="stripe", action="credits.test", subject=user_id)
            if self._choose.random() < 0.3:
                book = await opened(session, user_id)
                book.grant(5, expires_at=unix_now() + self._choose.choice([0, 1, 100]))
                await book.close()
            else:
                await take_back(session, self._choose.choice(self._sold[user_id]), self._choose.choice([0, 0, 7, 20]))

    async def operate(self, user_id: str) -> None:
        account_id = (await account(self._sessions, user_id)).id
        more: dict[str, Any] = {"reason": "so", "key": uuid4().hex, "actor": "operator:o", "now": unix_now()}
        async with transaction(self._sessions) as session:
            if self._choose.random() < 0.5:
                await grants.grant(session, RULES, account_id, uses=3, expires_at=None, **more)
            else:
                await grants.adjust(session, RULES, account_id, uses=self._choose.choice([-3, 2]), **more)

    async def write_off(self, user_id: str) -> None:
        account_id = (await account(self._sessions, user_id)).id
        async with transaction(self._sessions) as session:
            await expiry.expire(session, RULES, account_id=account_id, now=unix_now())

    async def begin_purchase(self, user_id: str) -> None:
        """A row that refers to the account comes before its books are opened."""
        account_id = (await account(self._sessions, user_id)).id
        pending = text(
            """INSERT INTO credit_purchases (id, account_id, mode, status, pack, uses, amount, currency, created)
               VALUES (:id, :account, 'checkout', 'pending', 'starter', 20, 500, 'usd', 0)"""
        )
        async with transaction(self._sessions) as session:
            await session.execute(pending, {"id": uuid4(), "account": account_id})
            book = await opened(session, user_id)
            await book.close()


async def test_everything_at_once_deadlocks_nobody_and_leaves_the_books_right(
    sessions: Sessions, chargers: list[Charger]
) -> None:
    crowd = Crowd(sessions, chargers, seed=7)
    async with asyncio.timeout(PATIENCE):
        refusals = await crowd.everything(600)
    assert {error.code for error in refusals} == {"insufficient_credits"}
    assert crowd.made
    assert await audit(sessions) == []
    async with sessions() as session:
        kept = await session.execute(text("SELECT id, quantity, balance_after FROM credit_charges"))
        assert {tuple(row) for row in kept} == {(it.id, it.quantity, it.balance_after) for it in crowd.made}
        assert await session.scalar(text("SELECT count(*) FROM credit_charges WHERE status = 'held'")) == 0
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert await session.scalar(text(deadlocks)) == 0


async def test_one_key_for_many_accounts_in_two_processes_charges_one_of_them(
    sessions: Sessions, chargers: list[Charger]
) -> None:
    """Also where the batches of two processes meet the same keys in opposite order."""
    for user_id in USERS:
        await give(sessions, 100, user_id=user_id)
    keys = [uuid4().hex for _ in range(20)]
    calls = [
        *(chargers[0].charge(order(choose, key=key)) for key in keys for choose in USERS),
        *(chargers[1].charge(order(choose, key=key)) for key in reversed(keys) for choose in USERS),
    ]
    async with asyncio.timeout(PATIENCE):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, Charged)]
    assert len({it.id for it in made}) == len([it for it in made if not it.replayed]) == len(keys)
    others = [outcome for outcome in outcomes if not isinstance(outcome, Charged)]
    assert {getattr(error, "code", repr(error)) for error in others} == {"idempotency_key_reused"}
    assert sum([(await account(sessions, user_id)).used for user_id in USERS]) == len(keys)
    assert await audit(sessions) == []
