"""What is old enough goes, in slices; what says that an event was here stays for ever."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from billing import Account
from sqlalchemy import func, select, text, update

from app.db import Sessions, driver_connection
from app.models import ApiCall, IdempotencyKey, StripeEvent
from app.values import utcnow
from app.worker import housekeeping
from app.worker.housekeeping import PAYLOADS, keep_house

DAYS = 90


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "PAUSE_SECONDS", 0)


async def store(sessions: Sessions, count: int, *, days: int, status: str = "processed") -> None:
    """Events that came so many days ago."""
    async with driver_connection(sessions) as connection:
        await connection.execute(
            """
            INSERT INTO stripe_events (event_id, type, key, created, livemode, payload, status, received_at)
            SELECT format('evt_%s_%s_%s', $1::text, $2::int, n), 'invoice.paid', 'cus_1', n, false, '{}', $1,
                   now() - make_interval(days => $2, secs => n)
              FROM generate_series(1, $3::int) AS n
            """,
            status,
            days,
            count,
        )


async def kept(sessions: Sessions) -> dict[str, int]:
    """How many payloads there are, by status."""
    async with sessions() as session:
        found = await session.execute(
            select(StripeEvent.status, func.count(StripeEvent.payload)).group_by(StripeEvent.status)
        )
        return {status: count for status, count in found if count}


async def test_old_payloads_of_settled_events_are_emptied_and_nothing_else(sessions: Sessions) -> None:
    for status in ("processed", "ignored", "pending", "dead"):
        await store(sessions, 3, days=DAYS, status=status)
        await store(sessions, 2, days=DAYS - 1, status=status)
    await keep_house(sessions, payload_days=DAYS)
    assert await kept(sessions) == {"processed": 2, "ignored": 2, "pending": 5, "dead": 5}
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(StripeEvent)) == 20


async def test_an_event_whose_payload_is_gone_is_still_a_duplicate(account: Account) -> None:
    event = {**account.events("product.created")[0], "type": "topup.created"}  # of no concern to us
    assert (await account.deliver(event)).outcome != "duplicate"
    async with account.sessions.begin() as session:
        await session.execute(update(StripeEvent).values(received_at=utcnow() - timedelta(days=DAYS + 1)))
    await keep_house(account.sessions, payload_days=DAYS)
    assert await kept(account.sessions) == {}
    assert (await account.deliver(event)).outcome == "duplicate"


async def test_a_row_that_somebody_holds_is_left_for_the_next_time(sessions: Sessions) -> None:
    await store(sessions, 700, days=DAYS)
    async with sessions.begin() as session:
        held = select(StripeEvent.id).order_by(StripeEvent.received_at).limit(600).with_for_update()
        await session.execute(held)
        await asyncio.wait_for(keep_house(sessions, payload_days=DAYS), 10)
    assert await kept(sessions) == {"processed": 600}
    await keep_house(sessions, payload_days=DAYS)
    assert await kept(sessions) == {}


async def test_several_workers_share_the_work(sessions: Sessions) -> None:
    await store(sessions, 5000, days=DAYS)
    async with sessions.begin() as session:
        await session.execute(text("CREATE TABLE emptied (id bigint)"))
        await session.execute(
            text(
                """
                CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO emptied VALUES (new.id); RETURN new; END $$
                """
            )
        )
        await session.execute(
            text("CREATE TRIGGER note AFTER UPDATE ON stripe_events FOR EACH ROW EXECUTE FUNCTION note()")
        )
    await asyncio.gather(*(keep_house(sessions, payload_days=DAYS) for _ in range(4)))
    assert await kept(sessions) == {}
    async with sessions() as session:
        assert (await session.execute(text("SELECT count(*), count(DISTINCT id) FROM emptied"))).one() == (5000, 5000)


async def test_each_slice_is_kept_when_the_worker_stops_midway(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "PAUSE_SECONDS", 60)
    await store(sessions, 700, days=DAYS)
    work = asyncio.create_task(keep_house(sessions, payload_days=DAYS))
    left = {"processed": 700}
    while left == {"processed": 700}:
        await asyncio.sleep(0.01)
        left = await kept(sessions)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await kept(sessions) == {"processed": 200}


async def test_the_oldest_are_found_by_their_index_and_come_first(sessions: Sessions) -> None:
    await store(sessions, 20_000, days=DAYS + 10)
    async with sessions.begin() as session:
        await session.execute(update(StripeEvent).values(payload=None))
    await store(sessions, 1000, days=DAYS)
    await store(sessions, 20_000, days=1)
    async with driver_connection(sessions) as connection:
        await connection.execute("VACUUM ANALYZE stripe_events")
        plan = "\n".join(
            row[0] for row in await connection.fetch(f"EXPLAIN {PAYLOADS}", utcnow() - timedelta(days=DAYS))
        )
    assert "Index Scan using ix_stripe_events_kept on stripe_events" in plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan


async def test_old_calls_and_idempotency_keys_go(sessions: Sessions) -> None:
    now = utcnow()
    call: dict[str, Any] = {"user_id": "u", "actor": "user:u", "method": "POST", "route": "/", "status": 200}
    async with sessions.begin() as session:
        session.add_all(
            [
                *(ApiCall(at=now - timedelta(days=91), request_id="old", **call) for _ in range(1200)),
                ApiCall(at=now - timedelta(days=89), request_id="new", **call),
            ]
        )
        session.add_all(
            IdempotencyKey(
                caller="u", key=str(hours), fingerprint=b"", owner="o", created_at=now - timedelta(hours=hours)
            )
            for hours in (23, 25, 26)
        )
    await keep_house(sessions, payload_days=DAYS)
    async with sessions() as session:
        assert (await session.scalars(select(ApiCall.request_id))).all() == ["new"]
        assert (await session.scalars(select(IdempotencyKey.key))).all() == ["23"]
