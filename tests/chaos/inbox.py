"""What the inbox of the test's database holds."""

import asyncio

from billing import Account
from sqlalchemy import func, select

from app import models


async def stored(account: Account) -> set[str]:
    """The ids of all events."""
    async with account.sessions() as session:
        return set(await session.scalars(select(models.StripeEvent.event_id)))


async def waiting(account: Account) -> int:
    pending = select(func.count()).where(models.StripeEvent.status == "pending")
    async with account.sessions() as session:
        return await session.scalar(pending) or 0


async def nothing_waits(account: Account, *, seconds: float = 30) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while left := await waiting(account):
        assert asyncio.get_running_loop().time() < deadline, f"{left} events are still pending"
        await asyncio.sleep(0.02)
