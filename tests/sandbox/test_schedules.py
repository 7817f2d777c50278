"""Subscription schedules: phases that follow one another by themselves."""

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe
from sandbox.driving import Receiver, Shop

DAY = 86_400
START = int(datetime(2026, 9, 21, 12, tzinfo=UTC).timestamp())
PERIOD_END = START + 30 * DAY


@pytest.fixture
async def made(shop: Shop) -> Any:
    """A monthly subscription to Pro ($99), begun on 21 September 2026."""
    shop.clock.now = START
    return await shop.subscribe(metadata={"plan": "pro"})


async def downgrade_at_period_end(shop: Shop, subscription: Any, **params: Any) -> Any:
    """Do as docs/subscriptions say: take the subscription over, then add the cheaper phase."""
    v1 = shop.client.v1
    schedule = await v1.subscription_schedules.create_async({"from_subscription": subscription.id})
    (current,) = schedule.phases
    assert (current.start_date, current.end_date) == (START, PERIOD_END)
    phases: Any = [
        {
            "start_date": current.start_date,
            "end_date": current.end_date,
            "items": [{"price": item.price, "quantity": item.quantity} for item in current.items],
        },
        {
            "items": [{"price": shop.basic, "quantity": 1}],
            "metadata": {"plan": "basic"},
            "duration": {"interval": "month", "interval_count": 2},
        },
    ]
    return await v1.subscription_schedules.update_async(schedule.id, {"phases": phases, **params})


async def test_a_downgrade_waits_for_the_periods_end(shop: Shop, made: Any, receiver: Receiver) -> None:
    schedule = await downgrade_at_period_end(shop, made)
    assert (schedule.status, schedule.subscription, schedule.end_behavior) == ("active", made.id, "release")
    held = await shop.subscription(made.id)
    assert (held.schedule, held.items.data[0].price.id) == (schedule.id, shop.pro)
    shop.clock.advance(days=29)
    assert (await shop.subscription(made.id)).items.data[0].price.id == shop.pro
    shop.clock.now = PERIOD_END
    after = await shop.subscription(made.id)
    assert (after.items.data[0].price.id, after.items.data[0].id) == (shop.basic, made.items.data[0].id)
    assert after.metadata.to_dict() == {"plan": "basic"}
    assert [(line.amount, line.description) for line in after.latest_invoice.lines.data] == [
        (2900, "1 × Basic (at $29.00 / month)")  # noqa: RUF001 - Stripe's sign
    ]
    assert after.latest_invoice.billing_reason == "subscription_cycle"
    moved = await shop.client.v1.subscription_schedules.retrieve_async(schedule.id)
    assert moved.current_phase.start_date == PERIOD_END
    await shop.sandbox.drain()
    types = receiver.types()
    assert types.count("subscription_schedule.created") == 1
    assert types.count("subscription_schedule.updated") == 2
    assert receiver.last("subscription_schedule.updated")["created"] == PERIOD_END


async def test_it_lets_the_subscription_go_when_it_is_over(shop: Shop, made: Any, receiver: Receiver) -> None:
    schedule = await downgrade_at_period_end(shop, made)
    shop.clock.now = schedule.phases[-1].end_date - 7 * DAY - 1
    await shop.sandbox.drain()
    assert "subscription_schedule.expiring" not in receiver.types()
    shop.clock.advance(seconds=1)
    await shop.sandbox.drain()
    assert "subscription_schedule.expiring" in receiver.types()
    shop.clock.now = schedule.phases[-1].end_date
    over = await shop.client.v1.subscription_schedules.retrieve_async(schedule.id)
    assert (over.status, over.subscription, over.released_subscription) == ("released", None, made.id)
    assert (over.released_at, over.current_phase) == (schedule.phases[-1].end_date, None)
    free = await shop.subscription(made.id)
    assert (free.status, free.schedule, free.items.data[0].price.id) == ("active", None, shop.basic)
    await shop.sandbox.drain()
    assert receiver.types().count("subscription_schedule.expiring") == 1
    assert "subscription_schedule.released" in receiver.types()


