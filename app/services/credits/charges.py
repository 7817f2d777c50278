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
from app.services.credits.book import Book
from app.services.credits.coalescer import Coalescer
from app.values import unix_now

MAX_QUANTITY = 1_000_000_000
_SLOW_AT_ONCE = 4  # connections the books may take of the pool that all requests share
_ROUNDS = 5

# $1 to $11 are what is asked, one array per column; $12 is now. Locked accounts are left out, so that this never waits:
# they take the other way. Of each account's queue the first are charged as long as the grant in hand lasts. For one
# order the parts of this statement cost more than its rows: it has no more of them than it needs.
CHARGE = """
WITH seen AS MATERIALIZED (
    SELECT *, free + paid - running AS balance_after,
           known IS NULL AND status = 'active' AND (expires_next IS NULL OR expires_next > $12)
           AND running <= hand AND free + paid - running > notice_at AS fits
      FROM (SELECT asked.*, k.id AS known, k.fingerprint AS known_fingerprint, k.account_id AS known_account,
                   k.balance_after AS known_balance_after, k.expires_at AS known_expires_at, k.created AS known_created,
                   mine.id AS account_id, mine.status, free, paid, held, owed, used, hand, hand_grant, hand_book,
                   notice_at, expires_next,
                   sum(asked.quantity) FILTER (WHERE k.id IS NULL AND mine.id IS NOT NULL)
                       OVER (PARTITION BY asked.user_id ORDER BY ord ROWS UNBOUNDED PRECEDING) AS running
              FROM unnest($1::int[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::int[], $7::bigint[],
                          $8::bigint[], $9::text[], $10::text[], $11::text[])
                AS asked (ord, id, user_id, key, fingerprint, quantity, hold_until, amount_minor, currency, description,
                          metadata)
              LEFT JOIN credit_charges k ON k.key = asked.key
              LEFT JOIN LATERAL (SELECT * FROM credit_accounts WHERE user_id = asked.user_id
                                    FOR NO KEY UPDATE SKIP LOCKED) AS mine ON true) AS queued
), debited AS (
    UPDATE credit_accounts AS a
       SET hand = a.hand - total,
           free = a.free - CASE a.hand_book WHEN 'free' THEN total ELSE 0 END,
           paid = a.paid - CASE a.hand_book WHEN 'free' THEN 0 ELSE total END,
           held = a.held + holding,
           used = a.used + total - holding
      FROM (SELECT account_id, sum(quantity) AS total,
                   coalesce(sum(quantity) FILTER (WHERE hold_until IS NOT NULL), 0) AS holding
              FROM seen WHERE fits GROUP BY account_id) AS totals
     WHERE a.id = totals.account_id
), charged AS (
    INSERT INTO credit_charges (id, account_id, key, fingerprint, status, quantity, captured, amount_minor, currency,
                                description, metadata, balance_after, expires_at, created)
    SELECT id, account_id, key, fingerprint, CASE WHEN hold_until IS NULL THEN 'captured' ELSE 'held' END, quantity,
           CASE WHEN hold_until IS NULL THEN quantity ELSE 0 END, amount_minor, currency, description,
           metadata::jsonb, balance_after, hold_until, $12
      FROM seen WHERE fits
), moved AS (
    INSERT INTO credit_transfers (account_id, kind, source, destination, amount, grant_id, charge_id, balance_after,
                                  created)
    SELECT account_id, CASE WHEN hold_until IS NULL THEN 'charge' ELSE 'hold' END, hand_book,
           CASE WHEN hold_until IS NULL THEN 'consumed' ELSE 'held' END, quantity, hand_grant, id, balance_after, $12
      FROM seen WHERE fits ORDER BY ord
)
SELECT fits, balance_after, account_id, status, free, paid, held, owed, used, hand_book, expires_next, known,
       known_fingerprint, known_account, known_balance_after, known_expires_at, known_created
  FROM seen ORDER BY ord
"""


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
        return [
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

    async def _charge_by_the_book(self, order: Order) -> Charged:
        for _ in range(_ROUNDS):
            try:
                async with transaction(self._sessions) as session:
                    return await _charge(session, self._rules, order)
            except DBAPIError as error:
                # A key that somebody else has used for another account at the same moment.
                clash = isinstance(error.driver_exception, asyncpg.UniqueViolationError | asyncpg.DeadlockDetectedError)
                if not clash:
                    raise
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
    lapsing = row["expires_next"] is not None and row["expires_next"] <= now
    if row["account_id"] is None or lapsing:
        return _UndecidedError()
    if row["status"] != "active":
        return _suspended(row["status"])
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


async def _charge(session: AsyncSession, rules: Credits, order: Order) -> Charged:
    """With the account's books open. The key is looked up under the lock: who had it before us has committed."""
    now = unix_now()
    if (known := await _replay(session, order)) is not None:
        return known
    book, new = await open_or_create(session, rules, order.identity, now)
    if (known := await _replay(session, order)) is not None:
        return known
    if book.account.status != "active":
        raise _suspended(book.account.status)
    if order.quantity > book.available:
        balance = balance_of(book)
        raise InsufficientCreditsError(replace(balance, account_id=None) if new else balance)  # it won't stay
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


def balance_of(book: Book) -> Balance:
    account = book.account
    return Balance(
        account_id=account.id,
        user_id=account.user_id,
        status=account.status,
        free=account.free,
        paid=account.paid,
        held=account.held,
        owed=account.owed,
        used=account.used,
    )


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
