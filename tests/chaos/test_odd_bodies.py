"""Bodies as no honest sender sends them, over raw sockets: refused or waited for, and nobody else notices."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from billing import Account
from chaos import crowd
from chaos.forks import Billhook, Fork
from chaos.inbox import stored
from chaos.load import SECRET, post
from serving import API
from signing import body, sign

LARGEST = 1024 * 1024
KILOBYTE = b"x" * 1024
CROWD = 200
MOST_GROWTH = 64 * LARGEST
SECONDS = 10.0


class Socket:
    """One connection to a server, with nothing between it and the bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *parts: bytes) -> None:
        self._writer.write(b"".join(parts))
        await self._writer.drain()

    async def status(self) -> int | None:
        """Of the answer; None when the other side hung up without one."""
        async with asyncio.timeout(SECONDS):
            try:
                line = await self._reader.readline()
            except ConnectionResetError:
                return None
        return int(line.split()[1]) if line else None

    def half_close(self) -> None:
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.transport.abort()


def head(*headers: str) -> bytes:
    lines = (f"POST {API}/webhook HTTP/1.1", "Host: billhook.test", "Content-Type: application/json", *headers)
    return "\r\n".join((*lines, "", "")).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Socket]:
    host, port = httpx.URL(url).host, httpx.URL(url).port
    socket = Socket(*await asyncio.open_connection(host, port))
    try:
        yield socket
    finally:
        socket.close()


@pytest.fixture
async def server(billhook: Billhook) -> AsyncIterator[tuple[Fork, str]]:
    async with billhook.serving("--no-worker") as server:
        yield server


def memory(process: Fork) -> int:
    """Bytes it has, or had, in memory at most."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


async def goes_on(account: Account, url: str, name: str) -> None:
    """Somebody else's event is taken in meanwhile."""
    event = crowd.subscription_created(account, name)
    async with asyncio.timeout(SECONDS), httpx.AsyncClient() as client:
        assert (await post(client, event, base_url=url)).status_code == 200
    assert event["id"] in await stored(account)


async def test_bodies_that_are_too_large_are_refused_before_they_are_read(
    account: Account, server: tuple[Fork, str]
) -> None:
    process, url = server
    await goes_on(account, url, "before")
    before = memory(process)

    async def announce() -> int | None:
        async with connected(url) as socket:
            await socket.send(head(f"Content-Length: {1024 * LARGEST}"))
            return await socket.status()

    async def stream() -> int | None:
        async with connected(url) as socket:
            try:
                await socket.send(head("Transfer-Encoding: chunked"))
                for _ in range(4 * LARGEST // len(KILOBYTE)):
                    await socket.send(chunk(KILOBYTE))
            except ConnectionError:
                return None
            return await socket.status()

    assert await asyncio.gather(*(announce() for _ in range(CROWD))) == [413] * CROWD
    # Who goes on sending after the refusal may have the connection closed before it has read the answer.
    assert set(await asyncio.gather(*(stream() for _ in range(50)))) <= {413, None}
    await goes_on(account, url, "after")
    assert memory(process) - before < 50 * LARGEST + MOST_GROWTH


async def test_who_never_finishes_a_body_holds_up_nobody(account: Account, server: tuple[Fork, str]) -> None:
    process, url = server
    await goes_on(account, url, "before")
    before = memory(process)

    async def dawdle(everybody: asyncio.Barrier) -> None:
        async with connected(url) as socket:
            await socket.send(head(f"Content-Length: {LARGEST}"))
            for _ in range(10):
                await socket.send(KILOBYTE)
                await asyncio.sleep(0.01)
            await everybody.wait()
            await everybody.wait()

    everybody = asyncio.Barrier(CROWD + 1)
    slow = [asyncio.create_task(dawdle(everybody)) for _ in range(CROWD)]
    await everybody.wait()
    await goes_on(account, url, "meanwhile")
    assert memory(process) - before < MOST_GROWTH
    await everybody.wait()
    await asyncio.gather(*slow)
    await goes_on(account, url, "after")


async def test_a_body_in_chunks_is_the_same_event(account: Account, server: tuple[Fork, str]) -> None:
    event = crowd.subscription_created(account, "in-chunks")
    payload = body(event)
    async with connected(server[1]) as socket:
        await socket.send(head("Transfer-Encoding: chunked", f"Stripe-Signature: {sign(payload, SECRET)}"))
        for start in range(0, len(payload), 100):
            await socket.send(chunk(payload[start : start + 100]))
        await socket.send(chunk(b""))
        assert await socket.status() == 200
    assert event["id"] in await stored(account)


async def too_short(socket: Socket, payload: bytes, signature: str) -> None:
    """Fewer bytes than announced, and then the end."""
    await socket.send(head(f"Content-Length: {len(payload) + 1}", signature), payload)
    socket.half_close()


async def too_long(socket: Socket, payload: bytes, signature: str) -> None:
    """More bytes than announced: the rest is no request."""
    await socket.send(head(f"Content-Length: {len(payload) - 1}", signature), payload)


async def negative(socket: Socket, payload: bytes, signature: str) -> None:
    await socket.send(head("Content-Length: -1", signature), payload)


async def both_lengths(socket: Socket, payload: bytes, signature: str) -> None:
    """What request smuggling is made of."""
    await socket.send(head(f"Content-Length: {len(payload)}", "Transfer-Encoding: chunked", signature), payload)


async def no_chunk(socket: Socket, payload: bytes, signature: str) -> None:
    await socket.send(head("Transfer-Encoding: chunked", signature), b"not a number\r\n", payload)


@pytest.mark.parametrize("lie", [too_short, too_long, negative, both_lengths, no_chunk])
async def test_a_body_of_a_wrong_length_is_never_an_event(account: Account, server: tuple[Fork, str], lie: Any) -> None:
    event = crowd.subscription_created(account, "liar")
    payload = body(event)
    async with connected(server[1]) as socket:
        await lie(socket, payload, f"Stripe-Signature: {sign(payload, SECRET)}")
        assert await socket.status() in {400, None}
    assert event["id"] not in await stored(account)
    await goes_on(account, server[1], "after")
