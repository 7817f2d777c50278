"""Stripe's test cards and what they do, by their ids and by their errors."""

from typing import Any

import pytest
import stripe
from sandbox.driving import Shop

DECLINES = [
    ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline", "Your card was declined."),
    ("pm_card_chargeDeclined", "card_declined", "generic_decline", "Your card was declined."),
    (
        "pm_card_visa_chargeDeclinedInsufficientFunds",
        "card_declined",
        "insufficient_funds",
        "Your card has insufficient funds.",
    ),
    ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card", "Your card was declined."),
    ("pm_card_visa_chargeDeclinedStolenCard", "card_declined", "stolen_card", "Your card was declined."),
    ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card", "Your card has expired."),
    (
        "pm_card_chargeDeclinedIncorrectCvc",
        "incorrect_cvc",
        "incorrect_cvc",
        "Your card's security code is incorrect.",
    ),
    (
        "pm_card_chargeDeclinedProcessingError",
        "processing_error",
        "processing_error",
        "An error occurred while processing your card. Try again in a little bit.",
    ),
]


@pytest.mark.parametrize(("id", "code", "decline_code", "message"), DECLINES)
async def test_a_declining_card_is_refused_when_it_is_attached(
    shop: Shop, id: str, code: str, decline_code: str, message: str
) -> None:
    with pytest.raises(stripe.CardError) as refused:
        await shop.client.v1.payment_methods.attach_async(id, {"customer": shop.customer})
    error: Any = refused.value.error
    assert (refused.value.http_status, refused.value.code, error.decline_code) == (402, code, decline_code)
    assert refused.value.user_message == message
    assert list(await shop.client.v1.payment_methods.list_async({"customer": shop.customer})) == []


@pytest.mark.parametrize(
    ("id", "brand", "last4"),
    [
        ("pm_card_visa", "visa", "4242"),
        ("pm_card_mastercard", "mastercard", "4444"),
        ("pm_card_amex", "amex", "0005"),
        ("pm_card_discover", "discover", "1117"),
        ("pm_card_jcb", "jcb", "0505"),
    ],
)
async def test_a_good_card_is_a_new_method_at_each_use(shop: Shop, id: str, brand: str, last4: str) -> None:
    first = await shop.client.v1.payment_methods.attach_async(id, {"customer": shop.customer})
    second = await shop.client.v1.payment_methods.attach_async(id, {"customer": shop.customer})
    assert first.id != second.id
    assert (first.card.brand, first.card.last4, first.card.checks.cvc_check) == (brand, last4, "pass")
    assert first.card.fingerprint == second.card.fingerprint


async def test_a_setup_intent_with_a_declining_card_tells_why(shop: Shop) -> None:
    intent = await shop.client.v1.setup_intents.create_async({"customer": shop.customer})
    made = await shop.client.v1.payment_methods.create_async({"type": "card", "card": {"token": "tok_chargeDeclined"}})
    with pytest.raises(stripe.CardError) as refused:
        await shop.client.v1.setup_intents.confirm_async(intent.id, {"payment_method": made.id})
    error: Any = refused.value.error
    assert error.setup_intent["status"] == "requires_payment_method"
    after = await shop.client.v1.setup_intents.retrieve_async(intent.id)
    assert (after.status, after.payment_method, after.last_setup_error.code) == (
        "requires_payment_method",
        None,
        "card_declined",
    )
    with pytest.raises(stripe.InvalidRequestError, match="it's missing a payment method") as refused_again:
        await shop.client.v1.setup_intents.confirm_async(intent.id)
    assert refused_again.value.code == "setup_intent_unexpected_state"


async def test_a_method_of_another_customer_is_refused(shop: Shop) -> None:
    mine = await shop.default_card("pm_card_visa")
    other = await shop.client.v1.customers.create_async()
    with pytest.raises(stripe.InvalidRequestError, match="does not belong to the Customer you supplied"):
        await shop.client.v1.setup_intents.create_async({"customer": other.id, "payment_method": mine})
    with pytest.raises(stripe.InvalidRequestError, match="already been attached"):
        await shop.client.v1.payment_methods.attach_async(mine, {"customer": other.id})
    with pytest.raises(stripe.InvalidRequestError, match="must be attached to the customer"):
        await shop.client.v1.customers.update_async(other.id, {"invoice_settings": {"default_payment_method": mine}})


async def test_detaching_a_card_takes_it_out_of_every_default(shop: Shop) -> None:
    subscription = await shop.subscribe()
    method = (await shop.client.v1.customers.retrieve_async(shop.customer)).invoice_settings.default_payment_method
    await shop.client.v1.subscriptions.update_async(subscription.id, {"default_payment_method": str(method)})
    await shop.client.v1.payment_methods.detach_async(str(method))
    customer = await shop.client.v1.customers.retrieve_async(shop.customer)
    assert customer.invoice_settings.default_payment_method is None
    assert (await shop.subscription(subscription.id)).default_payment_method is None
    with pytest.raises(stripe.InvalidRequestError, match="so detachment is impossible"):
        await shop.client.v1.payment_methods.detach_async(str(method))


async def test_a_customer_may_be_made_with_a_default_card(shop: Shop) -> None:
    customer = await shop.client.v1.customers.create_async(
        {"payment_method": "pm_card_visa", "invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    attached = (await shop.client.v1.payment_methods.list_async({"customer": customer.id})).data
    assert [method.id for method in attached] == [customer.invoice_settings.default_payment_method]
