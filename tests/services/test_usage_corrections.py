"""Usage taken back, sent again, and compared with Stripe's sums."""

import pytest
from billing import Account
from sqlalchemy import func, text, update
from using import DAY, METER, Usage, used

from app import models
from app.db import transaction
from app.errors import ConflictError, NotFoundError
from app.sandbox import thin_events
from app.services.usage.corrections import correction_id
from app.values import unix_now


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
