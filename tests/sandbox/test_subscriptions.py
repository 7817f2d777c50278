"""A subscription's life: first payment, renewals, failures, trials, cancellation."""

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe
from sandbox.driving import Receiver, Shop, card

from app.sandbox import checkout


def at(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, 12, tzinfo=UTC).timestamp())


async def test_a_card_on_file_makes_it_active_at_once(shop: Shop) -> None:
    subscription = await shop.subscribe(expand=["latest_invoice.confirmation_secret"])
    assert (subscription.status, subscription.latest_invoice.status) == ("active", "paid")
    assert subscription.default_payment_method is None
    assert subscription.billing_mode.type == "flexible"


async def test_a_renewal_is_billed_at_the_periods_end(shop: Shop, receiver: Receiver) -> None:
    shop.clock.now = at(2027, 1, 31)
    made = await shop.subscribe()
    ends = []
    for month in (2, 3, 4):
        shop.clock.now = at(2027, month + 1, 1)
        item = (await shop.subscription(made.id)).items.data[0]
        ends.append((datetime.fromtimestamp(item.current_period_end, UTC).month, item.current_period_end))
    days = [datetime.fromtimestamp(end, UTC).day for _, end in ends]
    assert days == [31, 30, 31]
    invoices = (await shop.client.v1.invoices.list_async({"subscription": made.id})).data
    assert [i.billing_reason for i in invoices] == ["subscription_cycle"] * 3 + ["subscription_create"]
    assert {i.status for i in invoices} == {"paid"}
    assert invoices[0].created == at(2027, 4, 30)
    await shop.sandbox.drain()
    updated = receiver.last("customer.subscription.updated")["data"]
    assert set(updated["previous_attributes"]) == {"items", "latest_invoice"}
    assert updated["previous_attributes"]["latest_invoice"] == invoices[1].id


async def test_months_that_passed_unwatched_are_caught_up_with(shop: Shop) -> None:
    made = await shop.subscribe()
    shop.clock.advance(days=370)
    invoices = (await shop.client.v1.invoices.list_async({"subscription": made.id, "limit": 100})).data
    assert len(invoices) == 13
    assert len({invoice.number for invoice in invoices}) == 13


async def test_a_failed_renewal_is_past_due_until_it_is_paid(shop: Shop, receiver: Receiver) -> None:
    made = await shop.subscribe()
    failing = await shop.client.v1.payment_methods.attach_async(
        "pm_card_chargeCustomerFail", {"customer": shop.customer}
    )
    await shop.client.v1.subscriptions.update_async(made.id, {"default_payment_method": failing.id})
    shop.clock.advance(days=32)
    late = await shop.subscription(made.id)
    assert (late.status, late.latest_invoice.status, late.latest_invoice.attempt_count) == ("past_due", "open", 1)
    await shop.sandbox.drain()
    assert "invoice.payment_failed" in receiver.types()
    with pytest.raises(stripe.CardError) as refused:
        await shop.client.v1.invoices.pay_async(late.latest_invoice.id)
    error: Any = refused.value.error
    assert error.payment_intent["status"] == "requires_payment_method"
    good = await shop.client.v1.payment_methods.attach_async("pm_card_visa", {"customer": shop.customer})
    paid = await shop.client.v1.invoices.pay_async(late.latest_invoice.id, {"payment_method": good.id})
    # What the customer tries after the first attempt doesn't count: https://docs.stripe.com/api/invoices/object
    assert (paid.status, paid.amount_remaining, paid.attempt_count) == ("paid", 0, 1)
    assert (await shop.subscription(made.id)).status == "active"
    with pytest.raises(stripe.InvalidRequestError, match="Invoice is already paid"):
        await shop.client.v1.invoices.pay_async(paid.id)


async def test_a_renewal_whose_card_wants_the_customer_is_past_due(shop: Shop, receiver: Receiver) -> None:
    session = await shop.session()
    checkout.pay(shop.sandbox, session.id, card("4000002760003184"))
    checkout.complete_authentication(shop.sandbox, session.id, succeed=True)
    shop.clock.advance(days=32)
    late = (await shop.client.v1.subscriptions.list_async({"expand": ["data.latest_invoice.payments"]})).data[0]
    assert late.status == "past_due"
    await shop.sandbox.drain()
    assert "invoice.payment_action_required" in receiver.types()


@pytest.mark.parametrize("number", ["4000002500003155", "4000000000003220"])
async def test_a_card_set_up_by_its_owner_renews_without_them(shop: Shop, number: str) -> None:
    session = await shop.session()
    checkout.pay(shop.sandbox, session.id, card(number))
    checkout.complete_authentication(shop.sandbox, session.id, succeed=True)
    shop.clock.advance(days=32)
    assert [s.status for s in await shop.client.v1.subscriptions.list_async()] == ["active"]


