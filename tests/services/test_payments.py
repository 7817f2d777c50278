"""Payments followed by webhooks: whatever order, however often; whose they are; and who is told."""

import random
import time
from typing import Any

import pytest
from billing import Account
from comparing import causes, compare
from sqlalchemy import select

from app import models
from app.sandbox.resources import disputes, payment_intents, refunds
from app.worker.backfill import sync

PAID: dict[str, Any] = {
    "amount": 6500,
    "currency": "usd",
    "confirm": True,
    "payment_method": "pm_card_visa",
    "return_url": "https://app.example.com/back",
}


async def customer_of(account: Account) -> str:
    """Ada, who has bought a plan and whom we know."""
    await account.buy()
    await account.deliver_and_process(account.events())
    found: str = account.sandbox.rows("customer")[0]["id"]
    return found


def pay(account: Account, **params: Any) -> str:
    """Collect a payment at Stripe; gives its charge."""
    with account.sandbox.changing():
        charge: str = payment_intents.create(account.sandbox, {**PAID, **params})["latest_charge"]
        return charge


def refund(account: Account, charge: str, **params: Any) -> dict[str, Any]:
    with account.sandbox.changing():
        return refunds.create(account.sandbox, {"charge": charge, **params})


async def one(account: Account, model: type[Any], stripe_id: str) -> Any:
    async with account.sessions() as session:
        return await session.scalar(select(model).where(model.stripe_id == stripe_id))


async def outbox(account: Account, prefix: str) -> list[tuple[str, str]]:
    async with account.sessions() as session:
        rows = await session.scalars(select(models.OutboxMessage).order_by(models.OutboxMessage.id))
        return [(row.type, row.subject) for row in rows if row.type.startswith(prefix)]


async def test_a_payment_and_its_refunds_are_followed(account: Account) -> None:
    customer = await customer_of(account)
    charge = pay(account, customer=customer, description="Order 7", metadata={"order": "7"})
    given_back = refund(account, charge, amount=2500, reason="requested_by_customer")
    await account.deliver_and_process(account.events())
    ada = await one(account, models.Customer, customer)
    row = await one(account, models.Charge, charge)
    assert (row.customer_id, row.amount, row.amount_refunded, row.refunded) == (ada.id, 6500, 2500, False)
    assert (row.status, row.captured, row.description) == ("succeeded", True, "Order 7")
    intent = await one(account, models.PaymentIntent, row.payment_intent)
    assert (intent.customer_id, intent.status, intent.amount_received) == (ada.id, "succeeded", 6500)
    assert (intent.stripe_metadata, intent.latest_charge) == ({"order": "7"}, charge)
    back = await one(account, models.Refund, given_back["id"])
    assert (back.customer_id, back.amount, back.reason, back.livemode) == (
        ada.id,
        2500,
        "requested_by_customer",
        False,
    )
    assert await outbox(account, "payment.refund") == [("payment.refunded", given_back["id"])]


async def test_no_client_secret_and_no_link_is_kept_for_ever(account: Account) -> None:
    charge = pay(account, customer=await customer_of(account))
    await account.deliver_and_process(account.events())
    entries = [row for row in await account.all(models.AuditRow) if row.subject == charge]
    assert [entry.action for entry in entries] == ["charge.created"]
    everything = str([(row.before, row.after) for row in await account.all(models.AuditRow)])
    assert "_secret_" not in everything
    assert "/receipts/" not in everything


@pytest.mark.parametrize("seed", range(5))
async def test_in_whatever_order_the_news_comes_the_end_is_the_same(account: Account, seed: int) -> None:
    customer = await customer_of(account)
    charge = pay(account, customer=customer)
    first, second = refund(account, charge, amount=1000), refund(account, charge)
    declined = {**PAID, "customer": customer, "payment_method": "pm_card_chargeCustomerFail"}
    with pytest.raises(Exception, match="declined"), account.sandbox.changing():
        payment_intents.create(account.sandbox, declined)
    news = account.events() * 2
    random.Random(seed).shuffle(news)  # noqa: S311 - an order, not a secret
    for event in news:
        await account.deliver(event)
        await account.process()
    row = await one(account, models.Charge, charge)
    assert (row.amount_refunded, row.refunded) == (6500, True)
    assert {back.stripe_id for back in await account.all(models.Refund)} == {first["id"], second["id"]}
    assert sorted(intent.status for intent in await account.all(models.PaymentIntent)) == [
        "requires_payment_method",
        "succeeded",
        "succeeded",
    ]
    assert sorted(await outbox(account, "payment.refunded")) == sorted(
        ("payment.refunded", back["id"]) for back in (first, second)
    )


