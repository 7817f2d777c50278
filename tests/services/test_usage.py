"""Recording usage: once for ever, and held to the plan's limit."""

import asyncio

import pytest
from billing import ADA, Account
from sqlalchemy import func, select
from using import DAY, METER, Usage, used

from app import models
from app.sandbox.resources import customers
from app.services.catalog import Catalog
from app.services.usage import reading
from app.services.usage_totals import Period, month_of, period_at
from app.values import unix_now


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


def test_periods_follow_each_other() -> None:
    assert period_at(150, start=100, end=200) == Period(100, 200)
    assert period_at(200, start=100, end=200) == Period(200, 300)
    assert period_at(450, start=100, end=200) == Period(400, 500)
    now = 1_798_761_599
    assert period_at(now, start=None, end=None) == month_of(now)
    assert period_at(now, start=now + 1, end=now + 2) == month_of(now)
    assert period_at(now, start=now, end=now) == month_of(now)


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


async def test_the_catalogue_of_these_tests_limits_the_meter(catalog: Catalog) -> None:
    assert (catalog.plan("basic").limits[METER], catalog.plan("free").limits[METER]) == (10_000, 100)


def test_months_are_whole_and_in_utc() -> None:
    assert month_of(1_798_761_599) == (1_796_083_200, 1_798_761_600)  # the last second of December 2026


async def test_usage_of_a_customer_becomes_the_user_s_who_turns_out_to_be_that_customer(usage: Usage) -> None:
    """A customer made in the Dashboard is used for months before somebody says whose it is."""
    account = usage.account
    with account.sandbox.transaction():
        made = customers.create(account.sandbox, {"email": "grace@example.com"})
    await account.deliver_and_process(account.events("customer.created"))
    mine = {"user_id": None, "customer": made["id"]}
    assert await usage.results(used("before", 3, **mine), used("sent", 4, **mine)) == ["accepted"] * 2
    await usage.forwarder.send_due()
    with account.sandbox.transaction():
        customers.update(account.sandbox, {"metadata": {"user_id": "grace"}}, made["id"])
    await account.deliver_and_process(account.events("customer.updated")[-1:])

    assert await usage.total("grace") == 7
    assert await usage.results(used("before", 3, **mine), used("after", 5, user_id="grace")) == [
        "duplicate",
        "accepted",
    ]
    assert await usage.total("grace") == 12
    assert {row.subject for row in (await usage.rows()).values()} == {"grace"}
