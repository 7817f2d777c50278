"""Receiving and applying Stripe's events: once each, in any order, whatever else fails."""

import asyncio
import itertools
import json
import time
from datetime import timedelta
from typing import Any

import pytest
from billing import Account, due_keys
from sqlalchemy import func, select, update

from app import models
from app.errors import UnavailableError
from app.services import inbox
from app.services.customers import Buyer
from app.values import utcnow


async def test_a_purchase_is_applied_from_its_webhooks_alone(account: Account) -> None:
    await account.buy(plan="basic")
    await account.deliver_and_process(account.events())

    [subscription] = await account.all(models.Subscription)
    assert (subscription.status, subscription.plan) == ("trialing", "basic")
    [customer] = await account.all(models.Customer)
    assert (customer.user_id, customer.trial_used) == ("demo-1", True)
    [method] = await account.all(models.PaymentMethod)
    assert (method.brand, method.last4, method.customer_id) == ("visa", "4242", customer.id)
    [invoice] = await account.all(models.Invoice)
    assert (invoice.status, invoice.subscription) == ("paid", subscription.stripe_id)
    [session] = await account.all(models.CheckoutSession)
    assert (session.status, session.subscription) == ("complete", subscription.stripe_id)
    assert {event.status for event in await account.all(models.StripeEvent)} == {"processed", "ignored"}


async def test_the_same_event_fifty_times_at_once_is_one_row_and_one_effect(account: Account) -> None:
    await account.buy(plan="basic")
    [event] = account.events("customer.subscription.created")
    receipts = await asyncio.gather(*(account.deliver(event) for _ in range(50)))
    assert sorted(receipt.outcome for receipt in receipts) == ["duplicate"] * 49 + ["stored"]
    await asyncio.gather(*(account.inbox.process_key(event["data"]["object"]["customer"]) for _ in range(4)))
    await account.process()

    assert len(await account.all(models.StripeEvent)) == 1
    audited = [row for row in await account.all(models.AuditRow) if row.action.startswith("subscription.")]
    assert [(row.action, row.stripe_event_id) for row in audited] == [("subscription.created", event["id"])]


STORY = (
    "customer.subscription.created",
    "invoice.paid",
    "customer.subscription.updated",
    "customer.subscription.deleted",
)


async def tell_story(account: Account) -> list[dict[str, Any]]:
    """A subscription that is bought, set to cancel, and canceled, each in a second of its own."""
    await account.buy(plan="pro")
    [subscription] = account.sandbox.rows("subscription")
    await account.provider.set_cancel_at_period_end(subscription["id"], cancel=True, idempotency_key="1")
    await account.provider.cancel_subscription(subscription["id"], idempotency_key="2")
    return [next(event for event in account.events(kind)) for kind in STORY]