async def test_a_dispute_belongs_to_whose_charge_it_is(account: Account) -> None:
    customer = await customer_of(account)
    charge = pay(account, customer=customer, payment_method="pm_card_createDispute")
    with account.sandbox.changing():
        disputes.open_(account.sandbox, charge)
    # Its own news alone, before anything of the charge: that has to be fetched to know whose it is.
    await account.deliver_and_process(account.events("charge.dispute.created", "charge.dispute.funds_withdrawn"))
    [row] = await account.all(models.Dispute)
    ada = await one(account, models.Customer, customer)
    assert (row.customer_id, row.status, row.reason, row.amount) == (ada.id, "needs_response", "fraudulent", 6500)
    assert row.evidence_due_by > time.time()
    assert await outbox(account, "dispute") == [("dispute.opened", row.stripe_id)]
    async with account.sessions() as session:
        told = await session.scalar(select(models.OutboxMessage).where(models.OutboxMessage.type == "dispute.opened"))
    assert told is not None
    assert told.customer_id == ada.id


async def test_the_end_of_a_dispute_is_told_once(account: Account) -> None:
    charge = pay(account, payment_method="pm_card_createDispute")
    box = account.sandbox
    with box.changing():
        disputes.open_(box, charge)
        [row] = box.rows("dispute")
        disputes.update(box, {"evidence": {"uncategorized_text": "winning_evidence"}}, row["id"])
        disputes.decide(box, row["id"])
    await account.deliver_and_process(account.events())
    await account.deliver_and_process(account.events())
    [ours] = await account.all(models.Dispute)
    assert ours.status == "won"
    assert await outbox(account, "dispute") == [("dispute.opened", row["id"]), ("dispute.closed", row["id"])]


async def test_a_refund_that_comes_back_is_told_too(account: Account) -> None:
    charge = pay(account, payment_method="pm_card_refundFail")
    back = refund(account, charge)
    await account.deliver_and_process(account.events())
    with account.sandbox.changing():
        refunds.fail(account.sandbox, back["id"])
    await account.deliver_and_process(account.events("refund.failed", "refund.updated"))
    row = await one(account, models.Refund, back["id"])
    assert (row.status, row.failure_reason) == ("failed", "expired_or_canceled_card")
    assert await outbox(account, "payment.refund") == [
        ("payment.refunded", back["id"]),
        ("payment.refund_failed", back["id"]),
    ]


async def test_lost_news_of_payments_is_found_and_mended(account: Account) -> None:
    customer = await customer_of(account)
    charge = pay(account, customer=customer, payment_method="pm_card_createDispute")
    with account.sandbox.changing():
        disputes.open_(account.sandbox, charge)
    other = pay(account, customer=customer)
    refund(account, other)
    run = await compare(account, repair=True)
    assert {"payment_intent", "charge", "refund", "dispute"} <= {kind for kind, _ in await causes(account, run)}
    assert (await one(account, models.Charge, other)).refunded
    ada = await one(account, models.Customer, customer)
    assert [row.customer_id for row in await account.all(models.Dispute)] == [ada.id]
    again = await compare(account)
    assert not {kind for kind, _ in await causes(account, again)} & {"payment_intent", "charge", "refund", "dispute"}


async def test_payments_of_the_past_are_taken_over_and_announced_to_nobody(account: Account) -> None:
    box = account.sandbox
    with box.at(int(time.time()) - 3600):
        charge = pay(account, payment_method="pm_card_createDispute")
        with box.changing():
            disputes.open_(box, charge)
        refund(account, pay(account), amount=100)
    await sync(account.sessions, account.provider, actor="cli", since=None, watch=lambda _: None)
    counted = {
        model.__name__: len(await account.all(model))
        for model in (models.PaymentIntent, models.Charge, models.Refund, models.Dispute)
    }
    assert counted == {"PaymentIntent": 2, "Charge": 2, "Refund": 1, "Dispute": 1}
    assert await outbox(account, "") == []
