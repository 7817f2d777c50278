"""Buying on the hosted Checkout page, by the functions the page calls."""

from typing import Any

import pytest
import stripe
from sandbox.driving import GOOD, Receiver, Shop, card

from app.sandbox import checkout
from app.sandbox.cards import Card
from app.sandbox.errors import ApiError, CardError


async def test_a_declined_card_leaves_the_session_open_and_no_subscription(shop: Shop) -> None:
    session = await shop.session()
    for number, message in (("4000000000000002", "was declined"), ("4000000000009995", "insufficient funds")):
        with pytest.raises(CardError, match=message):
            checkout.pay(shop.sandbox, session.id, card(number))
    again = await shop.client.v1.checkout.sessions.retrieve_async(session.id)
    assert (again.status, again.payment_status, again.url) == ("open", "unpaid", session.url)
    assert list(await shop.client.v1.subscriptions.list_async({"status": "all"})) == []
    assert list(await shop.client.v1.invoices.list_async()) == []
    intents = (await shop.client.v1.payment_intents.list_async()).data
    assert [(i.status, i.last_payment_error.decline_code) for i in intents] == [
        ("requires_payment_method", "insufficient_funds")
    ]
    assert isinstance(checkout.pay(shop.sandbox, session.id, GOOD), checkout.Paid)
    assert [i.status for i in await shop.client.v1.payment_intents.list_async()] == ["succeeded"]


async def test_what_was_bought_follows_from_the_session(shop: Shop) -> None:
    session = await shop.session(
        metadata={"order": "7"},
        client_reference_id="user-1",
        subscription_data={"metadata": {"plan": "pro"}, "description": "The Pro plan"},
        line_items=[{"price": shop.pro, "quantity": 3}],
    )
    paid = checkout.pay(shop.sandbox, session.id, GOOD, name="Ada Lovelace")
    assert paid == checkout.Paid(f"http://app.test/ok?session={session.id}")
    done = await shop.client.v1.checkout.sessions.retrieve_async(
        session.id, {"expand": ["subscription.default_payment_method", "invoice.payments"]}
    )
    assert (done.status, done.payment_status, done.amount_total, done.url) == ("complete", "paid", 29_700, None)
    assert (done.client_reference_id, done.metadata.to_dict()) == ("user-1", {"order": "7"})
    assert (done.customer_details.email, done.customer_details.name) == ("ada@example.com", "Ada Lovelace")
    subscription = done.subscription
    assert (subscription.status, subscription.metadata.to_dict()) == ("active", {"plan": "pro"})
    assert subscription.default_payment_method.card.last4 == "4242"
    assert subscription.default_payment_method.customer == shop.customer
    assert (done.invoice.status, done.invoice.billing_reason) == ("paid", "subscription_create")
    assert done.invoice.number.endswith("-0001")
    assert done.invoice.parent.subscription_details.metadata.to_dict() == {"plan": "pro"}
    assert done.invoice.lines.data[0].description == "3 × Pro (at $99.00 / month)"  # noqa: RUF001 - Stripe's sign
    assert done.payment_intent is None


@pytest.mark.parametrize("number", ["4000002760003184", "4000002500003155", "4000000000003220"])
async def test_a_3ds_card_asks_the_buyer_first(shop: Shop, number: str) -> None:
    session = await shop.session()
    assert isinstance(checkout.pay(shop.sandbox, session.id, card(number)), checkout.NeedsAuthentication)
    assert checkout.view(shop.sandbox, session.id)["awaits_authentication"]
    assert list(await shop.client.v1.subscriptions.list_async()) == []
    with pytest.raises(CardError, match="unable to authenticate your payment method"):
        checkout.complete_authentication(shop.sandbox, session.id, succeed=False)
    assert not checkout.view(shop.sandbox, session.id)["awaits_authentication"]
    checkout.pay(shop.sandbox, session.id, card(number))
    assert isinstance(checkout.complete_authentication(shop.sandbox, session.id, succeed=True), checkout.Paid)
    assert [s.status for s in await shop.client.v1.subscriptions.list_async()] == ["active"]


async def test_a_3ds_card_may_be_declined_after_authentication(shop: Shop) -> None:
    session = await shop.session()
    checkout.pay(shop.sandbox, session.id, card("4000008400001629"))
    with pytest.raises(CardError, match="was declined"):
        checkout.complete_authentication(shop.sandbox, session.id, succeed=True)
    with pytest.raises(ApiError, match="no payment that waits"):
        checkout.complete_authentication(shop.sandbox, session.id, succeed=True)


