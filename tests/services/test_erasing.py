"""Erasing a customer: nothing personal is left, nothing brings it back, the books stay, and no crash leaves it half."""

import asyncio
import json
from typing import Any

import pytest
from billing import ADA, STRIPE, Account
from sqlalchemy import select, text, update
from sqlalchemy.dialects import postgresql

from app.db import Base, driver_connection, transaction
from app.errors import ConflictError, NotFoundError, UnavailableError
from app.models import (
    ApiCall,
    AuditRow,
    Customer,
    IdempotencyKey,
    Invoice,
    OutboxMessage,
    Replay,
    StripeEvent,
    Subscription,
    UsageEvent,
    UsageLease,
    UsageTotal,
)
from app.provider.objects import Customer as Shown
from app.provider.objects import Snapshot
from app.provider.stripe import StripeProvider
from app.sandbox.resources import customers as at_stripe
from app.services import audit, customers, erasing, exports, forgetting, payment_methods
from app.services.customers import Buyer
from app.services.mirror import AsOf
from app.services.subscriptions import creating
from app.values import utcnow
from app.worker import erasing as worker
from app.worker import reconcile

PERSONAL = ("ada@example.com", '"Ada"', "demo-1", '"4242"')
OPERATOR = "key:operator"


@pytest.fixture
async def bought(account: Account) -> str:
    """Ada has subscribed, and all is told; her customer's id."""
    await account.buy()
    await account.deliver_and_process(account.events())
    [customer] = await account.all(Customer)
    id: str = customer.stripe_id
    return id


async def erase(account: Account, id: str, provider: Any = None, *, cancel: bool = True) -> Customer:
    return await worker.erase(
        account.sessions, provider or account.provider, id, cancel_subscriptions=cancel, actor=OPERATOR
    )


async def told_since(account: Account) -> None:
    """Everything Stripe has to say arrives, and is applied."""
    await account.deliver_and_process(account.events())


async def traces(account: Account) -> set[tuple[str, str]]:
    """Where in the whole database something personal stands: (table, what). Who did what is the audit log's to keep."""
    found = set()
    async with driver_connection(account.sessions) as connection:
        for table in Base.metadata.sorted_tables:
            rows = f"SELECT to_jsonb(t) - 'hash' - 'prev_hash' AS row FROM {table} AS t"  # noqa: S608 - our own tables
            for record in await connection.fetch(rows):
                row = record["row"] if isinstance(record["row"], dict) else json.loads(record["row"])
                if table.name == "audit_log":
                    row.pop("actor")
                shown = unquoted(row)
                found |= {(table.name, what) for what in PERSONAL if what in shown}
    return found


def unquoted(found: Any) -> str:
    """As text in which what is quoted is found, in JSON within JSON, too."""
    return json.dumps(found).replace('\\"', '"')


async def verified(account: Account) -> bool:
    async with transaction(account.sessions) as session:
        return await audit.first_broken(session) is None


async def test_the_search_for_traces_finds_them(account: Account, bought: str) -> None:
    found = await traces(account)
    assert {table for table, _ in found} >= {"customers", "payment_methods", "stripe_events", "subscriptions"}
    assert {what for table, what in found if table == "stripe_events"} == set(PERSONAL)
    assert "audit_log" not in {table for table, _ in found}
    assert bought


async def test_nothing_personal_is_left_and_the_books_stay(account: Account, bought: str) -> None:
    [before] = await account.all(Invoice)
    left = await erase(account, ADA.user_id)
    assert (left.stripe_id, left.deleted, left.erased_at is not None) == (bought, True, True)
    assert (left.email, left.name, left.default_payment_method, left.stripe_metadata) == (None, None, None, {})
    assert left.user_id == forgetting.stand_in(left.id)
    assert await traces(account) == set()

    [after] = await account.all(Invoice)
    kept = ("stripe_id", "number", "status", "currency", "total", "amount_paid", "paid_at", "customer_id", "lines")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert (after.hosted_invoice_url, after.invoice_pdf) == (None, None)
    assert [row.status for row in await account.all(Subscription)] == ["canceled"]
    assert await verified(account)
    assert account.sandbox.find("customer", bought) == {"id": bought, "object": "customer", "deleted": True}
    messages = [row for row in await account.all(OutboxMessage) if row.type == "customer.erased"]
    assert [(row.subject, row.data) for row in messages] == [(bought, {})]


