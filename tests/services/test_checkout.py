"""Selling a plan once, also when a process dies or the answer is lost."""

import asyncio
from typing import Any

import pytest
from billing import ADA, Account, card
from sqlalchemy import text

from app import models
from app.errors import ConflictError
from app.sandbox import checkout as hosted
from app.sandbox.resources import customers
from app.services import checkout


async def test_the_same_request_gets_the_open_session_back(account: Account) -> None:
    first, second = await account.open_checkout(), await account.open_checkout()
    assert first.stripe_id == second.stripe_id
    assert len(account.sandbox.rows("checkout.session")) == 1


@pytest.mark.parametrize(
    "other", [{"plan": "basic"}, {"quantity": 2}, {"success_url": "https://app.example.com/elsewhere"}]
)
async def test_another_request_expires_the_open_session(account: Account, other: dict[str, Any]) -> None:
    first = await account.open_checkout()
    second = await account.open_checkout(**other)
    states = {row["id"]: row["status"] for row in account.sandbox.rows("checkout.session")}
    assert states == {first.stripe_id: "expired", second.stripe_id: "open"}
    # And back again: a third session, since an expired one can't be paid.
    third = await account.open_checkout()
    assert third.stripe_id not in {first.stripe_id, second.stripe_id}


async def test_a_crash_before_the_commit_leaves_nothing_that_could_be_paid_twice(account: Account) -> None:
    """Stripe has made customer and session, we have stored neither: the retry is given the very same ones."""
    async with account.sessions() as session:
        lost = await checkout.create_session(
            session,
            account.provider,
            account.redis,
            account.plans,
            user=ADA,
            plan="pro",
            price_id=None,
            quantity=1,
            success_url="https://app.example.com/done",
            cancel_url="https://app.example.com/",
            promotion_code=None,
            actor="user:demo-1",
        )
        lost_id = lost.stripe_id
        await session.rollback()
    assert await account.all(models.CheckoutSession) == []
    again = await account.open_checkout()
    assert again.stripe_id == lost_id
    assert len(account.sandbox.rows("customer")) == 1


async def test_a_crashed_session_that_ran_out_does_not_stand_in_the_way(account: Account) -> None:
    first = await account.open_checkout()
    async with account.sessions.begin() as session:
        await session.execute(text("DELETE FROM checkout_sessions"))  # as if our commit had been lost
    await account.provider.expire_checkout_session(first.stripe_id)
    await account.deliver_and_process(account.events("checkout.session.expired"))
    second = await account.open_checkout()
    assert second.stripe_id != first.stripe_id
    assert second.status == "open"


async def test_a_subscriber_in_any_state_short_of_ended_is_refused(account: Account) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    for status in ("trialing", "active", "past_due", "unpaid", "paused", "incomplete"):
        async with account.sessions.begin() as session:
            await session.execute(text("UPDATE subscriptions SET status = :status"), {"status": status})
        with pytest.raises(ConflictError, match="already has a subscription"):
            await account.open_checkout(plan="enterprise")
    for status in ("canceled", "incomplete_expired"):
        async with account.sessions.begin() as session:
            await session.execute(text("UPDATE subscriptions SET status = :status"), {"status": status})
        assert (await account.open_checkout(plan="enterprise")).status == "open"


async def test_the_quantity_is_what_is_bought(account: Account) -> None:
    opened = await account.open_checkout(quantity=3)
    hosted.pay(account.sandbox, opened.stripe_id, card())
    await account.deliver_and_process(account.events())
    [subscription] = await account.all(models.Subscription)
    [invoice] = await account.all(models.Invoice)
    assert (subscription.quantity, invoice.amount_paid) == (3, 3 * 9900)


async def test_a_deleted_customer_starts_anew(account: Account) -> None:
    await account.open_checkout()
    [customer] = account.sandbox.rows("customer")
    with account.sandbox.changing():
        customers.delete(account.sandbox, {}, customer["id"])
    await account.deliver_and_process(account.events("customer.deleted"))
    [row] = await account.all(models.Customer)
    assert row.deleted
    await asyncio.gather(account.open_checkout(), account.open_checkout())
    alive = [row for row in await account.all(models.Customer) if not row.deleted]
    assert [row.user_id for row in alive] == ["demo-1"]
