"""What one customer uses, and the worker that tells Stripe: for the tests of usage."""

from collections.abc import Sequence
from typing import Any

from billing import ADA, Account
from sqlalchemy import select, text, update

from app import models
from app.db import transaction
from app.provider.stripe import StripeProvider
from app.sandbox import metering
from app.services.usage import corrections, ledger, reading
from app.services.usage.ledger import Given, Outcome
from app.values import unix_now
from app.worker.meters import Forwarder
from app.worker.reconcile import reconcile

DAY = 86_400
METER = "api_calls"


def used(id: str, quantity: int = 1, **more: Any) -> Given:
    return Given(**{"id": id, "meter": METER, "quantity": quantity, "user_id": ADA.user_id, **more})


class Usage:
    """Ada's usage, and a worker that sends it on."""

    def __init__(self, account: Account, provider: StripeProvider | None = None) -> None:
        self.account = account
        self.forwarder = Forwarder(
            sessions=account.sessions, provider=provider or account.provider, catalog=account.plans
        )

    async def record(self, *events: Given, now: int | None = None) -> Sequence[Outcome]:
        async with transaction(self.account.sessions) as session:
            return await ledger.record(session, self.account.plans, events, now=now or unix_now())

    async def results(self, *events: Given) -> list[str]:
        return [outcome.code or outcome.result for outcome in await self.record(*events)]

    async def rows(self) -> dict[str, models.UsageEvent]:
        async with self.account.sessions() as session:
            return {row.id: row for row in await session.scalars(select(models.UsageEvent))}

    async def states(self) -> dict[str, str]:
        return {id: row.status for id, row in (await self.rows()).items()}

    async def total(self, user_id: str = ADA.user_id) -> int:
        async with self.account.sessions() as session:
            summaries = await reading.summarize(session, self.account.plans, user_id=user_id, earlier=0, now=unix_now())
        return next(summary.used for summary in summaries if summary.meter == METER)

    async def cancel(self, id: str) -> str:
        async with transaction(self.account.sessions) as session:
            return (await corrections.cancel(session, self.account.plans, id, actor="key", now=unix_now())).way

    async def retry(self, id: str) -> str | None:
        """The identifier it goes under from now on, if that is another."""
        async with transaction(self.account.sessions) as session:
            return (await corrections.retry(session, id, actor="key", now=unix_now())).identifier

    async def renew(self, start: int, end: int, plan: str = "basic") -> None:
        """Let Ada's subscription be in this period, as Stripe's news would."""
        async with transaction(self.account.sessions) as session:
            values = {"current_period_start": start, "current_period_end": end, "plan": plan}
            await session.execute(update(models.Subscription).values(**values))

    async def summaries(self, now: int) -> list[tuple[int, int, int, int | None]]:
        async with self.account.sessions() as session:
            found = await reading.summarize(session, self.account.plans, user_id=ADA.user_id, earlier=9, now=now)
        return [(s.period_start, s.period_end, s.used, s.limit) for s in found]

    def process_at_stripe(self) -> None:
        self.account.sandbox._ticked_at = None
        self.account.sandbox.tick()

    async def hear_reports(self) -> None:
        """Let Stripe look at what it took, and its reports of that arrive."""
        self.process_at_stripe()
        for report in self.account.sandbox.rows("v2.core.event"):
            await self.account.deliver({name: value for name, value in report.items() if name != "data"})
        await self.forwarder.read_reports()

    async def differences(self) -> list[tuple[str, Any]]:
        run = await reconcile(
            self.account.sessions,
            self.account.provider,
            actor="test",
            repair=False,
            meters=self.account.plans.meters,
            patience=0,
        )
        async with self.account.sessions() as session:
            found = select(models.Difference).where(models.Difference.run_id == run.id)
            return [(row.cause, row.fields) for row in await session.scalars(found) if row.object == "usage"]

    async def rewrite(self, id: str, **values: Any) -> None:
        async with transaction(self.account.sessions) as session:
            await session.execute(update(models.UsageEvent).where(models.UsageEvent.id == id).values(**values))

    async def make_due(self) -> None:
        """Let what was put off, and whoever held a lease, have waited long enough."""
        async with transaction(self.account.sessions) as session:
            await session.execute(text("UPDATE usage_events SET next_attempt_at = now()"))
            await session.execute(text("DELETE FROM usage_leases"))

    def at_stripe(self) -> int:
        """What Stripe has counted for its only customer."""
        sandbox = self.account.sandbox
        [meter] = sandbox.rows("billing.meter")
        [customer] = sandbox.rows("customer")
        with sandbox.transaction():
            return int(metering.usage_of(sandbox, meter["id"], customer["id"], 0, 2**40))
