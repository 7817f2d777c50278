"""Whether the books are right: balances, grants, charges and purchases held against every transfer there ever was.

A transfer takes from one book what it gives another, so all books together always come to nothing, and what was issued
is what is there, was consumed, has expired or was revoked, less what is owed: once each balance is the sum of its
transfers. Each slice is one statement, so that it sees one moment.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override

SLICE = 500
"""Accounts looked at by one statement."""
CHARGES = 200_000
"""Charges whose transfers are looked for by one statement."""
MOST = 1000
"""Violations told of one slice."""

_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)


class Place(NamedTuple):
    """Behind an account or, as these are done first, a charge."""

    after: UUID = _FIRST
    of_charges: bool = False

    @classmethod
    def parse(cls, said: str) -> "Place":
        kind, after = said.split(":")
        return cls(UUID(after), kind == "charge")

    @override
    def __str__(self) -> str:
        return f"{'charge' if self.of_charges else 'account'}:{self.after}"


class Violation(NamedTuple):
    """Something that isn't as it must be. `expected` is what the transfers say, or what has to follow from the rest.

    `about` is the id of the grant, charge, purchase or transfer that is meant; None for the account itself.
    """

    account: UUID
    what: str
    about: str | None
    expected: str | None
    found: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """How much was looked at, and what of it is wrong; `next` is where the next slice begins, None after the last."""

    accounts: int
    transfers: int
    violations: Sequence[Violation]
    next: Place | None


async def slices(session: AsyncSession) -> AsyncIterator[Slice]:
    """Everything."""
    place: Place | None = Place()
    while place is not None:
        found = await look(session, place)
        yield found
        place = found.next


async def look(session: AsyncSession, place: Place, *, most: int = SLICE) -> Slice:
    """The slice that begins at `place`, of up to `most` accounts."""
    end, check = (_END_OF_CHARGES, _CHARGES) if place.of_charges else (_END_OF_ACCOUNTS, _ACCOUNTS)
    bounds = {"after": place.after, "most": CHARGES if place.of_charges else most}
    until: UUID = await session.scalar(end, bounds) or _LAST
    rows = (await session.execute(check, {"after": place.after, "until": until, "most": MOST})).all()
    return Slice(
        accounts=rows[0].accounts,
        transfers=rows[0].transfers,
        violations=[
            Violation(row.account, row.what, row.about, row.expected, row.found) for row in rows if row.what is not None
        ],
        next=_following(place, until),
    )


async def sample(session: AsyncSession, *, most: int) -> Sequence[Violation]:
    """What is wrong with up to `most` accounts: always other ones, or all where there are no more."""
    found = await look(session, Place(uuid4()), most=most)
    # Where the ids end, the rest is taken from their beginning.
    more = await look(session, Place(), most=most - found.accounts) if found.accounts < most else None
    return [*found.violations, *(() if more is None else more.violations)]


def _following(place: Place, until: UUID) -> Place | None:
    if until != _LAST:
        return place._replace(after=until)
    return None if place.of_charges else Place(of_charges=True)


_END_OF_ACCOUNTS = text("SELECT id FROM credit_accounts WHERE id > :after ORDER BY id OFFSET :most - 1 LIMIT 1")
_END_OF_CHARGES = text("SELECT id FROM credit_charges WHERE id > :after ORDER BY id OFFSET :most - 1 LIMIT 1")

_BALANCES = """
SELECT a.id AS account, said.book AS what, NULL AS about, coalesce(sums.amount, 0)::text AS expected,
       said.has::text AS found
  FROM accounts a
 CROSS JOIN LATERAL (
    VALUES ('free', a.free), ('paid', a.paid), ('held', a.held), ('owed', a.owed), ('consumed', a.used)
 ) AS said (book, has)
  LEFT JOIN (
    SELECT account_id, book, sum(CASE book WHEN 'owed' THEN -amount ELSE amount END) AS amount
      FROM legs GROUP BY account_id, book
 ) AS sums ON sums.account_id = a.id AND sums.book = said.book
 WHERE said.has <> coalesce(sums.amount, 0)
"""

_GRANTS = """
SELECT g.account_id, 'grant', g.id::text, coalesce(sums.amount, 0)::text, g.left_over::text
  FROM grants g
  LEFT JOIN (
    SELECT account_id, grant_id, book, sum(amount) AS amount FROM legs GROUP BY account_id, grant_id, book
 ) AS sums ON sums.account_id = g.account_id AND sums.grant_id = g.id AND sums.book = g.book
 WHERE g.left_over <> coalesce(sums.amount, 0)
