"""Reads request bodies that may come slowly, or never end: bounded in time, and all together in memory."""

import asyncio
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import Receive

from app.errors import UnavailableError

READ_SECONDS = 20.0
HELD_BYTES = 32 * 1024 * 1024


class BodyReader:
    """One clock for all: a timer for each body would cost more than reading it."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._begun: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._watching = False

    async def read(self, announced: bytes, receive: Receive) -> bytes | None:
        """The body; None when they hung up before its end.

        HTTPException: 413 beyond `limit` bytes, be they announced or sent; 408 when it took too long. UnavailableError
        while too much of other bodies is held.
        """
        if announced.isdigit() and int(announced) > self._limit:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs has one
        self._watch(task)
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunk: bytes = message.get("body", b"")
                if size + len(chunk) > self._limit:
                    raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                if not message.get("more_body"):
                    return b"".join((*chunks, chunk)) if chunks else chunk
                chunks.append(chunk)
                size += len(chunk)
                self._held += len(chunk)
                if self._held > HELD_BYTES:
                    raise UnavailableError("Too many bodies are being read.", retry_after=1)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, headers={"Connection": "close"}) from None
        finally:
            self._held -= size
            self._begun.pop(task, None)
            self._late.discard(task)

    def _watch(self, task: asyncio.Task[object]) -> None:
        loop = asyncio.get_running_loop()
        self._begun[task] = loop.time()
        if not self._watching:
            self._watching = True
            loop.call_later(READ_SECONDS / 4, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for task, begun in self._begun.items():
            if loop.time() - begun > READ_SECONDS and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._watching = bool(self._begun)
        if self._watching:
            loop.call_later(READ_SECONDS / 4, self._look)
