"""Payments followed by webhooks: whatever order, however often; whose they are; and who is told."""

import random
import time
from dataclasses import replace
from typing import Any

import pytest
from billing import STRIPE, URLS, Account, card
from comparing import Interfered, causes, compare
from sqlalchemy import func, select, update

from app import models
from app.db import transaction
from app.errors import UnavailableError
from app.sandbox import checkout as hosted
from app.sandbox.resources import checkout_sessions, customers, disputes, payment_intents, refunds
from app.services import payment_rows, payments
from app.services.mirror import NO_ROW, AsOf
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


async def test_a_payment_is_announced_once_whatever_it_is_for(account: Account) -> None:
    customer = await customer_of(account)
    [invoice] = account.sandbox.rows("invoice")
    assert await outbox(account, "payment.received") == [("payment.received", invoice["id"])]
    pay(account, customer=customer, currency="jpy")
    *_, alone = account.sandbox.rows("payment_intent")
    with account.sandbox.changing():
        sold = {"price_data": {"currency": "kwd", "unit_amount": 9990, "product_data": {"name": "Pack"}}, "quantity": 1}
        session = checkout_sessions.create(
            account.sandbox, {"mode": "payment", "customer": customer, "line_items": [sold], **URLS}
        )
    hosted.pay(account.sandbox, session["id"], card())
    news = account.events() * 2
    random.Random(7).shuffle(news)  # noqa: S311 - an order, not a secret
    for event in news:
        await account.deliver_and_process([event])
    told = [row for row in await account.all(models.OutboxMessage) if row.type == "payment.received"]
    bought = account.sandbox.get("checkout.session", session["id"])["payment_intent"]
    assert {row.subject: (row.key, row.data["amount_paid"], row.data["currency"]) for row in told} == {
        invoice["id"]: (f"payment.received:{invoice['id']}", 9900, "usd"),
        alone["id"]: (f"payment.received:{alone['id']}", 6500, "jpy"),
        session["id"]: (f"payment.received:{bought}", 9990, "kwd"),
    }
    ada = await one(account, models.Customer, customer)
    assert {row.customer_id for row in told} == {ada.id}
    assert len(told) == 3


async def test_a_payment_is_announced_when_it_is_collected_and_not_before(account: Account) -> None:
    charge = pay(account, customer=await customer_of(account), capture_method="manual")
    await account.deliver_and_process(account.events())
    row = await one(account, models.Charge, charge)
    assert ("payment.received", row.payment_intent) not in await outbox(account, "payment.received")
    async with transaction(account.sessions) as session:
        await payments.capture(
            session,
            account.provider,
            id=row.payment_intent,
            user_id=None,
            amount=2500,
            idempotency_key="capture",
            actor="service",
        )
    await account.deliver_and_process(account.events())
    told = await account.all(models.OutboxMessage)
    [received] = [message for message in told if message.subject == row.payment_intent]
    assert (received.type, received.data["amount_paid"]) == ("payment.received", 2500)


async def test_no_client_secret_and_no_link_is_kept_for_ever(account: Account) -> None:
    charge = pay(account, customer=await customer_of(account))
    await account.deliver_and_process(account.events())
    entries = [row for row in await account.all(models.AuditRow) if row.subject == charge]
    assert [entry.action for entry in entries] == ["charge.created"]
    everything = str([(row.before, row.after) for row in await account.all(models.AuditRow)])
    assert "_secret_" not in everything
    assert "/receipts/" not in everything


@pytest.mark.parametrize("seed", range(3))
async def test_a_dispute_ends_as_stripe_says_in_whatever_order_it_is_told(account: Account, seed: int) -> None:
    customer = await customer_of(account)
    charge = pay(account, customer=customer, payment_method="pm_card_createDispute")
    box = account.sandbox
    with box.changing():
        disputes.open_(box, charge)
        [dispute] = box.rows("dispute")
        disputes.close(box, {}, dispute["id"])
    refund(account, pay(account, customer=customer), amount=1000)
    news = account.events() * 2
    random.Random(seed).shuffle(news)  # noqa: S311 - an order, not a secret
    for event in news:
        await account.deliver(event)
        await account.process()
    ada = await one(account, models.Customer, customer)
    [ours] = await account.all(models.Dispute)
    assert (ours.status, ours.customer_id) == ("lost", ada.id)
    assert {row.customer_id for row in await account.all(models.Refund)} == {ada.id}
    assert not await causes(account, await compare(account))
    told = await outbox(account, "dispute")
    assert sorted(told) == [("dispute.closed", dispute["id"]), ("dispute.opened", dispute["id"])]


