"""Replays: an event is applied once more, and nothing happens twice."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest
from billing import Account
from sqlalchemy import insert, make_url, update

from app import models
from app.db import transaction
from app.errors import ConflictError, InvalidRequestError
from app.services import inbox, replays
from app.services.inbox import EventFilter
from app.services.receiver import WAKE_CHANNEL
from app.settings import Settings
from app.worker import runner
from app.worker.replays import advance, carry_out

DEAD = EventFilter(status="dead")


async def replay(account: Account, event_id: str) -> models.StripeEvent:
    async with transaction(account.sessions) as session:
        return await inbox.replay(session, event_id, account=None, livemode=False, actor="key:1")


async def start(account: Account, which: EventFilter) -> models.Replay:
    async with transaction(account.sessions) as session:
        return await replays.start(session, which, actor="key:1")


async def change(account: Account, **values: Any) -> None:
    """Set columns of every stored event."""
    async with account.sessions.begin() as session:
        await session.execute(update(models.StripeEvent).values(**values))


async def add_dead(account: Account, count: int, values: Mapping[str, Any] = MappingProxyType({})) -> None:
    row = {
        "type": "invoice.paid",
        "key": "cus_1",
        "created": 1,
        "livemode": False,
        "payload": "{}",
        "status": "dead",
        "attempts": 12,
        "last_error": "LookupError: x",
    }
    async with account.sessions.begin() as session:
        known = len(await account.all(models.StripeEvent))
        await session.execute(
            insert(models.StripeEvent),
            [{**row, "event_id": f"evt_{known + number}", **values} for number in range(count)],
        )


async def told(account: Account) -> tuple[Any, ...]:
    """All that events ever do, but for the operator's own doings."""
    changes = [row.id for row in await account.all(models.AuditRow) if "replayed" not in row.action]
    return await account.state(), changes, [row.key for row in await account.all(models.OutboxMessage)]


async def test_replaying_every_event_of_a_purchase_changes_nothing(account: Account) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    before = await told(account)
    handled = [row for row in await account.all(models.StripeEvent) if row.status == "processed"]
    assert len(handled) > 5
    for row in handled:
        assert (await replay(account, row.event_id)).status == "pending"
    await account.process()
    assert await told(account) == before
    job = await start(account, EventFilter(customer="demo-1"))
    await carry_out(account.sessions, livemode=False)
    await account.process()
    assert await told(account) == before
    assert {row.status for row in await account.all(models.StripeEvent)} == {"processed", "ignored"}
    [done] = await account.all(models.Replay)
    theirs = [row for row in handled if row.key.startswith("cus_")]  # products and prices are nobody's
    assert (done.id, done.status, done.replayed) == (job.id, "done", len(theirs))


async def test_a_dead_event_is_applied_once_what_was_wrong_is_mended(account: Account) -> None:
    await account.buy(plan="basic")
    [event] = account.events("customer.subscription.created")
    await account.deliver(event)
    await change(account, status="dead", attempts=12, last_error="LookupError: x")
    await account.process()
    assert await account.all(models.Subscription) == []

    row = await replay(account, event["id"])
    assert (row.status, row.attempts, row.last_error) == ("pending", 0, None)
    await account.process()
    [subscription] = await account.all(models.Subscription)
    assert subscription.stripe_id == event["data"]["object"]["id"]


async def test_a_replay_is_audited_with_what_it_found(account: Account) -> None:
    await account.buy()
    await account.deliver_and_process(account.events("customer.created"))
    [event] = await account.all(models.StripeEvent)
    await replay(account, event.event_id)
    job = await start(account, EventFilter(type="customer.created", since=1))
    single, many = [row for row in await account.all(models.AuditRow) if "replayed" in row.action]
    [customer] = await account.all(models.Customer)
    assert (single.action, single.subject, single.actor) == ("event.replayed", event.event_id, "key:1")
    assert (single.before, single.after) == (
        {"status": "processed", "attempts": 1},
        {"status": "pending", "attempts": 0},
    )
    assert single.customer_id == customer.id
    assert (many.action, many.subject, many.actor) == ("events.replayed", str(job.id), "key:1")
    assert many.after == {"filter": {"type": "customer.created", "since": 1}, "total": 1}


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"livemode": True}, "event_not_replayable"),
        ({"account": "acct_1"}, "event_not_replayable"),
        ({"type": "topup.created"}, "event_not_replayable"),
        ({"payload": None}, "payload_not_kept"),
    ],
)
async def test_what_could_not_be_applied_is_refused_and_stays_as_it_is(
    account: Account, values: dict[str, Any], code: str
) -> None:
    await add_dead(account, 2, {"status": "ignored", "reason": "once so", **values})
    with pytest.raises(ConflictError) as refused:
        await replay(account, "evt_0")
    assert refused.value.code == code
    await start(account, EventFilter(status="ignored"))
    await carry_out(account.sessions, livemode=False)
    [job] = await account.all(models.Replay)
    assert (job.total, job.replayed, job.skipped) == (2, 0, 2)
    assert {row.status for row in await account.all(models.StripeEvent)} == {"ignored"}


