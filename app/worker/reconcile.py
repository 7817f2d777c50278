"""Compares everything with Stripe, step by step, each step in transactions of its own; and fetches missed events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import AWAY, Sessions, transaction
from app.errors import BillingError, ConflictError, UnreadableAnswerError
from app.models import ReconcileRun
from app.observability import drift, reconcile_finished, reconcile_unrepaired
from app.provider.protocol import BillingProvider
from app.services.catalog import Meter
from app.services.event_effects import Ref
from app.services.plans_file import load
from app.services.reconcile import credits as prepaid
from app.services.reconcile import differences, lists, missed, runs, usage
from app.services.reconcile.differences import Finding
from app.services.reconcile.lists import Look, Place
from app.services.reconcile.missed import WINDOW_SECONDS, Missed
from app.services.reconcile.runs import BEAT_SECONDS, DONE, PHASES, Progress
from app.settings import Settings
from app.values import unix_now
from app.worker import customers_first

log = structlog.get_logger(__name__)

NO_METERS: Mapping[str, Meter] = MappingProxyType({})
PATIENCE_SECONDS = 2.0
"""How long webhooks that are under way have to arrive before a difference is called one."""


async def reconcile(
    sessions: Sessions,
    provider: BillingProvider,
    *,
    actor: str,
    repair: bool,
    since: int | None = None,
    meters: Mapping[str, Meter] = NO_METERS,
    patience: float = PATIENCE_SECONDS,
    beat: float = BEAT_SECONDS,
    watch: Callable[[ReconcileRun], None] = lambda _run: None,
) -> ReconcileRun:
    """Compare with Stripe what was made or changed since then (unix seconds), or everything; mend it with `repair`.

    Usage is compared of these `meters` (by their keys). Goes on with a run that was interrupted. Every `beat` seconds
    it says that it lives; `watch` is shown the run after each step. Raises ConflictError while another process is at
    it, and whatever keeps it from finishing; then the next call goes on where it stopped.
    """
    async with transaction(sessions) as session:
        run = await runs.start(session, actor=actor, repair=repair, since=since)
        history_until = await missed.heard_since(session)
    comparison = Comparison(
        sessions=sessions,
        provider=provider,
        run=run,
        actor=actor,
        history_until=history_until,
        meters=meters,
        patience=patience,
    )
    owner = Progress.of(run).owner
    try:
        async with _beating(sessions, run, owner, every=beat):
            while Progress.of(comparison.run).phase != DONE:
                await comparison.step()
                watch(comparison.run)
    except Exception as error:
        reason = error.message if isinstance(error, BillingError) else type(error).__name__
        with suppress(ConflictError, *AWAY):
            async with transaction(sessions) as session:
                await runs.fail(session, run, owner, reason)
        raise
    async with transaction(sessions) as session:
        run = await runs.finish(session, run, owner)
    watch(run)
    return run


@asynccontextmanager
async def _beating(sessions: Sessions, run: ReconcileRun, owner: str, *, every: float) -> AsyncIterator[None]:
    """Keep the run ours while the body lasts; if that fails, the next step will notice."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(every)
            with suppress(ConflictError, *AWAY):
                async with transaction(sessions) as session:
                    await runs.beat(session, run, owner)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@dataclass(slots=True, kw_only=True)
