"""Comparisons with Stripe as rows: one at a time, each going on where it was interrupted, and what they found."""

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, NotFoundError
from app.models import Customer, Difference, Invoice, PaymentMethod, ReconcileRun, Subscription
from app.services.reconcile.differences import Finding
from app.services.reconcile.lists import LISTS, Place
from app.services.reconcile.missed import KEPT_SECONDS, UNDERWAY_SECONDS, heard_since, installed_at
from app.values import unix_now, utcnow

BEAT_SECONDS = 5.0
LEASE = timedelta(seconds=20)
"""A run that has not been touched for so long belongs to nobody any more."""
RESUMABLE = timedelta(days=1)
RETRY = timedelta(minutes=10)  # before the schedule goes on with a run that failed
KEPT = timedelta(days=90)

PHASES = ("event", *LISTS)
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
    interrupted = None
    unfinished = select(ReconcileRun).where(ReconcileRun.status != "done").order_by(ReconcileRun.started_at)
    for run in (await session.scalars(unfinished.where(ReconcileRun.updated_at > func.now() - RESUMABLE))).all():
        if run.status == "running" and run.updated_at > utcnow() - LEASE:
            raise ConflictError("Another comparison with Stripe is under way.", code="reconcile_running")
        if run.repair == repair and _covers(run.since, since):
            interrupted = run
    abandoned = update(ReconcileRun).where(ReconcileRun.status == "running")
    await session.execute(abandoned.values(status="failed", error="It was interrupted."))
    await session.execute(delete(ReconcileRun).where(ReconcileRun.started_at < func.now() - KEPT))
    if interrupted is None:
        oldest = max(await heard_since(session), unix_now() - KEPT_SECONDS)
        interrupted = ReconcileRun(id=uuid4(), actor=actor, repair=repair, since=since)
        progress = Progress(owner="", phase=PHASES[0], at=max(oldest, since or 0), until=unix_now() - UNDERWAY_SECONDS)
        interrupted.cursor = asdict(progress)
        session.add(interrupted)
        await session.flush()
    interrupted.cursor = {**interrupted.cursor, "owner": uuid4().hex}
    interrupted.status, interrupted.error, interrupted.updated_at = "running", None, utcnow()
    await session.flush()
    await session.refresh(interrupted)
    return interrupted


def _covers(theirs: int | None, ours: int | None) -> bool:
    """Whether a run since `theirs` also does what one since `ours` would, and not much more."""
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


async def record(session: AsyncSession, run: ReconcileRun, finding: Finding) -> bool:
    """Write a finding down, in the transaction that repairs it; False if an interruption made us find it twice."""
    same = (
        Difference.run_id == run.id,
        Difference.object == finding.object,
        Difference.stripe_id == finding.stripe_id,
    )
    if await session.scalar(select(Difference.id).where(*same).limit(1)) is not None:
        return False
    session.add(Difference(run_id=run.id, **asdict(finding)))
    counted = update(ReconcileRun).where(ReconcileRun.id == run.id)
    await session.execute(
        counted.values(
            drifted=ReconcileRun.drifted + int(finding.drift), repaired=ReconcileRun.repaired + int(finding.repaired)
        ).execution_options(synchronize_session=False)
    )
    await session.flush()
    return True


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


async def is_due(session: AsyncSession, *, every: timedelta) -> bool:
    """Whether the schedule should begin a comparison of everything, or go on with one."""
    scheduled = select(ReconcileRun).where(ReconcileRun.actor == ACTOR, ReconcileRun.since.is_(None))
    last = await session.scalar(scheduled.order_by(ReconcileRun.started_at.desc()).limit(1))
    now = utcnow()
    if last is None:
        return now.timestamp() - await installed_at(session) >= every.total_seconds()
    if last.status == "done":
        return last.started_at <= now - every
    return last.updated_at <= now - (LEASE if last.status == "running" else RETRY)


async def expected(session: AsyncSession) -> int:
    """How many objects there are to compare, judging by what is here: Stripe's lists don't say how long they are."""
    count = 0
    for model in (Customer, PaymentMethod, Subscription, Invoice):
        count += await session.scalar(select(func.count()).select_from(model)) or 0
    return count
