"""Recording usage: each event once and for ever, held to the plan's limit, in one statement for a whole batch."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.services import access
from app.services.access import Entitlements
from app.services.catalog import Catalog, Meter
from app.services.usage_totals import Period, month_of, period_at

PAST_SECONDS = 35 * 86_400
AHEAD_SECONDS = 300
"""How far an event may lie from now: what Stripe takes (docs.stripe.com/api/billing/meter-event/create)."""
MAX_ID_LENGTH = 100
"""Of an event's id, which is its identifier at Stripe."""
_ROUNDS = 5

Result = Literal["accepted", "duplicate", "refused"]
Key = tuple[str, str, int]
"""Whose total it is, of which meter, in the period that begins then."""


class Given(NamedTuple):
    """Usage as a caller reports it, of one user or of one customer (a Stripe id); without `timestamp`, of now."""

    id: str
    meter: str
    quantity: int
    timestamp: int | None = None
    user_id: str | None = None
    customer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`code` says why an event was refused."""

    id: str
    result: Result
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Whose usage it is, whether Stripe knows them, and what they hold."""

    subject: str
    at_stripe: bool
    held: Entitlements


class _Entry(NamedTuple):
    """An event on its way into the ledger. `weight` is what it adds to the total, `limit` what that may become."""

    given: Given
    person: Person
    meter: Meter
    timestamp: int
    period: Period
    weight: int
    limit: int | None

    @property
    def key(self) -> Key:
        return self.person.subject, self.meter.key, self.period.start


# Events first and in the order of their ids, then totals in theirs: two batches never wait for each other in a circle.
# A period that is over keeps the limit it had.
_WRITE = text("""
WITH given AS (
    SELECT * FROM unnest(
        CAST(:ids AS text[]), CAST(:subjects AS text[]), CAST(:meters AS text[]), CAST(:quantities AS bigint[]),
        CAST(:timestamps AS bigint[]), CAST(:starts AS bigint[]), CAST(:ends AS bigint[]), CAST(:statuses AS text[]),
        CAST(:weights AS bigint[]), CAST(:limits AS bigint[]), CAST(:lasts AS boolean[])
    ) AS g (id, subject, meter, quantity, timestamp, period_start, period_end, status, weight, allowed, last)
), stored AS (
    INSERT INTO usage_events (id, subject, meter, quantity, timestamp, period_start, status)
    SELECT id, subject, meter, quantity, timestamp, period_start, status FROM given ORDER BY id
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), sums AS (
    SELECT subject, meter, period_start, max(period_end) AS period_end, min(allowed) AS allowed, count(*) AS events,
           max(timestamp) AS latest, bool_or(last) AS last,
           CASE WHEN bool_or(last) THEN (array_agg(weight ORDER BY timestamp DESC))[1] ELSE sum(weight) END AS used
      FROM given JOIN stored USING (id)
     GROUP BY subject, meter, period_start
), counted AS (
    INSERT INTO usage_totals AS t (subject, meter, period_start, period_end, used, events, latest, allowed)
    SELECT subject, meter, period_start, period_end, used, events, latest, allowed FROM sums
     WHERE NOT last ORDER BY subject, meter, period_start
    ON CONFLICT (subject, meter, period_start) DO UPDATE
       SET used = t.used + EXCLUDED.used, events = t.events + EXCLUDED.events,
           allowed = CASE WHEN EXCLUDED.period_end <= :now THEN t.allowed ELSE EXCLUDED.allowed END,
           latest = greatest(t.latest, EXCLUDED.latest), period_end = EXCLUDED.period_end
     WHERE EXCLUDED.allowed IS NULL OR t.used + EXCLUDED.used <= EXCLUDED.allowed
    RETURNING 1
), replaced AS (
    INSERT INTO usage_totals AS t (subject, meter, period_start, period_end, used, events, latest, allowed)
    SELECT subject, meter, period_start, period_end, used, events, latest, allowed FROM sums
     WHERE last ORDER BY subject, meter, period_start
    ON CONFLICT (subject, meter, period_start) DO UPDATE
       SET used = CASE WHEN EXCLUDED.latest >= t.latest THEN EXCLUDED.used ELSE t.used END,
           events = t.events + EXCLUDED.events,
           allowed = CASE WHEN EXCLUDED.period_end <= :now THEN t.allowed ELSE EXCLUDED.allowed END,
           latest = greatest(t.latest, EXCLUDED.latest), period_end = EXCLUDED.period_end
    RETURNING 1
)
SELECT ARRAY(SELECT id FROM stored) AS stored,
       (SELECT count(*) FROM sums) = (SELECT count(*) FROM counted) + (SELECT count(*) FROM replaced) AS within
""")

