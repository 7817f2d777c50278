"""Telling Stripe of usage: exactly once, whatever fails."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text, update
from starlette.applications import Starlette
from using import DAY, Usage, used

from app import models
from app.db import transaction
from app.errors import UnavailableError
from app.provider.stripe import StripeProvider
from app.sandbox import thin_events
from app.services.customers import Buyer
from app.services.usage import forwarding, reading, reports
from app.services.usage.forwarding import Due
from app.values import unix_now


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
