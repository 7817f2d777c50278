"""Who is calling, how often they may, and what is known of whom they ask about: found out all at once.

Ordinary routes ask one after the other, in their middleware. What both ask is the same, and so are the answers.
"""

from dataclasses import dataclass
from uuid import UUID

from starlette.types import Scope

from app.api import auth
from app.api.ratelimit import RateLimiter, Window, address_of
from app.errors import BillingError
from app.services import identity
from app.services.credits.reader import Looked, Reader
from app.services.identity import Caller, ServiceKey, User


@dataclass(slots=True)
class Visit:
    """A request on its way: what is known of it by now."""

    scope: Scope
    caller: Caller | None = None
    window: Window | None = None
    """None before it was counted, and without Redis."""


class Gate:
    """One per process."""

    def __init__(self) -> None:
        # Which key a hash belongs to: that never changes. Whether the key is good is asked each time.
        self._ids: dict[bytes, UUID] = {}

    async def admit(self, visit: Visit, *, about: str | None) -> tuple[Caller, Looked]:
        """What is known of the user a service key asks `about`, or of the user who asks.

        Raises UnauthenticatedError; RateLimitedError; UnavailableError.
        """
        limiter: RateLimiter = visit.scope["state"]["limiter"]
        try:
            presented = await _presented(visit.scope)
        except BillingError:
            await self._limit(visit, limiter, address_of(visit.scope))
            raise
        return await self._enter(visit, limiter, presented, about)

    async def _enter(
        self, visit: Visit, limiter: RateLimiter, presented: User | bytes, about: str | None
    ) -> tuple[Caller, Looked]:
        reader: Reader = visit.scope["state"]["credits_reader"]
        caller: Caller
        if isinstance(presented, User):
            caller = presented
            counted = limiter.count(caller.actor)
            looked = await reader.look(user_id=caller.user_id)
        else:
            known = self._ids.get(presented)
            early = None if known is None else limiter.count(f"key:{known}")
            looked = await reader.look(user_id=about, key_hash=presented)
            if looked.key is None:
                self._ids.pop(presented, None)
                await self._limit(visit, limiter, address_of(visit.scope))
                raise identity.invalid_key()
            self._ids[presented] = looked.key.id
            caller = ServiceKey(id=looked.key.id, scopes=frozenset(looked.key.scopes))
            counted = early or limiter.count(caller.actor)
        visit.caller = caller
        visit.window = await counted
        _refuse_excess(visit)
        return caller, looked

    async def _limit(self, visit: Visit, limiter: RateLimiter, whom: str) -> None:
        visit.window = await limiter.count(whom)
        _refuse_excess(visit)


def _refuse_excess(visit: Visit) -> None:
    if visit.window is not None and not visit.window.allowed:
        raise visit.window.refusal()


async def _presented(scope: Scope) -> User | bytes:
    """A user whose token is good, or the hash of a key that is yet to be looked up."""
    token = auth.token_of(scope)
    if token.startswith(identity.KEY_PREFIX):
        return identity.hash_of(token)
    state = scope["state"]
    return await identity.verify_user_token(token, settings=state["settings"], jwks=state["jwks"])
