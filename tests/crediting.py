"""Credits in tests: accounts that are given, sold and charged uses, and an audit of all books that shares no code."""

from collections.abc import Collection
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import Sessions, transaction
from app.models import CreditAccount
from app.services.catalog import Credits
from app.services.credits import accounts
from app.services.credits.accounts import Identity
from app.services.credits.book import Book, Spendable, open_book
from app.services.credits.charges import Order
from app.values import unix_now

RULES = Credits(free_uses=3, low_at=-1, hold_seconds=60)


def order(user_id: str = "ada", **said: Any) -> Order:
    return Order(**{"identity": Identity(user_id=user_id), "key": uuid4().hex, **said})


async def opened(session: AsyncSession, user_id: str, *, rules: Credits = RULES, now: int | None = None) -> Book:
    """The user's books, who has an account from now on."""
    book, _ = await accounts.open_or_create(
        session, rules, Identity(user_id=user_id), unix_now() if now is None else now
    )
    return book


async def give(
    sessions: Sessions, uses: int, *, user_id: str = "ada", book: Spendable = "paid", expires_at: int | None = None
) -> None:
    async with transaction(sessions) as session:
        books = await opened(session, user_id)
        books.grant(uses, book=book, expires_at=expires_at)
        await books.close()


async def sell(
    session: AsyncSession, book: Book, uses: int, *, expires_at: int | None = None, id: UUID | None = None
) -> UUID:
    """A purchase that is paid and granted, in books that are open; the caller closes them."""
    id = id or uuid4()
    await session.execute(
        text("""INSERT INTO credit_purchases (id, account_id, mode, status, pack, uses, amount, currency, created,
                                              granted_at)
                VALUES (:id, :account, 'checkout', 'succeeded', 'starter', :uses, 500, 'usd', :now, :now)"""),
        {"id": id, "account": book.account.id, "uses": uses, "now": book.now},
    )
    book.grant(uses, purchase_id=id, expires_at=expires_at, key=f"grant:{id}")
    return id


async def buy(sessions: Sessions, uses: int, *, user_id: str = "ada") -> UUID:
    async with transaction(sessions) as session:
        book = await opened(session, user_id)
        id = await sell(session, book, uses)
        await book.close()
    return id


async def take_back(
    session: AsyncSession, purchase_id: UUID, uses: int, *, rules: Credits = RULES, now: int | None = None
) -> int:
    """Have `uses` of a purchase be taken back in all, be that more than now or less. Returns how many more."""
    asked = text("SELECT account_id, clawed FROM credit_purchases WHERE id = :id FOR UPDATE")
    account_id, clawed = (await session.execute(asked, {"id": purchase_id})).one()
    book = await open_book(session, rules, unix_now() if now is None else now, account_id=account_id)
    assert book is not None
    if uses == clawed:
        return 0
    if uses > clawed:
        await book.claw_back(uses - clawed, purchase_id=purchase_id)
    else:
        await book.restore(clawed - uses, purchase_id=purchase_id)
    await book.close()
    told = text("UPDATE credit_purchases SET clawed = :uses WHERE id = :id")
    await session.execute(told, {"uses": uses, "id": purchase_id})
    return int(uses - clawed)


async def account(sessions: Sessions, user_id: str = "ada") -> CreditAccount:
    async with sessions() as session:
        return await accounts.get(session, user_id=user_id)


async def available(sessions: Sessions, user_id: str = "ada") -> int:
    found = await account(sessions, user_id)
    return found.free + found.paid


