"""Disputes: opened by test cards, answered with evidence, won, lost and closed; and what they do to the balance."""

from typing import Any

import pytest
import stripe
from sandbox.driving import ManualClock, Receiver, Shop

DISPUTED = [
    ("pm_card_createDispute", "fraudulent", "10.4", "chargeback"),
    ("pm_card_createDisputeProductNotReceived", "product_not_received", "13.1", "chargeback"),
    ("pm_card_createDisputeInquiry", "fraudulent", "10", "inquiry"),
]


async def dispute(shop: Shop, clock: ManualClock, method: str = "pm_card_createDispute") -> Any:
    """Charge 60.00 usd to a card whose owner disputes it a moment later."""
    intent = await shop.client.v1.payment_intents.create_async(
        {
            "amount": 6000,
            "currency": "usd",
            "customer": shop.customer,
            "description": "Order 7",
            "payment_method": method,
            "confirm": True,
            "return_url": "http://app.test/back",
        }
    )
    assert intent.status == "succeeded"
    clock.advance(seconds=2)
    [found] = (await shop.client.v1.disputes.list_async({"payment_intent": intent.id})).data
    return found


@pytest.mark.parametrize(("method", "reason", "network_code", "case"), DISPUTED)
async def test_a_test_card_disputes_a_moment_after_its_charge(
    shop: Shop,
    clock: ManualClock,
    receiver: Receiver,
    *,
    method: str,
    reason: str,
    network_code: str,
    case: str,
) -> None:
    found = await dispute(shop, clock, method)
    inquiry = case == "inquiry"
    assert found.id.startswith("du_1")
    assert found.status == ("warning_needs_response" if inquiry else "needs_response")
    assert (found.reason, found.amount, found.is_charge_refundable) == (reason, 6000, inquiry)
    card = found.payment_method_details.card
    assert (card.network_reason_code, card.case_type) == (network_code, case)
    assert (found.evidence_details.due_by + 1) % 86_400 == 0
    assert (found.evidence_details.due_by + 1 - found.created) // 86_400 == 8
    assert found.evidence.customer_email_address == "ada@example.com"
    assert found.evidence.product_description == "Order 7"
    assert len(found.balance_transactions) == (0 if inquiry else 1)
    charge = await shop.client.v1.charges.retrieve_async(found.charge, {"expand": ["dispute"]})
    assert (charge.disputed, charge.dispute.id) == (True, found.id)
    await shop.sandbox.drain()
    told = [type for type in receiver.types() if "dispute" in type]
    assert told == ["charge.dispute.created"] + ([] if inquiry else ["charge.dispute.funds_withdrawn"])


async def test_winning_evidence_brings_the_money_back_but_not_the_fee(
    shop: Shop, clock: ManualClock, receiver: Receiver
) -> None:
    opened = await dispute(shop, clock)
    with pytest.raises(stripe.InvalidRequestError, match="has been charged back; cannot issue a refund") as caught:
        await shop.client.v1.refunds.create_async({"charge": opened.charge})
    assert caught.value.code == "charge_disputed"
    sent = await shop.client.v1.disputes.update_async(
        opened.id, {"evidence": {"uncategorized_text": "winning_evidence"}, "metadata": {"case": "7"}}
    )
    details = sent.evidence_details
    assert (sent.status, details.has_evidence, details.submission_count) == ("under_review", True, 1)
    clock.advance(seconds=2)
    won = await shop.client.v1.disputes.retrieve_async(opened.id)
    assert (won.status, won.is_charge_refundable, won.metadata["case"]) == ("won", True, "7")
    moved = [(entry.amount, entry.fee, entry.net, entry.reporting_category) for entry in won.balance_transactions]
    assert moved == [(-6000, 1500, -7500, "dispute"), (6000, 0, 6000, "dispute_reversal")]
    assert (await shop.client.v1.refunds.create_async({"charge": opened.charge})).amount == 6000
    await shop.sandbox.drain()
    told = [type.removeprefix("charge.dispute.") for type in receiver.types() if "dispute" in type]
    assert told == ["created", "funds_withdrawn", "updated", "closed", "funds_reinstated"]
    assert receiver.last("charge.dispute.closed")["data"]["previous_attributes"]["status"] == "under_review"


async def test_evidence_may_be_drafted_before_it_is_handed_in(shop: Shop, clock: ManualClock) -> None:
    opened = await dispute(shop, clock)
    disputes = shop.client.v1.disputes
    draft: Any = {"evidence": {"uncategorized_text": "losing_evidence"}, "submit": False}
    kept = await disputes.update_async(opened.id, draft)
    assert (kept.status, kept.evidence_details.submission_count) == ("needs_response", 0)
    assert (await disputes.update_async(opened.id, {"submit": True})).status == "under_review"
    clock.advance(seconds=2)
    assert (await disputes.retrieve_async(opened.id)).status == "lost"
    with pytest.raises(stripe.InvalidRequestError, match="This dispute is already closed"):
        await disputes.update_async(opened.id, draft)


async def test_closing_a_dispute_loses_it_at_once(shop: Shop, clock: ManualClock) -> None:
    opened = await dispute(shop, clock)
    closed = await shop.client.v1.disputes.close_async(opened.id)
    assert (closed.status, closed.evidence_details.has_evidence) == ("lost", False)
    assert len(closed.balance_transactions) == 1
    with pytest.raises(stripe.InvalidRequestError, match="already closed"):
        await shop.client.v1.disputes.close_async(opened.id)


async def test_a_dispute_that_nobody_answers_is_lost(shop: Shop, clock: ManualClock) -> None:
    opened = await dispute(shop, clock)
    clock.advance(days=10)
    lost = await shop.client.v1.disputes.retrieve_async(opened.id)
    assert (lost.status, lost.evidence_details.past_due) == ("lost", True)


@pytest.mark.parametrize(
    ("text", "status", "entries"),
    [
        ("Here is the invoice.", "warning_under_review", 0),
        ("losing_evidence", "warning_closed", 0),
        ("escalate_inquiry_evidence", "needs_response", 1),
    ],
)
async def test_an_inquiry_takes_no_money_unless_it_escalates(
    shop: Shop, clock: ManualClock, text: str, status: str, entries: int
) -> None:
    opened = await dispute(shop, clock, "pm_card_createDisputeInquiry")
    await shop.client.v1.disputes.update_async(opened.id, {"evidence": {"uncategorized_text": text}})
    clock.advance(seconds=2)
    found = await shop.client.v1.disputes.retrieve_async(opened.id)
    assert (found.status, len(found.balance_transactions)) == (status, entries)


async def test_a_hold_is_disputed_only_once_it_is_captured(shop: Shop, clock: ManualClock) -> None:
    held = await shop.client.v1.payment_intents.create_async(
        {
            "amount": 6000,
            "currency": "usd",
            "payment_method": "pm_card_createDispute",
            "confirm": True,
            "capture_method": "manual",
            "return_url": "http://app.test/back",
        }
    )
    clock.advance(seconds=5)
    assert (await shop.client.v1.disputes.list_async()).data == []
    await shop.client.v1.payment_intents.capture_async(held.id, {"amount_to_capture": 2000})
    clock.advance(seconds=5)
    found = await shop.client.v1.disputes.list_async({"charge": held.latest_charge})
    assert ([row.amount for row in found.data], found.count) == ([2000], 1)


async def test_an_unknown_dispute_is_a_404(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="No such dispute: 'du_nope'") as caught:
        await shop.client.v1.disputes.retrieve_async("du_nope")
    assert (caught.value.http_status, caught.value.param) == (404, "dispute")