async def test_what_was_ignored_before_we_knew_the_type_can_be_replayed(account: Account) -> None:
    await account.buy()
    [event] = account.events("customer.created")
    await account.deliver(event)
    await change(account, status="ignored", reason="unhandled_type")
    assert (await replay(account, event["id"])).reason is None
    await account.process()
    assert len(await account.all(models.Customer)) == 1


async def test_a_replay_wakes_the_worker_when_it_is_committed(account: Account, settings: Settings) -> None:
    await add_dead(account, 1)
    url = make_url(settings.database_url.get_secret_value()).set(drivername="postgresql")
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    woken = asyncio.Event()
    await connection.add_listener(WAKE_CHANNEL, lambda *_: woken.set())
    async with transaction(account.sessions) as session:
        await inbox.replay(session, "evt_0", account=None, livemode=False, actor="cli")
        assert not woken.is_set()
    await asyncio.wait_for(woken.wait(), timeout=10)
    await connection.close()


async def test_a_job_goes_on_where_a_crash_left_it_and_meets_no_event_twice(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "SLICE", 10)
    await add_dead(account, 25)
    await start(account, DEAD)
    await add_dead(account, 3)  # after it was asked for: not meant

    first = await advance(account.sessions, livemode=False)
    assert first is not None
    assert (first.status, first.replayed) == ("running", 10)

    async def crashing() -> None:
        async with transaction(account.sessions) as session:
            await replays.advance(session, livemode=False)
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await crashing()
    # What was replayed dies again meanwhile: it is not this job's concern any more.
    async with account.sessions.begin() as session:
        await session.execute(
            update(models.StripeEvent).where(models.StripeEvent.status == "pending").values(status="dead", attempts=1)
        )
    await carry_out(account.sessions, livemode=False)
    [job] = await account.all(models.Replay)
    assert (job.status, job.total, job.replayed, job.skipped) == ("done", 25, 25, 0)
    rows = await account.all(models.StripeEvent)
    assert [(row.status, row.attempts) for row in rows] == [("dead", 1)] * 10 + [("pending", 0)] * 15 + [
        ("dead", 12)
    ] * 3


async def test_two_workers_share_the_jobs_and_do_nothing_twice(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "SLICE", 7)
    await add_dead(account, 100)
    for which in (EventFilter(type="invoice.paid"), EventFilter(customer="cus_1")):
        await start(account, which)
    while any(job.status == "running" for job in await account.all(models.Replay)):
        await asyncio.gather(*(carry_out(account.sessions, livemode=False) for _ in range(3)))
    assert [(job.replayed, job.skipped) for job in await account.all(models.Replay)] == [(100, 0)] * 2
    assert {(row.status, row.attempts) for row in await account.all(models.StripeEvent)} == {("pending", 0)}


async def test_a_job_somebody_is_at_is_nobody_else_s(account: Account) -> None:
    await add_dead(account, 1)
    await start(account, DEAD)
    async with transaction(account.sessions) as session:
        assert await replays.advance(session, livemode=False) is not None
        assert await advance(account.sessions, livemode=False) is None


async def test_a_running_worker_replays_and_applies(account: Account, settings: Settings) -> None:
    await account.buy()
    for event in account.events():
        await account.deliver(event)
    await change(account, status="dead", attempts=12)
    stop = asyncio.Event()
    working = asyncio.create_task(
        runner.run(settings, sessions=account.sessions, redis=account.redis, provider=account.provider, stop=stop)
    )
    await start(account, DEAD)
    for _ in range(600):
        if {row.status for row in await account.all(models.StripeEvent)} == {"processed", "dead"}:
            break
        await asyncio.sleep(0.1)
    stop.set()
    await working
    assert len(await account.all(models.Subscription)) == 1
    [job] = await account.all(models.Replay)
    left = [row for row in await account.all(models.StripeEvent) if row.status == "dead"]
    assert (job.status, job.skipped) == ("done", len(left))


async def test_a_replay_of_everything_must_be_said_as_such(account: Account) -> None:
    with pytest.raises(InvalidRequestError):
        await start(account, EventFilter())
