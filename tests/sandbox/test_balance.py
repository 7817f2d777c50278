"""The balance and its transactions: fees, refunds and disputes to the unit, in every currency."""

from typing import Any

import pytest
import stripe
from sandbox.driving import ManualClock, Shop


async def pay(shop: Shop, clock: ManualClock, amount: int, currency: str = "usd", **params: Any) -> Any:
    """Charge, and wait until the charge has settled."""
    intent = await shop.client.v1.payment_intents.create_async(
        {
            "amount": amount,
            "currency": currency,
            "payment_method": "pm_card_visa",
            "confirm": True,
            "return_url": "http://app.test/back",
            **params,
        }
    )
    clock.advance(seconds=3)
    return await shop.client.v1.charges.retrieve_async(intent.latest_charge, {"expand": ["balance_transaction"]})


def standing(balance: Any, currency: str) -> tuple[int, int]:
    """What is available and what is pending in a currency."""
    available, pending = [
        next(entry.amount for entry in balance[name] if entry.currency == currency) for name in ("available", "pending")
    ]
    return available, pending


async def test_a_charge_settles_less_stripes_fee_a_week_later(shop: Shop, clock: ManualClock) -> None:
    charge = await pay(shop, clock, 4400, description="Order 7")
    entry = charge.balance_transaction
    assert (entry.amount, entry.fee, entry.net, entry.type) == (4400, 158, 4242, "charge")  # 2.9 % + 30 = 157.6
    assert (entry.description, entry.status, entry.exchange_rate) == ("Order 7", "pending", None)
    [fee] = entry.fee_details
    assert (fee.amount, fee.type, fee.description) == (158, "stripe_fee", "Stripe processing fees")
    assert entry.available_on % 86_400 == 0
    assert 6 * 86_400 < entry.available_on - charge.created <= 7 * 86_400
    assert standing(await shop.client.v1.balance.retrieve_async(), "usd") == (0, 4242)
    clock.advance(days=7)
    assert standing(await shop.client.v1.balance.retrieve_async(), "usd") == (4242, 0)
    assert (await shop.client.v1.balance_transactions.retrieve_async(entry.id)).status == "available"


async def test_a_card_from_abroad_costs_more(shop: Shop, clock: ManualClock) -> None:
    """Recorded: 193 of 4400."""
    setup = await shop.client.v1.setup_intents.create_async(
        {"customer": shop.customer, "payment_method": "pm_card_threeDSecure2Required", "confirm": True}
    )
    with shop.sandbox.transaction():
        shop.sandbox.get("payment_method", setup.payment_method)["_set_up"] = True
    charge = await pay(shop, clock, 4400, payment_method=setup.payment_method)
    assert charge.balance_transaction.fee == 193


async def test_a_refund_gives_back_no_fee(shop: Shop, clock: ManualClock) -> None:
    charge = await pay(shop, clock, 4400, description="Order 7")
    refund = await shop.client.v1.refunds.create_async(
        {"charge": charge.id, "amount": 1400, "expand": ["balance_transaction"]}
    )
    entry = refund.balance_transaction
    assert (entry.amount, entry.fee, entry.net, entry.reporting_category) == (-1400, 0, -1400, "refund")
    assert (entry.description, entry.fee_details) == ("REFUND FOR CHARGE (Order 7)", [])
    assert entry.available_on == charge.balance_transaction.available_on
    by_source = await shop.client.v1.balance_transactions.list_async({"source": refund.id})
    assert [found.id for found in by_source.data] == [entry.id]
    assert standing(await shop.client.v1.balance.retrieve_async(), "usd") == (0, 4242 - 1400)


async def test_what_bypasses_pending_is_available_at_once(shop: Shop, clock: ManualClock) -> None:
    charge = await pay(shop, clock, 1000, payment_method="pm_card_bypassPending")
    assert charge.balance_transaction.status == "available"
    assert standing(await shop.client.v1.balance.retrieve_async(), "usd") == (941, 0)


@pytest.mark.parametrize(("currency", "amount", "fee"), [("jpy", 500, 45), ("kwd", 12_340, 388), ("eur", 1001, 59)])
async def test_every_currency_settles_exactly_in_itself(
    shop: Shop, clock: ManualClock, currency: str, amount: int, fee: int
) -> None:
    charge = await pay(shop, clock, amount, currency)
    entry = charge.balance_transaction
    assert (entry.amount, entry.fee, entry.net, entry.currency) == (amount, fee, amount - fee, currency)
    assert standing(await shop.client.v1.balance.retrieve_async(), currency) == (0, amount - fee)


async def test_transactions_are_listed_newest_first_and_filtered(shop: Shop, clock: ManualClock) -> None:
    first = await pay(shop, clock, 1000)
    second = await pay(shop, clock, 2000, "eur")
    transactions = shop.client.v1.balance_transactions
    everything = await transactions.list_async({"expand": ["data.source"]})
    assert [entry.source.id for entry in everything.data] == [second.id, first.id]
    assert [entry.amount for entry in (await transactions.list_async({"currency": "eur"})).data] == [2000]
    for nothing in ({"type": "bogus"}, {"currency": "chf"}):
        assert (await transactions.list_async(nothing)).data == []
    with pytest.raises(stripe.InvalidRequestError, match="No such payout: 'po_nope'") as caught:
        await transactions.list_async({"payout": "po_nope"})
    assert caught.value.http_status == 400
    with pytest.raises(stripe.InvalidRequestError, match="No such balance transaction: 'txn_nope'"):
        await transactions.retrieve_async("txn_nope")


async def test_an_account_without_movements_has_zero(shop: Shop) -> None:
    balance = await shop.client.v1.balance.retrieve_async()
    assert standing(balance, "usd") == (0, 0)
    assert balance.refund_and_dispute_prefunding.available[0].amount == 0
