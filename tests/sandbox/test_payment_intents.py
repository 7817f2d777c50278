"""Payment intents by the API: paid, held, refused, authenticated, and every refusal in Stripe's words."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import stripe
from sandbox.driving import ManualClock, Receiver, Shop
from starlette.applications import Starlette

from app.sandbox.sandbox import Sandbox

PAID: Any = {
    "amount": 6500,
    "currency": "usd",
    "confirm": True,
    "payment_method": "pm_card_visa",
    "return_url": "http://app.test/back",
}
BACK = "http://app.test/back?order=7"


@pytest.fixture
async def browser(sandbox_app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(sandbox_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox.test") as client:
        yield client


async def create(shop: Shop, **params: Any) -> Any:
    return await shop.client.v1.payment_intents.create_async({"amount": 6500, "currency": "usd", **params})


async def pay(shop: Shop, **params: Any) -> Any:
    return await shop.client.v1.payment_intents.create_async({**PAID, **params})


async def refused(shop: Shop, verb: str, *args: Any) -> Any:
    """Make a call that Stripe refuses and give its error."""
    with pytest.raises(stripe.StripeError) as caught:
        await getattr(shop.client.v1.payment_intents, f"{verb}_async")(*args)
    return caught.value


async def test_an_intent_goes_from_nothing_to_paid_in_steps(shop: Shop, receiver: Receiver) -> None:
    intents = shop.client.v1.payment_intents
    intent = await create(shop, customer=shop.customer, metadata={"order": "7"}, receipt_email="ada@example.com")
    assert (intent.status, intent.amount_received, intent.latest_charge) == ("requires_payment_method", 0, None)
    assert intent.client_secret.startswith(f"{intent.id}_secret_")
    intent = await intents.update_async(intent.id, {"amount": 7000, "payment_method": "pm_card_visa"})
    assert (intent.status, intent.amount) == ("requires_confirmation", 7000)
    intent = await intents.confirm_async(intent.id, {"return_url": BACK, "expand": ["latest_charge"]})
    assert (intent.status, intent.amount_received, intent.next_action) == ("succeeded", 7000, None)
    charge = intent.latest_charge
    assert (charge.amount_captured, charge.receipt_email, charge.balance_transaction) == (7000, "ada@example.com", None)
    assert charge.metadata.to_dict() == {}  # recorded: not copied from the intent
    listed = await intents.list_async({"customer": shop.customer})
    assert [row.id for row in listed.data] == [intent.id]
    await shop.sandbox.drain()
    assert [type for type in receiver.types() if "payment_intent" in type or "charge" in type] == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
    ]


async def test_a_charge_settles_a_moment_after_it_succeeded(shop: Shop, clock: ManualClock, receiver: Receiver) -> None:
    intent = await pay(shop)
    clock.advance(seconds=3)
    charge = await shop.client.v1.charges.retrieve_async(intent.latest_charge, {"expand": ["balance_transaction"]})
    assert charge.balance_transaction.amount == 6500
    await shop.sandbox.drain()
    assert receiver.last("charge.updated")["data"]["previous_attributes"] == {"balance_transaction": None}


async def test_a_card_may_be_saved_with_the_payment(shop: Shop) -> None:
    intent = await pay(shop, customer=shop.customer, setup_future_usage="off_session")
    saved = (await shop.client.v1.payment_methods.list_async({"customer": shop.customer})).data
    assert [method.id for method in saved] == [intent.payment_method]
    again = await pay(shop, customer=shop.customer, payment_method=intent.payment_method, off_session=True)
    assert again.status == "succeeded"
    bare = await pay(shop, payment_method="pm_card_visa")
    method = await shop.client.v1.payment_methods.retrieve_async(bare.payment_method)
    assert method.customer is None


async def test_a_hold_is_captured_in_part_and_the_rest_released(shop: Shop, receiver: Receiver) -> None:
    intents = shop.client.v1.payment_intents
    held = await pay(shop, capture_method="manual", expand=["latest_charge"])
    charge = held.latest_charge
    assert (held.status, held.amount_capturable, held.amount_received) == ("requires_capture", 6500, 0)
    assert (charge.captured, charge.paid, charge.amount_captured, charge.balance_transaction) == (False, True, 0, None)
    assert charge.payment_method_details.card.capture_before == charge.created + 604_800
    for amount, message in ((-100, "Invalid non-negative integer"), (0, "greater than or equal to 1."), (6501, "than")):
        assert message in str(await refused(shop, "capture", held.id, {"amount_to_capture": amount}))
    taken = await intents.capture_async(held.id, {"amount_to_capture": 5000, "expand": ["latest_charge"]})
    charge = taken.latest_charge
    assert (taken.status, taken.amount, taken.amount_capturable, taken.amount_received) == ("succeeded", 6500, 0, 5000)
    assert (charge.amount, charge.amount_captured, charge.amount_refunded, charge.captured) == (6500, 5000, 0, True)
    assert charge.balance_transaction is not None
    again = await refused(shop, "capture", held.id)
    assert again.code == "payment_intent_unexpected_state"
    assert "the remainder of the authorized amount has been released" in str(again)
    await shop.sandbox.drain()
    assert [type for type in receiver.types() if "capt" in type] == [
        "payment_intent.amount_capturable_updated",
        "charge.captured",
    ]


async def test_a_hold_that_nobody_captures_lapses_after_seven_days(
    shop: Shop, clock: ManualClock, receiver: Receiver
) -> None:
    held = await pay(shop, capture_method="manual")
    clock.advance(days=8)
    intent = await shop.client.v1.payment_intents.retrieve_async(held.id)
    assert (intent.status, intent.cancellation_reason) == ("canceled", "automatic")
    await shop.sandbox.drain()
    told = [
        type for type in receiver.types() if type in {"charge.expired", "charge.refunded", "payment_intent.canceled"}
    ]
    assert told == ["charge.expired", "charge.refunded", "payment_intent.canceled"]


async def test_a_declined_create_leaves_an_intent_that_can_be_tried_again(shop: Shop, receiver: Receiver) -> None:
    error = await refused(
        shop, "create", {**PAID, "customer": shop.customer, "payment_method": "pm_card_chargeCustomerFail"}
    )
    body = error.json_body["error"]
    assert (error.http_status, body["type"], body["code"]) == (402, "card_error", "card_declined")
    assert (body["decline_code"], body["advice_code"]) == ("generic_decline", "try_again_later")
    assert body["network_decline_code"] == "01"
    assert body["payment_intent"]["status"] == "requires_payment_method"
    assert body["payment_method"]["object"] == "payment_method"
    intent = await shop.client.v1.payment_intents.retrieve_async(body["payment_intent"]["id"])
    assert (intent.payment_method, intent.latest_charge) == (None, body["charge"])
    assert intent.last_payment_error.payment_method_type == "card"
    assert not hasattr(intent.last_payment_error, "request_log_url")
    charge = await shop.client.v1.charges.retrieve_async(body["charge"])
    assert (charge.status, charge.paid, charge.captured, charge.receipt_url) == ("failed", False, False, None)
    assert (charge.outcome.type, charge.outcome.reason) == ("issuer_declined", "generic_decline")
    paid = await shop.client.v1.payment_intents.confirm_async(
        intent.id, {"payment_method": "pm_card_visa", "return_url": BACK}
    )
    assert (paid.status, paid.last_payment_error) == ("succeeded", None)
    await shop.sandbox.drain()
    assert {"charge.failed", "payment_intent.payment_failed", "payment_intent.succeeded"} <= set(receiver.types())


@pytest.mark.parametrize(
    ("method", "code", "decline_code", "advice_code"),
    [
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds", "try_again_later"),
        ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card", "do_not_try_again"),
        ("pm_card_visa_chargeDeclinedStolenCard", "card_declined", "stolen_card", "do_not_try_again"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card", "confirm_card_data"),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", "incorrect_cvc", "confirm_card_data"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", "processing_error", "try_again_later"),
        (
            "pm_card_visa_chargeDeclinedVelocityLimitExceeded",
            "card_declined",
            "card_velocity_exceeded",
            "try_again_later",
        ),
        ("pm_card_radarBlock", "card_declined", "fraudulent", None),
    ],
)
async def test_every_declining_card_says_why(
    shop: Shop, method: str, code: str, decline_code: str, advice_code: str | None
) -> None:
    body = (await refused(shop, "create", {**PAID, "payment_method": method})).json_body["error"]
    assert (body["code"], body["decline_code"], body.get("advice_code")) == (code, decline_code, advice_code)
    charge = await shop.client.v1.charges.retrieve_async(body["charge"])
    assert charge.failure_code == code
    assert (charge.outcome.type == "blocked") == (method == "pm_card_radarBlock")


async def test_a_card_that_wants_its_owner_refuses_to_be_charged_without_them(shop: Shop) -> None:
    error = await refused(
        shop, "create", {**PAID, "payment_method": "pm_card_authenticationRequired", "off_session": True}
    )
    body = error.json_body["error"]
    assert (error.http_status, body["code"], body["decline_code"]) == (402, *["authentication_required"] * 2)
    assert body["message"] == "Your card was declined. This transaction requires authentication."
    assert not body.keys() & {"charge", "advice_code", "network_decline_code"}
    assert body["payment_intent"]["latest_charge"] is None
    assert body["payment_method"]["card"]["checks"]["cvc_check"] == "unchecked"


@pytest.mark.parametrize(
    ("outcome", "status", "redirected"),
    [("complete", "succeeded", "succeeded"), ("fail", "requires_payment_method", "failed")],
)
async def test_the_3ds_page_sends_its_visitor_back(
    shop: Shop, browser: httpx.AsyncClient, outcome: str, status: str, redirected: str
) -> None:
    waiting = await pay(shop, payment_method="pm_card_threeDSecure2Required", return_url=BACK)
    assert (waiting.status, waiting.next_action.type) == ("requires_action", "redirect_to_url")
    url = waiting.next_action.redirect_to_url.url
    assert url == f"http://sandbox.test/3ds/{waiting.id}"
    shown = await browser.get(url)
    assert "Complete authentication" in shown.text
    assert "form-action 'self' http://app.test" in shown.headers["Content-Security-Policy"]
    back = await browser.post(url, data={"outcome": outcome})
    target = urlsplit(back.headers["Location"])
    assert target.netloc == "app.test"
    assert parse_qs(target.query) == {
        "order": ["7"],
        "payment_intent": [waiting.id],
        "payment_intent_client_secret": [waiting.client_secret],
        "redirect_status": [redirected],
    }
    intent = await shop.client.v1.payment_intents.retrieve_async(waiting.id)
    assert intent.status == status
    if outcome == "fail":
        assert intent.last_payment_error.code == "payment_intent_authentication_failure"
    again = await browser.post(url, data={"outcome": "complete"})  # a second click
    assert again.headers["Location"] == back.headers["Location"]
    assert (await shop.client.v1.payment_intents.retrieve_async(waiting.id)).status == status


async def test_a_card_declined_after_authentication_comes_back_as_failed(
    shop: Shop, browser: httpx.AsyncClient
) -> None:
    waiting = await pay(shop, payment_method="pm_card_threeDSecureRequiredChargeDeclined")
    back = await browser.post(f"/3ds/{waiting.id}", data={"outcome": "complete"})
    assert "redirect_status=failed" in back.headers["Location"]
    intent = await shop.client.v1.payment_intents.retrieve_async(waiting.id)
    assert intent.last_payment_error.decline_code == "generic_decline"


async def test_without_a_way_back_stripe_js_authenticates(shop: Shop, browser: httpx.AsyncClient) -> None:
    never = {"enabled": True, "allow_redirects": "never"}
    intent = await create(shop, automatic_payment_methods=never, payment_method="pm_card_authenticationRequired")
    waiting = await shop.client.v1.payment_intents.confirm_async(intent.id)
    assert (waiting.status, waiting.next_action.type) == ("requires_action", "use_stripe_sdk")
    done = await browser.post(f"/3ds/{intent.id}", data={"outcome": "complete"})
    assert "You can close this page" in done.text
    assert (await shop.client.v1.payment_intents.retrieve_async(intent.id)).status == "succeeded"


async def test_a_setup_intent_has_the_same_page(shop: Shop, browser: httpx.AsyncClient) -> None:
    intent = await shop.client.v1.setup_intents.create_async(
        {
            "customer": shop.customer,
            "payment_method": "pm_card_authenticationRequired",
            "confirm": True,
            "return_url": BACK,
        }
    )
    assert intent.next_action.redirect_to_url.return_url == BACK
    back = await browser.post(intent.next_action.redirect_to_url.url, data={"outcome": "complete"})
    assert f"setup_intent={intent.id}" in back.headers["Location"]
    assert (await shop.client.v1.setup_intents.retrieve_async(intent.id)).status == "succeeded"


async def test_paying_an_invoices_intent_pays_the_invoice(shop: Shop, browser: httpx.AsyncClient) -> None:
    subscription = await shop.subscribe(
        payment_behavior="default_incomplete", expand=["latest_invoice.confirmation_secret"]
    )
    id = subscription.latest_invoice.confirmation_secret.client_secret.partition("_secret")[0]
    params: Any = {"payment_method": "pm_card_threeDSecure2Required", "return_url": BACK}
    assert (await shop.client.v1.payment_intents.confirm_async(id, params)).status == "requires_action"
    await browser.post(f"/3ds/{id}", data={"outcome": "complete"})
    paid = await shop.subscription(subscription.id)
    assert (paid.status, paid.latest_invoice.status) == ("active", "paid")
    assert "void the invoice instead" in str(
        await refused(
            shop,
            "cancel",
            (
                await shop.subscribe(
                    payment_behavior="default_incomplete", expand=["latest_invoice.confirmation_secret"]
                )
            ).latest_invoice.confirmation_secret.client_secret.partition("_secret")[0],
        )
    )


async def test_an_intent_is_canceled_once_and_says_why(shop: Shop) -> None:
    intents = shop.client.v1.payment_intents
    intent = await create(shop)
    canceled = await intents.cancel_async(intent.id, {"cancellation_reason": "duplicate"})
    assert (canceled.status, canceled.cancellation_reason) == ("canceled", "duplicate")
    assert canceled.canceled_at is not None
    again = await refused(shop, "cancel", intent.id)
    assert "because it has a status of canceled" in str(again)
    assert again.json_body["error"]["payment_intent"]["id"] == intent.id
    assert "status of canceled" in str(await refused(shop, "confirm", intent.id))
    held = await pay(shop, capture_method="manual")
    released = await intents.cancel_async(held.id, {"expand": ["latest_charge"]})
    assert (released.amount_capturable, released.latest_charge.amount_refunded) == (0, 6500)


async def test_what_is_paid_changes_only_in_its_descriptions(shop: Shop) -> None:
    paid = await pay(shop)
    described = await shop.client.v1.payment_intents.update_async(
        paid.id, {"description": "late", "metadata": {"a": "b"}}
    )
    assert (described.description, described.metadata["a"]) == ("late", "b")
    charge = await shop.client.v1.charges.retrieve_async(paid.latest_charge)
    assert charge.description is None
    error = await refused(shop, "update", paid.id, {"amount": 100})
    assert (error.code, error.param) == ("payment_intent_unexpected_state", "amount")
    assert "already succeeded" in str(await refused(shop, "confirm", paid.id))


@pytest.mark.parametrize(
    ("params", "code", "param", "message"),
    [
        (
            {"amount": 0},
            "parameter_invalid_integer",
            "amount",
            "The amount must be greater than or equal to the minimum",
        ),
        ({"amount": -1}, "parameter_invalid_integer", "amount", "greater than or equal to 1."),
        ({"amount": 49}, "amount_too_small", "amount", r"Amount must be at least \$0.50 usd"),
        ({"amount": 29, "currency": "gbp"}, "amount_too_small", "amount", "at least £0.30 gbp"),
        ({"amount": 49, "currency": "jpy"}, "amount_too_small", "amount", "at least ¥50 jpy"),
        ({"amount": 5124, "currency": "kwd"}, "parameter_invalid_integer", "amount", "multiple of 10"),
        ({"amount": 100_000_000}, "amount_too_large", "amount", r"no more than \$999,999.99"),
        ({"customer": "cus_nope"}, "resource_missing", "customer", "No such customer: 'cus_nope'"),
        ({"return_url": BACK}, None, "return_url", "unless `confirm` is set to true"),
        ({"confirm": True, "payment_method": "pm_card_visa"}, None, None, "you must provide a `return_url`"),
        (
            {"confirm": True, "return_url": BACK},
            "payment_intent_unexpected_state",
            None,
            "You can either update the PaymentIntent",
        ),
        (
            {"allowed_payment_method_types": ["card"], "automatic_payment_methods": {"enabled": True}},
            None,
            None,
            "only specify one of these",
        ),
        ({"allowed_payment_method_types": ["ideal"]}, None, "allowed_payment_method_types", "No valid payment method"),
        (
            {"payment_method_types": ["card"]},
            "payment_method_types_no_longer_supported",
            "payment_method_types",
            "no longer",
        ),
        ({"application_fee_amount": 5}, "sandbox_unsupported", "application_fee_amount", "does not implement"),
    ],
)
async def test_a_wrong_create_is_refused_and_leaves_nothing(
    shop: Shop, params: dict[str, Any], code: str | None, param: str | None, message: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError, match=message) as caught:
        await create(shop, **params)
    assert (caught.value.http_status, caught.value.code, caught.value.param) == (400, code, param)
    assert (await shop.client.v1.payment_intents.list_async()).data == []


async def test_a_customers_method_is_for_that_customer_alone(shop: Shop) -> None:
    mine = await shop.default_card("pm_card_visa")
    other = await shop.client.v1.customers.create_async()
    error = await refused(shop, "create", {**PAID, "payment_method": mine})
    assert (error.code, error.param) == ("parameter_missing", "source")
    error = await refused(shop, "create", {**PAID, "payment_method": mine, "customer": other.id})
    assert (error.param, "does not belong to the Customer you supplied" in str(error)) == ("payment_method", True)
    nothing = await create(shop, customer=shop.customer)
    error = await refused(shop, "confirm", nothing.id, {"return_url": BACK})
    assert f"To confirm the PaymentIntent with {shop.customer}" in str(error)


async def test_an_unknown_intent_is_a_404_about_the_intent(shop: Shop) -> None:
    error = await refused(shop, "confirm", "pi_nope")
    assert (error.http_status, error.param) == (404, "intent")
    assert "No such payment_intent: 'pi_nope'" in str(error)


async def test_the_same_key_pays_once(shop: Shop, sandbox: Sandbox) -> None:
    params: Any = {**PAID, "payment_method": "pm_card_chargeDeclined"}
    ids = set()
    for _ in range(2):
        with pytest.raises(stripe.CardError) as caught:
            await shop.client.v1.payment_intents.create_async(params, {"idempotency_key": "once"})
        ids.add(caught.value.json_body["error"]["payment_intent"]["id"])
    assert len(ids) == len(sandbox.rows("payment_intent")) == 1


async def test_a_charge_is_described_and_captured_the_old_way(shop: Shop, receiver: Receiver) -> None:
    charges = shop.client.v1.charges
    held = await pay(shop, capture_method="manual")
    charge = await charges.update_async(
        held.latest_charge, {"description": "Order 7", "fraud_details": {"user_report": "safe"}}
    )
    assert (charge.description, charge.fraud_details.user_report) == ("Order 7", "safe")
    taken = await charges.capture_async(held.latest_charge, {"amount": 1000})
    assert taken.amount_captured == 1000
    assert (await shop.client.v1.payment_intents.retrieve_async(held.id)).amount_received == 1000
    with pytest.raises(stripe.InvalidRequestError, match="has already been captured") as caught:
        await charges.capture_async(held.latest_charge)
    assert caught.value.code == "charge_already_captured"
    await shop.sandbox.drain()
    assert receiver.last("charge.updated")["data"]["previous_attributes"]["description"] is None


@pytest.mark.parametrize(("currency", "amount", "written"), [("jpy", 500, "¥500"), ("kwd", 12_340, "12.340 KWD")])
async def test_every_currency_keeps_its_minor_units(
    shop: Shop, browser: httpx.AsyncClient, currency: str, amount: int, written: str
) -> None:
    paid = await pay(shop, amount=amount, currency=currency.upper(), expand=["latest_charge"])
    assert (paid.amount_received, paid.currency, paid.latest_charge.amount) == (amount, currency, amount)
    receipt = await browser.get(paid.latest_charge.receipt_url)
    assert written in receipt.text