async def test_nothing_brings_it_back(account: Account, bought: str) -> None:
    await erase(account, bought)
    await told_since(account)
    assert {table for table, _ in await traces(account)} == {"stripe_events"}  # until the worker comes round
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()
    assert {row.status for row in await account.all(StripeEvent)} <= {"processed", "ignored"}
    run = await reconcile.reconcile(account.sessions, account.provider, actor="cli", repair=True, patience=0)
    assert (run.status, run.drifted) == ("done", 0)
    await account.process()
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()
    assert await verified(account)


async def test_events_that_came_before_and_wait_are_applied_and_leave_nothing(account: Account) -> None:
    await account.buy()
    for event in account.events():
        await account.deliver(event)  # nobody has applied any
    customer = account.sandbox.rows("customer")[0]["id"]
    shown = await account.provider.retrieve_customer(customer)
    async with transaction(account.sessions) as session:
        await customers.sync(session, shown.object, as_of=AsOf(at=shown.at), origin=STRIPE)
    await erase(account, customer)
    await told_since(account)
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()
    assert [row.status for row in await account.all(Subscription)] == ["canceled"]
    assert [row.amount_paid for row in await account.all(Invoice)] == [9900]


async def test_a_live_subscription_is_not_ended_by_accident(account: Account, bought: str) -> None:
    before = await account.state()
    with pytest.raises(ConflictError) as refused:
        await erase(account, bought, cancel=False)
    assert refused.value.code == "has_live_subscription"
    assert await account.state() == before
    await account.provider.cancel_subscription(account.sandbox.rows("subscription")[0]["id"], idempotency_key="k")
    await told_since(account)
    assert (await erase(account, bought, cancel=False)).deleted


async def test_a_subscription_that_was_just_bought_is_not_ended_by_accident(account: Account) -> None:
    await account.buy()  # and its webhooks have not come
    with pytest.raises(ConflictError) as refused:
        await erase(account, ADA.user_id, cancel=False)
    assert refused.value.code == "has_live_subscription"
    assert [row["status"] for row in account.sandbox.rows("subscription")] == ["active"]
    [row] = await account.all(Customer)
    assert row.erased_at is None


async def test_twice_is_no_error(account: Account, bought: str) -> None:
    first = await erase(account, bought)
    changes = len(await account.all(OutboxMessage))
    again = await erase(account, bought)
    assert (again.erased_at, again.user_id) == (first.erased_at, first.user_id)
    assert len(await account.all(OutboxMessage)) == changes
    with pytest.raises(NotFoundError):
        await erase(account, ADA.user_id)  # nobody knows any more who that was


class Dying:
    """Stripe, with a process of ours that dies before or after it deletes a customer there."""

    def __init__(self, provider: StripeProvider, *, after: bool) -> None:
        self._provider = provider
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    async def delete_customer(self, id: str) -> Snapshot[Shown]:
        if self._after:
            await self._provider.delete_customer(id)
        raise UnavailableError("died")


async def test_stripe_s_own_event_completes_what_a_crash_cut_off(account: Account, bought: str) -> None:
    with pytest.raises(UnavailableError):
        await erase(account, bought, Dying(account.provider, after=True))
    assert ("customers", "ada@example.com") in await traces(account)
    await told_since(account)
    assert {table for table, _ in await traces(account)} == {"stripe_events"}
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()
    assert [row.deleted for row in await account.all(Customer)] == [True]


@pytest.mark.parametrize("after", [False, True])
async def test_a_repeated_call_completes_what_a_crash_cut_off(account: Account, bought: str, *, after: bool) -> None:
    with pytest.raises(UnavailableError):
        await erase(account, bought, Dying(account.provider, after=after))
    assert (await erase(account, ADA.user_id)).stripe_id == bought
    assert await traces(account) == set()