async def test_it_ends_the_subscription_if_told_to(shop: Shop, made: Any, receiver: Receiver) -> None:
    schedule = await downgrade_at_period_end(shop, made, end_behavior="cancel")
    assert (await shop.subscription(made.id)).cancel_at is None  # not before the last phase
    shop.clock.now = PERIOD_END
    end = schedule.phases[-1].end_date
    assert (await shop.subscription(made.id)).cancel_at == end
    shop.clock.now = end
    over = await shop.client.v1.subscription_schedules.retrieve_async(schedule.id)
    assert (over.status, over.completed_at) == ("completed", end)
    ended = await shop.subscription(made.id)
    assert (ended.status, ended.ended_at) == ("canceled", end)
    await shop.sandbox.drain()
    assert "subscription_schedule.completed" in receiver.types()
    assert "subscription_schedule.canceled" not in receiver.types()


async def test_released_by_hand_nothing_more_changes(shop: Shop, made: Any) -> None:
    schedule = await downgrade_at_period_end(shop, made)
    released = await shop.client.v1.subscription_schedules.release_async(schedule.id)
    assert (released.status, released.released_subscription) == ("released", made.id)
    shop.clock.now = PERIOD_END
    after = await shop.subscription(made.id)
    assert (after.schedule, after.items.data[0].price.id, after.latest_invoice.total) == (None, shop.pro, 9900)
    with pytest.raises(stripe.InvalidRequestError, match="currently in the `released` status"):
        await shop.client.v1.subscription_schedules.release_async(schedule.id)


async def test_canceled_by_hand_the_subscription_ends_with_it(shop: Shop, made: Any, receiver: Receiver) -> None:
    schedule = await downgrade_at_period_end(shop, made)
    shop.clock.advance(days=15)
    canceled = await shop.client.v1.subscription_schedules.cancel_async(schedule.id)
    assert (canceled.status, canceled.canceled_at) == ("canceled", START + 15 * DAY)
    ended = await shop.subscription(made.id)
    assert (ended.status, ended.latest_invoice.total) == ("canceled", -4950)
    await shop.sandbox.drain()
    assert "subscription_schedule.canceled" in receiver.types()


async def test_a_new_subscription_by_schedule_begins_when_it_is_to(shop: Shop, receiver: Receiver) -> None:
    shop.clock.now = START
    await shop.default_card("pm_card_visa")
    begins = START + 10 * DAY
    schedule = await shop.client.v1.subscription_schedules.create_async(
        {
            "customer": shop.customer,
            "start_date": begins,
            "phases": [
                {"items": [{"price": shop.basic, "quantity": 3}], "trial": True, "end_date": begins + 14 * DAY},
                {"items": [{"price": shop.basic, "quantity": 3}], "duration": {"interval": "month"}},
            ],
        }
    )
    assert (schedule.status, schedule.subscription, schedule.current_phase) == ("not_started", None, None)
    scheduled: Any = {"customer": shop.customer, "scheduled": True}
    assert [s.id for s in await shop.client.v1.subscription_schedules.list_async(scheduled)] == [schedule.id]
    shop.clock.now = begins
    started = await shop.client.v1.subscription_schedules.retrieve_async(schedule.id, {"expand": ["subscription"]})
    assert (started.status, started.subscription.status) == ("active", "trialing")
    assert started.subscription.trial_end == begins + 14 * DAY
    assert list(await shop.client.v1.subscription_schedules.list_async(scheduled)) == []
    shop.clock.now = begins + 14 * DAY
    paid = await shop.subscription(started.subscription.id)
    assert (paid.status, paid.latest_invoice.total, paid.latest_invoice.status) == ("active", 3 * 2900, "paid")
    await shop.sandbox.drain()
    assert receiver.last("customer.subscription.created")["created"] == begins