_PEOPLE = text("""
SELECT id, user_id, stripe_id FROM customers
 WHERE NOT deleted AND (user_id = ANY(CAST(:users AS text[])) OR stripe_id = ANY(CAST(:ids AS text[])))
""")
_STORED = text("SELECT id, subject, meter, quantity, timestamp FROM usage_events WHERE id = ANY(CAST(:ids AS text[]))")
_TOTALS = text("""
SELECT subject, meter, period_start, period_end, used FROM usage_totals
 WHERE subject = ANY(CAST(:subjects AS text[])) AND period_end > :since
""")


class _OvertakenError(Exception):
    """Somebody else has used up what was left: nothing of this round may stay. It takes a limit for that."""


async def record(session: AsyncSession, catalog: Catalog, events: Sequence[Given], *, now: int) -> list[Outcome]:
    """Store what may be stored and say of each event what became of it, in the order given.

    An id is good for one event for ever: the same event again is a duplicate, another one with its id is refused.
    """
    people = await find_people(session, catalog, events, now=now)
    stored = await _stored(session, [event.id for event in events])
    book = _Book(catalog=catalog, people=people, stored=stored, now=now)
    for _ in range(_ROUNDS):
        book.used = await _totals(session, people.values(), now=now)
        entries = book.judge(events)
        limited = any(entry.limit is not None for entry in entries)
        try:
            async with session.begin_nested() if limited else nullcontext():
                new = await write(session, entries, now=now)
        except _OvertakenError:
            continue
        if len(new) == len(entries):
            return book.outcomes
        # Another request stored some of these ids meanwhile: say of them what is true now.
        late = await _stored(session, [entry.given.id for entry in entries if entry.given.id not in new])
        return [
            outcome if (row := late.get(outcome.id)) is None else _again(given, book.subject(given), row)
            for given, outcome in zip(events, book.outcomes, strict=True)
        ]
    book.used = await _totals(session, people.values(), now=now)
    book.judge(events)
    return [
        Outcome(id=outcome.id, result="refused", code="busy") if outcome.result == "accepted" else outcome
        for outcome in book.outcomes
    ]


async def write(session: AsyncSession, entries: Sequence[_Entry], *, now: int) -> set[str]:
    """Store entries and count them; answers which ids are new. Raises _OvertakenError beyond a limit."""
    if not entries:
        return set()
    columns: dict[str, Any] = {
        "ids": [entry.given.id for entry in entries],
        "subjects": [entry.person.subject for entry in entries],
        "meters": [entry.meter.key for entry in entries],
        "quantities": [entry.given.quantity for entry in entries],
        "timestamps": [entry.timestamp for entry in entries],
        "starts": [entry.period.start for entry in entries],
        "ends": [entry.period.end for entry in entries],
        "statuses": ["pending" if entry.person.at_stripe else "held" for entry in entries],
        "weights": [entry.weight for entry in entries],
        "limits": [entry.limit for entry in entries],
        "lasts": [entry.meter.aggregation == "last" for entry in entries],
        "now": now,
    }
    done = (await session.execute(_WRITE, columns)).one()
    if not done.within:
        raise _OvertakenError
    return set(done.stored)