async def test_the_worker_completes_what_a_crash_cut_off(account: Account, bought: str) -> None:
    with pytest.raises(UnavailableError):
        await erase(account, bought, Dying(account.provider, after=False))
    await worker.finish_erasing(account.sessions, Dying(account.provider, after=False))  # type: ignore[arg-type]  # stands in for it
    assert account.sandbox.find("customer", bought).get("email") == ADA.email
    await worker.finish_erasing(account.sessions, account.provider)
    assert account.sandbox.find("customer", bought).get("deleted")
    await told_since(account)
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()
    told = [row for row in await account.all(OutboxMessage) if row.type == "customer.erased"]
    assert len(told) == 1


async def test_between_begin_and_end_nothing_personal_is_written(account: Account, bought: str) -> None:
    with pytest.raises(UnavailableError):
        await erase(account, bought, Dying(account.provider, after=False))
    with account.sandbox.changing():
        at_stripe.update(account.sandbox, {"email": "new@example.com", "name": "New"}, bought)
    await told_since(account)
    [row] = await account.all(Customer)
    assert (row.email, row.name, row.stripe_metadata, row.user_id) == (None, None, {}, ADA.user_id)


async def test_all_customers_a_person_ever_had_are_erased(account: Account, bought: str) -> None:
    with account.sandbox.changing():
        at_stripe.delete(account.sandbox, {}, bought)
        twin = at_stripe.create(account.sandbox, {"email": ADA.email, "metadata": {"user_id": ADA.user_id}})["id"]
    await told_since(account)
    with account.sandbox.changing():  # one that Stripe alone says is hers
        third = at_stripe.create(account.sandbox, {"name": "Ada", "metadata": {"user_id": ADA.user_id}})["id"]
    await told_since(account)
    assert {row.stripe_id: row.user_id for row in await account.all(Customer)} == {
        bought: ADA.user_id,
        twin: ADA.user_id,
        third: None,
    }
    await erase(account, ADA.user_id)
    await told_since(account)
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()
    assert all(account.sandbox.find("customer", id).get("deleted") for id in (bought, twin, third))


async def test_whoever_comes_back_is_somebody_new(account: Account, bought: str) -> None:
    await erase(account, bought)
    await account.buy()
    await told_since(account)
    old, new = sorted(await account.all(Customer), key=lambda row: row.deleted, reverse=True)
    assert (old.stripe_id, old.email, new.email, new.user_id) == (bought, None, ADA.email, ADA.user_id)
    assert [row.status for row in await account.all(Subscription) if row.customer_id == new.id] == ["active"]


async def test_a_customer_without_a_user_is_erased_too(account: Account) -> None:
    with account.sandbox.changing():
        made = at_stripe.create(account.sandbox, {"email": ADA.email, "name": "Ada"})["id"]
    await told_since(account)
    left = await erase(account, made)
    assert left.user_id == forgetting.stand_in(left.id)
    await told_since(account)
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()


async def test_another_customer_stays_as_it_was(account: Account, bought: str) -> None:
    other = Buyer(user_id="demo-2", email="bob@example.com", name="Bob")
    await account.buy(other)
    await told_since(account)
    async with account.sessions() as session:
        bob = await customers.get(session, "demo-2")
        events = (await session.scalars(select(StripeEvent.payload).where(StripeEvent.key == bob.stripe_id))).all()
    await erase(account, bought)
    async with account.sessions() as session:
        assert (await customers.get(session, "demo-2")).email == "bob@example.com"
        kept = (await session.scalars(select(StripeEvent.payload).where(StripeEvent.key == bob.stripe_id))).all()
    assert sorted(map(str, kept)) == sorted(map(str, events))
    assert account.sandbox.find("customer", bob.stripe_id)["email"] == "bob@example.com"


