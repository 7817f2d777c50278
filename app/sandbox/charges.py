"""Charges: one attempt at a payment method each, approved or declined, settled into the balance."""

from typing import Any

from app.sandbox import cards, later, ledger
from app.sandbox.periods import DAY
from app.sandbox.rendering import public
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

HOLD_LASTS = 7 * DAY

_NULLS = dict.fromkeys(
    (
        "application",
        "application_fee",
        "application_fee_amount",
        "balance_transaction",
        "customer_account",
        "dispute",
        "failure_balance_transaction",
        "on_behalf_of",
        "receipt_number",
        "review",
        "source",
        "source_transfer",
        "transfer_data",
    )
)
_COPIED = (
    "currency",
    "customer",
    "description",
    "receipt_email",
    "shipping",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_group",
)


def attempt(sandbox: Sandbox, intent: Row, method: Row, decline: cards.Decline | None) -> Row:
    """Store the charge of one attempt; ``decline`` is the network's refusal, None where it approved."""
    id = sandbox.new.sibling("ch_", intent["id"])
    held = intent["capture_method"] == "manual"
    captured = decline is None and not held
    return sandbox.insert(
        {
            **_NULLS,
            **{name: intent[name] for name in _COPIED},
            "id": id,
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": intent["amount"] if captured else 0,
            "amount_refunded": 0,
            "billing_details": public(method["billing_details"]),
            "calculated_statement_descriptor": "BILLHOOK SANDBOX",
            "captured": captured,
            "created": sandbox.now(),
            "disputed": False,
            "failure_code": decline and decline.code,
            "failure_message": decline and decline.message,
            "fraud_details": {},
            "livemode": False,
            "metadata": {},
            "outcome": _outcome(method, decline),
            "paid": decline is None,
            "payment_intent": intent["id"],
            "payment_method": method["id"],
            "payment_method_details": {
                "card": _card_details(sandbox, intent, method, approved=decline is None, held=held),
                "type": "card",
            },
            "radar_options": {},
            "receipt_url": None if decline else f"{sandbox.base_url}/receipts/{id}",
            "refunded": False,
            "status": "failed" if decline else "succeeded",
            "_number": method["_number"],  # what its test card does next
        }
    )


def card_of(charge: Row) -> cards.TestCard:
    return cards.BY_NUMBER[charge["_number"]]


def settle(sandbox: Sandbox, charge: Row) -> None:
    """Enter the captured amount into the ledger, less Stripe's fee."""
    card = card_of(charge)
    entry = ledger.book(
        sandbox,
        sandbox.new.sibling("txn_", charge["payment_intent"]),
        amount=charge["amount_captured"],
        fee=ledger.charge_fee(charge["amount_captured"], card.country),
        currency=charge["currency"],
        source=charge["id"],
        kind=("charge", "charge"),
        description=charge["description"],
        available_on=sandbox.now() if card.settles_at_once else ledger.settlement_day(sandbox),
    )
    charge["balance_transaction"] = entry["id"]


def follow_up(sandbox: Sandbox, charge: Row) -> None:
    """Set off what this test card's customer does once their money is taken."""
    if card_of(charge).dispute is not None:
        later.schedule(sandbox, "dispute", charge["id"], after=1)


def _card_details(sandbox: Sandbox, intent: Row, method: Row, *, approved: bool, held: bool) -> Row:
    shown = public(method["card"])
    digits = "0123456789"
    details: dict[str, Any] = {
        **{name: shown[name] for name in ("brand", "checks", "country", "exp_month", "exp_year")},
        **{name: shown[name] for name in ("fingerprint", "funding", "last4", "regulated_status", "wallet")},
        "amount_authorized": intent["amount"] if approved else None,
        "authorization_code": sandbox.new.text(6, digits) if approved else None,
        "extended_authorization": {"status": "disabled"},
        "incremental_authorization": {"status": "unavailable"},
        "installments": None,
        "mandate": None,
        "multicapture": {"status": "unavailable"},
        "network": shown["brand"],
        "network_token": {"used": False},
        "network_transaction_id": sandbox.new.text(15, digits) if approved else None,
        "overcapture": {"maximum_amount_capturable": intent["amount"], "status": "unavailable"},
        "three_d_secure": None,
        "transaction_link_id": None,
    }
    if approved and held:
        details["capture_before"] = sandbox.now() + HOLD_LASTS
    return details


def _outcome(method: Row, decline: cards.Decline | None) -> Row:
    risk = cards.BY_NUMBER[method["_number"]].risk
    outcome: dict[str, Any] = {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": "approved_by_network",
        "reason": "elevated_risk_level" if risk == "elevated" else None,
        "risk_level": risk,
        "risk_score": {"normal": 20, "elevated": 68, "highest": 90}[risk],
        "seller_message": "Payment complete.",
        "type": "authorized",
    }
    if decline is None:
        return outcome
    if risk == "highest":
        return outcome | {
            "network_status": "not_sent_to_network",
            "reason": "highest_risk_level",
            "seller_message": "Stripe blocked this payment as too risky.",
            "type": "blocked",
        }
    return outcome | {
        "advice_code": decline.advice_code,
        "network_advice_code": decline.network_advice_code,
        "network_decline_code": decline.network_decline_code,
        "network_status": "declined_by_network",
        "reason": decline.decline_code or decline.code,
        "seller_message": "The bank did not return any further details with this decline.",
        "type": "issuer_declined",
    }
