"""What Python can reach at all: bare ASGI applications that do no more of Billhook's work than they must.

`ceiling.py RUNG PORT`, with DATABASE_URL and STRIPE_WEBHOOK_SECRETS in the environment. The rungs:

verify            reads the body, checks its signature, reads its JSON, answers 200; nothing is stored
each              and stores each event with a commit of its own, through a pool of ten connections
receive-ceiling   and stores what has queued up with one insert and one commit, through one connection, then answers
apply-ceiling     and in the same statement updates the state and writes audit and outbox rows (apply_batch.py)
"""

import asyncio
import gc
import hmac
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import uvicorn
from apply_batch import APPLY, PREPARE, columns_to_apply
from sqlalchemy import make_url
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

SECRET = os.environ["STRIPE_WEBHOOK_SECRETS"].encode()
DSN = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql").render_as_string(hide_password=False)

STORE = """
    INSERT INTO stripe_events (account, event_id, type, key, created, livemode, api_version, payload)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bool[], $7::text[],
                         $8::text[])
    ON CONFLICT (account, event_id) DO NOTHING
"""

Event = dict[str, Any]
Store = Callable[[Event, bytes], Awaitable[None]]
Write = Callable[[list[tuple[Event, bytes]]], Awaitable[None]]


class Coalescer:
    """Writes everything that has queued up in one go, and tells each caller when that is committed."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._queue: list[tuple[Event, bytes]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def store(self, event: Event, body: bytes) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((event, body))
        self._waiting.append(done)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        while self._queue:
            batch, self._queue = self._queue, []
            waiting, self._waiting = self._waiting, []
            try:
                await self._write(batch)
            except (OSError, asyncpg.PostgresError) as error:
                for done in waiting:
                    done.set_exception(error)
            else:
                for done in waiting:
                    done.set_result(None)
        self._flusher = None


class Ceiling:
    """The ASGI application of one rung."""

    def __init__(self, rung: str) -> None:
        self._rung = rung
        self._resources = AsyncExitStack()
        self._store: Store | None = None

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self._open()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._resources.aclose()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            status = await self._answer(scope["headers"], receive) if scope["method"] == "POST" else 200
            headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
            await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
            await send({"type": "http.response.body", "body": b"{}", "more_body": False})

    async def _answer(self, headers: Any, receive: ASGIReceiveCallable) -> int:
        body, more = b"", True
        while more:
            message: Any = await receive()
            body += message["body"]
            more = message["more_body"]
        if not is_signed(next((value for name, value in headers if name == b"stripe-signature"), b""), body):
            return 400
        event = json.loads(body)
        try:
            if self._store is not None:
                await self._store(event, body)
        except (OSError, asyncpg.PostgresError):
            return 503
        return 200

    async def _open(self) -> None:
        if self._rung == "each":
            pool = await self._resources.enter_async_context(asyncpg.create_pool(DSN, min_size=10, max_size=10))

            async def store(event: Event, body: bytes) -> None:
                await pool.execute(STORE, *columns([(event, body)]))

            self._store = store
        elif self._rung != "verify":
            connection = await asyncpg.connect(DSN)
            self._resources.push_async_callback(connection.close)
            if self._rung == "apply-ceiling":
                await connection.execute(PREPARE)

            async def write(batch: list[tuple[Event, bytes]]) -> None:
                if self._rung == "apply-ceiling":
                    await connection.execute(APPLY, *columns(batch), *columns_to_apply([event for event, _ in batch]))
                else:
                    await connection.execute(STORE, *columns(batch))

            self._store = Coalescer(write).store
        gc.collect()
        gc.freeze()


def is_signed(header: bytes, body: bytes) -> bool:
    fields = dict(field.split(b"=", 1) for field in header.split(b",") if b"=" in field)
    digest = hmac.digest(SECRET, fields.get(b"t", b"") + b"." + body, "sha256").hex()
    return hmac.compare_digest(digest.encode(), fields.get(b"v1", b""))


def columns(batch: list[tuple[Event, bytes]]) -> list[list[Any]]:
    """What the inbox keeps of each event, column by column."""
    rows = [
        (
            event.get("account", ""),
            event["id"],
            event["type"],
            event["data"]["object"]["customer"],
            event["created"],
            event["livemode"],
            event["api_version"],
            body.decode(),
        )
        for event, body in batch
    ]
    return [list(column) for column in zip(*rows, strict=True)]


if __name__ == "__main__":
    uvicorn.run(
        Ceiling(sys.argv[1]),
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        server_header=False,
    )