@pytest.mark.parametrize("seconds", [(0, 10, 20, 30), (0, 0, 0, 0)], ids=["apart", "same second"])
@pytest.mark.parametrize("alone", [False, True], ids=["in batches", "alone"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=lambda order: "".join(map(str, order)))
async def test_every_order_of_a_story_ends_the_same(
    account: Account, order: tuple[int, ...], seconds: tuple[int, ...], *, alone: bool
) -> None:
    if alone:
        account.process = account.process_alone
    story = await tell_story(account)
    start = int(time.time()) - 100
    for event, second in zip(story, seconds, strict=True):
        event["created"] = start + second
    for place in order:
        await account.deliver_and_process([story[place], story[place]])
    await account.deliver_and_process(story)

    [subscription] = await account.all(models.Subscription)
    [truth] = account.sandbox.rows("subscription")
    assert (subscription.status, subscription.ended_at) == ("canceled", truth["ended_at"])
    [invoice] = await account.all(models.Invoice)
    assert (invoice.status, invoice.amount_paid) == ("paid", 9900)
    assert {event.status for event in await account.all(models.StripeEvent)} == {"processed"}


async def test_an_older_payload_never_replaces_a_newer_one(account: Account) -> None:
    await account.buy(plan="pro")
    [created] = account.events("customer.subscription.created")
    newer = json.loads(json.dumps(created))
    newer |= {"id": "evt_newer", "type": "customer.subscription.updated", "created": created["created"] + 5}
    newer["data"]["object"]["metadata"] = {"version": "newer"}
    await account.deliver_and_process([newer])
    # What Stripe says now is neither of the two: the late event makes us ask, and the answer counts.
    await account.deliver_and_process([created])
    [subscription] = await account.all(models.Subscription)
    assert subscription.stripe_metadata == account.sandbox.rows("subscription")[0]["metadata"]
    assert subscription.synced_at >= newer["created"]


async def test_a_poison_event_harms_only_itself(account: Account) -> None:
    await account.buy(plan="basic")
    events = account.events("customer.subscription.created", "invoice.paid", "payment_method.attached")
    poison = json.loads(json.dumps(events[0]))
    poison |= {"id": "evt_poison", "created": events[0]["created"] - 1}
    poison["data"]["object"] = {"object": "charge", "id": "ch_1", "customer": events[0]["data"]["object"]["customer"]}
    missing = json.loads(json.dumps(events[0]))
    missing |= {"id": "evt_missing"}
    missing["data"]["object"] |= {"customer": "cus_never", "id": "sub_of_nobody"}
    await account.deliver_and_process([missing, poison, *events])

    by_id = {event.event_id: event for event in await account.all(models.StripeEvent)}
    assert {by_id[event["id"]].status for event in events} == {"processed"}
    assert [(by_id[id].status, by_id[id].attempts) for id in ("evt_poison", "evt_missing")] == [("pending", 1)] * 2
    assert "carries no payment_method" in by_id["evt_poison"].last_error
    assert "customer cus_never is not known" in by_id["evt_missing"].last_error


async def test_an_event_is_set_aside_as_dead_after_its_last_try(account: Account) -> None:
    await account.buy(plan="basic")
    [event] = account.events("customer.subscription.created")
    event["data"]["object"] |= {"customer": "cus_never", "id": "sub_of_nobody"}
    await account.deliver(event)
    for attempt in range(1, 13):
        await make_due(account)
        await account.process()
        [row] = await account.all(models.StripeEvent)
        assert row.attempts == attempt
    assert row.status == "dead"
    await make_due(account)
    assert await account.due_keys(most=10) == []
    async with account.sessions() as session:
        dead = await inbox.list_events(session, status="dead", type=None, customer=None, limit=10, starting_after=None)
    assert [found.event_id for found in dead] == [event["id"]]


async def make_due(account: Account) -> None:
    async with account.sessions.begin() as session:
        await session.execute(update(models.StripeEvent).values(next_attempt_at=func.now()))


async def test_an_outage_of_stripe_uses_up_no_attempt(account: Account) -> None:
    await account.buy(plan="basic")
    [event] = account.events("customer.subscription.created")
    await account.deliver(event)

    class Away:
        """Stripe, unreachable."""

        def __getattr__(self, name: str) -> Any:
            if name == "parse_event":
                return account.provider.parse_event
            raise UnavailableError("Stripe does not answer.")

    async with account.sessions.begin() as session:
        await session.execute(models.CheckoutSession.__table__.delete())
        await session.execute(models.Customer.__table__.delete())
    here, account.inbox = (
        account.inbox,
        type(account.inbox)(sessions=account.sessions, redis=account.redis, provider=Away(), max_attempts=12),
    )
    await account.process()
    [row] = await account.all(models.StripeEvent)
    assert (row.status, row.attempts) == ("pending", 0)
    assert row.next_attempt_at > utcnow() + timedelta(seconds=5)

    account.inbox = here
    await make_due(account)
    await account.process()
    assert [row.status for row in await account.all(models.StripeEvent)] == ["processed"]


async def test_two_workers_on_one_database_apply_each_event_once(account: Account) -> None:
    for n in range(6):
        await account.buy(Buyer(user_id=f"user-{n}"), plan="pro")
    for event in account.events():
        await account.deliver(event)
    other = type(account.inbox)(
        sessions=account.sessions, redis=account.redis, provider=account.provider, max_attempts=12
    )

    async def drain(worker: Any) -> None:
        while keys := await due_keys(worker, most=100):
            await asyncio.gather(*(worker.process_key(key) for key in keys[:4]))

    await asyncio.gather(drain(account.inbox), drain(other))
    assert {row.status for row in await account.all(models.StripeEvent)} <= {"processed", "ignored"}
    created = [row for row in await account.all(models.AuditRow) if row.action == "subscription.created"]
    assert len(created) == len({row.subject for row in created}) == 6


async def test_twenty_thousand_waiting_events_of_one_customer_slow_no_other(account: Account) -> None:
    async with account.sessions.begin() as session:
        await session.execute(
            models.StripeEvent.__table__.insert(),
            [
                {
                    "event_id": f"evt_{n}",
                    "type": "customer.updated",
                    "key": "cus_heavy",
                    "created": n,
                    "livemode": False,
                    "payload": "{}",
                    "next_attempt_at": utcnow() + timedelta(hours=1),
                }
                for n in range(20_000)
            ],
        )
    await account.buy(plan="basic")
    await account.deliver_and_process(account.events())
    async with account.sessions() as session:
        plan = (
            await session.execute(select(models.StripeEvent.status, func.count()).group_by(models.StripeEvent.status))
        ).all()
    assert dict(plan)["pending"] == 20_000
    [subscription] = await account.all(models.Subscription)
    assert subscription.status == "trialing"
