"""Charging: PaymentIntents, the network's answer for a test card, 3D Secure, holds and their capture."""

from typing import Any

from app.sandbox import cards, charges, later
from app.sandbox.errors import CardError
from app.sandbox.rendering import public
from app.sandbox.resources import payment_methods
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

#: Keys of a PaymentIntent that nothing here sets, and Stripe shows as null.
_NULLS = dict.fromkeys(
    (
        "allowed_payment_method_types",
        "application",
        "application_fee_amount",
        "canceled_at",
        "cancellation_reason",
        "customer_account",
        "excluded_payment_method_types",
        "last_payment_error",
        "latest_charge",
        "next_action",
        "on_behalf_of",
        "payment_method",
        "payment_record",
        "processing",
        "receipt_email",
        "review",
        "shared_payment_granted_token",
        "shipping",
        "source",
        "statement_descriptor",
        "statement_descriptor_suffix",
        "transfer_data",
        "transfer_group",
    )
)
_SECRET_LENGTH = 25
_SETTLES_AFTER = 2  # seconds; Stripe's automatic_async takes some
FAILED_AUTHENTICATION = (
    "We are unable to authenticate your payment method. Please choose a different payment method and try again."
)

#: The account's settings for dynamic payment methods.
METHOD_CONFIGURATION = {"id": "pmc_1BillhookSandboxCardsOnly", "parent": None}
CARD_OPTIONS = {
    "installments": None,
    "mandate_options": None,
    "network": None,
    "request_three_d_secure": "automatic",
}


def new_intent(
    sandbox: Sandbox,
    *,
    amount: int,
    currency: str,
    customer: str | None,
    description: str | None = None,
    **fields: Any,
) -> Row:
    id = sandbox.new.mint("pi_")
    row = sandbox.insert(
        {
            **_NULLS,
            "id": id,
            "object": "payment_intent",
            "amount": amount,
            "amount_capturable": 0,
            "amount_details": {"tip": {}},
            "amount_received": 0,
            "automatic_payment_methods": {"allow_redirects": "always", "enabled": True},
            "capture_method": "automatic_async",
            "client_secret": f"{id}_secret_{sandbox.new.text(_SECRET_LENGTH)}",
            "confirmation_method": "automatic",
            "created": sandbox.now(),
            "currency": currency,
            "customer": customer,
            "description": description,
            "livemode": False,
            "managed_payments": {"enabled": False},
            "metadata": {},
            "payment_method_configuration_details": METHOD_CONFIGURATION,
            "payment_method_options": {"card": CARD_OPTIONS},
            "payment_method_types": ["card"],
            "setup_future_usage": None,
            "status": "requires_payment_method",
            **fields,
        }
    )
    sandbox.emit("payment_intent.created", row)
    return row


def made_for(order: Row) -> Row:
    """Make what an intent says of the invoice or Checkout session it collects; others have no such key."""
    return {"payment_details": {"customer_reference": None, "order_reference": order["id"]}}


def confirm(sandbox: Sandbox, intent: Row, method: Row, *, off_session: bool, authenticated: bool = False) -> bool:
    """Try to charge; True when paid (or held), False when the customer has to authenticate first.

    A refusal leaves the intent in requires_payment_method with its failed charge, and raises CardError.
    """
    card = cards.BY_NUMBER[method["_number"]]
    if needs_authentication(card, method, off_session=off_session, authenticated=authenticated):
        intent["status"] = "requires_action"
        intent["payment_method"] = method["id"]
        intent["next_action"] = next_action(sandbox, intent)
        sandbox.emit("payment_intent.requires_action", intent)
        return False
    method["card"]["checks"]["cvc_check"] = "pass"
    charge = charges.attempt(sandbox, intent, method, card.decline)
    intent["latest_charge"] = charge["id"]
    intent["next_action"] = None
    if card.decline is not None:
        fields = {**card.decline.fields(), "charge": charge["id"]}
        sandbox.emit("charge.failed", charge)
        raise refuse(sandbox, intent, method, card.decline.code, card.decline.message, **fields)
    if intent["setup_future_usage"] is not None and authenticated:
        method["_set_up"] = True
    intent.update(payment_method=method["id"], last_payment_error=None)
    if intent["capture_method"] == "manual":
        intent.update(status="requires_capture", amount_capturable=intent["amount"])
        sandbox.emit("charge.succeeded", charge)
        sandbox.emit("payment_intent.amount_capturable_updated", intent)
        later.schedule(sandbox, "lapse_hold", intent["id"], after=charges.HOLD_LASTS)
        return True
    intent.update(status="succeeded", amount_received=intent["amount"])
    if intent["capture_method"] == "automatic":
        charges.settle(sandbox, charge)
    else:
        later.schedule(sandbox, "settle", charge["id"], after=_SETTLES_AFTER)
    charges.follow_up(sandbox, charge)
    sandbox.emit("charge.succeeded", charge)
    sandbox.emit("payment_intent.succeeded", intent)
    return True