@pytest.mark.parametrize(
    ("behavior", "method", "status"),
    [
        ("allow_incomplete", "pm_card_chargeCustomerFail", "incomplete"),
        ("allow_incomplete", "pm_card_authenticationRequired", "incomplete"),
        ("default_incomplete", "pm_card_visa", "incomplete"),
    ],
)
async def test_a_first_payment_that_is_not_through_is_incomplete(
    shop: Shop, behavior: str, method: str, status: str
) -> None:
    made = await shop.subscribe(method=method, payment_behavior=behavior, expand=["latest_invoice.confirmation_secret"])
    assert (made.status, made.latest_invoice.status) == (status, "open")
    assert made.latest_invoice.confirmation_secret.type == "payment_intent"


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("pm_card_chargeCustomerFail", "card_declined"),
        ("pm_card_authenticationRequired", "subscription_payment_intent_requires_action"),
    ],
)
async def test_error_if_incomplete_makes_nothing(shop: Shop, method: str, code: str) -> None:
    with pytest.raises(stripe.CardError) as refused:
        await shop.subscribe(method=method, payment_behavior="error_if_incomplete")
    assert refused.value.code == code
    assert list(await shop.client.v1.subscriptions.list_async({"status": "all"})) == []
    assert list(await shop.client.v1.invoices.list_async()) == []


async def test_an_incomplete_subscription_lapses_after_23_hours(shop: Shop, receiver: Receiver) -> None:
    made = await shop.subscribe(method="pm_card_chargeCustomerFail")
    shop.clock.advance(hours=22.9)
    assert (await shop.subscription(made.id)).status == "incomplete"
    shop.clock.advance(hours=0.2)
    lapsed = await shop.subscription(made.id)
    assert (lapsed.status, lapsed.latest_invoice.status) == ("incomplete_expired", "void")
    await shop.sandbox.drain()
    assert receiver.last("payment_intent.canceled")["data"]["object"]["cancellation_reason"] == "void_invoice"
    with pytest.raises(stripe.InvalidRequestError, match="A canceled subscription can only update"):
        await shop.client.v1.subscriptions.update_async(made.id, {"cancel_at_period_end": True})


async def test_a_trial_warns_ends_and_bills(shop: Shop, receiver: Receiver) -> None:
    made = await shop.subscribe(trial_period_days=14)
    assert (made.status, made.trial_end - made.trial_start) == ("trialing", 14 * 86_400)
    shop.clock.advance(days=11)
    await shop.sandbox.drain()
    assert receiver.types().count("customer.subscription.trial_will_end") == 1
    shop.clock.advance(days=3)
    begun = await shop.subscription(made.id)
    assert (begun.status, begun.latest_invoice.amount_paid) == ("active", 9900)
    assert begun.items.data[0].current_period_start == made.trial_end
    await shop.sandbox.drain()
    assert receiver.types().count("customer.subscription.trial_will_end") == 1
    assert receiver.last("customer.subscription.updated")["data"]["previous_attributes"]["status"] == "trialing"


@pytest.mark.parametrize(
    ("behavior", "status", "event"),
    [
        ("pause", "paused", "customer.subscription.paused"),
        ("cancel", "canceled", "customer.subscription.deleted"),
        ("create_invoice", "past_due", "invoice.payment_failed"),
    ],
)
async def test_a_trial_without_a_card_ends_as_it_was_told(
    shop: Shop, receiver: Receiver, behavior: Any, status: str, event: str
) -> None:
    made = await shop.client.v1.subscriptions.create_async(
        {
            "customer": shop.customer,
            "items": [{"price": shop.pro}],
            "trial_period_days": 1,
            "trial_settings": {"end_behavior": {"missing_payment_method": behavior}},
        }
    )
    settings = {"billing_cycle_anchor": "now", "missing_payment_method": behavior}
    assert made.trial_settings.end_behavior.to_dict() == settings
    shop.clock.advance(days=2)
    assert (await shop.subscription(made.id)).status == status
    await shop.sandbox.drain()
    assert event in receiver.types()
    if status == "paused":
        await shop.default_card("pm_card_visa")
        resumed = await shop.client.v1.subscriptions.resume_async(made.id)
        assert resumed.status == "active"
        await shop.sandbox.drain()
        assert "customer.subscription.resumed" in receiver.types()


