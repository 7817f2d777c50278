"""Many customers' events in one transaction: the same end as one at a time, and no harm to neighbours."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from billing import Account
from sqlalchemy import bindparam, func, select, text, update

from app import models
from app.sandbox.resources.customers import delete as delete_customer
from app.services import audit, inbox
from app.services.customers import Buyer, lock_number
from app.worker import batch

BUYERS = [Buyer(user_id=f"user-{n}", email=f"user{n}@example.com") for n in range(5)]


async def bought(account: Account) -> list[dict[str, Any]]:
    """What Stripe tells of five purchases, each of them a second apart, so that nothing has to be asked."""
    for buyer in BUYERS:
        await account.buy(buyer, plan="basic")
    kinds = ("customer.subscription.created", "invoice.paid", "payment_method.attached")
    return [event | {"created": event["created"] + n} for n, event in enumerate(account.events(*kinds))]


async def receive(account: Account, events: list[dict[str, Any]]) -> list[str]:
    for event in events:
        await account.deliver(event)
    return await account.due_keys(most=100)


async def statuses(account: Account) -> dict[str, str]:
    return {row.event_id: row.status for row in await account.all(models.StripeEvent)}


async def test_a_batch_applies_many_customers_at_once(account: Account) -> None:
    events = await bought(account)
    keys = await receive(account, events)
    assert len(keys) == len(BUYERS)
    assert await account.process_batch(keys) == batch.Outcome(left=[], busy=[])

    assert set((await statuses(account)).values()) == {"processed"}
    subscriptions = await account.all(models.Subscription)
    assert [(row.status, row.plan) for row in subscriptions] == [("trialing", "basic")] * 5
    customers = {row.id: row for row in await account.all(models.Customer)}
    assert all(customers[row.customer_id].trial_used for row in subscriptions)
    audited = [row for row in await account.all(models.AuditRow) if row.stripe_event_id is not None]
    assert sorted(row.stripe_event_id for row in audited) == sorted(event["id"] for event in events)
    assert len({row.xmin for row in await raw(account, "SELECT xmin::text FROM audit_log WHERE actor = 'stripe'")}) == 1
    async with account.sessions() as session:
        assert await audit.first_broken(session) is None


async def raw(account: Account, sql: str) -> Any:
    async with account.sessions() as session:
        return (await session.execute(text(sql))).all()


async def test_a_batch_ends_where_one_at_a_time_ends(account: Account) -> None:
    events = await bought(account)
    await receive(account, events)
    await account.process()
    together, told = await account.state(), await announced(account)
    for model in (models.Subscription, models.Invoice, models.PaymentMethod, models.OutboxMessage):
        async with account.sessions.begin() as session:
            await session.execute(model.__table__.delete())
            await session.execute(update(models.StripeEvent).values(status="pending"))
    await account.process_alone()
    assert await account.state() == together
    assert await announced(account) == told


async def announced(account: Account) -> list[tuple[str, Any, Any]]:
    rows = await account.all(models.OutboxMessage)
    return sorted((row.key, row.stripe_event_id, json.dumps(row.data)) for row in rows)


async def test_each_thing_that_happens_is_announced_once(account: Account) -> None:
    await account.buy(plan="pro")
    await account.deliver_and_process(account.events())
    await account.deliver_and_process(reversed(account.events()))
    [invoice] = await account.all(models.Invoice)
    [subscription] = await account.all(models.Subscription)
    assert sorted((row.type, row.subject) for row in await account.all(models.OutboxMessage)) == [
        ("payment.received", invoice.stripe_id),
        ("subscription.activated", subscription.stripe_id),
    ]


async def test_a_row_postgres_refuses_harms_only_its_own_event(account: Account) -> None:
    events = await bought(account)
    poison = next(event for event in events if event["type"] == "customer.subscription.created")
    async with account.sessions.begin() as session:
        await session.execute(
            text("ALTER TABLE subscriptions ADD CHECK (stripe_id <> :refused)").bindparams(
                bindparam("refused", poison["data"]["object"]["id"], literal_execute=True)
            )
        )
    keys = await receive(account, events)
    assert sorted((await account.process_batch(keys)).left) == sorted(keys)
    assert set((await statuses(account)).values()) == {"pending"}
    await account.process()
    assert {id for id, status in (await statuses(account)).items() if status != "processed"} == {poison["id"]}


async def test_a_customer_whose_rows_are_being_written_is_left_for_later(account: Account) -> None:
    keys = await receive(account, await bought(account))
    async with account.sessions.begin() as session:
        await session.execute(select(func.pg_advisory_xact_lock(lock_number(keys[0]))))
        outcome = await account.process_batch(keys)
    assert outcome == batch.Outcome(left=[], busy=[keys[0]])
    assert await account.due_keys(most=100) == [keys[0]]


async def test_what_needs_stripe_is_left_and_the_others_are_not_kept_waiting(account: Account) -> None:
    events = await bought(account)
    stranger = changed(events[0], customer="cus_unknown", id="sub_unknown")
    keys = await receive(account, [*events, stranger])
    outcome = await account.process_batch(keys)
    assert outcome == batch.Outcome(left=["cus_unknown"], busy=[])
    assert {id for id, status in (await statuses(account)).items() if status == "pending"} == {stranger["id"]}


def changed(event: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(event)) | {"id": f"evt_{fields['id']}"}
    copy["data"]["object"] |= fields
    return copy


async def test_several_changes_of_one_row_are_one_write_but_each_is_audited(account: Account) -> None:
    await account.buy(plan="pro")
    [created] = account.events("customer.subscription.created")
    story = [created]
    for n in range(1, 4):
        step = json.loads(json.dumps(created))
        step |= {"id": f"evt_{n}", "type": "customer.subscription.updated", "created": created["created"] + n}
        step["data"]["object"]["items"]["data"][0]["quantity"] = n + 1
        story.append(step)
    keys = await receive(account, story)
    assert await account.process_batch(keys) == batch.Outcome(left=[], busy=[])
    [row] = await account.all(models.Subscription)
    assert (row.quantity, row.revision) == (4, 4)
    steps = [r for r in await account.all(models.AuditRow) if r.subject == row.stripe_id]
    assert [(r.before and r.before["quantity"], r.after["quantity"]) for r in steps] == [
        (None, 1),
        (1, 2),
        (2, 3),
        (3, 4),
    ]


async def test_a_batch_is_bounded_in_bytes(account: Account) -> None:
    events = await bought(account)
    for event in events:
        event["padding"] = "x" * 900_000
    keys = await receive(account, events)
    await account.process_batch(keys)
    done = [status for status in (await statuses(account)).values() if status == "processed"]
    assert 0 < len(done) < len(events)
    await account.process()
    assert set((await statuses(account)).values()) == {"processed"}


async def test_new_customers_come_in_batches_too_but_two_of_one_user_are_looked_at_closely(account: Account) -> None:
    for number, user in enumerate(("ada", "grace", "ada")):
        await account.provider.create_customer(
            email=None, name=None, metadata={"user_id": user}, idempotency_key=f"key-{number}"
        )
    events = account.events("customer.created")
    keys = await receive(account, events)
    outcome = await account.process_batch(keys)
    assert len(outcome.left) == 1
    rows = await account.all(models.Customer)
    assert sorted(row.user_id for row in rows) == ["ada", "grace"]
    await account.process()
    assert sorted(str(row.user_id) for row in await account.all(models.Customer)) == ["None", "ada", "grace"]


async def test_a_deleted_customer_is_looked_at_closely(account: Account) -> None:
    await account.buy(plan="pro")
    [customer] = account.sandbox.rows("customer")
    with account.sandbox.changing():
        delete_customer(account.sandbox, {}, customer["id"])
    await receive(account, account.events("customer.deleted"))
    outcome = await account.process_batch([customer["id"]])
    assert outcome.left == [customer["id"]]
    await account.process()
    assert [row.deleted for row in await account.all(models.Customer)] == [True]


async def test_what_can_t_even_be_read_leaves_its_batch_to_be_done_alone(account: Account) -> None:
    keys = await receive(account, await bought(account))

    class Stumbling:
        """Reads nothing, in a way that nobody has foreseen."""

        def parse_event(self, _payload: object) -> None:
            raise TypeError("unforeseen")

    whole, account.inbox.provider = account.inbox.provider, Stumbling()  # type: ignore[assignment]
    outcome = await account.process_batch(keys)
    assert sorted(outcome.left) == sorted(keys)
    account.inbox.provider = whole
    await account.process()
    assert set((await statuses(account)).values()) == {"processed"}


async def test_a_replay_and_the_batch_that_applies_the_same_event_do_not_block_each_other(account: Account) -> None:
    events = await bought(account)
    keys = await receive(account, events)

    async def replay(event: Mapping[str, Any]) -> None:
        async with account.sessions.begin() as session:
            await inbox.replay(session, event["id"], account=None, livemode=False, actor="cli")

    await asyncio.gather(account.process_batch(keys), *(replay(event) for event in events))
    await account.process()
    assert set((await statuses(account)).values()) == {"processed"}
    async with account.sessions() as session:
        assert await audit.first_broken(session) is None
