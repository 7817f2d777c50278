"""What a history of credits runs in: two processes on one database, and a clock that only the history turns."""

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from app.db import Sessions, create_engine, create_sessions
from app.services.catalog import Credits
from app.services.credits.charges import Charger
from app.services.credits.reader import Reader

RULES = Credits(free_uses=3, low_at=2, hold_seconds=60)
START = 1_790_000_000
PATIENCE = 30.0

T = TypeVar("T")


@dataclass
class World:
    """What they share."""

    sessions: Sessions
    chargers: list[Charger]
    rules: Credits
    now: int
    accounts: dict[str, UUID] = field(default_factory=dict)


class Processes:
    """What a history needs of the outside world, and runs in."""

    def __init__(self, runner: asyncio.Runner, world: World, reader: Reader) -> None:
        self._runner = runner
        self.world = world
        self.reader = reader

    def run(self, work: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(PATIENCE):
                return await work

        return self._runner.run(bounded())


async def open_world(stack: AsyncExitStack, url: str) -> tuple[World, Reader]:
    """Two processes, each with connections of its own; one works as it does behind PgBouncer."""
    chargers = []
    for pgbouncer in (False, True):
        engine = create_engine(url, pool_size=8, pgbouncer=pgbouncer)
        own = create_engine(url, pool_size=2, pgbouncer=pgbouncer)
        charger = Charger(own, sessions=create_sessions(engine), rules=RULES, pgbouncer=pgbouncer)
        for end in (engine.dispose, own.dispose, charger.aclose):
            stack.push_async_callback(end)
        chargers.append(charger)
    engine = create_engine(url, pool_size=30)
    reader = Reader(engine, rules=RULES)
    for end in (engine.dispose, reader.aclose):
        stack.push_async_callback(end)
    return World(sessions=create_sessions(engine), chargers=chargers, rules=RULES, now=START), reader