class Comparison:
    """A run under way in this process."""

    sessions: Sessions
    provider: BillingProvider
    run: ReconcileRun
    actor: str
    history_until: int
    meters: Mapping[str, Meter]
    patience: float
    _looked: set[Ref] = field(default_factory=set)

    async def step(self) -> None:
        """One window of events, or one page of a list."""
        progress = Progress.of(self.run)
        if progress.phase == "event":
            compared, then = await self._events(progress)
        elif progress.phase == "usage":
            compared, then = await self._usage(progress)
        elif progress.phase == "credits":
            compared, then = await self._credits(progress)
        else:
            compared, then = await self._page(progress)
        async with transaction(self.sessions) as session:
            self.run = await runs.save(session, self.run, then, compared=compared)

    async def _events(self, progress: Progress) -> tuple[int, Progress]:
        if progress.at > progress.until:
            return 0, replace(progress, phase=_after("event"))
        until = min(progress.at + WINDOW_SECONDS, progress.until)
        about = set[Ref]()
        async for page in missed.pages(self.provider, since=progress.at, until=until):
            async with transaction(self.sessions) as session:
                told = await missed.read(session, self.provider, page)
                lacking: Sequence[Missed] = told.missed
                if self.run.repair:
                    lacking = await missed.store(session, lacking, livemode=self.provider.livemode)
                findings = [_finding(one, repaired=self.run.repair) for one in lacking]
                _count(await runs.record(session, self.run, findings))
            about |= told.about
        changed = await self._changed(about)
        await self._settle(changed)
        return len(changed), replace(progress, at=until + 1)

    async def _changed(self, about: set[Ref]) -> list[Ref]:
        """What is to be looked at because something happened to it: all else, the lists show."""
        if self.run.since is None:
            return []
        async with transaction(self.sessions) as session:
            changed = await lists.not_listed(session, about - self._looked, since=self.run.since)
        self._looked |= about
        return sorted(changed)

    async def _page(self, progress: Progress) -> tuple[int, Progress]:
        name = progress.phase
        async with transaction(self.sessions) as session:
            found = await lists.look(session, self.provider, name, progress.place, since=self.run.since)
        await self._note_unreadable(found.unreadable)
        unsold = await self._unsold(found)
        await self._settle(found.suspects)
        await self._note_unsold(unsold)
        compared = len(found.shown) + len(found.unreadable)
        if found.next is not None:
            return compared, replace(progress, place=found.next)
        return compared, replace(progress, phase=_after(name), place=Place())

    async def _usage(self, progress: Progress) -> tuple[int, Progress]:
        after = progress.place.after
        async with transaction(self.sessions) as session:
            found = await usage.compare(session, self.provider, self.meters, after=after, since=self.run.since)
            _count(await runs.record(session, self.run, found.findings))
        if found.after is not None:
            return found.sums, replace(progress, place=Place(after=found.after))
        return found.sums, replace(progress, phase=_after("usage"), place=Place())

    async def _credits(self, progress: Progress) -> tuple[int, Progress]:
        async with transaction(self.sessions) as session:
            found = await prepaid.compare(session, after=progress.place.after)
            _count(await runs.record(session, self.run, found.findings))
        if found.lagging:
            await asyncio.sleep(self.patience)
        for purchase_id in found.lagging:
            async with transaction(self.sessions) as session:
                repair_as = self.actor if self.run.repair else None
                finding = await prepaid.examine(session, purchase_id, repair_as=repair_as)
                _count(await runs.record(session, self.run, [] if finding is None else [finding]))
        if found.after is not None:
            return found.accounts, replace(progress, place=Place(after=found.after))
        return found.accounts, replace(progress, phase=_after("credits"), place=Place())

    async def _unsold(self, found: Look) -> Sequence[Finding]:
        """Purchases that Stripe shows as paid and are not granted, though webhooks have had the time to arrive."""
        intents = [snapshot.object for (name, _), snapshot in found.shown.items() if name == "payment_intent"]
        findings: Sequence[Finding] = ()
        for pause in (0, self.patience):
            if intents:
                await asyncio.sleep(pause)
                async with transaction(self.sessions) as session:
                    findings = await prepaid.unsold(session, intents, missed_in=self.run.id)
            named = {finding.stripe_id for finding in findings}
            intents = [intent for intent in intents if intent.id in named]
        return findings

    async def _note_unsold(self, findings: Sequence[Finding]) -> None:
        """Once the payments' own rows are mended, which grants the purchases."""
        async with transaction(self.sessions) as session:
            for finding in findings:
                mended = await prepaid.is_granted(session, finding)
                if self.run.repair or not mended:  # else a webhook has come after all
                    _count(await runs.record(session, self.run, [replace(finding, repaired=mended)]))

    async def _settle(self, suspects: Sequence[Ref]) -> None:
        if suspects:
            await asyncio.sleep(self.patience)
        for ref in suspects:
            try:
                _count(await self._examine(ref) or [])
            except UnreadableAnswerError:
                await self._note_unreadable([ref])

    async def _note_unreadable(self, refs: Sequence[Ref]) -> None:
        findings = [Finding(object=name, stripe_id=id, customer=None, cause="unreadable") for name, id in refs]
        async with transaction(self.sessions) as session:
            _count(await runs.record(session, self.run, findings))

    async def _examine(self, ref: Ref) -> list[Finding] | None:
        """What is found of one object, and written down as something new; None if it never stops being written."""

        async def work(session: AsyncSession, /, *, claim_user: bool, last: bool) -> list[Finding]:
            finding = await differences.examine(
                session,
                self.provider,
                ref,
                missed_in=self.run.id,
                # What couldn't be mended is at least written down.
                repair_as=self.actor if self.run.repair and not last else None,
                history_until=self.history_until,
                claim_user=claim_user,
            )
            return [] if finding is None else await runs.record(session, self.run, [finding])

        return await customers_first.write(self.sessions, self.provider, work, actor=self.actor)


