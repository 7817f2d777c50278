"""Removes what has served its time."""

from datetime import timedelta

from sqlalchemy import delete

from app.db import Sessions
from app.models import IdempotencyKey
from app.values import utcnow

IDEMPOTENCY_KEPT = timedelta(hours=24)  # as long as Stripe keeps its own


async def keep_house(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < utcnow() - IDEMPOTENCY_KEPT))