async def test_one_that_begins_now_is_billed_now(shop: Shop) -> None:
    await shop.default_card("pm_card_visa")
    schedule = await shop.client.v1.subscription_schedules.create_async(
        {
            "customer": shop.customer,
            "start_date": "now",
            "end_behavior": "cancel",
            "phases": [{"items": [{"price": shop.pro}]}],
            "expand": ["subscription.latest_invoice"],
        }
    )
    assert (schedule.status, schedule.subscription.status) == ("active", "active")
    assert schedule.subscription.latest_invoice.total == 9900
    assert schedule.phases[0].end_date == schedule.subscription.items.data[0].current_period_end
    assert schedule.subscription.cancel_at == schedule.phases[0].end_date


async def test_a_change_of_the_current_phase_is_prorated(shop: Shop, made: Any) -> None:
    schedule = await shop.client.v1.subscription_schedules.create_async({"from_subscription": made.id})
    shop.clock.advance(days=15)
    change: Any = {
        "phases": [
            {
                "start_date": START,
                "end_date": PERIOD_END,
                "items": [{"price": shop.pro}, {"price": shop.basic, "quantity": 2}],
            }
        ],
        "proration_behavior": "always_invoice",
    }
    await shop.client.v1.subscription_schedules.update_async(schedule.id, change)
    changed = await shop.subscription(made.id)
    assert [(item.price.id, item.quantity) for item in changed.items.data] == [(shop.pro, 1), (shop.basic, 2)]
    assert (changed.latest_invoice.total, changed.latest_invoice.status) == (2900, "paid")


async def test_a_phase_in_mid_period_is_prorated_as_it_says(shop: Shop, made: Any) -> None:
    schedule = await shop.client.v1.subscription_schedules.create_async({"from_subscription": made.id})
    turn = START + 15 * DAY
    change: Any = {
        "phases": [
            {"start_date": START, "end_date": turn, "items": [{"price": shop.pro}]},
            {
                "items": [{"price": shop.basic}],
                "end_date": PERIOD_END + DAY,
                "proration_behavior": "always_invoice",
            },
        ]
    }
    await shop.client.v1.subscription_schedules.update_async(schedule.id, change)
    shop.clock.now = turn
    down = await shop.subscription(made.id)
    assert (down.latest_invoice.total, down.latest_invoice.created) == (1450 - 4950, turn)


async def test_delinquency_aborts_it(shop: Shop, made: Any, receiver: Receiver) -> None:
    schedule = await downgrade_at_period_end(shop, made)
    card = await shop.client.v1.payment_methods.attach_async("pm_card_chargeCustomerFail", {"customer": shop.customer})
    await shop.client.v1.subscriptions.update_async(made.id, {"default_payment_method": card.id})
    shop.clock.now = PERIOD_END + 14 * DAY
    assert (await shop.subscription(made.id)).status == "canceled"
    aborted = await shop.client.v1.subscription_schedules.retrieve_async(schedule.id)
    assert aborted.status == "canceled"
    await shop.sandbox.drain()
    assert "subscription_schedule.aborted" in receiver.types()


