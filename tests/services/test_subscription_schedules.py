"""Subscription schedules are followed by webhook in whatever order, and taken over where no webhook came."""

import pytest
from billing import ADA, Account
from subscribing import DAY

from app import models
from app.db import transaction
from app.sandbox.resources import meters, prices, subscription_schedules, subscriptions
from app.sandbox.store import Row
from app.services.subscriptions import canceling, changing, reading, schedules
from app.services.subscriptions.wishes import Wish
from app.values import unix_now
from app.worker.backfill import sync


@pytest.fixture
async def downgrading(account: Account) -> Account:
    """Ada has Pro, and somebody in Stripe's Dashboard has scheduled Basic for the period's end."""
    await account.buy(plan="pro")
    await account.deliver_and_process(account.events())
    box = account.sandbox
    [subscription] = box.rows("subscription")
    [basic] = [row["id"] for row in box.rows("price") if row["lookup_key"] == "billhook_basic"]
    with box.changing():
        made = subscription_schedules.create(box, {"from_subscription": subscription["id"]})
    with box.changing():
        running = made["phases"][0]
        phases: list[Row] = [
            {
                "items": [{"price": item["price"], "quantity": item["quantity"]} for item in running["items"]],
                "start_date": running["start_date"],
                "end_date": running["end_date"],
            },
            {"items": [{"price": basic, "quantity": 1}], "duration": {"interval": "month", "interval_count": 1}},
        ]
        subscription_schedules.update(box, {"phases": phases}, made["id"])
    return account


async def coming(account: Account) -> schedules.ScheduledChange | None:
    async with transaction(account.sessions) as session:
        mine = await reading.own(session, ADA.user_id, None)
        return (await schedules.upcoming(session, [mine], now=unix_now())).get(mine.stripe_id)


@pytest.mark.parametrize("backwards", [False, True])
async def test_what_the_dashboard_scheduled_is_shown(downgrading: Account, *, backwards: bool) -> None:
    events = downgrading.events()
    await downgrading.deliver_and_process(reversed(events) if backwards else events)
    change = await coming(downgrading)
    assert change is not None
    [subscription] = await downgrading.all(models.Subscription)
    assert (change.plan, change.quantity, change.at) == ("basic", 1, subscription.current_period_end)
    assert change.at > unix_now() + 20 * DAY


async def test_a_schedule_no_webhook_told_of_is_taken_over(downgrading: Account) -> None:
    assert await coming(downgrading) is None
    await sync(downgrading.sessions, downgrading.provider, actor="cli", since=None, watch=lambda _page: None)
    change = await coming(downgrading)
    assert change is not None
    assert change.plan == "basic"


async def test_an_end_that_the_dashboard_scheduled_can_be_taken_back(account: Account) -> None:
    await account.buy(plan="pro")
    box = account.sandbox
    [subscription] = box.rows("subscription")
    with box.changing():
        made = subscription_schedules.create(box, {"from_subscription": subscription["id"]})
        subscription_schedules.update(box, {"end_behavior": "cancel"}, made["id"])
    await account.deliver_and_process(account.events())
    async with transaction(account.sessions) as session:
        mine = await reading.own_live(session, ADA.user_id, None)
        assert (mine.ends_with_period, mine.schedule) == (True, made["id"])
        await canceling.resume(session, account.provider, mine, idempotency_key="once", actor="test")
        assert (mine.cancel_at, mine.cancel_at_period_end, mine.schedule) == (None, False, None)
    [row] = box.rows("subscription")
    assert (row["cancel_at"], row["schedule"]) == (None, None)


async def test_a_change_that_waits_leaves_the_other_items_as_stripe_has_them(account: Account) -> None:
    """Also what is metered, which has no quantity, and what was changed without our knowing yet."""
    await account.buy(plan="pro")
    box = account.sandbox
    [subscription] = box.rows("subscription")
    price = {row["lookup_key"]: row["id"] for row in box.rows("price")}
    with box.changing():
        payload = {"display_name": "Calls", "event_name": "some_calls", "default_aggregation": {"formula": "sum"}}
        meter = meters.create(box, payload)["id"]
        recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
        calls = {"currency": "usd", "unit_amount": 2, "product_data": {"name": "Calls"}, "recurring": recurring}
        metered = prices.create(box, calls)["id"]
        added = [{"price": metered}, {"price": price["billhook_enterprise"]}]
        subscriptions.update(box, {"items": added, "proration_behavior": "none"}, subscription["id"])
    await account.deliver_and_process(account.events())
    seats = box.get("subscription", subscription["id"])["items"]["data"][2]["id"]
    with box.changing():
        more = {"items": [{"id": seats, "quantity": 5}], "proration_behavior": "none"}
        subscriptions.update(box, more, subscription["id"])
    async with transaction(account.sessions) as session:
        mine = await reading.own_live(session, ADA.user_id, None)
        await changing.at_period_end(
            session, account.provider, account.plans, mine, Wish(plan="basic"), idempotency_key="once", actor="test"
        )
    [schedule] = box.rows("subscription_schedule")
    wanted = {(item["price"], item.get("quantity")) for item in schedule["phases"][1]["items"]}
    assert wanted == {(price["billhook_basic"], 1), (metered, None), (price["billhook_enterprise"], 5)}


async def test_a_schedule_that_let_go_is_not_shown(downgrading: Account) -> None:
    [schedule] = downgrading.sandbox.rows("subscription_schedule")
    with downgrading.sandbox.changing():
        subscription_schedules.release(downgrading.sandbox, {}, schedule["id"])
    await downgrading.deliver_and_process(reversed(downgrading.events()))
    assert await coming(downgrading) is None
    [row] = await downgrading.all(models.SubscriptionSchedule)
    assert (row.status, row.subscription) == ("released", None)