UNION ALL
SELECT l.account_id, 'grant_unknown', l.grant_id::text, NULL, sum(l.amount)::text
  FROM legs l LEFT JOIN grants g ON g.id = l.grant_id AND g.account_id = l.account_id AND g.book = l.book
 WHERE l.book IN ('free', 'paid') AND g.id IS NULL
 GROUP BY l.account_id, l.grant_id
UNION ALL
SELECT a.id, said.book || '_grants', NULL, coalesce(sums.left_over, 0)::text, said.has::text
  FROM accounts a
 CROSS JOIN LATERAL (VALUES ('free', a.free), ('paid', a.paid)) AS said (book, has)
  LEFT JOIN (
    SELECT account_id, book, sum(left_over) AS left_over FROM grants GROUP BY account_id, book
 ) AS sums ON sums.account_id = a.id AND sums.book = said.book
 WHERE said.has <> coalesce(sums.left_over, 0)
"""

# When the last of the grant in hand is charged it stays there, and open, until the books are opened.
_ORDER = """
SELECT account_id, 'open', id::text, (left_over > 0)::text, open::text
  FROM grants WHERE open <> (left_over > 0) AND NOT (open AND in_hand)
UNION ALL
SELECT a.id, 'hand', NULL, turn.id::text, a.hand_grant::text
  FROM accounts a
  LEFT JOIN (
    SELECT DISTINCT ON (account_id) account_id, id, book FROM grants WHERE open
     ORDER BY account_id, book = 'paid', expires_at, created, id
 ) AS turn ON turn.account_id = a.id
 WHERE turn.id IS DISTINCT FROM a.hand_grant OR turn.book IS DISTINCT FROM a.hand_book
UNION ALL
SELECT account_id, 'remaining', id::text, '0', remaining::text FROM grants WHERE in_hand AND remaining > 0
UNION ALL
SELECT a.id, 'expires_next', NULL, min(g.expires_at)::text, a.expires_next::text
  FROM accounts a LEFT JOIN grants g ON g.account_id = a.id AND g.open
 GROUP BY a.id, a.expires_next HAVING min(g.expires_at) IS DISTINCT FROM a.expires_next
"""

_MOVED = """
SELECT m.account_id, CASE WHEN c.id IS NULL THEN 'charge_unknown' ELSE 'charge' END, m.charge_id::text,
       format('charge %s, hold %s, capture %s, release %s', m.spent, m.held, m.captured, m.released),
       CASE WHEN c.id IS NOT NULL THEN format('%s, %s of %s', c.status, c.captured, c.quantity) END
  FROM (
    SELECT account_id, charge_id, coalesce(sum(amount) FILTER (WHERE kind = 'charge'), 0) AS spent,
           coalesce(sum(amount) FILTER (WHERE kind = 'hold'), 0) AS held,
           coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0) AS captured,
           coalesce(sum(amount) FILTER (WHERE kind = 'release'), 0) AS released
      FROM transfers WHERE charge_id IS NOT NULL OR kind IN ('charge', 'hold', 'capture', 'release')
     GROUP BY account_id, charge_id
 ) AS m
  LEFT JOIN credit_charges c ON c.id = m.charge_id AND c.account_id = m.account_id
 WHERE (CASE
    WHEN c.expires_at IS NULL THEN
        c.status = 'captured' AND c.captured = c.quantity AND m.spent = c.quantity
        AND m.held + m.captured + m.released = 0
    WHEN c.status = 'held' THEN
        c.captured = 0 AND m.held = c.quantity AND m.spent + m.captured + m.released = 0
    ELSE (c.captured = 0 OR c.status = 'captured') AND m.held = c.quantity AND m.spent = 0
         AND m.captured = c.captured AND m.released = c.quantity - c.captured
 END) IS NOT TRUE
UNION ALL
(SELECT DISTINCT ON (account_id) account_id, 'balance_after', id::text, running::text, balance_after::text
   FROM (SELECT account_id, id, balance_after,
                sum(CASE WHEN destination IN ('free', 'paid') THEN amount ELSE 0 END
                    - CASE WHEN source IN ('free', 'paid') THEN amount ELSE 0 END)
                    OVER (PARTITION BY account_id ORDER BY id) AS running
           FROM transfers) AS told
  WHERE running <> balance_after ORDER BY account_id, id)
UNION ALL
SELECT t.account_id, 'account_unknown', NULL, NULL, count(*)::text
  FROM transfers t LEFT JOIN accounts a ON a.id = t.account_id WHERE a.id IS NULL GROUP BY t.account_id
