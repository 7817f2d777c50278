"""Who works on what: batches as long as anything is due, and beside them, one at a time, whom these leave."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from app.db import AWAY, driver_connection
from app.worker import batch
from app.worker.batch import KEYS
from app.worker.inbox import BATCH, BUSY_SECONDS, Inbox

log = structlog.get_logger(__name__)

SHUTDOWN_SECONDS = 10.0
MOST_WAITING = 1000  # customers that batches left; more are found again when these are done


class Dispatcher:
    """Shares the due keys of one process out.

    While there is much to do two batches are under way: Postgres works on one while Python works on the other.
    """

    def __init__(self, inbox: Inbox, wake: asyncio.Event, *, concurrency: int, poll_seconds: float) -> None:
        """`concurrency` is how many customers are worked on one at a time; `wake` is set when something came."""
        self._inbox = inbox
        self._wake = wake
        self._concurrency = concurrency
        self._poll_seconds = poll_seconds
        self._batched: set[str] = set()
        self._waiting: dict[str, None] = {}  # in the order they came
        self._running: dict[str, asyncio.Task[None]] = {}
        self._much = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; a batch under way is then taken back, and whoever is worked on alone is finished."""
        second = asyncio.create_task(self._help_out())
        try:
            while True:
                self._wake.clear()
                pause = await self._batches()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), timeout=pause)
        finally:
            second.cancel()
            tasks = [second, *self._running.values()]
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()

    async def _help_out(self) -> None:
        while True:
            await self._much.wait()
            self._much.clear()
            await self._batches()

    async def _batches(self) -> float:
        """Do what is due; answers how many seconds may pass before the next look, unless something comes meanwhile."""
        self._start_waiting()
        try:
            async with driver_connection(self._inbox.sessions) as connection:
                while not (pause := await self._batch(connection)):
                    self._start_waiting()
        except AWAY as error:
            log.warning("inbox_database_away", error=type(error).__name__)
        except Exception:
            # The events stay pending; a bug met here must not end the loop.
            log.exception("inbox_failed")
        else:
            return pause
        return self._poll_seconds

    async def _batch(self, connection: Any) -> float:
        """Do one; answers how many seconds may pass before the next."""
        if len(self._waiting) >= MOST_WAITING:
            return self._poll_seconds
        keys: list[str] = []
        try:
            found = await self._inbox.due_keys(connection, most=KEYS, busy=self._busy())
            busy = self._busy()  # the other batch may have begun since
            keys = [key for key in found if key not in busy]
            if not keys:
                return self._poll_seconds
            self._batched.update(keys)
            if len(keys) == KEYS:
                self._much.set()
            outcome = await batch.process(connection, self._inbox.provider, keys)
        finally:
            self._batched.difference_update(keys)
        self._waiting |= dict.fromkeys(outcome.left)
        # Those whom somebody else is busy with are looked at a little later, what else is due at once.
        return BUSY_SECONDS if len(outcome.busy) == len(keys) else 0

    def _busy(self) -> Collection[str]:
        return self._batched | self._waiting.keys() | self._running.keys()

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._concurrency:
            key = next(iter(self._waiting))
            del self._waiting[key]
            task = self._running[key] = asyncio.create_task(self._work(key))
            task.add_done_callback(partial(self._forget, key))

    def _forget(self, key: str, _task: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        self._wake.set()

    async def _work(self, key: str) -> None:
        try:
            while await self._inbox.process_key(key) >= BATCH:
                pass
        except AWAY as error:
            log.warning("inbox_database_away", error=type(error).__name__)
            await asyncio.sleep(1)
        except Exception:
            # The events stay pending; a bug met here must not end the loop for everybody else.
            log.exception("inbox_failed")
            await asyncio.sleep(1)
