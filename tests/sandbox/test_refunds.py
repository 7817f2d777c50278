"""Refunds: of a part, of the rest, and of no more."""

from typing import Any

import pytest
import stripe
from sandbox.driving import Receiver, Shop


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