async def test_a_trial_takes_a_card_and_no_money(shop: Shop, receiver: Receiver) -> None:
    session = await shop.session(subscription_data={"trial_period_days": 14})
    assert session.amount_total == 0
    view = checkout.view(shop.sandbox, session.id)
    assert (view["trial_end"], view["needs_card"]) == (shop.sandbox.now() + 14 * 86_400, True)
    checkout.pay(shop.sandbox, session.id, GOOD)
    done = await shop.client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["subscription", "invoice"]})
    assert (done.payment_status, done.subscription.status) == ("no_payment_required", "trialing")
    assert done.subscription.trial_end == done.subscription.items.data[0].current_period_end
    assert (done.invoice.status, done.invoice.total) == ("paid", 0)
    assert done.invoice.lines.data[0].description == "Trial period for Pro"
    assert list(await shop.client.v1.payment_intents.list_async()) == []
    await shop.sandbox.drain()
    assert "setup_intent.succeeded" in receiver.types()


async def test_a_trial_may_need_no_card(shop: Shop) -> None:
    session = await shop.session(
        subscription_data={
            "trial_period_days": 7,
            "trial_settings": {"end_behavior": {"missing_payment_method": "cancel"}},
        },
        payment_method_collection="if_required",
    )
    checkout.pay(shop.sandbox, session.id, None)
    subscription = (await shop.client.v1.subscriptions.list_async()).data[0]
    assert (subscription.status, subscription.default_payment_method) == ("trialing", None)
    shop.clock.advance(days=8)
    assert (await shop.subscription(subscription.id)).status == "canceled"


async def test_a_session_that_takes_money_needs_a_card(shop: Shop) -> None:
    session = await shop.session()
    with pytest.raises(CardError, match="card number is incomplete"):
        checkout.pay(shop.sandbox, session.id, None)


async def test_a_buyer_without_a_customer_gets_one(shop: Shop) -> None:
    urls: Any = {"success_url": "http://app.test/ok"}
    params: Any = {"mode": "subscription", "line_items": [{"price": shop.pro, "quantity": 1}], **urls}
    session = await shop.client.v1.checkout.sessions.create_async(params)
    with pytest.raises(ApiError, match="email address is incomplete"):
        checkout.pay(shop.sandbox, session.id, GOOD)
    with pytest.raises(CardError):
        checkout.pay(shop.sandbox, session.id, card("4000000000000002"), "bob@example.com")
    assert (await shop.client.v1.checkout.sessions.retrieve_async(session.id)).customer is None
    checkout.pay(shop.sandbox, session.id, GOOD, "bo@example.com", "Bo")
    done = await shop.client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["customer"]})
    assert (done.customer.email, done.customer.name) == ("bo@example.com", "Bo")
    assert len((await shop.client.v1.customers.list_async()).data) == 2


async def test_a_one_time_purchase_makes_no_invoice(shop: Shop, receiver: Receiver) -> None:
    price_data = {"currency": "usd", "unit_amount": 500, "product_data": {"name": "20 uses"}}
    session = await shop.session(
        mode="payment",
        line_items=[{"price_data": price_data, "quantity": 2}],
        payment_intent_data={"metadata": {"pack": "20"}, "setup_future_usage": "off_session"},
    )
    checkout.pay(shop.sandbox, session.id, GOOD)
    done = await shop.client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent"]})
    assert (done.payment_intent.amount, done.payment_intent.metadata.to_dict()) == (1000, {"pack": "20"})
    assert (done.subscription, done.invoice, done.payment_status) == (None, None, "paid")
    assert len((await shop.client.v1.payment_methods.list_async({"customer": shop.customer})).data) == 1
    await shop.sandbox.drain()
    assert receiver.types()[-2:] == ["payment_method.attached", "checkout.session.completed"]


async def test_a_setup_session_saves_a_card(shop: Shop) -> None:
    params: Any = {"mode": "setup", "currency": "usd", "customer": shop.customer, "success_url": "http://app.test/ok"}
    session = await shop.client.v1.checkout.sessions.create_async(params)
    checkout.pay(shop.sandbox, session.id, GOOD)
    done = await shop.client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["setup_intent"]})
    assert (done.setup_intent.status, done.payment_status, done.amount_total) == (
        "succeeded",
        "no_payment_required",
        None,
    )