async def test_schedules_on_a_test_clock_are_listed_for_their_customer_alone(shop: Shop) -> None:
    clock = await shop.client.v1.test_helpers.test_clocks.create_async({"frozen_time": START})
    customer = await shop.client.v1.customers.create_async({"test_clock": clock.id})
    schedule = await shop.client.v1.subscription_schedules.create_async(
        {"customer": customer.id, "start_date": START + DAY, "phases": [{"items": [{"price": shop.pro}]}]}
    )
    assert (schedule.created, schedule.test_clock) == (START, clock.id)
    assert list(await shop.client.v1.subscription_schedules.list_async()) == []
    found = await shop.client.v1.subscription_schedules.list_async({"customer": customer.id})
    assert [s.id for s in found] == [schedule.id]
    await shop.client.v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": START + DAY})
    started = await shop.client.v1.subscription_schedules.retrieve_async(schedule.id, {"expand": ["subscription"]})
    assert (started.subscription.created, started.subscription.status) == (START + DAY, "incomplete")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "Missing required param: customer."),
        ({"customer": "CUSTOMER"}, "Missing required param: phases."),
        ({"from_subscription": "SUBSCRIPTION", "customer": "CUSTOMER"}, "cannot set `customer` if `from_subscription`"),
        ({"from_subscription": "sub_nope"}, "No such subscription: 'sub_nope'"),
        ({"customer": "CUSTOMER", "start_date": START - 1, "phases": [{"items": [{"price": "PRO"}]}]}, "not backdate"),
        (
            {"customer": "CUSTOMER", "phases": [{"items": [{"price": "PRO"}], "end_date": START}]},
            "A phase must end after it begins.",
        ),
        (
            {
                "customer": "CUSTOMER",
                "phases": [{"items": [{"price": "PRO"}], "end_date": PERIOD_END, "duration": {"interval": "day"}}],
            },
            "only specify one of these parameters: duration, end_date",
        ),
        (
            {"customer": "CUSTOMER", "phases": [{"items": [{"price": "PRO"}]}], "end_behavior": "renew"},
            "does not implement schedules that renew",
        ),
        (
            {"customer": "CUSTOMER", "phases": [{"items": [{"price": "PRO"}], "application_fee_percent": 5}]},
            "does not implement the parameter",
        ),
    ],
)
async def test_a_senseless_schedule_is_refused(shop: Shop, made: Any, params: Any, message: str) -> None:
    names = {"CUSTOMER": shop.customer, "SUBSCRIPTION": made.id, "PRO": shop.pro}

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(item) for key, item in value.items()}
        return [named(item) for item in value] if isinstance(value, list) else names.get(value, value)

    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.client.v1.subscription_schedules.create_async(named(params))
    assert message in str(refused.value.user_message)


async def test_what_a_schedule_manages_cannot_be_canceled_past_it(shop: Shop, made: Any) -> None:
    schedule = await downgrade_at_period_end(shop, made)
    with pytest.raises(stripe.InvalidRequestError, match=f"managed by the subscription schedule `{schedule.id}`"):
        await shop.client.v1.subscriptions.update_async(made.id, {"cancel_at_period_end": True})
    with pytest.raises(stripe.InvalidRequestError, match="already attached to a schedule"):
        await shop.client.v1.subscription_schedules.create_async({"from_subscription": made.id})
    with pytest.raises(stripe.InvalidRequestError, match="has to begin when one of the schedule's does"):
        await shop.client.v1.subscription_schedules.update_async(
            schedule.id, {"phases": [{"start_date": START + 5, "items": [{"price": shop.pro}]}]}
        )
    with pytest.raises(stripe.InvalidRequestError, match="No such subscription schedule: 'sub_sched_nope'"):
        await shop.client.v1.subscription_schedules.retrieve_async("sub_sched_nope")


async def test_the_next_invoice_is_previewed_as_its_phase_makes_it(shop: Shop, made: Any) -> None:
    await downgrade_at_period_end(shop, made)
    shown = await shop.client.v1.invoices.create_preview_async({"subscription": made.id})
    assert [(line.amount, line.period.start) for line in shown.lines.data] == [(2900, PERIOD_END)]
    assert (await shop.subscription(made.id)).items.data[0].price.id == shop.pro


async def test_the_schedule_of_a_deleted_customer_never_starts(shop: Shop) -> None:
    shop.clock.now = START
    schedule = await shop.client.v1.subscription_schedules.create_async(
        {"customer": shop.customer, "start_date": START + DAY, "phases": [{"items": [{"price": shop.pro}]}]}
    )
    await shop.client.v1.customers.delete_async(shop.customer)
    shop.clock.advance(days=2)
    waiting = await shop.client.v1.subscription_schedules.retrieve_async(schedule.id)
    assert (waiting.status, waiting.subscription) == ("not_started", None)
