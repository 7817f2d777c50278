"""A bad network between Billhook and a server: slow, cut off, silent, or losing what was answered."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

LARGEST_CHUNK = 65536
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """Carries TCP connections to the server's socket, as badly as its attributes say from moment to moment."""

    def __init__(self, target: Path, seed: int) -> None:
        self.delay = 0.0
        """Seconds that everything takes, each way."""
        self.loss = 0.0
        """How likely an answer is to be lost, and the connection with it; the server has done its work by then."""
        self.port = 0
        self._target = target
        self._choose = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._flows = asyncio.Event()
        self._flows.set()
        self._carried: set[asyncio.Task[None]] = set()

    def silence(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        self._flows.clear()

    def heal(self) -> None:
        """Connections from before the silence are no good any more; new ones are."""
        self.reset()
        self._flows.set()

    def reset(self) -> None:
        """Cut off all connections, in the middle of whatever they say."""
        for task in self._carried:
            task.cancel()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carried.add(task)
        client = reader, writer
        try:
            await self._flows.wait()
            server = await asyncio.open_unix_connection(self._target)
            try:
                await self._both_ways(client, server)
            finally:
                server[1].transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # what links do
        finally:
            writer.transport.abort()
            self._carried.discard(task)

    async def _both_ways(self, client: Ends, server: Ends) -> None:
        ways = [asyncio.create_task(self._ask(client, server)), asyncio.create_task(self._answer(client, server))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _ask(self, client: Ends, server: Ends) -> None:
        while chunk := await self._arrived(client):
            server[1].write(chunk)
            await server[1].drain()

    async def _answer(self, client: Ends, server: Ends) -> None:
        while chunk := await self._arrived(server):
            if self._choose.random() < self.loss:
                return
            client[1].write(chunk)
            await client[1].drain()

    async def _arrived(self, sender: Ends) -> bytes:
        chunk = await sender[0].read(LARGEST_CHUNK)
        await asyncio.sleep(self.delay)
        await self._flows.wait()
        return chunk


@asynccontextmanager
async def link_to(target: Path, *, seed: int) -> AsyncIterator[Link]:
    link = Link(target, seed)
    server = await asyncio.start_server(link._carry, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        while link._carried:
            link.reset()
            await asyncio.sleep(0)
