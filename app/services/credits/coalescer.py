"""Requests that come while one statement is under way share the next: the fewer commits, the more get through."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import UnavailableError

log = structlog.get_logger(__name__)

BATCH = 256
WAITING = 4096
CONNECT_SECONDS = 5
RETRY_AFTER_SECONDS = 1
# Planning takes longer than running does, so a plan is kept, and maybe one that was made while the tables were empty:
# whatever they hold then, each row must be looked up by its index.
PLANS_KEPT = """
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off
"""
PLAN_SECONDS = 60.0
"""How long a plan is kept: tables grow faster than Postgres says by itself."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class Waiting(Generic[Asked, Answer]):
    """One request and its answer to be."""

    asked: Asked
    answer: "asyncio.Future[Answer]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Coalescer(Generic[Asked, Answer]):
    """Hands what has queued to `run`, one batch at a time, on a connection of its own that it holds until it fails.

    `run` gets an asyncpg connection and what was asked, in order, and gives an answer (or the error) for each. While a
    request waits in a batch, another with the same `key` waits for the next one.
    """

    def __init__(
        self,
        name: str,
        engine: AsyncEngine,
        run: Callable[[Any, Sequence[Asked]], Awaitable[Sequence[Answer | Exception]]],
        *,
        key: Callable[[Asked], object] | None = None,
        pgbouncer: bool = False,
    ) -> None:
        """`engine` should bound its statements: nobody waits longer for a database that has fallen silent."""
        self._name = name
        self._engine = engine
        self._run = run
        self._key = key
        self._pgbouncer = pgbouncer
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        self._queue: deque[Waiting[Asked, Answer]] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        self._plan_at = 0.0

    def ask(self, asked: Asked) -> "asyncio.Future[Answer]":
        """The answer, as soon as it is there. Raises UnavailableError, or its future does."""
        if self._closed or len(self._queue) >= WAITING:
            why = "This server is stopping." if self._closed else "More requests wait than can be answered now."
            raise UnavailableError(why, retry_after=RETRY_AFTER_SECONDS)
        waiting: Waiting[Asked, Answer] = Waiting(asked)
        self._queue.append(waiting)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return waiting.answer

    async def aclose(self) -> None:
        """Answer what waits, refuse what still comes, and give the connection back."""
        self._closed = True
        if self._flusher is not None:
            await asyncio.wait([self._flusher])
        await self._disconnect()

    async def _flush(self) -> None:
        """Answer what waits, batch by batch. Ends with nothing waiting, and lets nobody wait for ever."""
        while self._queue:
            batch = self._next_batch()
            answers: Sequence[Answer | Exception]
            try:
                answers = await self._answers([waiting.asked for waiting in batch])
            except Exception as error:  # noqa: BLE001 - whatever it is, each caller must be answered
                batch += self._queue
                self._queue.clear()
                # Not its detail: Postgres puts whole rows there.
                log.warning("batch_not_answered", batch=self._name, requests=len(batch), error=type(error).__name__)
                answers = [UnavailableError("The database does not answer.") for _ in batch]
                await self._disconnect()
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.answer.done():  # its caller has given up
                    continue
                if isinstance(answer, Exception):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)
        self._flusher = None

    def _next_batch(self) -> list[Waiting[Asked, Answer]]:
        if self._key is None:
            return [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        batch: dict[object, Waiting[Asked, Answer]] = {}
        later: list[Waiting[Asked, Answer]] = []
        while self._queue and len(batch) < BATCH:
            waiting = self._queue.popleft()
            key = self._key(waiting.asked)
            if key in batch:
                later.append(waiting)
            else:
                batch[key] = waiting
        self._queue.extendleft(reversed(later))
        return list(batch.values())

    async def _answers(self, asked: Sequence[Asked]) -> Sequence[Answer | Exception]:
        if self._driver is None or self._driver.is_closed():
            await self._connect()
        if not self._pgbouncer:
            if (now := asyncio.get_running_loop().time()) >= self._plan_at:
                await self._driver.execute("DISCARD PLANS")
                self._plan_at = now + PLAN_SECONDS
            return await self._run(self._driver, asked)
        async with self._driver.transaction():  # an unnamed statement is prepared and run by the same server
            return await self._run(self._driver, asked)

    async def _connect(self) -> None:
        await self._disconnect()
        async with asyncio.timeout(CONNECT_SECONDS):
            self._connection = await self._engine.connect()
            self._driver = (await self._connection.get_raw_connection()).driver_connection
            if not self._pgbouncer:
                await self._driver.execute(PLANS_KEPT)

    async def _disconnect(self) -> None:
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            for step in (connection.invalidate, connection.close):
                with suppress(Exception):  # whatever is wrong with it, nobody must wait for an answer because of that
                    await step()
