"""Ends what nobody ends: holds that were not captured in time, and what is left of grants that have expired.

Several workers may do so at once: the account's lock settles who does it, and the others find it done.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from uuid import UUID

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import AWAY, Sessions, transaction
from app.services.catalog import Credits
from app.services.credits import expiry, holds
from app.values import unix_now

log = structlog.get_logger(__name__)

SLICE = 200
"""How many are looked up at once; each then has a transaction of its own."""


class Due(Protocol):
    def __call__(self, session: AsyncSession, now: int, /, *, limit: int) -> Awaitable[Sequence[UUID]]: ...


async def expire_holds(sessions: Sessions, rules: Credits) -> int:
    """Give back what lapsed holds hold; answers how many holds that were."""

    async def end(session: AsyncSession, charge_id: UUID, now: int) -> bool:
        ended = await holds.expire(session, rules, charge_id=charge_id, now=now)
        if ended:
            log.info("charge_expired", charge_id=str(charge_id))
        return ended

    return await _end_all(sessions, holds.lapsed, end)


async def expire_grants(sessions: Sessions, rules: Credits) -> int:
    """Write off what is left of expired grants; answers how many accounts lost uses by that."""

    async def end(session: AsyncSession, account_id: UUID, now: int) -> bool:
        uses = await expiry.expire(session, rules, account_id=account_id, now=now)
        if uses:
            log.info("grants_expired", account_id=str(account_id), uses=uses)
        return uses > 0

    return await _end_all(sessions, expiry.due, end)


async def _end_all(sessions: Sessions, due: Due, end: Callable[[AsyncSession, UUID, int], Awaitable[bool]]) -> int:
    ended = 0
    before: Sequence[UUID] = ()
    while True:
        now = unix_now()
        async with transaction(sessions) as session:
            ids = await due(session, now, limit=SLICE)
        for id in ids:
            try:
                async with transaction(sessions) as session:
                    ended += await end(session, id, now)
            except Exception as error:
                if isinstance(error, AWAY) and not isinstance(error, IntegrityError):
                    raise
                # One that can't be ended must not keep the others.
                log.exception("credits_not_expired", id=str(id))
        if len(ids) < SLICE or ids == before:
            return ended
        before = ids