def settle(sandbox: Sandbox, charge: str) -> None:
    """Do what ``automatic_async`` puts off: enter the charge into the ledger."""
    row = sandbox.get("charge", charge)
    with sandbox.updating("charge.updated", row):
        charges.settle(sandbox, row)


def capture(sandbox: Sandbox, intent: Row, amount: int) -> None:
    """Take the whole hold or a part of it; the rest is released."""
    charge = sandbox.get("charge", intent["latest_charge"])
    with sandbox.updating("charge.captured", charge):
        charge.update(captured=True, amount_captured=amount)
        charges.settle(sandbox, charge)
    charges.follow_up(sandbox, charge)
    intent.update(status="succeeded", amount_capturable=0, amount_received=amount)
    sandbox.emit("payment_intent.succeeded", intent)


def lapse(sandbox: Sandbox, intent: str) -> None:
    """Let go of a hold that nobody captured in time."""
    row = sandbox.get("payment_intent", intent)
    if row["status"] != "requires_capture":
        return
    sandbox.emit("charge.expired", sandbox.get("charge", row["latest_charge"]))
    cancel(sandbox, row, "automatic")


def authenticate(sandbox: Sandbox, intent: Row, *, succeed: bool) -> bool:
    """Answer the 3D Secure challenge of an intent in requires_action; then as ``confirm``."""
    method = sandbox.get("payment_method", intent["payment_method"])
    if not succeed:
        intent["next_action"] = None
        raise refuse(sandbox, intent, method, "payment_intent_authentication_failure", FAILED_AUTHENTICATION)
    return confirm(sandbox, intent, method, off_session=False, authenticated=True)


def next_action(sandbox: Sandbox, intent: Row) -> Row:
    """Say where the customer authenticates: by redirect where the caller named a way back, else in Stripe.js."""
    url = f"{sandbox.base_url}/3ds/{intent['id']}"
    return_url = intent.get("_return_url")
    if return_url is None:
        sdk = {"stripe_js": url, "type": "three_d_secure_redirect"}
        return {"type": "use_stripe_sdk", "use_stripe_sdk": sdk}
    return {"type": "redirect_to_url", "redirect_to_url": {"return_url": return_url, "url": url}}


def refuse(sandbox: Sandbox, intent: Row, method: Row, code: str, message: str, **fields: Any) -> CardError:
    """Note a failed attempt on the intent and build the error to raise."""
    error = CardError(message, code=code, payment_method=public(method), **fields)
    intent["status"] = "requires_payment_method"
    intent["payment_method"] = None
    intent["last_payment_error"] = {
        **error.envelope(None)["error"],
        "payment_method_type": method["type"],
    }
    sandbox.emit("payment_intent.payment_failed", intent)
    error.fields["payment_intent"] = public(intent)
    return error


def cancel(sandbox: Sandbox, intent: Row, reason: str | None) -> None:
    """Give an intent up; what it holds is released."""
    if intent["status"] in {"succeeded", "canceled"}:
        return
    if intent["status"] == "requires_capture":
        charge = sandbox.get("charge", intent["latest_charge"])
        with sandbox.updating("charge.refunded", charge):
            charge.update(amount_refunded=charge["amount"], refunded=True)
    intent.update(
        status="canceled",
        amount_capturable=0,
        canceled_at=sandbox.now(),
        cancellation_reason=reason,
        next_action=None,
    )
    sandbox.emit("payment_intent.canceled", intent)


def needs_authentication(card: cards.TestCard, method: Row, *, off_session: bool, authenticated: bool) -> bool:
    if authenticated:
        return False
    return {
        "never": False,
        "unless_set_up": not method["_set_up"],
        "on_session": not off_session,
        "always": True,
    }[card.authentication]


def card_used(sandbox: Sandbox, card: cards.Card) -> Row:
    """Make the payment method of a card form; refuses what the form itself refuses."""
    return payment_methods.from_card(sandbox, card.check(sandbox.now()), card.exp_month, card.year)
