"""What is measured inside of this process: bare SQL that debits an account, and the service that charges one."""

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import asyncpg
import uvloop
from asked import Users, asked
from sqlalchemy import make_url

from app.db import create_engine, create_sessions
from app.services.catalog import Credits
from app.services.credits.accounts import Identity
from app.services.credits.charges import Charger, InsufficientCreditsError, Order
from app.services.receiver import STORE_SECONDS

# The key is claimed by its unique index, the debit is conditional, and a row of the ledger says so: no more, in tables
# with no more indexes than that takes.
_DEBIT = """
WITH claimed AS (
    INSERT INTO bench_charges (key, account_id, quantity, created) VALUES ($1, $2, $3, $4)
    ON CONFLICT (key) DO NOTHING RETURNING key
), debited AS (
    UPDATE bench_accounts SET balance = balance - $3 WHERE id = $2 AND balance >= $3 AND EXISTS (SELECT FROM claimed)
    RETURNING balance
)
INSERT INTO bench_ledger (account_id, key, amount, balance_after, created) SELECT $2, $1, $3, balance, $4 FROM debited
RETURNING balance_after
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What is charged: one use at a time, by `connections` at once, for `seconds`, to some of `accounts` accounts."""

    users: Users
    connections: int
    seconds: float
    accounts: int
    database_url: str


@dataclass(slots=True)
class Done:
    """How many charges in how many seconds, and how long each took; `asked`: with those that nobody measured."""

    requests: int = 0
    asked: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    times: list[float] = field(default_factory=list)


def run(rung: str, load: Load, *, core: frozenset[int] | None) -> Done:
    """On the core that the app would have, on its event loop, with what is there before left out of collections."""
    mine = os.sched_getaffinity(0)
    if core:
        os.sched_setaffinity(0, core)
    try:
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_debit(load) if rung == "sql" else _charge(load))
    finally:
        os.sched_setaffinity(0, mine)


async def _keep_busy(load: Load, work: Callable[[int, int], Awaitable[None]]) -> Done:
    """`work` gets which connection and which request it is. A tenth of the time goes by unmeasured first."""
    done = Done()
    numbers = count()
    started = time.perf_counter() + load.seconds / 10
    used = 0.0

    async def one(connection: int) -> None:
        nonlocal used
        while (began := time.perf_counter()) < started + load.seconds:
            if began >= started and not done.times:
                used = used or time.process_time()
            await work(connection, next(numbers))
            if began >= started:
                done.times.append(time.perf_counter() - began)

    await asyncio.gather(*(one(connection) for connection in range(load.connections)))
    done.seconds = time.perf_counter() - started
    done.cpu = time.process_time() - used
    done.requests, done.asked = len(done.times), next(numbers)
    return done


async def _debit(load: Load) -> Done:
    """Each debit is a statement, prepared, with a commit of its own, on a connection of its own."""
    dsn = make_url(load.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    connections = [await asyncpg.connect(dsn) for _ in range(load.connections)]
    try:
        rows = await connections[0].fetch("SELECT user_id, id FROM credit_accounts")
        ids = {row["user_id"]: row["id"] for row in rows}
        debits = [await connection.prepare(_DEBIT) for connection in connections]

        async def work(connection: int, number: int) -> None:
            user_id, key, quantity = asked(load.users, number, load.accounts)
            if await debits[connection].fetchval(key, ids[user_id], quantity, int(time.time())) is None:
                raise RuntimeError("nothing was debited")

        return await _keep_busy(load, work)
    finally:
        for connection in connections:
            await connection.close()


async def _charge(load: Load) -> Done:
    """By the service, on engines as `serve` makes them."""
    own = create_engine(load.database_url, pool_size=1, statement_seconds=STORE_SECONDS)
    shared = create_engine(load.database_url, pool_size=10)
    charger = Charger(own, sessions=create_sessions(shared), rules=Credits())

    async def work(_connection: int, number: int) -> None:
        user_id, key, quantity = asked(load.users, number, load.accounts)
        order = Order(identity=Identity(user_id=user_id), key=key, quantity=quantity)
        if load.users == "empty":
            with suppress(InsufficientCreditsError):
                await charger.charge(order)
        else:
            await charger.charge(order)

    try:
        return await _keep_busy(load, work)
    finally:
        await charger.aclose()
        await own.dispose()
        await shared.dispose()
