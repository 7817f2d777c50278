"""The checks that the other tests end with see each way in which a promise can be broken."""

import pytest
from billing import Account
from chaos import promises
from sqlalchemy import text

from app.services.customers import Buyer

OTHER = """UPDATE {} SET customer_id = (SELECT id FROM customers WHERE id <> {}.customer_id)"""
AGAIN = """
INSERT INTO outbox (key, type, subject, customer_id, data)
SELECT 'again:' || key, type, subject, customer_id, data FROM outbox WHERE type = '{}'
"""

SPOILT = {
    "the subscriptions are the other customer's": OTHER.format("subscriptions", "subscriptions"),
    "the invoices are the other customer's": OTHER.format("invoices", "invoices"),
    "the cards are the other customer's": OTHER.format("payment_methods", "payment_methods"),
    "the checkouts are the other customer's": OTHER.format("checkout_sessions", "checkout_sessions"),
    "the messages are of the other customer": OTHER.format("outbox", "outbox"),
    "a customer is nobody's": "UPDATE customers SET user_id = NULL WHERE user_id = 'grace'",
    "a customer is another user's": "UPDATE customers SET user_id = 'eve' WHERE user_id = 'grace'",
    "an amount is wrong": "UPDATE invoices SET amount_paid = amount_paid + 1",
    "access was taken": "UPDATE subscriptions SET status = 'canceled'",
    "nobody was told of access": "DELETE FROM outbox WHERE type = 'subscription.activated'",
    "nobody was told of money": "DELETE FROM outbox WHERE type = 'payment.received'",
    "access was told twice": AGAIN.format("subscription.activated"),
    "money was told twice": AGAIN.format("payment.received"),
    "an event waits": "UPDATE stripe_events SET status = 'pending' WHERE type = 'invoice.paid'",
    "an event is lost": "DELETE FROM stripe_events WHERE type = 'invoice.created'",
    "a change is not audited": "UPDATE subscriptions SET plan = 'basic'",
}


@pytest.fixture
async def settled(account: Account) -> Account:
    for buyer in (Buyer(user_id="ada"), Buyer(user_id="grace")):
        await account.buy(buyer)
    await account.deliver_and_process(account.events())
    return account


async def test_what_is_settled_breaks_no_promise(settled: Account) -> None:
    assert await promises.broken(settled, settled.events()) == []


@pytest.mark.parametrize("spoil", SPOILT)
async def test_what_is_spoilt_is_seen(settled: Account, spoil: str) -> None:
    async with settled.sessions.begin() as session:
        await session.execute(text(SPOILT[spoil]))
    assert await promises.broken(settled, settled.events())
