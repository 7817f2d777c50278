"""Sample objects for your own tests: values as the provider gives them, and webhooks as Stripe sends and signs them.

All of them tell of one purchase: Ada (`cus_Sample`) subscribes to Pro (`sub_Sample`), pays by card, is refunded a part.
"""

import hmac
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from time import time
from typing import Any

from app.provider.customer_objects import SetupIntent
from app.provider.invoice_objects import CreditNote
from app.provider.mapping.catalog import map_price, map_product
from app.provider.mapping.checkout import map_checkout_session
from app.provider.mapping.customers import map_customer, map_payment_method, map_setup_intent
from app.provider.mapping.events import map_event
from app.provider.mapping.invoices import map_credit_note
from app.provider.mapping.payments import map_charge, map_dispute, map_payment_intent, map_refund
from app.provider.mapping.subscription_changes import map_subscription_schedule
from app.provider.mapping.subscriptions import map_invoice, map_subscription
from app.provider.objects import CheckoutSession, Customer, Event, Invoice, PaymentMethod, Price, Product, Subscription
from app.provider.payment_objects import Charge, Dispute, PaymentIntent, Refund
from app.provider.subscription_objects import SubscriptionSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedWebhook:
    """What to post to a webhook endpoint."""

    body: bytes
    headers: Mapping[str, str]


def shown(kind: str, **changes: Any) -> dict[str, Any]:
    """An object as Stripe's JSON shows it; `kind` is its `object`. KeyError for a kind or a field that is not there."""
    sample: dict[str, Any] = deepcopy(_samples()[kind])
    for name, value in changes.items():
        if name not in sample:
            raise KeyError(f"Stripe's {kind} has no {name}")
        sample[name] = value
    return sample


def event_payload(type: str, object: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """An event as Stripe's JSON shows it, of this type and about this object (see `shown`).

    `previous_attributes` are what an `…updated` event says was there before; the rest changes the event itself.
    """
    data: dict[str, Any] = {"object": dict(object)}
    if "previous_attributes" in changes:
        data["previous_attributes"] = changes.pop("previous_attributes")
    return shown("event", **{"type": type, "data": data, **changes})


def webhook(payload: Mapping[str, Any], secret: str, *, at: int | None = None) -> SignedWebhook:
    """The payload as Stripe posts it, signed with the endpoint's `secret` at unix second `at` (now by default)."""
    body = json.dumps(payload, indent=2, ensure_ascii=False).encode()
    moment = int(time()) if at is None else at
    signature = hmac.digest(secret.encode(), b"%d.%b" % (moment, body), "sha256").hex()
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": f"t={moment},v1={signature}",
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
    }
    return SignedWebhook(body=body, headers=headers)


def event(type: str, object: Mapping[str, Any], **changes: Any) -> Event:
    """The same event, parsed. Its `object` is None where Billhook does not mirror the kind."""
    return map_event(event_payload(type, object, **changes))


# Each takes the fields of its class; TypeError for one it hasn't.


def customer(**fields: Any) -> Customer:
    return replace(map_customer(shown("customer")), **fields)


def product(**fields: Any) -> Product:
    return replace(map_product(shown("product")), **fields)


def price(**fields: Any) -> Price:
    return replace(map_price(shown("price")), **fields)


def payment_method(**fields: Any) -> PaymentMethod:
    return replace(map_payment_method(shown("payment_method")), **fields)


def setup_intent(**fields: Any) -> SetupIntent:
    return replace(map_setup_intent(shown("setup_intent")), **fields)


def checkout_session(**fields: Any) -> CheckoutSession:
    return replace(map_checkout_session(shown("checkout.session")), **fields)


def subscription(**fields: Any) -> Subscription:
    return replace(map_subscription(shown("subscription")), **fields)


def subscription_schedule(**fields: Any) -> SubscriptionSchedule:
    return replace(map_subscription_schedule(shown("subscription_schedule")), **fields)


def invoice(**fields: Any) -> Invoice:
    return replace(map_invoice(shown("invoice")), **fields)


def credit_note(**fields: Any) -> CreditNote:
    return replace(map_credit_note(shown("credit_note")), **fields)


def payment_intent(**fields: Any) -> PaymentIntent:
    return replace(map_payment_intent(shown("payment_intent")), **fields)


def charge(**fields: Any) -> Charge:
    return replace(map_charge(shown("charge")), **fields)


def refund(**fields: Any) -> Refund:
    return replace(map_refund(shown("refund")), **fields)


def dispute(**fields: Any) -> Dispute:
    return replace(map_dispute(shown("dispute")), **fields)


@cache
def _samples() -> dict[str, Any]:
    text = resources.files("app.provider").joinpath("samples.json").read_text(encoding="utf-8")
    samples: dict[str, Any] = json.loads(text)
    return samples