"""

# What is clawed back is what part of the price went back, in whole uses: see settling.py.
_PURCHASES = """
SELECT account_id, said.what, id::text, said.expected::text, said.found::text
  FROM (
    SELECT p.*, p.status = 'succeeded' AS bought, coalesce(g.amount, 0) AS grant_amount,
           coalesce(m.granted, 0) AS moved, coalesce(m.clawed, 0) AS taken
      FROM purchases p
      LEFT JOIN credit_grants g ON g.purchase_id = p.id AND g.account_id = p.account_id AND g.book = 'paid'
      LEFT JOIN (
        SELECT account_id, purchase_id, sum(amount) FILTER (WHERE kind = 'grant') AS granted,
               sum(CASE kind WHEN 'claw_back' THEN amount WHEN 'restore' THEN -amount ELSE 0 END) AS clawed
          FROM transfers WHERE purchase_id IS NOT NULL GROUP BY account_id, purchase_id
     ) AS m ON m.purchase_id = p.id AND m.account_id = p.account_id
 ) AS p
 CROSS JOIN LATERAL (VALUES
    ('purchase_granted_at', p.bought::int, (p.granted_at IS NOT NULL)::int),
    ('purchase_grant', CASE WHEN p.bought THEN p.uses ELSE 0 END, p.grant_amount),
    ('purchase_granted', p.moved, CASE WHEN p.bought THEN p.uses ELSE 0 END),
    ('purchase_clawed', p.taken, p.clawed),
    ('purchase_lost', CASE WHEN p.bought THEN
        div(p.uses::numeric * least(p.amount, p.amount_refunded + p.amount_disputed), p.amount) ELSE 0 END, p.clawed)
 ) AS said (what, expected, found)
 WHERE said.expected <> said.found
UNION ALL
SELECT t.account_id, 'purchase_unknown', t.purchase_id::text, NULL, count(*)::text
  FROM transfers t LEFT JOIN purchases p ON p.id = t.purchase_id AND p.account_id = t.account_id
 WHERE t.purchase_id IS NOT NULL AND p.id IS NULL
 GROUP BY t.account_id, t.purchase_id
"""

_ACCOUNTS = text(f"""
WITH accounts AS MATERIALIZED (
    SELECT * FROM credit_accounts WHERE id > :after AND id <= :until
), transfers AS MATERIALIZED (
    SELECT * FROM credit_transfers WHERE account_id > :after AND account_id <= :until
), legs AS MATERIALIZED (
    SELECT account_id, grant_id, destination AS book, amount FROM transfers
     UNION ALL SELECT account_id, grant_id, source, -amount FROM transfers
), grants AS MATERIALIZED (
    SELECT g.*, g.id IS NOT DISTINCT FROM a.hand_grant AS in_hand,
           g.remaining + CASE g.id WHEN a.hand_grant THEN a.hand ELSE 0 END AS left_over
      FROM credit_grants g JOIN accounts a ON a.id = g.account_id
), purchases AS MATERIALIZED (
    SELECT * FROM credit_purchases WHERE account_id > :after AND account_id <= :until
)
SELECT (SELECT count(*) FROM accounts) AS accounts, (SELECT count(*) FROM transfers) AS transfers, wrong.*
  FROM (SELECT) AS one
  LEFT JOIN (
    {_BALANCES} UNION ALL {_GRANTS} UNION ALL {_ORDER} UNION ALL {_MOVED} UNION ALL {_PURCHASES} LIMIT :most
 ) AS wrong ON true
""")  # noqa: S608 - our own parts

# No index leads from a charge to its transfers, which would slow each charge: all transfers are read for each slice.
_CHARGES = text("""
WITH charges AS MATERIALIZED (
    SELECT id, account_id, quantity FROM credit_charges WHERE id > :after AND id <= :until
)
SELECT 0 AS accounts, 0 AS transfers, wrong.*
  FROM (SELECT) AS one
  LEFT JOIN (
    SELECT c.account_id AS account, 'account_unknown' AS what, c.id::text AS about, NULL AS expected, '0' AS found
      FROM charges c LEFT JOIN credit_accounts a ON a.id = c.account_id WHERE a.id IS NULL
     UNION ALL
    SELECT c.account_id, 'charge_unmoved', c.id::text, c.quantity::text, '0'
      FROM charges c LEFT JOIN credit_transfers t ON t.charge_id = c.id AND t.account_id = c.account_id
     WHERE t.id IS NULL
     LIMIT :most
  ) AS wrong ON true
""")
