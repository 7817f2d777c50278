"""The two ways rows get into the ledger: bare inserts, and requests to Billhook over kept connections."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import asyncpg
from sqlalchemy import make_url

_SPREAD = 100  # customers whose usage one batch is about
_numbers = count()

# The same table with the same indexes; nothing is looked up, held to a limit or added up.
_INSERT = """
INSERT INTO usage_events (id, subject, meter, quantity, timestamp, period_start, status)
SELECT *, 0, 'pending' FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
ON CONFLICT (id) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is sent: `rows` at a time, by `connections` at once, for `seconds`, of these customers in turn."""

    rows: int
    connections: int
    seconds: float
    customers: list[str]


@dataclass(slots=True)
class Done:
    """How many rows were acknowledged in how many seconds, and how long each acknowledgement took."""

    rows: int = 0
    seconds: float = 0.0
    times: list[float] = field(default_factory=list)


def _events(load: Load) -> Iterator[tuple[str, str]]:
    """The id and the user of each row of one request."""
    number = next(_numbers)
    for place in range(load.rows):
        user = load.customers[(number * _SPREAD + place % _SPREAD) % len(load.customers)]
        yield f"{number:010d}-{place:04d}-of-a-batch-of-usage", user


async def _keep_busy(load: Load, work: Callable[[int], Awaitable[None]], done: Done) -> None:
    """Each connection begins anew as soon as it is answered; one unmeasured turn first."""
    await asyncio.gather(*(work(number) for number in range(load.connections)))
    done.rows += load.rows * load.connections
    unmeasured = done.rows
    started = time.perf_counter()

    async def one(number: int) -> None:
        while (began := time.perf_counter()) < started + load.seconds:
            await work(number)
            done.times.append(time.perf_counter() - began)
            done.rows += load.rows

    await asyncio.gather(*(one(number) for number in range(load.connections)))
    done.seconds = (time.perf_counter() - started) * done.rows / (done.rows - unmeasured)


async def insert(load: Load, *, database_url: str, core: frozenset[int] | None) -> Done:
    """Bare inserts, each statement with a commit of its own; on the core that the app would have."""
    dsn = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    mine = os.sched_getaffinity(0)
    if core:
        os.sched_setaffinity(0, core)
    done = Done()
    connections = [await asyncpg.connect(dsn) for _ in range(load.connections)]
    try:

        async def work(number: int) -> None:
            now = int(time.time())
            ids, users = zip(*_events(load), strict=True)
            meters, ones, times = ["api_calls"] * load.rows, [1] * load.rows, [now] * load.rows
            await connections[number].execute(_INSERT, list(ids), list(users), meters, ones, times)

        await _keep_busy(load, work, done)
    finally:
        os.sched_setaffinity(0, mine)
        for connection in connections:
            await connection.close()
    return done


async def post(load: Load, *, port: int, key: str) -> Done:
    """Requests to POST /usage/events, written and read with no more HTTP than they need."""
    done = Done()
    streams = [await asyncio.open_connection("127.0.0.1", port, limit=2**20) for _ in range(load.connections)]

    async def work(number: int) -> None:
        now = int(time.time())
        events = [{"id": id, "meter": "api_calls", "timestamp": now, "user_id": user} for id, user in _events(load)]
        body = json.dumps({"events": events}).encode()
        head = (
            f"POST /api/v1/billing/usage/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        reader, writer = streams[number]
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
        said = await reader.readexactly(length)
        if " 200 " not in answer.partition("\r\n")[0] or json.loads(said)["accepted"] != load.rows:
            raise RuntimeError(f"{answer}{said[:500]!r}")

    try:
        await _keep_busy(load, work, done)
    finally:
        for _, writer in streams:
            writer.close()
    return done
