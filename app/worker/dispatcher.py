"""Who works on what: batches as long as anything is due, and beside them, one at a time, whom these leave."""

import asyncio
import random
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from app.db import AWAY, driver_connection
from app.worker import batch
from app.worker.batch import KEYS
from app.worker.inbox import BATCH, Inbox

log = structlog.get_logger(__name__)

SHUTDOWN_SECONDS = 10.0
MOST_WAITING = 200  # customers that batches left; the rest is put off, so that looks find others
PUT_OFF_SECONDS = 15.0
TAKEN_SECONDS = 1.0  # how long customers that another worker is at are not asked for again


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
        self._taken: dict[str, float] = {}  # by others, and until when we believe so
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
            await asyncio.gather(*late, return_exceptions=True)

    async def _help_out(self) -> None:
        while True:
            await self._much.wait()
            await self._batches()
            self._much.clear()  # only now: what this loop itself has found must not wake it after a failure

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
        keys: list[str] = []
        try:
            found = await self._inbox.due_keys(connection, most=KEYS, busy=self._busy())
            busy = self._busy()  # the other batch may have begun since
            keys = [key for key in found if key not in busy]
            if not keys:
                return TAKEN_SECONDS if self._taken else self._poll_seconds
            self._batched.update(keys)
            if len(keys) == KEYS:
                self._much.set()
            outcome = await batch.process(connection, self._inbox.provider, keys)
        finally:
            self._batched.difference_update(keys)
        room = max(MOST_WAITING - len(self._waiting), 0)
        self._waiting |= dict.fromkeys(outcome.left[:room])
        if late := outcome.left[room:]:
            await self._inbox.put_off(connection, late, seconds=PUT_OFF_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load, guards nothing
        until = asyncio.get_running_loop().time() + TAKEN_SECONDS
        self._taken |= dict.fromkeys(outcome.busy, until)
        return 0

    def _busy(self) -> Collection[str]:
        now = asyncio.get_running_loop().time()
        self._taken = {key: until for key, until in self._taken.items() if until > now}
        return self._batched | self._waiting.keys() | self._running.keys() | self._taken.keys()

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
