"""Sends recorded usage on to Stripe's meters, one event at a time for each customer and meter."""

import asyncio
import time
from dataclasses import dataclass
from decimal import Decimal

import structlog

from app.db import Sessions, transaction
from app.errors import BillingError, InvalidRequestError, NotFoundError
from app.observability import usage_backlog, usage_forwarded, usage_oldest_seconds
from app.provider.protocol import BillingProvider
from app.provider.usage_objects import MeterErrorReport
from app.services.catalog import Catalog, Meter
from app.services.usage import corrections, forwarding, reports
from app.services.usage.corrections import CANCELLATION_REFUSED
from app.services.usage.forwarding import LEASE_SECONDS, MINUTE, Due, Pair
from app.values import unix_now

log = structlog.get_logger(__name__)

AT_ONCE = 8
"""Pairs of customer and meter one process sends for at a time."""
CHUNK = 20
"""Events of one pair that are marked and sent before the others get their turn."""
FIRST_PAUSE = 5.0  # seconds before an event is tried again; doubles each time
LONGEST_PAUSE = 3600.0
STATES = ("held", "pending", "failed", "expired", "canceling")


@dataclass(slots=True, kw_only=True)
class Forwarder:
    """One per process."""

    sessions: Sessions
    provider: BillingProvider
    catalog: Catalog

    async def send_due(self) -> int:
        """Send what is due, as far as others aren't at it; answers how many events were settled."""
        settled = 0
        place: Pair | None = None
        idle = False
        while True:
            async with transaction(self.sessions) as session:
                pairs = await forwarding.due_pairs(session, after=place, most=AT_ONCE)
            done = sum(await asyncio.gather(*(self._send_for(pair) for pair in pairs)))
            settled += done
            idle = idle and not done
            if pairs:
                place = pairs[-1]
            elif idle:
                return settled  # once around, and nobody's was settled
            else:
                place, idle = None, True

    async def take_care(self) -> None:
        """Let go what waited for its customer, give up what grew too old, read Stripe's reports, and measure."""
        await self._prepare(thoroughly=False)
        await self.read_reports()
        await self.measure()

    async def sweep(self) -> None:
        """Prepare as `take_care` does, but look at everything."""
        await self._prepare(thoroughly=True)

    async def _prepare(self, *, thoroughly: bool) -> None:
        async with transaction(self.sessions) as session:
            expired = await forwarding.prepare(session, now=unix_now(), thoroughly=thoroughly)
        if expired:
            log.warning("usage_expired", events=len(expired), first=expired[0])

    async def read_reports(self) -> int:
        """Mark what Stripe could not count; answers how many events that were."""
        async with transaction(self.sessions) as session:
            arrived = await reports.unread(session, livemode=self.provider.livemode)
        marked = 0
        for report in arrived:
            try:
                told = await self.provider.retrieve_meter_error_report(report.event)
            except NotFoundError:
                told = MeterErrorReport(meter=None, errors=())  # Stripe keeps events for 30 days
            except BillingError as error:
                log.warning("usage_report_unread", stripe_event_id=report.event, code=error.code)
                continue
            async with transaction(self.sessions) as session:
                failed, unnamed = await reports.apply(session, report, told)
            log.warning("usage_refused", stripe_event_id=report.event, events=len(failed), unnamed=unnamed)
            usage_forwarded.labels("failed").inc(len(failed))
            marked += len(failed)
        return marked

    async def measure(self) -> None:
        async with transaction(self.sessions) as session:
            backlog = await forwarding.backlog(session)
        for state in STATES:
            events, age = backlog.get(state, (0, 0.0))
            usage_backlog.labels(state).set(events)
            if state == "pending":
                usage_oldest_seconds.set(age)

    async def _send_for(self, pair: Pair) -> int:
        if not pair.customer:
            return 0  # deleted; another customer may yet become the user's
        started = time.monotonic()
        async with transaction(self.sessions) as session:
            if (until := await forwarding.lease(session, pair)) is None:
                return 0
            events = await forwarding.take(session, pair, most=CHUNK)
        done = 0
        try:
            for event in events:
                # Whatever keeps one from being sent keeps the others too. And the lease must not end before we do.
                if time.monotonic() > started + LEASE_SECONDS / 2 or not await self._deal_with(pair, event):
                    break
                done += 1
        finally:
            async with transaction(self.sessions) as session:
                await forwarding.untry(session, events[done + 1 :])
                await forwarding.give_back(session, pair, until)
        return done

    async def _deal_with(self, pair: Pair, event: Due) -> bool:
        """Whether the event is settled. Stripe is asked between transactions, never inside one."""
        status, code = await self._outcome(pair, event)
        usage_forwarded.labels(status).inc()
        async with transaction(self.sessions) as session:
            if status == "put_off":
                pause = min(FIRST_PAUSE * 2.0**event.attempts, LONGEST_PAUSE)
                await forwarding.put_off(session, [event], seconds=pause, error_code=code or status)
                return False
            await forwarding.settle(session, event, status, error_code=code)
        if status == "failed":
            log.warning("usage_failed", event_id=event.id, meter=pair.meter, code=code)
        return True

    async def _outcome(self, pair: Pair, event: Due) -> tuple[str, str | None]:
        """The status it comes to, or "put_off", and a code that says why."""
        meter = self.catalog.meters.get(pair.meter)
        if meter is None:
            return "put_off", "unknown_meter"
        # A repeated answer to an earlier try says nothing of now, so each try has its own key; the identifier is what
        # keeps Stripe from counting twice.
        key = event.id if event.attempts == 0 else f"{event.id}/{event.attempts}"
        try:
            if event.status == "canceling":
                return await self._cancel(meter, event, f"cancel/{key}")
            if event.unprotected and (known := await self._look_up(pair, meter, event)) is not None:
                return known
            await self.provider.create_meter_event(
                event_name=meter.event_name,
                customer=pair.customer,
                value=event.quantity,
                identifier=event.identifier,
                timestamp=event.timestamp,
                idempotency_key=key,
            )
        except InvalidRequestError as error:
            # A meter may yet be made, by `billhook plans apply`.
            return "put_off" if error.code == "no_meter" else "failed", error.code
        except BillingError as error:
            return ("sent", None) if error.code == "duplicate_meter_event" else ("put_off", error.code)
        return "sent", None

    async def _cancel(self, meter: Meter, event: Due, key: str) -> tuple[str, str | None]:
        try:
            await self.provider.cancel_meter_event(
                event_name=meter.event_name, identifier=event.identifier, idempotency_key=key
            )
        except InvalidRequestError:
            if not event.sent:
                return "canceled", None  # it never got there
            if meter.aggregation != "sum":
                return "failed", CANCELLATION_REFUSED
            # Too late for that: as after a day.
            async with transaction(self.sessions) as session:
                await corrections.even_out(session, event.id, now=unix_now())
            return "sent", None
        return "canceled", None

    async def _look_up(self, pair: Pair, meter: Meter, event: Due) -> tuple[str, str | None] | None:
        """What became of an event that was tried longer ago than Stripe knows its identifier; None: send it."""
        there = next((m for m in await self.provider.list_meters() if m.event_name == meter.event_name), None)
        if there is None:
            return None  # then nothing was ever counted
        start = event.timestamp // MINUTE * MINUTE
        end = start + MINUTE
        found = await self.provider.list_meter_summaries(
            there.id, customer=pair.customer, start_time=start, end_time=end
        )
        async with transaction(self.sessions) as session:
            ours = await forwarding.counted(session, pair, aggregation=meter.aggregation, start=start, end=end)
        if ours is None:
            return "put_off", "sums_lag"
        theirs = sum((summary.aggregated_value for summary in found), start=Decimal(0))
        verdict = forwarding.weigh(event, aggregation=meter.aggregation, ours=ours, theirs=theirs)
        if verdict == "unknown":
            return "failed", "outcome_unknown"
        return ("sent", None) if verdict == "sent" else None
