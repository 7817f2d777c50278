"""Bodies that come slowly, never end, or are too many at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from app.api import body_reader
from app.api.body_reader import BodyReader
from app.errors import UnavailableError

Receive = Callable[[], Awaitable[dict[str, Any]]]


def sending(*chunks: bytes, ends: bool = True) -> Receive:
    """What a server hands on of a body in these chunks; unless it ends, the rest never comes."""
    waiting = list(chunks)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting) or not ends}

    return receive


async def test_a_body_in_pieces_is_one() -> None:
    assert await BodyReader(limit=10).read(b"", sending(b"ab", b"", b"cd")) == b"abcd"


@pytest.mark.parametrize("announced", [b"11", b""])
async def test_too_much_is_refused_be_it_announced_or_sent(announced: bytes) -> None:
    with pytest.raises(HTTPException) as refused:
        await BodyReader(limit=10).read(announced, sending(b"abcdef", b"ghijkl"))
    assert refused.value.status_code == 413


async def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "READ_SECONDS", 0.1)
    reader = BodyReader(limit=10)

    async def slow() -> int:
        with pytest.raises(HTTPException) as late:
            await reader.read(b"", sending(b"ab", ends=False))
        await asyncio.sleep(0)  # who was told is not cancelled any more
        return late.value.status_code

    assert await asyncio.gather(slow(), slow(), reader.read(b"", sending(b"ok"))) == [408, 408, b"ok"]


async def test_somebody_else_s_cancellation_stays_one() -> None:
    task = asyncio.create_task(BodyReader(limit=10).read(b"", sending(ends=False)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "HELD_BYTES", 20)
    reader = BodyReader(limit=10)
    reading = [asyncio.create_task(reader.read(b"", sending(b"x" * 9, ends=False))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await reader.read(b"", sending(b"x" * 9, b""))
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    assert await reader.read(b"", sending(b"x" * 9, b"")) == b"x" * 9