async def test_rows_that_name_the_user_are_renamed_slice_by_slice(
    account: Account, bought: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "SLICE", 10)
    used = {"meter": "api_calls", "quantity": 1, "timestamp": 1, "period_start": 0}
    called = {"actor": f"user:{ADA.user_id}", "method": "POST", "route": "/", "status": 200, "request_id": "r"}
    async with account.sessions.begin() as session:
        for status, many in (("sent", 15), ("pending", 10)):
            events = (UsageEvent(id=f"{status}-{n}", subject=ADA.user_id, status=status, **used) for n in range(many))
            session.add_all(events)
        session.add_all(ApiCall(user_id=ADA.user_id, **called) for _ in range(25))
        session.add(Replay(filter={"customer": ADA.user_id}, actor="cli", total=0, up_to_id=0))
    left = await erase(account, bought)
    usage = sorted((row.subject, row.status, row.error_code or "") for row in await _rows(account, UsageEvent))
    # What Stripe has not got it will never take.
    assert usage == [(left.user_id, "expired", "customer_deleted")] * 10 + [(left.user_id, "sent", "")] * 15
    calls = await account.all(ApiCall)
    assert [(row.user_id, row.actor) for row in calls] == [(left.user_id, f"user:{left.user_id}")] * 25
    assert [row.filter for row in await account.all(Replay)] == [{"customer": left.user_id}]
    assert await traces(account) == set()


async def _rows(account: Account, model: type[Any]) -> list[Any]:
    async with account.sessions() as session:
        return list((await session.scalars(select(model))).all())


async def test_what_is_used_while_somebody_is_erased_is_added_up_and_stops_nothing(
    account: Account, bought: str
) -> None:
    async with account.sessions() as session:
        name = forgetting.stand_in((await customers.get(session, bought)).id)
    period = {"meter": "api_calls", "period_start": 0, "period_end": 9}
    counted = ((name, 5, 2, 7), (ADA.user_id, 3, 1, 8))  # an interrupted erasing had renamed the first
    async with account.sessions.begin() as session:
        for subject, used, events, latest in counted:
            session.add(UsageTotal(subject=subject, used=used, events=events, latest=latest, **period))
            session.add(UsageLease(subject=subject, meter="api_calls", until=utcnow()))
    await erase(account, bought)
    [total] = await _rows(account, UsageTotal)
    assert (total.subject, total.used, total.events, total.latest) == (name, 8, 3, 8)
    assert ADA.user_id not in {row.subject for row in await _rows(account, UsageLease)}


async def test_a_user_id_that_looks_like_a_stand_in_is_erased_like_any_other(account: Account) -> None:
    await account.buy(Buyer(user_id="erased_or-so", email=ADA.email, name=ADA.name))
    await told_since(account)
    left = await erase(account, "erased_or-so")
    assert (left.deleted, left.user_id) == (True, forgetting.stand_in(left.id))
    await told_since(account)
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()


async def test_two_requests_at_once_are_one_erasing(account: Account, bought: str) -> None:
    async def begin() -> None:
        async with transaction(account.sessions) as session:
            await erasing.begin(session, bought, cancel_subscriptions=True, actor=OPERATOR)

    async with transaction(account.sessions) as session:
        await customers.lock(session, bought)
        both = [asyncio.create_task(begin()) for _ in range(2)]
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        for _ in range(500):
            if await session.scalar(waiting) == len(both):
                break
            await asyncio.sleep(0.01)
    await asyncio.gather(*both)
    assert [row.action for row in await account.all(AuditRow)].count("customer.erase_requested") == 1


async def test_nothing_is_sold_to_somebody_who_is_being_erased(account: Account, bought: str) -> None:
    await account.provider.cancel_subscription(account.sandbox.rows("subscription")[0]["id"], idempotency_key="k")
    await told_since(account)
    with pytest.raises(UnavailableError):
        await erase(account, bought, Dying(account.provider, after=False))
    with pytest.raises(ConflictError) as refused:
        await account.open_checkout()
    assert refused.value.code == "customer_deleted"
    async with transaction(account.sessions) as session:
        with pytest.raises(ConflictError) as refused:
            await payment_methods.start_setup(session, account.provider, ADA, idempotency_key="k", actor=OPERATOR)
        assert refused.value.code == "customer_deleted"
        for whom in ({"user_id": ADA.user_id, "customer": None}, {"user_id": None, "customer": bought}):
            with pytest.raises(ConflictError) as refused:
                await creating.create(
                    session,
                    account.provider,
                    account.plans,
                    creating.NewSubscription(items=[creating.NewItem(plan="pro")]),
                    **whom,
                    idempotency_key="k",
                    actor=OPERATOR,
                )
            assert refused.value.code == "customer_deleted"


