"""Usage: recorded once for ever, held to the plan's limit, and told to Stripe exactly once, whatever fails."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from billing import ADA, Account
from sqlalchemy import func, select, text, update
from starlette.applications import Starlette

from app import models
from app.db import transaction
from app.errors import ConflictError, NotFoundError, UnavailableError
from app.provider.stripe import StripeProvider
from app.sandbox import metering, thin_events
from app.services.catalog import Catalog
from app.services.customers import Buyer
from app.services.usage import corrections, forwarding, ledger, reading, reports
from app.services.usage.corrections import correction_id
from app.services.usage.forwarding import Due
from app.services.usage.ledger import Given, Outcome
from app.services.usage_totals import Period, month_of, period_at
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


@pytest.fixture
async def usage(account: Account) -> Usage:
    """Ada has the basic plan: 10 000 API calls a period."""
    await account.buy(plan="basic")
    await account.deliver_and_process(account.events())
    return Usage(account)


async def test_an_event_is_counted_once_for_ever(usage: Usage) -> None:
    now = unix_now()
    first = used("a", 5, timestamp=now)
    assert await usage.results(first, used("b", 2)) == ["accepted", "accepted"]
    assert await usage.results(first, used("a", 5), used("b", 2)) == ["duplicate"] * 3
    assert await usage.results(used("a", 6)) == ["id_reused"]
    assert await usage.results(used("a", 5, timestamp=now - 1)) == ["id_reused"]
    assert await usage.results(used("a", 5, user_id="grace")) == ["id_reused"]
    assert await usage.results(used("c"), used("c"), used("c", 2)) == ["accepted", "duplicate", "id_reused"]
    assert await usage.total() == 8


async def test_what_makes_no_sense_is_refused_alone(usage: Usage) -> None:
    now = unix_now()
    assert await usage.results(
        used("a", meter="bananas"),
        used("b", timestamp=now - 35 * DAY - 10),
        used("c", timestamp=now + 400),
        used("d", user_id=None, customer="cus_nope"),
        used("e"),
    ) == ["unknown_meter", "timestamp_too_old", "timestamp_in_future", "unknown_customer", "accepted"]
    assert await usage.states() == {"e": "pending"}


async def test_the_plan_s_limit_holds_for_the_period(usage: Usage) -> None:
    assert await usage.results(used("a", 9_999), used("b", 2), used("c", 1), used("d", 1)) == [
        "accepted",
        "limit_exceeded",
        "accepted",
        "limit_exceeded",
    ]
    # A duplicate of what was accepted is no new usage.
    assert await usage.results(used("a", 9_999)) == ["duplicate"]
    # What came before this period fills no room in it.
    assert await usage.results(used("late", 500, timestamp=unix_now() - 20 * DAY)) == ["accepted"]
    assert await usage.total() == 10_000
    async with usage.account.sessions() as session:
        now = unix_now()
        summaries = await reading.summarize(session, usage.account.plans, user_id=ADA.user_id, earlier=5, now=now)
    assert [(s.used, s.limit, s.remaining) for s in summaries] == [(10_000, 10_000, 0), (500, None, None)]
    assert summaries[1].period_end <= summaries[0].period_start


async def test_a_user_without_a_subscription_has_the_free_plan_and_waits_for_a_customer(account: Account) -> None:
    usage = Usage(account)
    assert await usage.results(used("a", 100), used("b", 1)) == ["accepted", "limit_exceeded"]
    assert await usage.states() == {"a": "held"}
    async with account.sessions() as session:
        now = unix_now()
        [summary] = await reading.summarize(session, account.plans, user_id=ADA.user_id, earlier=0, now=now)
    assert (summary.period_start, summary.period_end) == month_of(now)
    await usage.forwarder.take_care()
    assert await usage.forwarder.send_due() == 0
    await account.buy(plan="basic")
    await account.deliver_and_process(account.events())
    await usage.forwarder.take_care()
    assert await usage.forwarder.send_due() == 1
    assert (await usage.states(), usage.at_stripe()) == ({"a": "sent"}, 100)


async def test_many_at_once_never_pass_the_limit_nor_count_twice(usage: Usage) -> None:
    batches = [[used(f"{number}-{n}", 100) for n in range(20)] for number in range(8)]
    # Every batch twice, and the twins at the same time.
    answers = await asyncio.gather(*(usage.record(*batch) for batch in [*batches, *batches]))
    accepted = [outcome.id for answer in answers for outcome in answer if outcome.result == "accepted"]
    assert len(accepted) == len(set(accepted)) == 100
    assert {o.code for answer in answers for o in answer if o.result == "refused"} <= {"limit_exceeded", "busy"}
    assert await usage.total() == 10_000
    async with usage.account.sessions() as session:
        assert await session.scalar(select(func.sum(models.UsageEvent.quantity))) == 10_000


@pytest.mark.parametrize(("aggregation", "total"), [("sum", 9), ("count", 2), ("last", 4)])
async def test_totals_follow_the_meter_s_way_of_adding_up(account: Account, aggregation: str, total: int) -> None:
    meters = {METER: account.plans.meters[METER].model_copy(update={"aggregation": aggregation})}
    account.plans = account.plans.model_copy(update={"meters": meters})
    usage = Usage(account)
    now = unix_now()
    assert await usage.results(used("a", 4, timestamp=now)) == ["accepted"]
    assert await usage.results(used("b", 5, timestamp=now - 5)) == ["accepted"]
    assert await usage.total() == total


async def test_usage_is_sent_on_once(usage: Usage) -> None:
    await usage.record(*(used(str(n), 2) for n in range(50)))
    assert await usage.forwarder.send_due() == 50
    assert set((await usage.states()).values()) == {"sent"}
    assert await usage.forwarder.send_due() == 0
    assert usage.at_stripe() == 100


async def test_a_long_queue_of_one_customer_does_not_keep_others_waiting(usage: Usage) -> None:
    await usage.account.buy(Buyer(user_id="zoe", email="zoe@example.com", name="Zoe"), plan="basic")
    await usage.account.deliver_and_process(usage.account.events())
    await usage.record(*(used(f"ada-{n}") for n in range(70)))
    await usage.record(used("zoe", user_id="zoe"))
    await usage.forwarder.send_due()
    rows = await usage.rows()
    before = sum(row.sent_at < rows["zoe"].sent_at for row in rows.values())
    assert before <= 20
    assert {row.status for row in rows.values()} == {"sent"}


async def test_usage_of_a_customer_who_is_gone_waits_for_the_next(usage: Usage) -> None:
    await usage.record(used("a"))
    async with transaction(usage.account.sessions) as session:
        await session.execute(update(models.Customer).values(deleted=True))
    assert await usage.forwarder.send_due() == 0
    assert await usage.states() == {"a": "pending"}


async def test_two_workers_send_nothing_twice_and_never_at_the_same_time(usage: Usage) -> None:
    await usage.record(*(used(str(n)) for n in range(60)))
    other = Usage(usage.account)
    # The sandbox refuses concurrent calls for one customer and meter, as Stripe does.
    sent = await asyncio.gather(usage.forwarder.send_due(), other.forwarder.send_due())
    assert sum(sent) + await usage.forwarder.send_due() == 60
    assert [row.error_code for row in (await usage.rows()).values() if row.error_code] == []
    assert usage.at_stripe() == 60


class Failing(StripeProvider):
    """Its answers to meter events get lost: before Stripe had the event, or after."""

    lose: str = ""

    async def create_meter_event(self, **event: Any) -> None:  # type: ignore[override]
        if self.lose == "before":
            raise UnavailableError("gone")
        await super().create_meter_event(**event)
        if self.lose == "after":
            raise UnavailableError("gone")


@pytest.fixture
async def failing(sandbox_app: Starlette) -> AsyncIterator[Failing]:
    async with Failing(
        "sk_test_billhook", base_url="http://sandbox.test", transport=httpx.ASGITransport(sandbox_app)
    ) as provider:
        yield provider


@pytest.mark.parametrize("lose", ["before", "after"])
async def test_a_lost_answer_loses_and_doubles_nothing(usage: Usage, failing: Failing, lose: str) -> None:
    shaky = Usage(usage.account, failing)
    await usage.record(used("a", 3), used("b", 4))
    failing.lose = lose
    assert await shaky.forwarder.send_due() == 0
    row = (await usage.rows())["a"]
    assert (row.status, row.error_code, row.attempts) == ("pending", "unavailable", 1)
    assert row.attempted_at is not None
    failing.lose = ""
    await usage.make_due()
    assert await shaky.forwarder.send_due() == 2
    assert (usage.at_stripe(), await usage.total()) == (7, 7)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_worker_killed_between_sending_and_writing_loses_and_doubles_nothing(
    usage: Usage, failing: Failing, moment: str
) -> None:
    killed = asyncio.Event()

    async def dies(**event: Any) -> None:
        if moment == "after":
            await StripeProvider.create_meter_event(failing, **event)
        killed.set()
        await asyncio.sleep(60)

    failing.create_meter_event = dies  # type: ignore[method-assign]
    await usage.record(used("a", 3), used("b", 4))
    task = asyncio.create_task(Usage(usage.account, failing).forwarder.send_due())
    await killed.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert set((await usage.states()).values()) == {"pending"}
    await usage.make_due()
    assert await usage.forwarder.send_due() == 2
    assert set((await usage.states()).values()) == {"sent"}
    assert usage.at_stripe() == 7


@pytest.mark.parametrize("arrived", [True, False])
async def test_after_a_day_stripe_s_sums_tell_what_became_of_a_try(usage: Usage, arrived: bool) -> None:  # noqa: FBT001
    at = unix_now() - 2 * DAY
    await usage.record(used("a", 3, timestamp=at), used("b", 4, timestamp=at))
    if arrived:
        assert await usage.forwarder.send_due() == 2
        usage.account.sandbox._ticked_at = None
        usage.account.sandbox.tick()
        with usage.account.sandbox.transaction():  # by now Stripe has forgotten the identifiers
            for row in usage.account.sandbox.rows("_meter_identifier"):
                usage.account.sandbox.forget("_meter_identifier", row["id"])
    for id in ("a", "b"):
        await usage.rewrite(id, status="pending", attempts=1, sent_at=None, attempted_at=text("now() - interval '2d'"))
    if arrived:
        await usage.rewrite("b", status="sent", sent_at=text("now() - interval '1d'"))
    await usage.make_due()
    assert await usage.forwarder.send_due() == 1
    if not arrived:
        # What it has just been sent, Stripe may not have counted yet: the other has to wait.
        assert (await usage.rows())["b"].error_code == "sums_lag"
        usage.account.sandbox._ticked_at = None
        usage.account.sandbox.tick()
        await usage.rewrite("a", sent_at=text("now() - interval '1 hour'"))
        await usage.make_due()
        assert await usage.forwarder.send_due() == 1
    assert set((await usage.states()).values()) == {"sent"}
    assert usage.at_stripe() == 7


async def test_what_sums_cannot_tell_is_left_to_an_operator(usage: Usage) -> None:
    at = unix_now() - 2 * DAY
    await usage.record(used("a", 3, timestamp=at), used("b", 4, timestamp=at))
    assert await usage.forwarder.send_due() == 2
    usage.account.sandbox._ticked_at = None
    usage.account.sandbox.tick()
    await usage.rewrite("a", status="pending", attempts=1, attempted_at=text("now() - interval '2d'"))
    await usage.rewrite("b", quantity=40, sent_at=text("now() - interval '1d'"))  # nothing fits any more
    await usage.make_due()
    await usage.forwarder.send_due()
    row = (await usage.rows())["a"]
    assert (row.status, row.error_code) == ("failed", "outcome_unknown")
    assert usage.at_stripe() == 7


async def test_usage_waits_for_its_meter(usage: Usage) -> None:
    [meter] = usage.account.sandbox.rows("billing.meter")
    meter["status"] = "inactive"
    await usage.record(used("a"))
    assert await usage.forwarder.send_due() == 0
    row = (await usage.rows())["a"]
    assert (row.status, row.error_code) == ("pending", "no_meter")
    meter["status"] = "active"
    await usage.make_due()
    assert await usage.forwarder.send_due() == 1
    assert (await usage.rows())["a"].error_code is None


async def test_what_grew_too_old_is_given_up_and_shown(usage: Usage) -> None:
    await usage.record(used("a"))
    await usage.rewrite("a", timestamp=unix_now() - 35 * DAY)
    await usage.record(used("waits", user_id="nobody"))
    await usage.rewrite("waits", timestamp=unix_now() - 35 * DAY)
    await usage.forwarder.take_care()
    async with usage.account.sessions() as session:
        [row] = await reading.list_events(
            session, status="expired", subject=None, meter=None, limit=10, starting_after=None
        )
    assert (row.id, row.error_code) == ("a", "timestamp_too_far_in_past")
    assert await usage.forwarder.send_due() == 0
    await usage.forwarder.sweep()
    assert await usage.states() == {"a": "expired", "waits": "expired"}


async def test_what_stripe_reports_is_marked(usage: Usage) -> None:
    account = usage.account
    with account.sandbox.transaction():
        thin_events.add_destination(account.sandbox, "http://app.test/hook")
    await usage.record(used("a"), used("b"))
    await usage.forwarder.send_due()
    # Between acceptance and processing the customer vanishes, at Stripe alone.
    with account.sandbox.transaction():
        [customer] = account.sandbox.rows("customer")
        id = customer["id"]
        account.sandbox.get("customer", id)["deleted"] = True
    account.sandbox._ticked_at = None
    account.sandbox.tick()
    [report] = account.sandbox.rows("v2.core.event")
    shown = {name: value for name, value in report.items() if name != "data"}
    assert (await account.deliver(shown)).outcome == "ignored"
    await usage.forwarder.take_care()
    assert {(row.status, row.error_code) for row in (await usage.rows()).values()} == {
        ("failed", "meter_event_customer_not_found")
    }
    async with account.sessions() as session:
        kept = await session.scalar(select(models.StripeEvent).where(models.StripeEvent.event_id == report["id"]))
    assert kept is not None
    assert (kept.status, kept.reason) == ("processed", None)
    # Once is enough; and one that Stripe no longer has doesn't come up again and again.
    gone = {**shown, "id": "evt_test_gone"}
    await account.deliver(gone)
    assert await usage.forwarder.read_reports() == 0
    async with account.sessions() as session:
        assert await reports.unread(session, livemode=False) == []


async def test_usage_is_withdrawn_before_stripe_has_it(usage: Usage) -> None:
    await usage.record(used("a", 5), used("b", 1))
    assert [await usage.cancel("a"), await usage.cancel("a")] == ["withdrawn", "withdrawn"]
    assert (await usage.states())["a"] == "canceled"
    await usage.forwarder.send_due()
    assert (usage.at_stripe(), await usage.total()) == (1, 1)
    assert await usage.results(used("a", 5)) == ["duplicate"]


async def test_usage_is_canceled_at_stripe_within_a_day(usage: Usage) -> None:
    await usage.record(used("a", 5), used("b", 1))
    await usage.forwarder.send_due()
    assert [await usage.cancel("a"), await usage.cancel("a")] == ["cancellation", "cancellation"]
    assert await usage.total() == 1
    assert await usage.forwarder.send_due() == 1
    assert (await usage.states())["a"] == "canceled"
    assert usage.at_stripe() == 1
    assert await usage.cancel("a") == "cancellation"


async def test_after_a_day_usage_is_evened_out(usage: Usage) -> None:
    at = unix_now() - 3600
    await usage.record(used("a", 5, timestamp=at), used("b", 1))
    await usage.forwarder.send_due()
    await usage.rewrite("a", attempted_at=text("now() - interval '2 days'"))
    assert [await usage.cancel("a"), await usage.cancel("a")] == ["negative_event", "negative_event"]
    assert await usage.forwarder.send_due() == 1
    by = (await usage.rows())[correction_id("a")]
    assert (by.quantity, by.timestamp, by.corrects) == (-5, at, "a")
    assert (usage.at_stripe(), await usage.total()) == (1, 1)
    with pytest.raises(ConflictError):
        await usage.cancel(by.id)


async def test_a_cancellation_that_comes_too_late_is_evened_out(usage: Usage) -> None:
    await usage.record(used("a", 5))
    await usage.forwarder.send_due()
    assert await usage.cancel("a") == "cancellation"
    with usage.account.sandbox.transaction():
        usage.account.sandbox.forget("_meter_identifier", "a")
    assert await usage.forwarder.send_due() == 2
    assert (usage.at_stripe(), await usage.total()) == (0, 0)
    assert await usage.states() == {"a": "sent", correction_id("a"): "sent"}


async def test_a_cancellation_of_what_never_arrived_is_done(usage: Usage) -> None:
    await usage.record(used("a", 5))
    await usage.rewrite("a", attempts=1, attempted_at=text("now()"))
    assert await usage.cancel("a") == "cancellation"
    await usage.forwarder.send_due()
    assert await usage.states() == {"a": "canceled"}


async def test_only_what_is_there_can_be_canceled(usage: Usage, account: Account) -> None:
    with pytest.raises(NotFoundError):
        await usage.cancel("nothing")
    meters = {METER: account.plans.meters[METER].model_copy(update={"aggregation": "last"})}
    await usage.record(used("a"))
    account.plans = account.plans.model_copy(update={"meters": meters})
    with pytest.raises(ConflictError):
        await usage.cancel("a")


async def test_reconcile_finds_usage_that_stripe_counted_otherwise(usage: Usage) -> None:
    at = unix_now() - 3600
    await usage.record(used("a", 5, timestamp=at), used("b", 2, timestamp=at), used("new", 1))
    await usage.forwarder.send_due()
    usage.process_at_stripe()
    await usage.rewrite("a", quantity=6)
    assert await usage.differences() == []  # Stripe may still be counting
    for id in ("a", "b", "new"):
        await usage.rewrite(id, sent_at=text("now() - interval '1 hour'"))
    assert await usage.differences() == [("usage_differs", {"used": [8, "7"]})]
    await usage.rewrite("a", quantity=5)
    assert await usage.differences() == []


async def test_a_cancellation_stripe_may_still_be_counting_is_no_difference(usage: Usage) -> None:
    at = unix_now() - 3600
    await usage.record(used("a", 5, timestamp=at), used("b", 2, timestamp=at))
    await usage.forwarder.send_due()
    usage.process_at_stripe()
    for id in ("a", "b"):
        await usage.rewrite(id, sent_at=text("now() - interval '1 hour'"))
    # Canceled here and told, but not yet done there.
    await usage.rewrite("a", status="canceled")
    assert await usage.differences() == []
    await usage.rewrite("a", next_attempt_at=text("now() - interval '1 hour'"))
    assert await usage.differences() == [("usage_differs", {"used": [2, "7"]})]


async def test_a_hundred_at_once_at_the_limit_are_accepted_up_to_it(usage: Usage) -> None:
    await usage.record(used("before", 9_963))
    answers = await asyncio.gather(*(usage.results(used(f"{number}")) for number in range(100)))
    assert sorted(code for [code] in answers) == ["accepted"] * 37 + ["limit_exceeded"] * 63
    assert await usage.total() == 10_000


async def test_a_renewal_nobody_has_heard_of_yet_begins_the_next_period(usage: Usage) -> None:
    start = unix_now() - 30 * DAY - 100
    await usage.renew(start, start + 30 * DAY)
    await usage.record(used("before", 10_000, timestamp=start + 50), now=start + 60)
    assert await usage.results(used("after", 9_000)) == ["accepted"]
    # The news: what was used meanwhile is part of the new period, whose end only Stripe knows.
    await usage.renew(start + 30 * DAY, start + 61 * DAY)
    assert await usage.results(used("more", 1_001), used("last", 1_000)) == ["limit_exceeded", "accepted"]
    assert await usage.summaries(unix_now()) == [
        (start + 30 * DAY, start + 61 * DAY, 10_000, 10_000),
        (start, start + 30 * DAY, 10_000, 10_000),
    ]


async def test_a_plan_changed_within_its_period_sets_the_limit_of_what_is_left(usage: Usage) -> None:
    now = unix_now()
    start = now - 10 * DAY
    await usage.renew(start, start + 30 * DAY, plan="free")
    assert await usage.results(used("a", 100), used("b")) == ["accepted", "limit_exceeded"]
    await usage.renew(start, start + 30 * DAY, plan="basic")
    assert await usage.results(used("b"), used("c", 9_900)) == ["accepted", "limit_exceeded"]
    await usage.renew(start, start + 30 * DAY, plan="free")
    assert await usage.results(used("d")) == ["limit_exceeded"]
    # One that begins anew with the change starts from nothing, and what was used before it stays to be seen.
    await usage.renew(now - 5, now + 30 * DAY, plan="basic")
    assert await usage.results(used("e", 10_000)) == ["accepted"]
    assert await usage.results(used("late", 7, timestamp=now - 50)) == ["accepted"]
    assert await usage.summaries(now + 1) == [
        (now - 5, now + 30 * DAY, 10_000, 10_000),
        (start, now - 5, 108, 10_000),
    ]


def test_periods_follow_each_other() -> None:
    assert period_at(150, start=100, end=200) == Period(100, 200)
    assert period_at(200, start=100, end=200) == Period(200, 300)
    assert period_at(450, start=100, end=200) == Period(400, 500)
    now = 1_798_761_599
    assert period_at(now, start=None, end=None) == month_of(now)
    assert period_at(now, start=now + 1, end=now + 2) == month_of(now)
    assert period_at(now, start=now, end=now) == month_of(now)


async def test_corrections_of_ids_that_are_alike_are_several(usage: Usage) -> None:
    alike = ["x" * 99 + "1", "x" * 99 + "2", "a"]
    await usage.record(*(used(id, 5) for id in alike), used("a#canceled", 1), used("kept", 1))
    await usage.forwarder.send_due()
    for id in alike:
        await usage.rewrite(id, attempted_at=text("now() - interval '2 days'"))
        assert await usage.cancel(id) == "negative_event"
    assert await usage.forwarder.send_due() == 3
    assert (usage.at_stripe(), await usage.total()) == (2, 2)


async def test_what_stripe_refused_can_be_sent_again(usage: Usage) -> None:
    await usage.record(used("a", 5))
    await usage.rewrite("a", status="failed", error_code="resource_missing", attempts=1, attempted_at=func.now())
    assert await usage.retry("a") is None
    assert await usage.forwarder.send_due() == 1
    row = (await usage.rows())["a"]
    assert (row.status, row.error_code, row.attempts) == ("sent", None, 2)
    assert (usage.at_stripe(), await usage.total()) == (5, 5)


async def test_what_stripe_took_and_could_not_count_is_sent_again_under_another_identifier(usage: Usage) -> None:
    with usage.account.sandbox.transaction():
        thin_events.add_destination(usage.account.sandbox, "http://app.test/hook")
    [shown] = usage.account.sandbox.rows("customer")
    customer = usage.account.sandbox.get("customer", shown["id"])
    await usage.record(used("a", 5))
    await usage.forwarder.send_due()
    customer["deleted"] = True
    await usage.hear_reports()
    assert await usage.states() == {"a": "failed"}
    customer["deleted"] = False
    identifier = await usage.retry("a")
    assert identifier not in {None, "a"}
    assert await usage.forwarder.send_due() == 1
    # The report of the first try is not about the second, however often it comes.
    async with transaction(usage.account.sessions) as session:
        await session.execute(update(models.StripeEvent).values(status="ignored"))
    assert await usage.forwarder.read_reports() == 0
    assert await usage.states() == {"a": "sent"}
    assert (usage.at_stripe(), await usage.total()) == (5, 5)
    assert await usage.cancel("a") == "cancellation"
    assert await usage.forwarder.send_due() == 1
    assert (usage.at_stripe(), await usage.states()) == (0, {"a": "canceled"})


async def test_only_what_failed_and_still_counts_can_be_sent_again(usage: Usage) -> None:
    async def refusal(id: str) -> str:
        with pytest.raises(ConflictError) as raised:
            await usage.retry(id)
        return raised.value.code

    with pytest.raises(NotFoundError):
        await usage.retry("nothing")
    await usage.record(*(used(id) for id in ("pending", "evened", "refused", "old")))
    assert await refusal("pending") == "usage_event_not_failed"
    await usage.rewrite("evened", status="sent", attempted_at=text("now() - interval '2 days'"))
    assert await usage.cancel("evened") == "negative_event"
    await usage.rewrite("evened", status="failed")
    assert await refusal("evened") == "usage_event_canceled"
    await usage.rewrite("refused", status="failed", error_code="cancellation_refused")
    assert await refusal("refused") == "usage_event_canceled"
    await usage.rewrite("old", status="failed", timestamp=unix_now() - 35 * DAY)
    assert await refusal("old") == "timestamp_too_old"


async def test_a_counted_event_whose_cancellation_came_too_late_is_taken_back_once(usage: Usage) -> None:
    meters = {METER: usage.account.plans.meters[METER].model_copy(update={"aggregation": "count"})}
    usage.account.plans = usage.forwarder.catalog = usage.account.plans.model_copy(update={"meters": meters})
    await usage.record(used("a"), used("b"))
    await usage.forwarder.send_due()
    assert await usage.cancel("a") == "cancellation"
    with usage.account.sandbox.transaction():
        usage.account.sandbox.forget("_meter_identifier", "a")
    await usage.forwarder.send_due()
    row = (await usage.rows())["a"]
    assert (row.status, row.error_code) == ("failed", "cancellation_refused")
    with pytest.raises(ConflictError):
        await usage.cancel("a")
    assert await usage.total() == 1


@pytest.mark.parametrize("way", ["cancellation", "negative_event"])
async def test_what_never_counted_is_not_taken_away_from_other_usage(usage: Usage, way: str) -> None:
    with usage.account.sandbox.transaction():
        thin_events.add_destination(usage.account.sandbox, "http://app.test/hook")
    [shown] = usage.account.sandbox.rows("customer")
    customer = usage.account.sandbox.get("customer", shown["id"])
    await usage.record(used("a", 5))
    await usage.forwarder.send_due()
    customer["deleted"] = True
    usage.process_at_stripe()
    customer["deleted"] = False
    if way == "negative_event":
        await usage.rewrite("a", attempted_at=text("now() - interval '2 days'"))
    assert await usage.cancel("a") == way
    await usage.hear_reports()
    await usage.record(used("b", 7))
    await usage.make_due()
    await usage.forwarder.send_due()
    assert (usage.at_stripe(), await usage.total()) == (7, 7)
    assert set((await usage.states()).values()) <= {"canceled", "failed", "sent"}


async def test_a_late_refusal_changes_nothing_of_what_another_worker_has_sent(usage: Usage) -> None:
    await usage.record(used("a"))
    await usage.forwarder.send_due()
    late = Due(
        id="a", identifier="a", quantity=1, timestamp=0, status="pending", attempts=0, sent=False, unprotected=False
    )
    async with transaction(usage.account.sessions) as session:
        await forwarding.settle(session, late, "failed", error_code="timestamp_refused")
    assert await usage.states() == {"a": "sent"}


async def test_sums_are_not_asked_while_a_cancellation_is_under_way(usage: Usage) -> None:
    at = unix_now() - 2 * DAY
    await usage.record(used("a", 3, timestamp=at), used("b", 3, timestamp=at))
    await usage.rewrite("b", status="canceling", attempted_at=func.now(), next_attempt_at=text("now() + interval '1h'"))
    await usage.rewrite("a", attempts=1, attempted_at=text("now() - interval '2 days'"))
    assert await usage.forwarder.send_due() == 0
    assert (await usage.rows())["a"].error_code == "sums_lag"


def test_months_are_whole_and_in_utc() -> None:
    assert month_of(1_798_761_599) == (1_796_083_200, 1_798_761_600)  # the last second of December 2026


async def test_the_catalogue_of_these_tests_limits_the_meter(catalog: Catalog) -> None:
    assert (catalog.plan("basic").limits[METER], catalog.plan("free").limits[METER]) == (10_000, 100)
