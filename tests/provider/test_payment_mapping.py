"""Payments as Stripe shows them, read as our values; and what can't be one refused."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider.stripe_data import JSON, START, unhurried

from app.provider.mapping.events import MAPPERS, map_event
from app.provider.mapping.payments import map_balance, map_balance_transaction, map_charge, map_payment_intent
from app.provider.mapping.reading import UnreadableError
from app.provider.payment_objects import Amount, Balance, Dispute, NextAction, Refund

INTENT: dict[str, Any] = {
    "id": "pi_3Qabc",
    "object": "payment_intent",
    "amount": 6500,
    "amount_capturable": 0,
    "amount_received": 0,
    "capture_method": "automatic_async",
    "client_secret": "pi_3Qabc_secret_x",
    "created": START,
    "currency": "usd",
    "customer": {"id": "cus_Qabc", "object": "customer"},
    "last_payment_error": {"code": "card_declined", "decline_code": "lost_card", "type": "card_error"},
    "livemode": True,
    "metadata": {"order": "7"},
    "next_action": {
        "type": "redirect_to_url",
        "redirect_to_url": {"return_url": "https://shop.example/", "url": "https://hooks.stripe.com/3ds"},
    },
    "status": "requires_action",
}
CHARGE: dict[str, Any] = {
    "id": "ch_3Qabc",
    "object": "charge",
    "amount": 6500,
    "amount_captured": 0,
    "amount_refunded": 0,
    "captured": False,
    "created": START,
    "currency": "usd",
    "disputed": False,
    "failure_code": "card_declined",
    "livemode": False,
    "metadata": {},
    "outcome": {"reason": "insufficient_funds", "type": "issuer_declined"},
    "payment_intent": "pi_3Qabc",
    "refunded": False,
    "status": "failed",
}
REFUND: dict[str, Any] = {
    "id": "re_3Qabc",
    "object": "refund",
    "amount": 500,
    "charge": "ch_3Qabc",
    "created": START,
    "currency": "usd",
    "metadata": None,
    "status": "succeeded",
}
DISPUTE: dict[str, Any] = {
    "id": "du_1Qabc",
    "object": "dispute",
    "amount": 6500,
    "charge": {"id": "ch_3Qabc", "object": "charge"},
    "created": START,
    "currency": "usd",
    "evidence_details": {"due_by": None},
    "livemode": False,
    "metadata": {},
    "reason": "fraudulent",
    "status": "a_status_from_next_year",
}


def event(shown: dict[str, Any], type: str) -> dict[str, Any]:
    told = {"id": "evt_1", "object": "event", "type": type, "created": START, "livemode": True, "api_version": None}
    return {**told, "data": {"object": shown}}


def test_a_payment_says_what_is_to_be_done_and_why_it_failed() -> None:
    intent = map_payment_intent(INTENT)
    assert intent.next_action == NextAction(type="redirect_to_url", url="https://hooks.stripe.com/3ds")
    assert (intent.failure_code, intent.decline_code, intent.customer) == ("card_declined", "lost_card", "cus_Qabc")
    assert "secret" not in repr(intent)
    scripted = map_payment_intent({**INTENT, "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": {"a": 1}}})
    assert scripted.next_action == NextAction(type="use_stripe_sdk", url=None)


def test_a_charge_has_a_reason_of_the_bank_s_only_when_it_failed() -> None:
    assert map_charge(CHARGE).decline_code == "insufficient_funds"
    risky = {**CHARGE, "failure_code": None, "status": "succeeded", "outcome": {"reason": "elevated_risk_level"}}
    assert map_charge(risky).decline_code is None


def test_a_refund_is_of_the_world_its_event_is_of() -> None:
    told = map_event(event(REFUND, "refund.created"))
    assert told.object == Refund(
        id="re_3Qabc",
        charge="ch_3Qabc",
        amount=500,
        currency="usd",
        status="succeeded",
        livemode=True,
        created=START,
    )


def test_a_dispute_of_any_status_is_read() -> None:
    told = map_event(event(DISPUTE, "charge.dispute.created"))
    assert told.object == Dispute(
        id="du_1Qabc",
        charge="ch_3Qabc",
        amount=6500,
        currency="usd",
        status="a_status_from_next_year",
        reason="fraudulent",
        created=START,
    )


def test_a_balance_may_be_below_zero() -> None:
    shown = {"available": [{"amount": -100, "currency": "usd", "source_types": {"card": -100}}], "pending": []}
    assert map_balance(shown) == Balance(available=[Amount(amount=-100, currency="usd")], pending=[])
    with pytest.raises(UnreadableError):
        map_balance({"available": None, "pending": []})


def test_a_movement_s_source_may_stand_there_whole() -> None:
    numbers = {"amount": -500, "fee": 0, "net": -500, "available_on": START, "created": START}
    words = {"id": "txn_1", "currency": "usd", "type": "refund", "reporting_category": "refund", "status": "pending"}
    assert map_balance_transaction({**numbers, **words, "source": REFUND}).source == "re_3Qabc"


@unhurried
@given(data=st.data())
def test_junk_is_refused_or_read_and_raises_nothing_else(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([INTENT, CHARGE, REFUND, DISPUTE]))
    spoilt = copy.deepcopy(original)
    spoilt[data.draw(st.sampled_from(sorted(original)))] = data.draw(JSON)
    try:
        MAPPERS[original["object"]](spoilt)
    except UnreadableError:
        return
