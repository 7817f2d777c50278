"""Refunds: of a part, of the rest, and of no more."""

from typing import Any

import httpx
import pytest
import stripe
from sandbox.driving import ManualClock, Receiver, Shop
from starlette.applications import Starlette


async def paid(shop: Shop) -> Any:
    """The charge of a subscription's first invoice, 99.00 usd."""
    await shop.subscribe()
    return (await shop.client.v1.charges.list_async({"customer": shop.customer})).data[0]


async def test_a_refund_in_two_parts_uses_up_the_charge(shop: Shop, receiver: Receiver) -> None:
    charge = await paid(shop)
    refunds = shop.client.v1.refunds
    first = await refunds.create_async({"charge": charge.id, "amount": 3000, "metadata": {"ticket": "7"}})
    assert (first.status, first.amount, first.reason, first.metadata.ticket) == ("succeeded", 3000, None, "7")
    assert first.id[3:20] == charge.id[3:20]
    seen = await shop.client.v1.charges.retrieve_async(charge.id)
    assert (seen.amount_refunded, seen.refunded) == (3000, False)
    rest = await refunds.create_async({"payment_intent": charge.payment_intent, "reason": "requested_by_customer"})
    assert rest.amount == charge.amount - 3000
    seen = await shop.client.v1.charges.retrieve_async(charge.id)
    assert (seen.amount_refunded, seen.refunded) == (charge.amount, True)
    await shop.sandbox.drain()
    told = [event for event in receiver.events if "refund" in event["type"]]
    assert [event["type"] for event in told] == ["refund.created", "charge.refunded"] * 2
    assert told[-1]["data"]["previous_attributes"] == {"amount_refunded": 3000, "refunded": False}
    listed = await refunds.list_async({"charge": charge.id})
    assert [refund.id for refund in listed.data] == [rest.id, first.id]
    assert (await refunds.retrieve_async(first.id)).payment_intent == charge.payment_intent
    assert (await refunds.update_async(first.id, {"metadata": {"ticket": "8"}})).metadata.ticket == "8"


async def test_the_invoice_of_a_refunded_charge_stays_paid(shop: Shop) -> None:
    charge = await paid(shop)
    await shop.client.v1.refunds.create_async({"charge": charge.id})
    [invoice] = (await shop.client.v1.invoices.list_async({"customer": shop.customer})).data
    assert (invoice.status, invoice.amount_paid) == ("paid", charge.amount)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "One of the following params should be provided for this request: payment_intent or charge."),
        ({"amount": 10_000}, r"Refund amount \(\$100.00\) is greater than unrefunded amount on charge \(\$99.00\)"),
    ],
)
async def test_a_wrong_refund_is_refused_in_stripes_words(shop: Shop, params: dict[str, Any], message: str) -> None:
    charge = await paid(shop)
    chosen: Any = {**params, "charge": charge.id} if params else {}
    with pytest.raises(stripe.InvalidRequestError, match=message):
        await shop.client.v1.refunds.create_async(chosen)


async def test_nothing_is_refunded_twice(shop: Shop) -> None:
    charge = await paid(shop)
    await shop.client.v1.refunds.create_async({"charge": charge.id})
    with pytest.raises(stripe.InvalidRequestError, match="has already been refunded") as refused:
        await shop.client.v1.refunds.create_async({"charge": charge.id})
    assert refused.value.code == "charge_already_refunded"


async def charged(shop: Shop, method: str, amount: int = 5000, currency: str = "usd") -> str:
    """Pay once with this card; gives the charge's id."""
    intent = await shop.client.v1.payment_intents.create_async(
        {
            "amount": amount,
            "currency": currency,
            "payment_method": method,
            "confirm": True,
            "return_url": "http://app.test/back",
        }
    )
    return str(intent.latest_charge)


async def test_a_refund_can_be_traced_a_moment_later(shop: Shop, clock: ManualClock, receiver: Receiver) -> None:
    refund = await shop.client.v1.refunds.create_async({"charge": await charged(shop, "pm_card_visa")})
    assert refund.balance_transaction is not None
    assert refund.destination_details.card.reference_status == "pending"
    clock.advance(seconds=2)
    card = (await shop.client.v1.refunds.retrieve_async(refund.id)).destination_details.card
    assert (card.reference_status, len(card.reference)) == ("available", 16)
    await shop.sandbox.drain()
    assert {"refund.updated", "charge.refund.updated"} <= set(receiver.types())


