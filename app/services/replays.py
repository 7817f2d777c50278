"""Replays of many events: asked for by a filter, carried out slice by slice by whoever has time."""

from uuid import UUID, uuid4

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import InvalidRequestError, NotFoundError
from app.models import Replay, StripeEvent
from app.services import audit, inbox
from app.services.inbox import EventFilter
from app.values import utcnow

SLICE = 500  # events whose rows are locked at once: some ten milliseconds


async def start(session: AsyncSession, which: EventFilter, *, actor: str) -> Replay:
    """Ask for a replay of all events that `which` finds now. Raises InvalidRequestError where it says nothing."""
    if not which.given:
        raise InvalidRequestError("Say which events: a status, type, customer or since.", code="empty_filter")
    newest = await session.scalar(select(func.max(StripeEvent.id))) or 0
    matching = select(func.count()).where(*await which.conditions(session), StripeEvent.id <= newest)
    job = Replay(
        id=uuid4(), filter=which.given, actor=actor, total=await session.scalar(matching) or 0, up_to_id=newest
    )
    session.add(job)
    await session.flush()
    await session.refresh(job)
    await audit.record(
        session,
        actor=actor,
        action="events.replayed",
        subject=str(job.id),
        after={"filter": which.given, "total": job.total},
    )
    return job


async def get(session: AsyncSession, id: UUID) -> Replay:
    """Raises NotFoundError."""
    if (job := await session.get(Replay, id, populate_existing=True)) is None:
        raise NotFoundError("There is no such replay.", code="replay_not_found")
    return job


async def list_jobs(session: AsyncSession, *, limit: int, starting_after: UUID | None) -> list[Replay]:
    """Newest first, up to `limit` + 1 rows to tell if there is more. Raises NotFoundError."""
    query = select(Replay).order_by(Replay.created_at.desc(), Replay.id.desc()).limit(limit + 1)
    if starting_after is not None:
        last = await get(session, starting_after)
        query = query.where(tuple_(Replay.created_at, Replay.id) < (last.created_at, last.id))
    return list((await session.scalars(query)).all())


async def advance(session: AsyncSession, *, livemode: bool, id: UUID | None = None) -> Replay | None:
    """Carry the next slice of a job out, of the oldest or of `id`; None when nobody else has left one to do.

    Where the job stands is written with what was done: after a crash it goes on there, and no event is met twice.
    """
    running = select(Replay).where(Replay.status == "running").order_by(Replay.created_at, Replay.id).limit(1)
    if id is not None:
        running = running.where(Replay.id == id)
    if (job := await session.scalar(running.with_for_update(skip_locked=True))) is None:
        return None
    events = (
        await session.execute(
            select(
                StripeEvent.id,
                StripeEvent.account,
                StripeEvent.type,
                StripeEvent.livemode,
                StripeEvent.payload.is_not(None).label("kept"),
            )
            .where(
                *await EventFilter(**job.filter).conditions(session),
                StripeEvent.id > job.last_id,
                StripeEvent.id <= job.up_to_id,
            )
            .order_by(StripeEvent.id)
            .limit(SLICE)
            .with_for_update()
        )
    ).all()
    replayed = [event.id for event in events if inbox.refusal(event, kept=event.kept, livemode=livemode) is None]
    if replayed:
        await inbox.make_due(session, replayed)
    job.replayed += len(replayed)
    job.skipped += len(events) - len(replayed)
    if events:
        job.last_id = events[-1].id
    if len(events) < SLICE:
        job.status, job.finished_at = "done", utcnow()
    return job