async def test_answers_that_name_a_customer_without_a_user_are_emptied_too(account: Account) -> None:
    with account.sandbox.changing():
        made = at_stripe.create(account.sandbox, {"email": ADA.email, "name": "Ada"})["id"]
    await told_since(account)
    answer = {"caller": "key:1", "fingerprint": b"", "owner": "o", "headers": [], "status": 200}
    async with account.sessions.begin() as session:
        session.add_all(
            [
                IdempotencyKey(key="named", body=f'{{"customer":"{made}","description":"Ada"}}'.encode(), **answer),
                IdempotencyKey(key="about", body=b'{"value":"DE123456789"}', user_id=made, **answer),
                IdempotencyKey(key="other", body=f'{{"customer":"{made}2"}}'.encode(), **answer),
            ]
        )
    await erase(account, made)
    kept = {row.key for row in await _rows(account, IdempotencyKey) if row.body is not None}
    assert kept == {"other"}


async def test_answers_kept_for_repeated_requests_are_emptied(account: Account, bought: str) -> None:
    answer = {"fingerprint": b"", "owner": "o", "headers": [], "body": b'{"email": "ada@example.com"}', "status": 200}
    async with account.sessions.begin() as session:
        session.add_all(
            [
                IdempotencyKey(caller=f"user:{ADA.user_id}", key="own", **answer),
                IdempotencyKey(caller="key:1", key="for-her", user_id=ADA.user_id, **answer),
                IdempotencyKey(caller="key:1", key="other", user_id="demo-2", **{**answer, "body": b"{}"}),
                IdempotencyKey(caller="key:1", key="runs", fingerprint=b"", owner="o", created_at=utcnow()),
            ]
        )
    await erase(account, bought)
    kept = {row.key: (row.status, row.body) for row in await _rows(account, IdempotencyKey)}
    assert kept == {"own": (200, None), "for-her": (200, None), "other": (200, b"{}"), "runs": (None, None)}


async def test_what_is_exported_afterwards_says_nothing(account: Account, bought: str) -> None:
    await erase(account, bought)
    async with account.sessions() as session:
        person = await exports.find(session, bought)
    document = "".join([piece async for piece in exports.pieces(account.sessions, person)])
    told = json.loads(document)
    assert [row["amount_paid"] for row in told["invoices"]] == [9900]
    told.pop("audit_log")
    assert not [what for what in PERSONAL if what in unquoted(told)]


async def test_an_event_told_long_after_is_emptied_only_while_stripe_may_tell(account: Account, bought: str) -> None:
    await erase(account, bought)
    await told_since(account)
    async with account.sessions.begin() as session:
        await session.execute(update(Customer).values(erased_at=1))
    async with transaction(account.sessions) as session:
        await erasing.empty_late_events(session)
    assert await traces(account)


def test_every_column_that_names_a_user_is_thought_of() -> None:
    """Whoever adds a table that says whose its rows are has erasing and export know of it."""
    named = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if column.name in {"user_id", "subject"}
    }
    elsewhere = {"customers.user_id", "idempotency_keys.user_id", "credit_accounts.user_id"}
    of_objects = {"audit_log.subject", "outbox.subject"}  # ids of Stripe's
    assert named == elsewhere | of_objects | {str(column) for column in forgetting.NAMING}


async def test_late_events_are_found_by_their_index(account: Account, bought: str) -> None:
    await erase(account, bought)
    async with driver_connection(account.sessions) as connection:
        await connection.execute(
            """
            INSERT INTO stripe_events (event_id, type, key, created, livemode, payload, status)
            SELECT format('evt_%s', n), 'invoice.paid', format('cus_%s', n), n, false, '{}', 'processed'
              FROM generate_series(1, 50000) AS n
            """
        )
        await connection.execute("VACUUM ANALYZE stripe_events")
        await connection.execute("VACUUM ANALYZE customers")
    async with account.sessions() as session:
        keys = forgetting.keys_of(select(Customer.id).where(Customer.erased_at > 1))
        found = select(StripeEvent.id).where(StripeEvent.key.in_(keys), StripeEvent.payload.is_not(None))
        compiled = found.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
        plan = "\n".join((await session.scalars(text(f"EXPLAIN {compiled}"))).all())
    assert "ix_stripe_events_key_id" in plan
    assert "Seq Scan on stripe_events" not in plan