@dataclass(slots=True, kw_only=True)
class _Book:
    """One batch being judged: what is known of people, ids and totals, and the outcomes so far."""

    catalog: Catalog
    people: Mapping[tuple[str | None, str | None], Person]
    stored: Mapping[str, Any]
    now: int
    used: dict[Key, tuple[int, Period]] = field(default_factory=dict)
    terms: dict[tuple[str, str], tuple[Period, int | None]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def subject(self, given: Given) -> str | None:
        person = self.people.get((given.user_id, given.customer))
        return None if person is None else person.subject

    def judge(self, events: Sequence[Given]) -> list[_Entry]:
        """Decide of each event in turn; answers those to be stored."""
        self.outcomes = []
        entries: list[_Entry] = []
        met: dict[str, _Entry] = {}
        for given in events:
            outcome: Outcome | None = None
            if (row := self.stored.get(given.id)) is not None:
                outcome = _again(given, self.subject(given), row)
            elif (twin := met.get(given.id)) is not None:
                same = (twin.given.meter, twin.given.quantity) == (given.meter, given.quantity)
                same = same and self.subject(given) == twin.person.subject
                same = same and given.timestamp in {None, twin.timestamp}
                outcome = _duplicate(given) if same else _refused(given, "id_reused")
            else:
                entry = self._entry(given)
                if isinstance(entry, _Entry):
                    entries.append(entry)
                    met[given.id] = entry
                    outcome = Outcome(id=given.id, result="accepted")
                else:
                    outcome = entry
            self.outcomes.append(outcome)
        return entries

    def _entry(self, given: Given) -> _Entry | Outcome:
        meter = self.catalog.meters.get(given.meter)
        person = self.people.get((given.user_id, given.customer))
        timestamp = self.now if given.timestamp is None else given.timestamp
        if meter is None:
            return _refused(given, "unknown_meter")
        if person is None:
            return _refused(given, "unknown_customer")
        if timestamp < self.now - PAST_SECONDS:
            return _refused(given, "timestamp_too_old")
        if timestamp > self.now + AHEAD_SECONDS:
            return _refused(given, "timestamp_in_future")
        current, limit = self._terms(person, meter.key)
        period = current if timestamp >= current.start else self._former(person.subject, meter.key, timestamp, current)
        weight = 1 if meter.aggregation == "count" else given.quantity
        if period is not current:
            limit = None  # what comes late belongs to a period that is over: nobody can keep to its limit any more
        key = (person.subject, meter.key, period.start)
        used = 0 if meter.aggregation == "last" else self.used.get(key, (0, period))[0]
        if limit is not None and used + weight > limit:
            return _refused(given, "limit_exceeded")
        self.used[key] = (used + weight, period)
        return _Entry(
            given=given, person=person, meter=meter, timestamp=timestamp, period=period, weight=weight, limit=limit
        )

    def _terms(self, person: Person, meter: str) -> tuple[Period, int | None]:
        """The current period, and what is allowed in it."""
        terms = self.terms.get((person.subject, meter))
        if terms is None:
            terms = current_period(person.held, self.now), limit_of(self.catalog, person.held, meter)
            self.terms[person.subject, meter] = terms
        return terms

    def _former(self, subject: str, meter: str, timestamp: int, current: Period) -> Period:
        """The period before `current` that a time belongs to: one that is known, else its month."""
        known = [
            period
            for (whose, what, _), (_, period) in self.used.items()
            if (whose, what) == (subject, meter) and timestamp in period
        ]
        # With another plan a period may have ended early: then the one that began last is the one.
        start, end = max(known, default=month_of(timestamp))
        return Period(start, min(end, current.start))


def current_period(held: Entitlements, now: int) -> Period:
    return period_at(now, start=held.current_period_start, end=held.current_period_end)


def limit_of(catalog: Catalog, held: Entitlements, meter: str) -> int | None:
    """What the plan in force allows a period; a meter that no plan limits is paid by use."""
    if not any(meter in plan.limits for plan in catalog.plans.values()):
        return None
    return held.limits.get(meter, 0)


async def find_people(
    session: AsyncSession, catalog: Catalog, events: Iterable[Given], *, now: int
) -> dict[tuple[str | None, str | None], Person]:
    """Those the events are about, by (user id, customer). A user without a customer holds the default plan."""
    meant = {(event.user_id, event.customer) for event in events}
    users = [user for user, _ in meant if user]
    ids = [id for _, id in meant if id]
    rows = (await session.execute(_PEOPLE, {"users": users, "ids": ids})).all()
    held = await access.entitlements_of(session, catalog, [row.id for row in rows], now=now)
    by_user = {row.user_id: row for row in rows if row.user_id}
    by_id = {row.stripe_id: row for row in rows}
    people: dict[tuple[str | None, str | None], Person] = {}
    for user, id in meant:
        row = by_user.get(user) if user else by_id.get(id)
        if row is not None:
            people[user, id] = Person(subject=row.user_id or row.stripe_id, at_stripe=True, held=held[row.id])
        elif user:
            nothing = access.without_subscription(catalog)
            people[user, id] = Person(subject=user, at_stripe=False, held=nothing)
    return people


async def _stored(session: AsyncSession, ids: Sequence[str]) -> dict[str, Any]:
    found = await session.execute(_STORED, {"ids": ids})
    return {row.id: row for row in found}


async def _totals(session: AsyncSession, people: Iterable[Person], *, now: int) -> dict[Key, tuple[int, Period]]:
    """The totals that an event of these people may count in."""
    subjects = list({person.subject for person in people})
    found = await session.execute(_TOTALS, {"subjects": subjects, "since": now - PAST_SECONDS})
    return {
        (row.subject, row.meter, row.period_start): (row.used, Period(row.period_start, row.period_end))
        for row in found
    }


def _again(given: Given, subject: str | None, row: Any) -> Outcome:
    same = (given.meter, given.quantity) == (row.meter, row.quantity)
    # Whoever is unknown by now may have been known then.
    same = same and subject in {None, row.subject} and given.timestamp in {None, row.timestamp}
    return _duplicate(given) if same else _refused(given, "id_reused")


def _duplicate(given: Given) -> Outcome:
    return Outcome(id=given.id, result="duplicate")


def _refused(given: Given, code: str) -> Outcome:
    return Outcome(id=given.id, result="refused", code=code)
