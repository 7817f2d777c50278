"""What a caller may do and what an account has, for many requests by one statement."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.catalog import Credits
from app.services.credits.accounts import Balance
from app.services.credits.coalescer import Coalescer
from app.values import unix_now

# Of an account with a grant that has expired but was not written off yet, that grant's uses are left out.
LOOK = """
SELECT k.hash AS hash, k.id AS key_id, k.scopes, NULL AS user_id, NULL::uuid AS id, NULL AS status,
       NULL::bigint AS free, NULL::bigint AS paid, NULL::bigint AS held, NULL::bigint AS owed, NULL::bigint AS used,
       NULL::boolean AS subscribed
  FROM api_keys k
 WHERE k.hash = ANY($1::bytea[]) AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
UNION ALL
SELECT NULL, NULL, NULL, asked.user_id, a.id, a.status,
       a.free - coalesce(lapsed.free, 0), a.paid - coalesce(lapsed.paid, 0), a.held, a.owed, a.used,
       EXISTS (SELECT FROM customers c JOIN subscriptions s ON s.customer_id = c.id
                WHERE c.user_id = asked.user_id AND NOT c.deleted AND NOT s.deleted)
  FROM unnest($2::text[]) AS asked (user_id)
  LEFT JOIN LATERAL (SELECT * FROM credit_accounts WHERE user_id = asked.user_id LIMIT 1) AS a ON true
  LEFT JOIN LATERAL (
    SELECT sum(left_over) FILTER (WHERE book = 'free')::bigint AS free,
           sum(left_over) FILTER (WHERE book = 'paid')::bigint AS paid
      FROM (SELECT g.book, g.remaining + CASE WHEN g.id = a.hand_grant THEN a.hand ELSE 0 END AS left_over
              FROM credit_grants g
             WHERE g.account_id = a.id AND g.open AND g.expires_at <= $3) AS expired
  ) AS lapsed ON a.expires_next <= $3
"""


class Question(NamedTuple):
    """Whose account, and by which key (its hash) it is asked, where that isn't known otherwise."""

    user_id: str | None
    key_hash: bytes | None


class Key(NamedTuple):
    """A service key that is good now."""

    id: UUID
    scopes: Sequence[str]


class Looked(NamedTuple):
    """What was found: no key if it isn't good, and for whoever has no account what a new one would have."""

    key: Key | None
    balance: Balance | None
    subscribed: bool
    """Whether the user has, or had, any subscription."""


class Reader:
    """Answers questions that have queued together. One per process; `engine` should be its own."""

    def __init__(self, engine: AsyncEngine, *, rules: Credits, pgbouncer: bool = False) -> None:
        self._rules = rules
        self._queue: Coalescer[Question, Looked] = Coalescer("reads", engine, self._look, pgbouncer=pgbouncer)

    async def look(self, *, user_id: str | None = None, key_hash: bytes | None = None) -> Looked:
        """Raises UnavailableError."""
        return await self._queue.ask(Question(user_id, key_hash))

    async def aclose(self) -> None:
        await self._queue.aclose()

    async def _look(self, driver: Any, questions: Sequence[Question]) -> Sequence[Looked | Exception]:
        hashes = list({question.key_hash for question in questions if question.key_hash is not None})
        people = list({question.user_id for question in questions if question.user_id is not None})
        keys: dict[bytes | None, Key] = {}
        found: dict[str | None, tuple[Balance, bool]] = {}
        for row in await driver.fetch(LOOK, hashes, people, unix_now()):
            if row["user_id"] is None:
                keys[row["hash"]] = Key(row["key_id"], row["scopes"])
            else:
                found[row["user_id"]] = self._balance(row), row["subscribed"]
        return [
            Looked(keys.get(question.key_hash), *found.get(question.user_id, (None, False))) for question in questions
        ]

    def _balance(self, row: Mapping[str, Any]) -> Balance:
        if row["id"] is None:
            return Balance(
                account_id=None,
                user_id=row["user_id"],
                status="active",
                free=self._rules.free_uses,
                paid=0,
                held=0,
                owed=0,
                used=0,
            )
        return Balance(
            account_id=row["id"],
            user_id=row["user_id"],
            status=row["status"],
            free=row["free"],
            paid=row["paid"],
            held=row["held"],
            owed=row["owed"],
            used=row["used"],
        )
