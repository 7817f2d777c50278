"""Comparisons with Stripe as rows: one at a time, each going on where it was interrupted, and what they found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import case, delete, func, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, NotFoundError
from app.models import Customer, Difference, Invoice, PaymentMethod, ReconcileRun, Subscription
from app.services.reconcile.differences import Finding, is_drift
from app.services.reconcile.lists import LISTS, Place
from app.services.reconcile.missed import UNDERWAY_SECONDS, installed_at, oldest, unread_since
from app.values import unix_now

BEAT_SECONDS = 5.0
LEASE = timedelta(seconds=20)
"""A run that has not been touched for so long belongs to nobody any more."""
RESUMABLE = timedelta(days=1)
RETRY = timedelta(minutes=10)  # before the schedule goes on with a run that failed
KEPT = timedelta(days=90)

PHASES = ("event", *LISTS, "usage", "credits")
DONE = "done"
ACTOR = "reconcile"
"""Who repairs when the schedule does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run goes on: in which phase, and there from which second of events or which place of a list.

    `owner` is the process at it.
    """

    owner: str
    phase: str
    at: int
    until: int
    place: Place = field(default_factory=Place)

    @classmethod
    def of(cls, run: ReconcileRun) -> "Progress":
        return cls(**{**run.cursor, "place": Place(**run.cursor["place"])})


async def start(session: AsyncSession, *, actor: str, repair: bool, since: int | None) -> ReconcileRun:
    """Begin a run, or go on with one that was interrupted less than a day ago and was to do the same.

    Raises ConflictError while another process is at one.
    """
    # Any constant of our own: two processes must not both find that nobody is at it.
    await session.execute(text("SELECT pg_advisory_xact_lock(1382378339)"))
    lives = (ReconcileRun.status == "running") & (ReconcileRun.updated_at > func.clock_timestamp() - LEASE)
    recent = ReconcileRun.started_at > func.now() - RESUMABLE
    unfinished = select(ReconcileRun, lives).where(ReconcileRun.status != "done", or_(recent, lives))
    interrupted = None
    for run, alive in await session.execute(unfinished.order_by(ReconcileRun.started_at)):
        if alive:
            raise ConflictError("Another comparison with Stripe is under way.", code="reconcile_running")
        if run.repair == repair and covers(run.since, since):
            interrupted = run
    abandoned = update(ReconcileRun).where(ReconcileRun.status == "running")
    await session.execute(abandoned.values(status="failed", error="It was interrupted."))
    await session.execute(delete(ReconcileRun).where(ReconcileRun.started_at < func.now() - KEPT))
    if interrupted is None:
        interrupted = ReconcileRun(id=uuid4(), actor=actor, repair=repair, since=since)
        # What the schedule reads over and over, between two comparisons, need not be read once more.
        at = await (unread_since(session) if actor == ACTOR else oldest(session))
        progress = Progress(owner="", phase=PHASES[0], at=max(at, since or 0), until=unix_now() - UNDERWAY_SECONDS)
        interrupted.cursor = asdict(progress)
        session.add(interrupted)
        await session.flush()
    progress = Progress.of(interrupted)
    place = replace(progress.place, restarts=0)
    interrupted.cursor = asdict(replace(progress, owner=uuid4().hex, place=place))
    interrupted.status, interrupted.error, interrupted.updated_at = "running", None, func.clock_timestamp()
    await session.flush()
    await session.refresh(interrupted)
    return interrupted


def covers(theirs: int | None, ours: int | None) -> bool:
    """Whether what is done since `theirs` also does what something since `ours` would, and not much more."""
    if theirs is None or ours is None:
        return theirs is ours
    return theirs <= ours <= theirs + RESUMABLE.total_seconds()


async def save(session: AsyncSession, run: ReconcileRun, progress: Progress, *, compared: int) -> ReconcileRun:
    """Note how far the run has come; gives it as it is now. Raises ConflictError when another process took it over."""
    values = {"cursor": asdict(progress), "compared": ReconcileRun.compared + compared}
    return await _update(session, run, progress.owner, **values)


async def beat(session: AsyncSession, run: ReconcileRun, owner: str) -> None:
    """Say that somebody is still at it. Raises as `save` does."""
    await _update(session, run, owner)


async def finish(session: AsyncSession, run: ReconcileRun, owner: str) -> ReconcileRun:
    """Gives the run as it is now. Raises as `save` does."""
    return await _update(session, run, owner, status="done", finished_at=func.clock_timestamp())


async def fail(session: AsyncSession, run: ReconcileRun, owner: str, error: str) -> None:
    """Leave the run to whoever goes on with it. Raises as `save` does."""
    await _update(session, run, owner, status="failed", error=error)


async def _update(session: AsyncSession, run: ReconcileRun, owner: str, **values: Any) -> ReconcileRun:
    mine = (
        ReconcileRun.id == run.id,
        ReconcileRun.status == "running",
        ReconcileRun.cursor["owner"].astext == owner,
    )
    touched = update(ReconcileRun).where(*mine).values(**values, updated_at=func.clock_timestamp())
    now = await session.scalar(
        touched.returning(ReconcileRun).execution_options(synchronize_session=False, populate_existing=True)
    )
    if now is None:
        raise ConflictError("Another process has gone on with this comparison.", code="reconcile_running")
    return now


async def record(session: AsyncSession, run: ReconcileRun, findings: Sequence[Finding]) -> list[Finding]:
    """Write findings down, in the transaction that repairs them; gives those that say something new.

    After an interruption a finding may be made again: then the later one counts.
    """
    latest = {(one.object, one.stripe_id): one for one in findings}
    if not latest:
        return []
    mine = select(Difference).where(
        Difference.run_id == run.id, tuple_(Difference.object, Difference.stripe_id).in_(latest)
    )
    earlier = {(row.object, row.stripe_id): (row.cause, row.repaired) for row in (await session.scalars(mine)).all()}
    insertion = insert(Difference).values([{"run_id": run.id, **asdict(one)} for one in latest.values()])
    changed = {name: insertion.excluded[name] for name in ("customer", "cause", "fields", "repaired")}
    await session.execute(
        insertion.on_conflict_do_update(index_elements=["run_id", "object", "stripe_id"], set_=changed)
    )
    drifted = sum(one.drift for one in latest.values()) - sum(is_drift(cause) for cause, _ in earlier.values())
    repaired = sum(one.repaired for one in latest.values()) - sum(mended for _, mended in earlier.values())
    # Last of all: the run's row stays locked from here to the commit, and the heartbeat waits for it.
    counted = update(ReconcileRun).where(ReconcileRun.id == run.id)
    await session.execute(
        counted.values(
            drifted=ReconcileRun.drifted + drifted, repaired=ReconcileRun.repaired + repaired
        ).execution_options(synchronize_session=False)
    )
    return [one for key, one in latest.items() if earlier.get(key) != (one.cause, one.repaired)]


async def latest_done(session: AsyncSession) -> ReconcileRun | None:
    """The latest comparison of everything that came to its end."""
    done = select(ReconcileRun).where(ReconcileRun.status == "done", ReconcileRun.since.is_(None))
    return await session.scalar(done.order_by(ReconcileRun.started_at.desc()).limit(1))


async def report(
    session: AsyncSession, *, limit: int, starting_after: int | None
) -> tuple[ReconcileRun, list[Difference]]:
    """The latest run, and what it found, in that order: up to `limit` + 1 rows to tell if there is more.

    What follows a difference (by its id) is of the same run. Raises NotFoundError for a difference there isn't, and
    before the first run.
    """
    found = select(ReconcileRun).order_by(ReconcileRun.started_at.desc()).limit(1)
    if starting_after is not None:
        found = select(ReconcileRun).join(Difference).where(Difference.id == starting_after)
    if (run := await session.scalar(found)) is None:
        raise NotFoundError("Nothing has been compared with Stripe yet.", code="reconcile_report_not_found")
    return run, await differences(session, run.id, limit=limit + 1, starting_after=starting_after)


async def differences(
    session: AsyncSession, run_id: UUID, *, limit: int, starting_after: int | None = None
) -> list[Difference]:
    """What a run found, in that order."""
    rows = select(Difference).where(Difference.run_id == run_id).order_by(Difference.id).limit(limit)
    if starting_after is not None:
        rows = rows.where(Difference.id > starting_after)
    return list((await session.scalars(rows)).all())


async def is_due(session: AsyncSession, *, every: timedelta, repair: bool) -> bool:
    """Whether the schedule should begin a comparison of everything, or go on with one, whoever began it."""
    overdue = case(
        (ReconcileRun.status == "done", ReconcileRun.started_at <= func.now() - every),
        (ReconcileRun.status == "running", ReconcileRun.updated_at <= func.now() - LEASE),
        else_=ReconcileRun.updated_at <= func.now() - RETRY,
    )
    alike = select(overdue).where(ReconcileRun.repair == repair, ReconcileRun.since.is_(None))
    last = await session.scalar(alike.order_by(ReconcileRun.started_at.desc()).limit(1))
    if last is None:
        return unix_now() - await installed_at(session) >= every.total_seconds()
    return bool(last)


async def expected(session: AsyncSession) -> int:
    """About how many objects there are to compare, judging by what is here: Stripe's lists don't say how long they are.

    Postgres' own guess, which costs nothing; 0 before it has made one.
    """
    guess = text(
        "SELECT sum(greatest(reltuples, 0))::bigint FROM unnest(cast(:tables AS text[])) AS name"
        " JOIN pg_class ON pg_class.oid = to_regclass(name)"
    )
    tables = [model.__tablename__ for model in (Customer, PaymentMethod, Subscription, Invoice)]
    return await session.scalar(guess, {"tables": tables}) or 0
