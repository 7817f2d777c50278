"""Receiving: an event is stored once, before it is acknowledged, and each caller is told the truth about its own."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from signing import body, sign
from sqlalchemy import make_url, select, text

from app import models
from app.db import Sessions, create_engine
from app.errors import UnavailableError
from app.provider.mapping.events import decode
from app.provider.stripe import StripeProvider
from app.services import receiver as receiving
from app.services.receiver import WAKE_CHANNEL, BadWebhookError, Receipt, Receiver

OURS, CONNECT = "whsec_ours", "whsec_connect"
Event = dict[str, Any]
Open = Callable[..., Receiver]


def event(id: str, **changes: Any) -> Event:
    return {
        "object": "event",
        "id": id,
        "type": "customer.updated",
        "created": 1767225600,
        "livemode": False,
        "api_version": "2026-10-28.endive",
        "data": {"object": {"object": "customer", "id": "cus_1"}},
        **changes,
    }


@pytest.fixture
async def open_receiver(database_url: str, provider: StripeProvider) -> AsyncIterator[Open]:
    """Makes receivers on engines of their own, as a process has one."""
    async with AsyncExitStack() as stack:

        def open_(*, url: str = database_url, pgbouncer: bool = False, statement_seconds: float = 30) -> Receiver:
            engine = create_engine(url, pool_size=1, pgbouncer=pgbouncer, statement_seconds=statement_seconds)
            receiver = Receiver(engine, verifier=provider, secrets=[OURS, CONNECT], livemode=False, pgbouncer=pgbouncer)
            stack.push_async_callback(engine.dispose)
            stack.push_async_callback(receiver.aclose)
            return receiver

        yield open_


@pytest.fixture
def receiver(open_receiver: Open) -> Receiver:
    return open_receiver()


async def deliver(receiver: Receiver, event: Mapping[str, Any], *, secret: str = OURS) -> Receipt:
    payload = body(event)
    return await receiver.receive(payload, sign(payload, secret))


async def deliver_all(receiver: Receiver, events: list[Event]) -> list[str]:
    """What each of them was told, all having come at once: an outcome, or the name of an error."""
    answers = await asyncio.gather(*(deliver(receiver, event) for event in events), return_exceptions=True)
    return [answer.outcome if isinstance(answer, Receipt) else type(answer).__name__ for answer in answers]


async def rows(sessions: Sessions) -> dict[str, models.StripeEvent]:
    async with sessions() as session:
        return {row.event_id: row for row in await session.scalars(select(models.StripeEvent))}


@asynccontextmanager
async def locked_inbox(sessions: Sessions) -> AsyncIterator[None]:
    """Nobody can store anything meanwhile."""
    async with sessions.begin() as session:
        await session.execute(text("LOCK TABLE stripe_events IN ACCESS EXCLUSIVE MODE"))
        yield


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - nothing announces what is waited for
        await asyncio.sleep(0.001)


async def queued(receiver: Receiver, count: int) -> None:
    await until(lambda: receiver._waiting_rows == count)


async def test_an_event_is_stored_as_it_came(receiver: Receiver, sessions: Sessions) -> None:
    came = event("evt_1", data={"object": {"object": "invoice", "id": "in_1", "customer": {"id": "cus_2"}}})
    receipt = await deliver(receiver, came | {"type": "invoice.paid"})
    assert receipt == ("evt_1", "invoice.paid", "stored")
    row = (await rows(sessions))["evt_1"]
    assert row.payload == body(came | {"type": "invoice.paid"}).decode()
    assert (row.account, row.type, row.key, row.created) == ("", "invoice.paid", "cus_2", 1767225600)
    assert (row.livemode, row.api_version, row.status, row.reason) == (False, "2026-10-28.endive", "pending", None)
    assert (row.attempts, row.processed_at) == (0, None)


async def test_events_of_no_customer_are_filed_under_their_object_or_themselves(
    receiver: Receiver, sessions: Sessions
) -> None:
    await deliver(receiver, event("evt_object", data={"object": {"object": "price", "id": "price_1"}}))
    await deliver(receiver, event("evt_nothing", data={}))
    assert {id: row.key for id, row in (await rows(sessions)).items()} == {
        "evt_object": "price_1",
        "evt_nothing": "evt_nothing",
    }


async def test_a_thin_event_is_stored_beside_the_others(receiver: Receiver, sessions: Sessions) -> None:
    thin = {
        "object": "v2.core.event",
        "id": "evt_test_65",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2026-01-01T00:00:07.123Z",
        "livemode": False,
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    }
    about_us = thin | {
        "id": "evt_test_66",
        "type": "v1.customer.updated",
        "related_object": {"id": "cus_1", "type": "customer", "url": "/v1/customers/cus_1"},
    }
    assert await deliver_all(receiver, [thin, about_us]) == ["ignored", "stored"]
    found = await rows(sessions)
    assert (found["evt_test_65"].key, found["evt_test_65"].created) == ("mtr_1", 1767225607)
    assert (found["evt_test_66"].key, found["evt_test_66"].status) == ("cus_1", "pending")


async def test_what_does_not_concern_us_is_kept_as_ignored(receiver: Receiver, sessions: Sessions) -> None:
    events = [
        event("evt_unhandled", type="balance.available"),
        event("evt_live", livemode=True),
        event("evt_connect", account="acct_1"),
    ]
    assert await deliver_all(receiver, events) == ["ignored"] * 3
    assert await deliver_all(receiver, events) == ["duplicate"] * 3
    assert {id: (row.status, row.reason) for id, row in (await rows(sessions)).items()} == {
        "evt_unhandled": ("ignored", "unhandled_type"),
        "evt_live": ("ignored", "wrong_mode"),
        "evt_connect": ("ignored", "connected_account"),
    }


async def test_two_endpoints_and_two_api_versions_are_one_event(receiver: Receiver, sessions: Sessions) -> None:
    """While an endpoint of a new API version runs beside the old one, each event comes twice, in two shapes."""
    old, new = event("evt_1", api_version="2025-03-31.basil"), event("evt_1")
    assert (await deliver(receiver, old)).outcome == "stored"
    assert (await deliver(receiver, new, secret=CONNECT)).outcome == "duplicate"
    assert (await rows(sessions))["evt_1"].api_version == "2025-03-31.basil"

    both = await asyncio.gather(
        deliver(receiver, old | {"id": "evt_2"}, secret=CONNECT), deliver(receiver, new | {"id": "evt_2"})
    )
    assert [receipt.outcome for receipt in both] == ["stored", "duplicate"]
    assert (await rows(sessions))["evt_2"].api_version == "2025-03-31.basil"


async def test_the_same_id_of_two_accounts_is_two_events(receiver: Receiver, sessions: Sessions) -> None:
    events = [event("evt_1"), event("evt_1", account="acct_1"), event("evt_1", account="acct_2")]
    assert await deliver_all(receiver, events * 2) == ["stored", "ignored", "ignored"] + ["duplicate"] * 3
    async with sessions() as session:
        accounts = set(await session.scalars(select(models.StripeEvent.account)))
    assert accounts == {"", "acct_1", "acct_2"}


@pytest.mark.parametrize("age", [301, -301], ids=["old", "future"])
async def test_a_signature_out_of_time_is_refused(receiver: Receiver, sessions: Sessions, age: int) -> None:
    payload = body(event("evt_1"))
    with pytest.raises(BadWebhookError):
        await receiver.receive(payload, sign(payload, OURS, at=int(time.time()) - age))
    assert await rows(sessions) == {}


async def test_an_old_event_with_a_new_signature_is_stored(receiver: Receiver) -> None:
    """Stripe signs each retry anew for three days, and an operator may resend for thirty."""
    assert (await deliver(receiver, event("evt_1", created=1))).outcome == "stored"


@pytest.mark.parametrize("header", ["", "t=1", "v1=abc", "t=x,v1=y", "t=1,v1=é", "," * 1000])
async def test_a_header_that_is_no_signature_is_refused(receiver: Receiver, header: str) -> None:
    with pytest.raises(BadWebhookError) as refusal:
        await receiver.receive(b"{}", header)
    assert (refusal.value.status, refusal.value.code) == (400, "invalid_signature")


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"null", b"{", b'{"id": 1}', b"[" * 100_000, b'{"id":"\\u0000"}', b"\xef\xbb\xbf{}", b"1" * 5000],
)
async def test_a_signed_body_that_is_no_event_is_refused(
    receiver: Receiver, sessions: Sessions, payload: bytes
) -> None:
    with pytest.raises(BadWebhookError) as refusal:
        await receiver.receive(payload, sign(payload, OURS))
    assert (refusal.value.status, refusal.value.code) == (400, "invalid_event")
    assert await rows(sessions) == {}


async def test_odd_but_valid_json_is_stored(receiver: Receiver, sessions: Sessions) -> None:
    odd = event("evt_1", pending_webhooks=float("nan"), data={"object": {"id": "x", "name": "\ud800\0"}})
    odd["nested"] = nested = []
    for _ in range(300):
        nested.append(nested := [])
    assert (await deliver(receiver, odd)).outcome == "stored"
    assert (await rows(sessions))["evt_1"].payload == body(odd).decode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@examples(deadline=None)
@given(
    value=JSON,
    place=st.integers(0, 200),
    extra=st.sampled_from(["", "{", '"', ",", "\\", "0", "e", "\0", "NaN", "\\u"]),
)
def test_the_quick_reader_of_json_reads_what_pythons_reads(value: Any, place: int, extra: str) -> None:
    whole = json.dumps(value)
    broken = whole[:place] + extra + whole[place:]
    try:
        expected = json.loads(broken)
    except ValueError:
        with pytest.raises(ValueError):
            decode(broken)
    else:
        assert repr(decode(broken)) == repr(expected)  # NaN is not equal to itself


async def test_deliveries_that_come_together_share_a_commit(receiver: Receiver, sessions: Sessions) -> None:
    assert await deliver_all(receiver, [event(f"evt_{number}") for number in range(100)]) == ["stored"] * 100
    async with sessions() as session:
        transactions = await session.scalar(text("SELECT count(DISTINCT xmin::text) FROM stripe_events"))
    assert transactions == 1


@pytest.mark.parametrize(("limit", "value"), [("BATCH_ROWS", 10), ("BATCH_BYTES", 10 * len(body(event("evt_1"))))])
async def test_a_batch_is_bounded(
    receiver: Receiver, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(receiving, limit, value)
    assert await deliver_all(receiver, [event(f"evt_{number}") for number in range(95)]) == ["stored"] * 95
    async with sessions() as session:
        sizes = await session.scalars(text("SELECT count(*) FROM stripe_events GROUP BY xmin::text"))
    assert 7 <= max(sizes) <= 10


async def test_of_copies_in_one_batch_the_first_is_stored(receiver: Receiver, sessions: Sessions) -> None:
    copies = [event(f"evt_{number % 3}", livemode=number % 3 == 2) for number in range(30)]
    assert await deliver_all(receiver, copies) == ["stored", "stored", "ignored"] + ["duplicate"] * 27
    assert len(await rows(sessions)) == 3


async def test_a_row_that_postgres_refuses_harms_no_other(receiver: Receiver, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(
            text(
                """
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF NEW.event_id = 'evt_7' THEN RAISE EXCEPTION 'not this one'; END IF;
                    RETURN NEW;
                END $$
                """
            )
        )
        await session.execute(
            text("CREATE TRIGGER refuse BEFORE INSERT ON stripe_events FOR EACH ROW EXECUTE FUNCTION refuse()")
        )
    await deliver(receiver, event("evt_0"))
    told = await deliver_all(receiver, [event(f"evt_{number}") for number in (*range(50), 7)])
    assert told == ["duplicate"] + ["stored"] * 6 + ["UnavailableError"] + ["stored"] * 42 + ["UnavailableError"]
    assert set(await rows(sessions)) == {f"evt_{number}" for number in range(50) if number != 7}


async def test_two_processes_given_the_same_events_in_opposite_order_both_succeed(
    open_receiver: Open, sessions: Sessions
) -> None:
    one, other = open_receiver(), open_receiver()
    for round_ in range(20):
        events = [event(f"evt_{round_}_{number}") for number in range(50)]
        told = await asyncio.gather(deliver_all(one, events), deliver_all(other, events[::-1]))
        assert [sorted(pair) for pair in zip(told[0], told[1][::-1], strict=True)] == [["duplicate", "stored"]] * 50
    assert len(await rows(sessions)) == 20 * 50


async def test_the_worker_is_woken_once_for_a_batch_with_something_to_do(receiver: Receiver, database_url: str) -> None:
    heard: list[object] = []
    listener = await asyncpg.connect(
        make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    )
    try:
        await listener.add_listener(WAKE_CHANNEL, lambda *notice: heard.append(notice))
        await deliver_all(receiver, [event(f"evt_{number}") for number in range(50)])
        await listener.execute("SELECT")  # notices of what is committed come first
        assert len(heard) == 1
        await deliver_all(receiver, [event("evt_1"), event("evt_unhandled", type="balance.available")])
        await listener.execute("SELECT")
        assert len(heard) == 1
    finally:
        await listener.close()


@pytest.mark.parametrize(("limit", "value"), [("WAITING_ROWS", 5), ("WAITING_BYTES", 5 * len(body(event("evt_1"))))])
async def test_what_would_fill_memory_is_refused_at_once(
    receiver: Receiver, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(receiving, limit, value)
    async with locked_inbox(sessions):
        waiting = [asyncio.create_task(deliver(receiver, event(f"evt_{number}"))) for number in range(5)]
        await queued(receiver, 5)
        with pytest.raises(UnavailableError) as refusal:
            await deliver(receiver, event("evt_9"))
        assert refusal.value.retry_after
        assert not any(task.done() for task in waiting)
    assert [receipt.outcome for receipt in await asyncio.gather(*waiting)] == ["stored"] * 5
    assert (await deliver(receiver, event("evt_9"))).outcome == "stored"
    assert (receiver._waiting_rows, receiver._waiting_bytes) == (0, 0)


async def test_nobody_waits_for_ever_for_a_database_that_does_not_answer(
    open_receiver: Open, sessions: Sessions
) -> None:
    receiver = open_receiver(statement_seconds=0.3)
    assert (await deliver(receiver, event("evt_0"))).outcome == "stored"
    async with locked_inbox(sessions):
        first = asyncio.create_task(deliver_all(receiver, [event("evt_1")]))
        await queued(receiver, 1)
        behind = await deliver_all(receiver, [event(f"evt_{number}") for number in range(2, 9)])
        assert [*await first, *behind] == ["UnavailableError"] * 8
    # The statement given up may have got through in the last moment: then the first is known already.
    assert set(await deliver_all(receiver, [event("evt_1"), event("evt_2")])) <= {"stored", "duplicate"}
    assert {"evt_1", "evt_2"} <= set(await rows(sessions))


async def test_nobody_waits_for_ever_for_a_connection(open_receiver: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "CONNECT_SECONDS", 0.2)
    with socket.socket() as silent:  # takes connections in, and never says anything
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        receiver = open_receiver(url=f"postgresql://billhook@127.0.0.1:{silent.getsockname()[1]}/billhook")
        assert await deliver_all(receiver, [event("evt_1"), event("evt_2")]) == ["UnavailableError"] * 2


async def test_without_postgres_each_is_told_so(open_receiver: Open) -> None:
    receiver = open_receiver(url="postgresql://billhook@/billhook?host=/nowhere")
    assert await deliver_all(receiver, [event("evt_1"), event("evt_2")]) == ["UnavailableError"] * 2


async def end_connection(receiver: Receiver, sessions: Sessions) -> None:
    async with sessions() as session:
        await session.execute(
            text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": receiver._driver.get_server_pid()}
        )


async def test_a_connection_that_ended_while_idle_costs_no_delivery(receiver: Receiver, sessions: Sessions) -> None:
    assert (await deliver(receiver, event("evt_1"))).outcome == "stored"
    await end_connection(receiver, sessions)
    await until(receiver._driver.is_closed)
    assert await deliver_all(receiver, [event("evt_1"), event("evt_2")]) == ["duplicate", "stored"]


async def test_a_connection_that_ends_in_mid_commit_fails_those_who_wait_and_no_later_ones(
    receiver: Receiver, sessions: Sessions
) -> None:
    assert (await deliver(receiver, event("evt_0"))).outcome == "stored"
    async with locked_inbox(sessions):
        waiting = asyncio.create_task(deliver_all(receiver, [event("evt_1"), event("evt_2")]))
        await queued(receiver, 2)
        await end_connection(receiver, sessions)
        assert await waiting == ["UnavailableError"] * 2
    assert await deliver_all(receiver, [event("evt_1"), event("evt_2")]) == ["stored"] * 2


async def test_a_caller_that_gives_up_disturbs_no_other(receiver: Receiver, sessions: Sessions) -> None:
    async with locked_inbox(sessions):
        tasks = [asyncio.create_task(deliver(receiver, event(f"evt_{number}"))) for number in range(3)]
        await queued(receiver, 3)
        tasks[1].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert [outcomes[0], outcomes[2]] == [
        ("evt_0", "customer.updated", "stored"),
        ("evt_2", "customer.updated", "stored"),
    ]
    assert set(await rows(sessions)) == {"evt_0", "evt_1", "evt_2"}


async def test_closing_stores_what_waits_and_refuses_what_comes(receiver: Receiver, sessions: Sessions) -> None:
    async with locked_inbox(sessions):
        waiting = [asyncio.create_task(deliver(receiver, event(f"evt_{number}"))) for number in range(20)]
        await queued(receiver, 20)
        closing = asyncio.create_task(receiver.aclose())
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await deliver(receiver, event("evt_late"))
    await closing
    assert [receipt.outcome for receipt in await asyncio.gather(*waiting)] == ["stored"] * 20
    assert len(await rows(sessions)) == 20


async def test_it_works_behind_pgbouncer(open_receiver: Open, sessions: Sessions) -> None:
    receiver = open_receiver(pgbouncer=True)
    for number in range(3):  # unnamed statements: each is prepared anew
        events = [event("evt_same"), event(f"evt_{number}")]
        assert await deliver_all(receiver, events) == ["duplicate" if number else "stored", "stored"]
    assert len(await rows(sessions)) == 4
