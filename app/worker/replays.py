"""Carries replays of many events out, each slice in a transaction of its own."""

from uuid import UUID

from app.db import Sessions, transaction
from app.models import Replay
from app.services import replays


async def advance(sessions: Sessions, *, livemode: bool, id: UUID | None = None) -> Replay | None:
    """One slice; see `services.replays.advance`."""
    async with transaction(sessions) as session:
        return await replays.advance(session, livemode=livemode, id=id)


async def carry_out(sessions: Sessions, *, livemode: bool) -> None:
    """All jobs, until none is left that nobody else is at."""
    while await advance(sessions, livemode=livemode) is not None:
        pass