async def test_a_dispute_waits_for_its_charge_while_stripe_is_away(account: Account) -> None:
    charge = pay(account, customer=await customer_of(account), payment_method="pm_card_createDispute")
    with account.sandbox.changing():
        disputes.open_(account.sandbox, charge)

    async def away(operation: str, _number: int) -> None:
        if operation == "retrieve_charge":
            raise UnavailableError("Stripe does not answer.")

    reached = account.inbox
    account.inbox = replace(reached, provider=Interfered(account.provider, away))
    [opened] = account.events("charge.dispute.created")
    await account.deliver_and_process([opened])
    assert await account.all(models.Dispute) == []
    account.inbox = reached
    async with account.sessions.begin() as session:
        await session.execute(update(models.StripeEvent).values(next_attempt_at=func.now()))
    await account.process()
    [row] = await account.all(models.Dispute)
    assert row.customer_id is not None


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


async def test_what_was_collected_before_a_crash_is_collected_once(account: Account) -> None:
    customer = await customer_of(account)
    ada = await one(account, models.Customer, customer)

    async def collect() -> Any:
        return await payments.create(
            session,
            account.provider,
            user_id=ada.user_id,
            amount=6500,
            currency="usd",
            capture_method="automatic",
            payment_method="pm_card_visa",
            confirm=True,
            off_session=True,
            return_url=None,
            setup_future_usage=None,
            receipt_email=None,
            description=None,
            metadata={},
            idempotency_key="order-7",
            actor="test",
        )

    async def give_back(id: str) -> Any:
        return await payments.refund(
            session,
            account.provider,
            payment_id=id,
            amount=1000,
            reason=None,
            idempotency_key="back-7",
            actor="test",
        )

    async with account.sessions() as session:
        first = await collect()
        await session.rollback()
        back = await give_back(first.id)
        await session.rollback()
    assert (await one(account, models.PaymentIntent, first.id), await account.all(models.Refund)) == (None, [])
    async with transaction(account.sessions) as session:
        assert (await collect()).id == first.id
    async with transaction(account.sessions) as session:
        assert (await give_back(first.id)).id == back.id
    assert [row["amount"] for row in account.sandbox.rows("refund")] == [1000]
    assert len([row for row in account.sandbox.rows("charge") if row["amount"] == 6500]) == 1
    assert (await one(account, models.PaymentIntent, first.id)).customer_id == ada.id
    assert (await one(account, models.Refund, back.id)).customer_id == ada.id


async def test_a_payment_that_a_stranger_was_put_on_is_collected_all_the_same(account: Account) -> None:
    box = account.sandbox
    with box.changing():
        id = payment_intents.create(box, {"amount": 6500, "currency": "usd"})["id"]
    made = await account.provider.retrieve_payment_intent(id)
    async with transaction(account.sessions) as session:
        await payment_rows.sync_intent(session, made.object, as_of=AsOf(at=made.at, revision=NO_ROW), origin=STRIPE)
    with box.changing():
        stranger = customers.create(box, {"email": "stranger@example.com"})["id"]
        payment_intents.update(box, {"customer": stranger}, id)
    async with transaction(account.sessions) as session:
        paid = await payments.confirm(
            session,
            account.provider,
            id=id,
            user_id=None,
            payment_method="pm_card_visa",
            off_session=True,
            return_url=None,
            idempotency_key="once",
            actor="test",
        )
    assert paid.status == "succeeded"
    await account.deliver_and_process(account.events())
    row = await one(account, models.PaymentIntent, id)
    assert (row.status, row.customer_id) == ("succeeded", (await one(account, models.Customer, stranger)).id)


async def test_recent_payments_of_one_second_are_paged_without_a_gap(account: Account) -> None:
    with account.sandbox.at(int(time.time()) - 60):
        made = {pay(account) for _ in range(5)}
    await account.deliver_and_process(account.events("charge.succeeded"))
    assert len({row.created for row in await account.all(models.Charge)}) == 1
    seen: list[str] = []
    async with account.sessions() as session:
        while True:
            last = seen[-1] if seen else None
            rows = await payments.recent(session, status="succeeded", limit=2, starting_after=last)
            seen += [row.charge.stripe_id for row in rows[:2]]
            if len(rows) <= 2:
                break
    assert (len(seen), set(seen)) == (5, made)


async def test_a_payment_nobody_has_tried_to_collect_is_no_drift(account: Account) -> None:
    with account.sandbox.changing():
        payment_intents.create(account.sandbox, {"amount": 6500, "currency": "usd"})
    await account.deliver_and_process(account.events())
    assert not await causes(account, await compare(account))


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