async def test_a_pending_refund_succeeds_later(shop: Shop, clock: ManualClock, receiver: Receiver) -> None:
    refund = await shop.client.v1.refunds.create_async({"charge": await charged(shop, "pm_card_pendingRefund")})
    assert refund.status == "pending"
    clock.advance(seconds=2)
    assert (await shop.client.v1.refunds.retrieve_async(refund.id)).status == "succeeded"
    await shop.sandbox.drain()
    assert receiver.last("refund.updated")["data"]["previous_attributes"]["status"] == "pending"


async def test_a_refund_that_the_bank_sends_back_has_failed(shop: Shop, clock: ManualClock, receiver: Receiver) -> None:
    charge = await charged(shop, "pm_card_refundFail")
    refund = await shop.client.v1.refunds.create_async({"charge": charge})
    assert refund.status == "succeeded"
    clock.advance(seconds=2)
    failed = await shop.client.v1.refunds.retrieve_async(refund.id, {"expand": ["failure_balance_transaction"]})
    assert (failed.status, failed.failure_reason) == ("failed", "expired_or_canceled_card")
    assert failed.failure_balance_transaction.amount == 5000
    seen = await shop.client.v1.charges.retrieve_async(charge)
    assert (seen.amount_refunded, seen.refunded) == (0, False)
    await shop.sandbox.drain()
    assert receiver.last("refund.failed")["data"]["object"]["id"] == refund.id


async def test_a_held_charge_is_not_refunded(shop: Shop) -> None:
    held = await shop.client.v1.payment_intents.create_async(
        {
            "amount": 5000,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "confirm": True,
            "capture_method": "manual",
            "return_url": "http://app.test/back",
        }
    )
    with pytest.raises(stripe.InvalidRequestError, match="You must cancel the PaymentIntent to reverse"):
        await shop.client.v1.refunds.create_async({"charge": held.latest_charge})
    await shop.client.v1.payment_intents.capture_async(held.id, {"amount_to_capture": 2000})
    with pytest.raises(stripe.InvalidRequestError, match=r"greater than unrefunded amount on charge \(\$20.00\)"):
        await shop.client.v1.refunds.create_async({"charge": held.latest_charge, "amount": 2001})
    assert (await shop.client.v1.refunds.create_async({"charge": held.latest_charge})).amount == 2000


async def test_a_receipt_says_what_was_given_back(shop: Shop, sandbox_app: Starlette) -> None:
    charge = await charged(shop, "pm_card_visa", 12_340, "kwd")
    await shop.client.v1.refunds.create_async({"charge": charge, "amount": 2340})
    transport = httpx.ASGITransport(sandbox_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox.test") as browser:
        receipt = await browser.get(f"/receipts/{charge}")
    assert "12.340 KWD" in receipt.text
    assert "2.340 KWD" in receipt.text.partition("Refunded")[2]


async def test_refunds_are_found_by_their_charge(shop: Shop) -> None:
    charge = await charged(shop, "pm_card_visa", 12_340, "kwd")
    refund = await shop.client.v1.refunds.create_async({"charge": charge, "amount": 2340})
    found = await shop.client.v1.refunds.list_async({"charge": charge})
    assert ([row.id for row in found.data], found.count) == ([refund.id], 1)
    seen = await shop.client.v1.charges.retrieve_async(charge, {"expand": ["refunds"]})
    assert ([row.id for row in seen.refunds.data], seen.refunds.total_count) == ([refund.id], 1)
    with pytest.raises(stripe.InvalidRequestError, match=r"Refund amount \(10.010 KWD\)"):
        await shop.client.v1.refunds.create_async({"charge": charge, "amount": 10_010})
    with pytest.raises(stripe.InvalidRequestError, match="Canceling this refund is unsupported"):
        await shop.client.v1.refunds.cancel_async(refund.id)
    with pytest.raises(stripe.InvalidRequestError, match="No such charge: 'ch_nope'") as caught:
        await shop.client.v1.refunds.create_async({"charge": "ch_nope"})
    assert (caught.value.http_status, caught.value.param) == (404, "id")