def _after(phase: str) -> str:
    return [*PHASES, DONE][PHASES.index(phase) + 1]


def _finding(one: Missed, *, repaired: bool) -> Finding:
    event = one.event
    return Finding(
        object="event",
        stripe_id=event.id,
        customer=event.customer,
        cause="event_missing",
        fields={"type": [None, event.type], "object": [None, event.object_id]},
        repaired=repaired,
    )


def _count(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.drift:
            drift.labels(finding.object, finding.cause).inc()


async def fetch_missed(sessions: Sessions, provider: BillingProvider, *, every: timedelta) -> int:
    """Put what never arrived into the inbox, for the worker to apply; unless somebody did so less than `every` ago.

    Answers how many events that were. After a failure the next call goes on with the window that failed.
    """
    async with transaction(sessions) as session:
        at = await missed.claim(session, every=every)
    stored = 0
    until = unix_now() - missed.UNDERWAY_SECONDS
    while at is not None and at < until:
        end = min(at + WINDOW_SECONDS, until)
        async for page in missed.pages(provider, since=at, until=end):
            async with transaction(sessions) as session:
                told = await missed.read(session, provider, page)
                new = await missed.store(session, told.missed, livemode=provider.livemode)
            _count([_finding(one, repaired=True) for one in new])
            stored += len(new)
        async with transaction(sessions) as session:
            await missed.advance(session, end)
        at = end
    if stored:
        log.warning("stripe_webhooks_missed", events=stored)
    return stored


async def watch_events(settings: Settings, *, sessions: Sessions, provider: BillingProvider) -> None:
    """Fetch missed events, if the schedule asks for that now."""
    if settings.reconcile_events_minutes:
        async with _put_off("events"):
            await fetch_missed(sessions, provider, every=timedelta(minutes=settings.reconcile_events_minutes))


async def watch_objects(settings: Settings, *, sessions: Sessions, provider: BillingProvider) -> None:
    """Compare everything, if the schedule asks for that now."""
    repair = settings.reconcile_repair
    if settings.reconcile_hours:
        async with _put_off("objects"):
            async with transaction(sessions) as session:
                await missed.begin(session)
                due = await runs.is_due(session, every=timedelta(hours=settings.reconcile_hours), repair=repair)
            if due:
                meters = load(settings.plans_file).meters
                await reconcile(sessions, provider, actor=runs.ACTOR, repair=repair, meters=meters)
    async with transaction(sessions) as session:
        if (run := await runs.latest_done(session)) is not None and run.finished_at is not None:
            reconcile_finished.set(run.finished_at.timestamp())
            reconcile_unrepaired.set(run.drifted - run.repaired)


@asynccontextmanager
async def _put_off(what: str) -> AsyncIterator[None]:
    """What goes wrong within must not end what the worker is there for: there is a next time."""
    try:
        yield
    except BillingError as error:  # Stripe is away, or another process is at it
        log.warning("reconcile_put_off", what=what, error=error.message)
    except AWAY:
        raise
    except Exception:
        log.exception("reconcile_failed", what=what)
