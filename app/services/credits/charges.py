"""Charging: a use is spent, or held, once per key and never below nothing.

Nearly every charge needs no thought: the grant in hand has enough, nothing has expired and nobody wants to be told.
All of these that have queued are one statement (`CHARGE`), whatever accounts they are for. The others (a grant runs
out, an account is new, a threshold is reached) are done one at a time with the account's books open.
"""

import asyncio
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.db import Sessions, transaction
from app.errors import BillingError, InvalidRequestError, UnavailableError
from app.models import CreditCharge
from app.services.catalog import Credits
from app.services.credits.accounts import AccountSuspendedError, Balance, Identity, open_or_create
from app.services.credits.charge_statement import CHARGE, MADE
from app.services.credits.coalescer import Coalescer
from app.values import unix_now

MAX_QUANTITY = 1_000_000_000
_SLOW_AT_ONCE = 4  # connections the books may take of the pool that all requests share
_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A charge as it is asked for; with `hold`, a hold, which ends after `expires_in` seconds unless it is captured.

    `amount_minor` (of `currency`) is what the use was worth: it is recorded, and compared with nothing.
    """

    identity: Identity
    key: str
    quantity: int = 1
    hold: bool = False
    expires_in: int | None = None
    amount_minor: int | None = None
    currency: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] | None = None
    fingerprint: bytes = field(init=False)

    def __post_init__(self) -> None:
        asked = (
            *(self.identity.user_id, self.quantity, self.hold, self.expires_in, self.amount_minor, self.currency),
            *(self.description, self.metadata and sorted(self.metadata.items())),
        )
        object.__setattr__(self, "fingerprint", hashlib.blake2b(repr(asked).encode(), digest_size=16).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """What a charge came to when it was made; `replayed` says that an earlier request made it."""

    id: UUID
    account_id: UUID
    status: str
    quantity: int
    captured: int
    amount_minor: int | None
    currency: str | None
    description: str | None
    metadata: Mapping[str, str] | None
    balance_after: int
    expires_at: int | None
    created: int
    replayed: bool = False


class InsufficientCreditsError(BillingError):
    """Less is available than was to be spent. After a purchase the same request succeeds."""

    status = 402
    code = "insufficient_credits"
    retryable = True

    def __init__(self, balance: Balance) -> None:
        super().__init__("There are not enough uses left.")
        self.balance = balance


class _UndecidedError(Exception):
    """The statement left it alone: the books must be opened."""


class Charger:
    """Charges accounts. One per process; `engine` should be its own, with a single connection."""

    def __init__(self, engine: AsyncEngine, *, sessions: Sessions, rules: Credits, pgbouncer: bool = False) -> None:
        self._sessions = sessions
        self._rules = rules
        self._queue: Coalescer[Order, Charged] = Coalescer(
            "charges", engine, self._charge, key=lambda order: order.key, pgbouncer=pgbouncer
        )
        self._slow = asyncio.Semaphore(_SLOW_AT_ONCE)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def charge(self, order: Order) -> Charged:
        """Spend, or hold; when this returns it is durable.

        Raises InsufficientCreditsError; AccountSuspendedError; InvalidRequestError for a key that came with another
        order before; UnavailableError when it isn't known whether it was done: the same order again tells, and
        charges nothing twice.
        """
        while True:
            try:
                return await self._queue.ask(order)
            except _UndecidedError:
                pass
            user_id = order.identity.user_id
            turn = self._turns[user_id]
            # Others of this account may have queued for the same reason, and have settled it by now.
            settled = turn.locked()
            try:
                async with turn:
                    if not settled:
                        async with self._slow:
                            return await self._charge_by_the_book(order)
            finally:
                if not turn.locked():
                    self._turns.pop(user_id, None)

    async def aclose(self) -> None:
        await self._queue.aclose()

    async def _charge(self, driver: Any, orders: Sequence[Order]) -> Sequence[Charged | Exception]:
        now = unix_now()
        ids = [uuid4() for _ in orders]
        holds = [_hold_until(order, self._rules, now) for order in orders]
        arguments = (
            list(range(len(orders))),
            ids,
            [order.identity.user_id for order in orders],
            [order.key for order in orders],
            [order.fingerprint for order in orders],
            [order.quantity for order in orders],
            holds,
            [order.amount_minor for order in orders],
            [order.currency for order in orders],
            [order.description for order in orders],
            [order.metadata and json.dumps(dict(order.metadata)) for order in orders],
            now,
        )
        try:
            rows = await driver.fetch(CHARGE, *arguments)
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.DeadlockDetectedError):
            # Another process came with one of these keys at the same moment, or one of them can't be stored: each is
            # looked at by itself, so that none suffers for another.
            return [_UndecidedError() for _ in orders]
        taken: Counter[tuple[UUID, bool]] = Counter()
        for order, row in zip(orders, rows, strict=True):
            if row["fits"]:
                taken[row["account_id"], order.hold] += order.quantity
        answers = [
            _made(
                order,
                id=id,
                account_id=row["account_id"],
                balance_after=row["balance_after"],
                hold_until=hold_until,
                created=now,
            )
            if row["fits"]
            else _not_made(order, row, taken, now)
            for order, id, row, hold_until in zip(orders, ids, rows, holds, strict=True)
        ]
        refusals = InsufficientCreditsError | AccountSuspendedError
        refused = [order.key for order, answer in zip(orders, answers, strict=True) if isinstance(answer, refusals)]
        # Accounts are seen as they were when they were locked, keys as they were before: another process may have made
        # the very charge in between, and spent the last by it.
        made = {row["key"] for row in await driver.fetch(MADE, refused)} if refused else set()
        return [
            _UndecidedError() if order.key in made else answer for order, answer in zip(orders, answers, strict=True)
        ]

    async def _charge_by_the_book(self, order: Order) -> Charged:
        for _ in range(_ROUNDS):
            try:
                async with transaction(self._sessions) as session:
                    outcome = await _charge(session, self._rules, order)
            except DBAPIError as error:
                # A key that somebody else has used for another account at the same moment.
                clash = isinstance(error.driver_exception, asyncpg.UniqueViolationError | asyncpg.DeadlockDetectedError)
                if not clash:
                    raise
            else:
                if isinstance(outcome, InsufficientCreditsError):
                    raise outcome
                return outcome
        raise UnavailableError("The same key is being used for something else; try again.", retry_after=1)


def _hold_until(order: Order, rules: Credits, now: int) -> int | None:
    if not order.hold:
        return None
    return now + (rules.hold_seconds if order.expires_in is None else order.expires_in)


def _made(
    order: Order,
    *,
    id: UUID,
    account_id: UUID,
    balance_after: int,
    hold_until: int | None,
    created: int,
    replayed: bool = False,
) -> Charged:
    return Charged(
        id=id,
        account_id=account_id,
        status="held" if order.hold else "captured",
        quantity=order.quantity,
        captured=0 if order.hold else order.quantity,
        amount_minor=order.amount_minor,
        currency=order.currency,
        description=order.description,
        metadata=order.metadata,
        balance_after=balance_after,
        expires_at=hold_until,
        created=created,
        replayed=replayed,
    )


def _not_made(
    order: Order, row: Mapping[str, Any], taken: Mapping[tuple[UUID, bool], int], now: int
) -> Charged | Exception:
    """What the statement says of an order that it did not charge; `taken`: spent, and held, by others of its batch."""
    if row["known"] is not None:
        if row["known_fingerprint"] != order.fingerprint:
            return _reused()
        return _made(
            order,
            id=row["known"],
            account_id=row["known_account"],
            balance_after=row["known_balance_after"],
            hold_until=row["known_expires_at"],
            created=row["known_created"],
            replayed=True,
        )
    if row["account_id"] is None:
        return _UndecidedError()
    if row["status"] != "active":
        return _suspended(row["status"])
    if row["expires_next"] is not None and row["expires_next"] <= now:
        return _UndecidedError()
    spent, held = taken[row["account_id"], False], taken[row["account_id"], True]
    of_free = spent + held if row["hand_book"] == "free" else 0
    balance = Balance(
        account_id=row["account_id"],
        user_id=order.identity.user_id,
        status=row["status"],
        free=row["free"] - of_free,
        paid=row["paid"] - (spent + held - of_free),
        held=row["held"] + held,
        owed=row["owed"],
        used=row["used"] + spent,
    )
    return InsufficientCreditsError(balance) if order.quantity > balance.available else _UndecidedError()


def _reused() -> InvalidRequestError:
    return InvalidRequestError(
        "This idempotency key came with another charge before.",
        code="idempotency_key_reused",
        param="idempotency_key",
    )


def _suspended(status: str) -> AccountSuspendedError:
    if status == "closed":  # of somebody who is being erased
        return AccountSuspendedError("This account is closed.", code="account_closed")
    return AccountSuspendedError("This account is suspended.")


async def _charge(session: AsyncSession, rules: Credits, order: Order) -> Charged | InsufficientCreditsError:
    """With the account's books open. The key is looked up under the lock: who had it before us has committed.

    The error is an answer where something is to be committed all the same.
    """
    now = unix_now()
    book, new = await open_or_create(session, rules, order.identity, now)
    if (known := await _replay(session, order)) is not None:
        return known
    if book.account.status != "active":
        raise _suspended(book.account.status)
    if order.quantity > book.available:
        balance = Balance.of(book.account)
        if new:
            raise InsufficientCreditsError(replace(balance, account_id=None))  # it won't stay
        if book.lapsed:
            await book.close()  # who comes next is refused by the statement
        return InsufficientCreditsError(balance)
    id = uuid4()
    book.spend(order.quantity, id, hold=order.hold)
    hold_until = _hold_until(order, rules, now)
    charged = _made(
        order, id=id, account_id=book.account.id, balance_after=book.available, hold_until=hold_until, created=now
    )
    session.add(
        CreditCharge(
            id=id,
            account_id=book.account.id,
            key=order.key,
            fingerprint=order.fingerprint,
            status=charged.status,
            quantity=order.quantity,
            captured=charged.captured,
            amount_minor=order.amount_minor,
            currency=order.currency,
            description=order.description,
            details=None if order.metadata is None else dict(order.metadata),
            balance_after=charged.balance_after,
            expires_at=charged.expires_at,
            created=now,
        )
    )
    await session.flush()
    await book.close()
    return charged


async def _replay(session: AsyncSession, order: Order) -> Charged | None:
    """The first answer to this key. Raises InvalidRequestError where it was to something else."""
    row = await session.scalar(
        select(CreditCharge).where(CreditCharge.key == order.key).execution_options(populate_existing=True)
    )
    if row is None:
        return None
    if row.fingerprint != order.fingerprint:
        raise _reused()
    return _made(
        order,
        id=row.id,
        account_id=row.account_id,
        balance_after=row.balance_after,
        hold_until=row.expires_at,
        created=row.created,
        replayed=True,
    )
