"""What is there before charges are measured: accounts that differ in what they hold, and a service key."""

import time

from sqlalchemy import text

from app.db import create_engine, create_sessions, transaction
from app.services import identity

AMPLE = 10**9
HOT = "hot"
EMPTY = "empty"

# What was given first is in hand, and what was given second comes after it; both never expire.
_ACCOUNTS = text("""
WITH asked AS (
    SELECT gen_random_uuid() AS id, gen_random_uuid() AS first_grant, name, first, second
      FROM unnest(CAST(:names AS text[])) AS name, CAST(:first AS bigint) AS first, CAST(:second AS bigint) AS second
), made AS (
    INSERT INTO credit_accounts (id, user_id, paid, hand_grant, hand_book, hand, notice_at, created)
    SELECT id, name, first + second, CASE WHEN first > 0 THEN first_grant END, CASE WHEN first > 0 THEN 'paid' END,
           first, CASE WHEN first + second > 2 THEN 2 ELSE -1 END, :now
      FROM asked
), granted AS (
    INSERT INTO credit_grants (id, account_id, book, amount, remaining, open, created)
    SELECT first_grant, id, 'paid', first, 0, true, :now FROM asked WHERE first > 0
    UNION ALL
    SELECT gen_random_uuid(), id, 'paid', second, second, true, :now + 1 FROM asked WHERE second > 0
    RETURNING id, account_id, amount, created
)
INSERT INTO credit_transfers (account_id, kind, source, destination, amount, grant_id, balance_after, created)
SELECT account_id, 'grant', 'issued', 'paid', amount, id, amount, created FROM granted
""")

# The ceiling's own plain tables, with the same accounts in them.
_CEILING = """
CREATE TABLE bench_accounts (id uuid PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0)) WITH (fillfactor = 70);
CREATE TABLE bench_charges (key text PRIMARY KEY, account_id uuid NOT NULL, quantity bigint NOT NULL,
                            created bigint NOT NULL);
CREATE TABLE bench_ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account_id uuid NOT NULL,
                           key text NOT NULL, amount bigint NOT NULL, balance_after bigint NOT NULL,
                           created bigint NOT NULL);
INSERT INTO bench_accounts SELECT id, paid FROM credit_accounts
"""


def ample(number: int) -> str:
    """A user with more uses than are spent here."""
    return f"user-{number}"


def edge(number: int) -> str:
    """A user with one use of a grant in hand, and ample ones of another."""
    return f"edge-{number}"


async def seed(database_url: str, *, accounts: int) -> str:
    """Fill the database; answers a service key that may charge."""
    engine = create_engine(database_url, pool_size=1)
    async with transaction(create_sessions(engine)) as session:
        for names, first, second in (
            ([*map(ample, range(accounts)), HOT], AMPLE, 0),
            (list(map(edge, range(accounts))), 1, AMPLE),
            ([EMPTY], 0, 0),
        ):
            given = {"names": names, "first": first, "second": second, "now": int(time.time())}
            await session.execute(_ACCOUNTS, given)
        for statement in _CEILING.split(";"):
            await session.execute(text(statement))
        _, key = await identity.create_key(session, name="benchmark", scopes=["credits:write"], actor="cli")
    await engine.dispose()
    return key
