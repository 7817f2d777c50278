"""Charging: PaymentIntents, the network's answer for a test card, Charges, and 3D Secure."""

from typing import Any, Literal

from app.sandbox import cards
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


def confirm(sandbox: Sandbox, intent: Row, method: Row, *, off_session: bool, authenticated: bool = False) -> bool:
    """Try to charge; True when paid, False when the customer has to authenticate first.

    A refusal leaves the intent in requires_payment_method with its failed charge, and raises CardError.
    """
    card = cards.BY_NUMBER[method["_number"]]
    if needs_authentication(card, method, off_session=off_session, authenticated=authenticated):
        intent["status"] = "requires_action"
        intent["payment_method"] = method["id"]
        intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
        sandbox.emit("payment_intent.requires_action", intent)
        return False
    method["card"]["checks"]["cvc_check"] = "pass"
    charge = _new_charge(sandbox, intent, method, card.decline)
    intent["latest_charge"] = charge["id"]
    intent["next_action"] = None
    if card.decline is not None:
        fields = {**card.decline.fields(), "charge": charge["id"]}
        sandbox.emit("charge.failed", charge)
        raise refuse(sandbox, intent, method, card.decline.code, card.decline.message, **fields)
    intent.update(
        status="succeeded",
        amount_received=intent["amount"],
        payment_method=method["id"],
        last_payment_error=None,
    )
    if intent["setup_future_usage"] is not None and authenticated:
        method["_set_up"] = True
    sandbox.emit("charge.succeeded", charge)
    sandbox.emit("payment_intent.succeeded", intent)
    return True


def authenticate(sandbox: Sandbox, intent: Row, *, succeed: bool) -> bool:
    """Answer the 3D Secure challenge of an intent in requires_action; then as ``confirm``."""
    method = sandbox.get("payment_method", intent["payment_method"])
    if not succeed:
        intent["next_action"] = None
        raise refuse(sandbox, intent, method, "payment_intent_authentication_failure", FAILED_AUTHENTICATION)
    return confirm(sandbox, intent, method, off_session=False, authenticated=True)


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


def cancel(sandbox: Sandbox, intent: Row, reason: Literal["void_invoice", "abandoned", "automatic"]) -> None:
    if intent["status"] in {"succeeded", "canceled"}:
        return
    intent.update(status="canceled", canceled_at=sandbox.now(), cancellation_reason=reason, next_action=None)
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


def _new_charge(sandbox: Sandbox, intent: Row, method: Row, decline: cards.Decline | None) -> Row:
    id = sandbox.new.sibling("ch_", intent["id"])
    shown = public(method["card"])
    details = {
        **{name: shown[name] for name in ("brand", "checks", "country", "exp_month", "exp_year")},
        **{name: shown[name] for name in ("fingerprint", "funding", "last4", "regulated_status", "wallet")},
        "amount_authorized": None if decline else intent["amount"],
        "authorization_code": None if decline else sandbox.new.text(6, "0123456789"),
        "extended_authorization": {"status": "disabled"},
        "incremental_authorization": {"status": "unavailable"},
        "installments": None,
        "mandate": None,
        "multicapture": {"status": "unavailable"},
        "network": shown["brand"],
        "network_token": {"used": False},
        "network_transaction_id": None if decline else sandbox.new.text(15, "0123456789"),
        "overcapture": {"maximum_amount_capturable": intent["amount"], "status": "unavailable"},
        "three_d_secure": None,
        "transaction_link_id": None,
    }
    return sandbox.insert(
        {
            **dict.fromkeys(
                (
                    "application",
                    "application_fee",
                    "application_fee_amount",
                    "balance_transaction",
                    "customer_account",
                    "dispute",
                    "failure_balance_transaction",
                    "on_behalf_of",
                    "receipt_email",
                    "receipt_number",
                    "review",
                    "shipping",
                    "source",
                    "source_transfer",
                    "statement_descriptor",
                    "statement_descriptor_suffix",
                    "transfer_data",
                    "transfer_group",
                )
            ),
            "id": id,
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": 0 if decline else intent["amount"],
            "amount_refunded": 0,
            "billing_details": public(method["billing_details"]),
            "calculated_statement_descriptor": "BILLHOOK SANDBOX",
            "captured": decline is None,
            "created": sandbox.now(),
            "currency": intent["currency"],
            "customer": intent["customer"],
            "description": intent["description"],
            "disputed": False,
            "failure_code": decline and decline.code,
            "failure_message": decline and decline.message,
            "fraud_details": {},
            "livemode": False,
            "metadata": {},
            "outcome": _outcome(decline),
            "paid": decline is None,
            "payment_intent": intent["id"],
            "payment_method": method["id"],
            "payment_method_details": {"card": details, "type": "card"},
            "radar_options": {},
            "receipt_url": None if decline else f"{sandbox.base_url}/receipts/{id}",
            "refunded": False,
            "status": "failed" if decline else "succeeded",
        }
    )


def _outcome(decline: cards.Decline | None) -> Row:
    if decline is None:
        return {
            "advice_code": None,
            "network_advice_code": None,
            "network_decline_code": None,
            "network_status": "approved_by_network",
            "reason": None,
            "risk_level": "normal",
            "risk_score": 20,
            "seller_message": "Payment complete.",
            "type": "authorized",
        }
    return {
        "advice_code": "try_again_later",
        "network_advice_code": None,
        "network_decline_code": "01",
        "network_status": "declined_by_network",
        "reason": decline.decline_code or decline.code,
        "risk_level": "normal",
        "risk_score": 20,
        "seller_message": "The bank did not return any further details with this decline.",
        "type": "issuer_declined",
    }
