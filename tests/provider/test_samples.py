"""Sample objects: whole in Stripe's eyes, readable in ours, and signed as Stripe signs."""

import hmac
import json
import time
from dataclasses import fields, is_dataclass
from importlib import resources
from typing import Any

import pytest
import stripe
from sandbox.shapes import violations

from app.errors import BillingError, InvalidRequestError
from app.provider import samples
from app.provider.objects import Customer, MirroredObject, Subscription
from app.provider.stripe import StripeProvider

KINDS = json.loads(resources.files("app.provider").joinpath("samples.json").read_text())
VALUES = (
    samples.customer,
    samples.product,
    samples.price,
    samples.payment_method,
    samples.setup_intent,
    samples.checkout_session,
    samples.subscription,
    samples.subscription_schedule,
    samples.invoice,
    samples.credit_note,
    samples.payment_intent,
    samples.charge,
    samples.refund,
    samples.dispute,
)
SECRET = "whsec_of_the_endpoint"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "event"])
def test_a_shown_sample_is_what_stripe_could_show(kind: str) -> None:
    assert violations(samples.shown(kind)) == []


def test_a_shown_event_is_what_stripe_could_send() -> None:
    payload = samples.event_payload("customer.updated", samples.shown("customer"), previous_attributes={"name": None})
    assert violations(payload) == []
    assert payload["data"]["previous_attributes"] == {"name": None}


@pytest.mark.parametrize("make", VALUES)
def test_a_value_takes_the_fields_of_its_class_and_no_others(make: Any) -> None:
    value = make(created=5)
    assert is_dataclass(value)
    assert {field.name for field in fields(value)} >= {"id", "created"}
    assert value.created == 5
    with pytest.raises(TypeError):
        make(colour="blue")


def test_there_is_a_sample_of_every_mirrored_object() -> None:
    made = {type(make()) for make in VALUES}
    assert made >= set(MirroredObject.__args__)


def test_the_samples_tell_of_one_purchase() -> None:
    bought = samples.subscription()
    assert bought.customer == samples.customer().id == samples.invoice().customer
    assert bought.latest_invoice == samples.invoice().id
    assert bought.items[0].price == samples.price()
    assert samples.price().product == samples.product().id
    assert samples.refund().charge == samples.charge().id == samples.payment_intent().latest_charge


def test_a_change_of_a_shown_sample_leaves_the_next_one_as_it_was() -> None:
    samples.shown("customer")["metadata"]["user_id"] = "someone else"
    assert samples.shown("customer")["metadata"] == {"user_id": "user-1"}
    assert samples.shown("subscription", status="unpaid")["status"] == "unpaid"
    with pytest.raises(KeyError, match="has no colour"):
        samples.shown("subscription", colour="blue")


def test_a_webhook_is_signed_as_stripe_signs() -> None:
    sent = samples.webhook(samples.event_payload("customer.created", samples.shown("customer")), SECRET)
    stripe.WebhookSignature.verify_header(sent.body.decode(), sent.headers["Stripe-Signature"], SECRET, tolerance=300)
    event = stripe.Webhook.construct_event(sent.body, sent.headers["Stripe-Signature"], SECRET)
    assert event.type == "customer.created"


def test_an_event_is_read_with_its_object() -> None:
    event = samples.event("customer.subscription.updated", samples.shown("subscription", status="past_due"))
    assert isinstance(event.object, Subscription)
    assert (event.type, event.object.status) == ("customer.subscription.updated", "past_due")
    account = samples.event("customer.created", samples.shown("customer"), livemode=True)
    assert account.livemode


def test_construct_event_takes_any_of_the_secrets_and_nobody_elses() -> None:
    provider = StripeProvider("sk_test_1")
    sent = samples.webhook(samples.event_payload("customer.created", samples.shown("customer")), SECRET)
    header = sent.headers["Stripe-Signature"]
    event = provider.construct_event(sent.body, header, "whsec_rolled", SECRET)
    assert isinstance(event.object, Customer)
    old = samples.webhook({"object": "event"}, SECRET, at=1_767_225_600)
    assert provider.verify_signature(
        old.body, old.headers["Stripe-Signature"], secrets=[SECRET.encode()], now=1_767_225_601
    )
    for body, signature, secret in (
        (sent.body, header, "whsec_other"),
        (sent.body + b" ", header, SECRET),
        (sent.body, "nonsense", SECRET),
        (old.body, old.headers["Stripe-Signature"], SECRET),
    ):
        with pytest.raises(InvalidRequestError) as raised:
            provider.construct_event(body, signature, secret)
        assert raised.value.code == "invalid_signature"


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b'{"object": "list"}', b"[" * 100_000])
def test_what_is_signed_but_no_event_is_refused(body: bytes) -> None:
    now = int(time.time())
    signature = hmac.digest(SECRET.encode(), b"%d.%b" % (now, body), "sha256").hex()
    with pytest.raises(InvalidRequestError) as raised:
        StripeProvider("sk_test_1").construct_event(body, f"t={now},v1={signature}", SECRET)
    assert raised.value.code == "invalid_event"


def every_error(kind: type[BillingError] = BillingError) -> list[type[BillingError]]:
    """Those of the library: the services have some of their own, which say their sentence themselves."""
    children = (child for child in kind.__subclasses__() if not child.__module__.startswith("app.services"))
    return [kind, *(found for child in children for found in every_error(child))]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_a_code_and_a_status_code(kind: type[BillingError]) -> None:
    error = kind("It is so.")
    assert error.code.replace("_", "").isalpha()
    assert error.status_code == kind.status


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("app").joinpath("py.typed").is_file()