async def test_a_session_expires_by_time_and_by_request(shop: Shop, receiver: Receiver) -> None:
    first = await shop.session(expires_at=shop.sandbox.now() + 1800)
    second = await shop.session()
    shop.clock.advance(seconds=1800)
    assert (await shop.client.v1.checkout.sessions.retrieve_async(first.id)).status == "expired"
    await shop.client.v1.checkout.sessions.expire_async(second.id)
    await shop.sandbox.drain()
    assert receiver.types()[-2:] == ["checkout.session.expired", "checkout.session.expired"]
    with pytest.raises(ApiError, match="has expired"):
        checkout.pay(shop.sandbox, first.id, GOOD)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.client.v1.checkout.sessions.expire_async(first.id)
    assert refused.value.user_message == (
        'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
        "`expired`."
    )
    listed = await shop.client.v1.checkout.sessions.list_async({"status": "expired", "customer": shop.customer})
    assert [session.id for session in listed] == [second.id, first.id]


async def test_a_session_is_paid_once(shop: Shop) -> None:
    session = await shop.session()
    checkout.pay(shop.sandbox, session.id, GOOD)
    with pytest.raises(ApiError, match="already been completed"):
        checkout.pay(shop.sandbox, session.id, GOOD)
    with pytest.raises(stripe.InvalidRequestError, match="a status of `complete`"):
        await shop.client.v1.checkout.sessions.expire_async(session.id)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mode": "payment"}, "You specified `payment` mode but passed a recurring price."),
        ({"mode": "setup"}, "You can not pass `line_items` in `setup` mode."),
        ({"line_items": []}, "Missing required param: line_items."),
        ({"expires_at": 60}, "at least 30 minutes"),
        ({"expires_at": 25 * 3600}, "less than 24 hours"),
        ({"customer": "cus_nope"}, "No such customer: 'cus_nope'"),
        ({"customer_email": "a@example.com"}, "only specify one of these parameters: customer, customer_email"),
        ({"line_items": [{"price": "price_nope", "quantity": 1}]}, "No such price: 'price_nope'"),
        ({"payment_intent_data": {"description": "x"}}, "You can not pass `payment_intent_data` in `subscription`"),
        ({"customer_creation": "always"}, "can only be used in `payment` mode"),
        ({"ui_mode": "embedded_page"}, "the hosted page alone"),
        ({"ui_mode": "hosted"}, "Invalid ui_mode: must be one of elements, embedded_page, form, or hosted_page"),
    ],
)
async def test_a_senseless_session_is_refused(shop: Shop, params: dict[str, Any], message: str) -> None:
    if "expires_at" in params:
        params = {"expires_at": shop.sandbox.now() + params["expires_at"]}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.session(**params)
    assert message in str(refused.value.user_message)


@pytest.mark.parametrize(
    ("typed", "code", "message"),
    [
        (Card("", 12, 2034, "123"), "incomplete_number", "Your card number is incomplete."),
        (Card("4242 4242", 12, 2034, "123"), "incomplete_number", "Your card number is incomplete."),
        (Card("4242 4242 4242 4241", 12, 2034, "123"), "incorrect_number", "Your card number is incorrect."),
        (Card("4242 4242 4242 424x", 12, 2034, "123"), "invalid_number", "Your card number is invalid."),
        (Card("4242424242424242", 13, 2034, "123"), "invalid_expiry_month", "expiration month is invalid."),
        (Card("4242424242424242", 12, 1999, "123"), "invalid_expiry_year", "expiration year is invalid."),
        (Card("4242424242424242", 12, 34, "12"), "incomplete_cvc", "security code is incomplete."),
        (Card("378282246310005", 12, 34, "123"), "incomplete_cvc", "security code is incomplete."),
        (Card("4242424242424242", 12, 34, "12x"), "invalid_cvc", "security code is invalid."),
        (Card("4111111111111111", 12, 34, "123"), "card_declined", "used a non test (live) card"),
    ],
)
async def test_a_card_form_refuses_what_can_not_be_a_card(shop: Shop, typed: Card, code: str, message: str) -> None:
    session = await shop.session()
    with pytest.raises(CardError) as refused:
        checkout.pay(shop.sandbox, session.id, typed)
    assert refused.value.code == code
    assert message in refused.value.message
    assert list(await shop.client.v1.payment_intents.list_async()) == []


async def test_an_expired_card_is_refused_by_the_month(shop: Shop) -> None:
    shop.clock.now = 1_800_000_000  # 15 January 2027
    session = await shop.session()
    with pytest.raises(CardError, match="expiration year is invalid"):
        checkout.pay(shop.sandbox, session.id, Card("4242424242424242", 12, 26, "123"))
    assert isinstance(checkout.pay(shop.sandbox, session.id, Card("4242424242424242", 1, 27, "123")), checkout.Paid)
