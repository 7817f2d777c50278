"""Writes one row in a transaction of its own, after the customers it turns out to depend on."""

from collections.abc import Awaitable
from contextlib import suppress
from typing import Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import Sessions, transaction
from app.errors import UnreadableAnswerError
from app.provider.protocol import BillingProvider
from app.services.customers import UnknownCustomerError, UserTakenError
from app.services.reconcile import differences
from app.services.reconcile.differences import LookAgainError

ATTEMPTS = 5

T_co = TypeVar("T_co", covariant=True)


class Work(Protocol[T_co]):
    def __call__(self, session: AsyncSession, /, *, claim_user: bool, last: bool) -> Awaitable[T_co]:
        """`claim_user` is False once the user's other customer is known to live; `last` says that no try follows."""
        ...


async def write(sessions: Sessions, provider: BillingProvider, work: Work[T_co], *, actor: str) -> T_co | None:
    """Do `work`, again while others write the same row; None when they never stop, or a customer can't be had.

    Raises UnreadableAnswerError for the row's own object.
    """
    claim_user = True
    hopeless = False
    followed = set[str]()
    for attempt in range(ATTEMPTS):
        try:
            async with transaction(sessions) as session:
                return await work(session, claim_user=claim_user, last=hopeless or attempt == ATTEMPTS - 1)
        except LookAgainError:
            continue
        except (UnknownCustomerError, UserTakenError) as needed:
            if hopeless:
                break
            claim_user = needed.stripe_id not in followed
            if claim_user:
                followed.add(needed.stripe_id)
                with suppress(UnreadableAnswerError):
                    await _follow(sessions, provider, needed.stripe_id, actor)
            else:
                hopeless = isinstance(needed, UnknownCustomerError)
    return None


async def _follow(sessions: Sessions, provider: BillingProvider, customer: str, actor: str) -> None:
    async def work(session: AsyncSession, /, *, claim_user: bool, last: bool) -> None:  # noqa: ARG001 - Work's own
        await differences.follow_customer(session, provider, customer, actor=actor, claim_user=claim_user)

    await write(sessions, provider, work, actor=actor)