async def test_canceling_at_period_end_can_be_taken_back(shop: Shop, receiver: Receiver) -> None:
    made = await shop.subscribe()
    end = made.items.data[0].current_period_end
    why: Any = {"cancel_at_period_end": True, "cancellation_details": {"comment": "bye", "feedback": "unused"}}
    ending = await shop.client.v1.subscriptions.update_async(made.id, why)
    assert (ending.status, ending.cancel_at, ending.canceled_at) == ("active", end, shop.sandbox.now())
    assert ending.cancellation_details.reason == "cancellation_requested"
    kept = await shop.client.v1.subscriptions.update_async(made.id, {"cancel_at_period_end": False})
    assert (kept.cancel_at, kept.canceled_at, kept.cancellation_details.reason) == (None, None, None)
    await shop.client.v1.subscriptions.update_async(made.id, {"cancel_at_period_end": True})
    shop.clock.advance(days=32)
    ended = await shop.subscription(made.id)
    assert (ended.status, ended.ended_at, ended.cancel_at_period_end) == ("canceled", end, True)
    assert len((await shop.client.v1.invoices.list_async({"subscription": made.id})).data) == 1
    await shop.sandbox.drain()
    assert receiver.last("customer.subscription.deleted")["created"] == end
    with pytest.raises(stripe.InvalidRequestError, match="No such subscription"):
        await shop.client.v1.subscriptions.cancel_async(made.id)


async def test_canceling_by_date_and_by_flexible_periods(shop: Shop) -> None:
    made = await shop.subscribe()
    day = shop.sandbox.now() + 86_400
    assert (await shop.client.v1.subscriptions.update_async(made.id, {"cancel_at": day})).cancel_at == day
    ending = await shop.client.v1.subscriptions.update_async(made.id, {"cancel_at": "min_period_end"})
    assert (ending.cancel_at, ending.cancel_at_period_end) == (made.items.data[0].current_period_end, False)
    assert (await shop.client.v1.subscriptions.update_async(made.id, {"cancel_at": ""})).cancel_at is None


async def test_a_voided_invoice_of_a_paused_collection_costs_nothing(shop: Shop) -> None:
    made = await shop.subscribe()
    until = made.items.data[0].current_period_end + 86_400
    pause: Any = {"pause_collection": {"behavior": "void", "resumes_at": until}}
    await shop.client.v1.subscriptions.update_async(made.id, pause)
    shop.clock.advance(days=31.5)
    paused = await shop.subscription(made.id)
    assert (paused.status, paused.latest_invoice.status) == ("active", "void")
    shop.clock.advance(days=31)
    resumed = await shop.subscription(made.id)
    assert (resumed.pause_collection, resumed.latest_invoice.status) == (None, "paid")


async def test_lists_leave_canceled_ones_out_unless_asked(shop: Shop) -> None:
    first = await shop.subscribe()
    second = await shop.subscribe(items=[{"price": shop.basic}])
    await shop.client.v1.subscriptions.cancel_async(first.id)
    found: Any
    for found, ids in (
        ({}, [second.id]),
        ({"status": "all"}, [second.id, first.id]),
        ({"status": "canceled"}, [first.id]),
        ({"status": "ended"}, [first.id]),
        ({"price": shop.basic}, [second.id]),
        ({"price": shop.pro}, []),
    ):
        assert [
            s.id for s in await shop.client.v1.subscriptions.list_async({**found, "customer": shop.customer})
        ] == ids


async def test_deleting_the_customer_ends_everything(shop: Shop, receiver: Receiver) -> None:
    made = await shop.subscribe()
    await shop.client.v1.customers.delete_async(shop.customer)
    assert (await shop.subscription(made.id)).status == "canceled"
    await shop.sandbox.drain()
    assert receiver.last("customer.deleted")["data"]["object"]["email"] == "ada@example.com"
    assert "payment_method.detached" in receiver.types()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"items": [{"price": "price_nope"}]}, "No such price: 'price_nope'"),
        ({"default_payment_method": "pm_nope"}, "No such PaymentMethod: 'pm_nope'"),
        ({"trial_end": 5}, "trial_end must be a unix timestamp in the future"),
        ({"trial_period_days": 5, "trial_end": 5}, "only specify one of these parameters"),
        ({"collection_method": "send_invoice"}, "you must specify 'days_until_due'"),
        ({"days_until_due": 5}, "You can only specify 'days_until_due'"),
        ({"payment_behavior": "whatever"}, "Invalid payment_behavior: must be one of"),
        ({"cancel_at_period_end": True, "cancel_at": 5}, "only specify one of these parameters"),
        (
            {
                "trial_settings": {
                    "end_behavior": {"missing_payment_method": "pause", "billing_cycle_anchor": "unchanged"}
                }
            },
            "does not implement trials that leave the billing cycle as it was",
        ),
        ({"application_fee_percent": 5}, "does not implement the parameter `application_fee_percent`"),
    ],
)
async def test_a_senseless_subscription_is_refused(shop: Shop, params: dict[str, Any], message: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.subscribe(**params)
    assert message in str(refused.value.user_message)