VIEWS = """
WITH mine AS (SELECT * FROM credit_accounts WHERE user_id = ANY(:users) OR :all),
-- What each book of an account comes to by its transfers alone. What is owed is a debt: its book is minus that.
sums AS (
    SELECT mine.id AS account_id, book, sum(leg.amount)::bigint AS amount
      FROM mine JOIN credit_transfers t ON t.account_id = mine.id
     CROSS JOIN LATERAL (VALUES (t.destination, t.amount), (t.source, -t.amount)) AS leg (book, amount)
     GROUP BY mine.id, book
), history AS (
    SELECT a.id, a.user_id, a.free, a.paid, a.held, a.owed, a.used,
           coalesce(max(s.amount) FILTER (WHERE s.book = 'free'), 0) AS to_free,
           coalesce(max(s.amount) FILTER (WHERE s.book = 'paid'), 0) AS to_paid,
           coalesce(max(s.amount) FILTER (WHERE s.book = 'held'), 0) AS to_held,
           coalesce(-max(s.amount) FILTER (WHERE s.book = 'owed'), 0) AS to_owed,
           coalesce(max(s.amount) FILTER (WHERE s.book = 'consumed'), 0) AS to_used,
           coalesce(max(s.amount) FILTER (WHERE s.book = 'issued'), 0) AS issued,
           coalesce(max(s.amount) FILTER (WHERE s.book = 'expired'), 0) AS expired,
           coalesce(max(s.amount) FILTER (WHERE s.book = 'revoked'), 0) AS revoked
      FROM mine a LEFT JOIN sums s ON s.account_id = a.id
     GROUP BY a.id, a.user_id, a.free, a.paid, a.held, a.owed, a.used
),
-- What of each grant came and went, and how much of it waits in holds.
lots AS (
    SELECT g.id, a.user_id, g.account_id, g.book, g.amount, g.remaining, g.open, g.expires_at, g.created,
           g.purchase_id, g.id = a.hand_grant AS in_hand,
           g.remaining + CASE WHEN g.id = a.hand_grant THEN a.hand ELSE 0 END AS left_over,
           coalesce(sum(CASE WHEN t.destination = g.book THEN t.amount WHEN t.source = g.book THEN -t.amount END), 0)
               AS by_history,
           coalesce(sum(CASE WHEN t.destination = 'held' THEN t.amount WHEN t.source = 'held' THEN -t.amount END), 0)
               AS held,
           coalesce(sum(t.amount) FILTER (WHERE t.kind IN ('grant', 'adjust') AND t.source = 'issued'), 0) AS given
      FROM credit_grants g JOIN mine a ON a.id = g.account_id LEFT JOIN credit_transfers t ON t.grant_id = g.id
     GROUP BY g.id, a.user_id, a.hand_grant, a.hand
),
uses AS (
    SELECT c.id, c.key, c.account_id, c.status, c.quantity, c.captured, c.expires_at, a.user_id,
           coalesce(sum(t.amount) FILTER (WHERE t.kind IN ('charge', 'hold')), 0) AS taken,
           coalesce(sum(t.amount) FILTER (WHERE t.destination = 'consumed'), 0) AS spent,
           coalesce(sum(t.amount) FILTER (WHERE t.kind = 'release'), 0) AS returned,
           bool_or(t.kind = 'hold') AS was_held,
           bool_or(t.account_id <> c.account_id) AS strange
      FROM credit_charges c JOIN mine a ON a.id = c.account_id LEFT JOIN credit_transfers t ON t.charge_id = c.id
     GROUP BY c.id, a.user_id
)
"""
"""What is asked about: the accounts `mine`, and their `history`, `lots` and `uses` as the transfers have them."""
QUESTIONS = {
    "a balance is not what its transfers come to": """
        SELECT user_id, free, to_free, paid, to_paid, held, to_held, owed, to_owed, used, to_used
          FROM history WHERE (free, paid, held, owed, used) <> (to_free, to_paid, to_held, to_owed, to_used)""",
    "what was issued is not what is there and what went": """
        SELECT user_id, issued, free, paid, held, owed, used, expired, revoked
          FROM history WHERE issued + free + paid + held - owed + used + expired + revoked <> 0""",
    "a balance is negative, or owed and available": """
        SELECT user_id, free, paid, held, owed, used, hand FROM mine
         WHERE least(free, paid, held, owed, used, hand) < 0 OR (owed > 0 AND free + paid > 0)""",
    "a grant is not what its transfers leave of it": """
        SELECT user_id, id, book, left_over, by_history FROM lots
         WHERE left_over <> by_history OR left_over < 0 OR held < 0 OR left_over + held > amount""",
    "a grant with something left is not open": """
        SELECT user_id, id, left_over FROM lots WHERE left_over > 0 AND NOT open""",
    "a grant is not what was given": """
        SELECT user_id, id, amount, given FROM lots WHERE given <> amount AND NOT (
            given = 0 AND purchase_id IS NULL AND amount IS NOT DISTINCT FROM (
                SELECT t.amount FROM credit_transfers t WHERE t.grant_id = lots.id AND t.kind = 'restore'
                 ORDER BY t.id LIMIT 1))""",
    "the grants are not the balance": """
        SELECT a.user_id, a.free, a.paid FROM mine a LEFT JOIN lots ON lots.account_id = a.id
         GROUP BY a.user_id, a.free, a.paid
        HAVING a.free <> coalesce(sum(left_over) FILTER (WHERE book = 'free'), 0)
            OR a.paid <> coalesce(sum(left_over) FILTER (WHERE book = 'paid'), 0)""",
    "another grant's turn was before the one in hand": """
        SELECT hand.user_id, hand.id, other.id FROM lots hand JOIN lots other USING (account_id)
         WHERE hand.in_hand AND hand.left_over > 0 AND other.left_over > 0
           AND (other.book = 'paid', coalesce(other.expires_at, 'infinity'::float8), other.created, other.id)
             < (hand.book = 'paid', coalesce(hand.expires_at, 'infinity'::float8), hand.created, hand.id)""",
    "nobody would notice that a grant expires": """
        SELECT lots.user_id, lots.id FROM lots JOIN mine ON mine.id = account_id
         WHERE left_over > 0 AND lots.expires_at < coalesce(mine.expires_next, 'infinity'::float8)""",
    "a charge is not what its transfers say": """
        SELECT user_id, key, status, quantity, captured, taken, spent, returned FROM uses
         WHERE strange OR taken <> quantity OR spent <> captured OR was_held <> (expires_at IS NOT NULL)
            OR returned <> CASE WHEN status = 'held' THEN 0 ELSE quantity - captured END
            OR (status IN ('released', 'expired') AND captured > 0) OR (status = 'held' AND spent > 0)""",
    "what is held is not the sum of the holds": """
        SELECT a.user_id, a.held FROM mine a LEFT JOIN uses ON uses.account_id = a.id
         GROUP BY a.user_id, a.held
        HAVING a.held <> coalesce(sum(quantity) FILTER (WHERE uses.status = 'held'), 0)""",
    "a transfer is of no charge or grant of this account": """
        SELECT a.user_id, t.id, t.kind FROM mine a JOIN credit_transfers t ON t.account_id = a.id
          LEFT JOIN credit_charges c ON c.id = t.charge_id LEFT JOIN credit_grants g ON g.id = t.grant_id
         WHERE (t.charge_id IS NOT NULL AND c.account_id IS DISTINCT FROM a.id)
            OR (t.grant_id IS NOT NULL AND g.account_id IS DISTINCT FROM a.id)
            OR (t.grant_id IS NULL AND 'owed' NOT IN (t.source, t.destination))
            OR (t.charge_id IS NULL AND t.kind IN ('charge', 'hold', 'capture', 'release'))
            OR (t.charge_id IS NOT NULL AND t.kind NOT IN ('charge', 'hold', 'capture', 'release'))""",
    "the balances after do not follow from each other": """
        SELECT * FROM (
            SELECT a.user_id, t.id, t.kind, t.balance_after, lag(t.balance_after, 1, 0::bigint) OVER series AS before,
                   CASE WHEN t.destination IN ('free', 'paid') THEN t.amount
                        WHEN t.source IN ('free', 'paid') THEN -t.amount ELSE 0 END AS change
              FROM mine a JOIN credit_transfers t ON t.account_id = a.id
            WINDOW series AS (PARTITION BY t.account_id ORDER BY t.id)) AS steps
         WHERE balance_after <> before + change OR balance_after < 0""",
    "a purchase was not granted once": """
        SELECT a.user_id, p.id, p.uses, count(t.id) FROM mine a JOIN credit_purchases p ON p.account_id = a.id
          LEFT JOIN credit_transfers t ON t.purchase_id = p.id AND t.kind = 'grant'
         GROUP BY a.user_id, p.id
        HAVING count(t.id) <> CASE WHEN p.granted_at IS NULL THEN 0 ELSE 1 END OR sum(t.amount) <> p.uses""",
    "a purchase was not taken back as it says": """
        SELECT a.user_id, p.id, p.clawed FROM mine a JOIN credit_purchases p ON p.account_id = a.id
          LEFT JOIN credit_transfers t ON t.purchase_id = p.id AND t.kind IN ('claw_back', 'restore')
         GROUP BY a.user_id, p.id
        HAVING p.clawed <> coalesce(sum(CASE t.kind WHEN 'claw_back' THEN t.amount ELSE -t.amount END), 0)
            OR p.clawed > p.uses""",
    "two charges have one key": """
        SELECT key, count(*) FROM credit_charges GROUP BY key HAVING count(*) > 1""",
    "transfers between books that nothing moves between": """
        SELECT a.user_id, t.id, t.kind, t.source, t.destination FROM mine a JOIN credit_transfers t
            ON t.account_id = a.id
         WHERE NOT CASE t.kind
            WHEN 'grant' THEN t.source = 'issued' AND t.destination IN ('free', 'paid')
            WHEN 'charge' THEN t.source IN ('free', 'paid') AND t.destination = 'consumed'
            WHEN 'hold' THEN t.source IN ('free', 'paid') AND t.destination = 'held'
            WHEN 'capture' THEN t.source = 'held' AND t.destination = 'consumed'
            WHEN 'release' THEN t.source = 'held' AND t.destination IN ('free', 'paid')
            WHEN 'expire' THEN (t.source IN ('free', 'paid') AND t.destination = 'expired')
                            OR (t.source = 'expired' AND t.destination = 'paid' AND t.purchase_id IS NOT NULL)
            WHEN 'claw_back' THEN t.source IN ('free', 'paid', 'owed') AND t.destination = 'revoked'
            WHEN 'settle' THEN t.source IN ('free', 'paid') AND t.destination = 'owed'
            WHEN 'restore' THEN t.source = 'revoked' AND t.destination IN ('free', 'paid', 'owed')
            WHEN 'adjust' THEN (t.source = 'issued' AND t.destination = 'paid')
                            OR (t.source IN ('free', 'paid') AND t.destination = 'revoked')
            ELSE false END""",
}
"""What must not be found, and how to look for it."""


async def audit(sessions: Sessions, *, users: Collection[str] | None = None) -> list[tuple[Any, ...]]:
    """All that is wrong with these users' books, or with everybody's: (what, whose, ...)."""
    found: list[tuple[Any, ...]] = []
    async with sessions() as session:
        # One snapshot for all of it: there may be others at work.
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        for what, question in QUESTIONS.items():
            asked = {"users": list(users or ()), "all": users is None}
            rows = await session.execute(text(VIEWS + question), asked)
            found += [(what, *row) for row in rows]
    return found
