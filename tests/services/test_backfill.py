"""Taking an account's past over from Stripe: all of it, once, announced to nobody."""

import asyncio
import time
from typing import Any

import pytest
from billing import Account
from chaos.promises import audit_gaps, differences
from comparing import Interfered, away_at, compare, dump
from sqlalchemy import select, update

from app import models
from app.db import transaction
from app.errors import NotFoundError, UnavailableError
from app.sandbox.resources import customers, payment_methods, subscriptions
from app.sandbox.sandbox import Sandbox
from app.services import customers as ours
from app.worker.backfill import Page, sync


class Progress:
    """What was seen, and how much of it had to be written."""

    def __init__(self) -> None:
        self.seen = 0
        self.written = 0
        self.left = 0

    def __call__(self, page: Page) -> None:
        self.seen += page.seen
        self.written += page.written
        self.left += page.left


async def take_over(account: Account, provider: Any = None, since: int | None = None) -> Progress:
    progress = Progress()
    await sync(account.sessions, provider or account.provider, actor="cli", since=since, watch=progress)
    return progress


def change(sandbox: Sandbox, act: Any) -> None:
    with sandbox.changing():
        act()


def add_customers(sandbox: Sandbox, many: int) -> None:
    with sandbox.transaction():
        for number in range(many):
            customers.create(sandbox, {"name": f"number {number}", "metadata": {"user_id": f"user-{number}"}})


@pytest.fixture
async def past(account: Account) -> Account:
    """An account with a past that this database knows nothing of: one who pays, one who left, one who is gone."""
    box = account.sandbox
    async with account.sessions() as session:
        price = await session.scalar(select(models.Price.stripe_id).where(models.Price.plan == "pro"))
    for number in range(3):
        with box.at(int(time.time()) - 60), box.changing():
            customer = customers.create(box, {"metadata": {"user_id": f"user-{number}"}})["id"]
            card = payment_methods.attach(box, {"customer": customer}, "pm_card_visa")["id"]
            wanted = {"customer": customer, "items": [{"price": price}], "default_payment_method": card}
            subscription = subscriptions.create(box, wanted)["id"]
        if number == 1:
            change(box, lambda id=subscription: subscriptions.cancel(box, {}, id))
        if number == 2:
            change(box, lambda id=customer: customers.delete(box, {}, id))
    return account


async def catalogue(account: Account) -> int:
    """How many products and prices there are, which are here already and looked at again."""
    return len(await account.all(models.Product)) + len(await account.all(models.Price))


async def nobody(_name: str, _count: int) -> None:
    """Nobody meddles."""


async def test_a_past_is_taken_over_whole_and_silently(past: Account) -> None:
    progress = await take_over(past)
    # Customers, cards, subscriptions, invoices, payment intents and charges.
    assert progress.written == 2 + 2 + 3 + 3 + 3 + 3
    assert progress.seen == progress.written + await catalogue(past)
    told = [event for event in past.events() if not event["type"].startswith(("checkout.", "payment_method."))]
    assert await differences(past, told) == []
    users = {row.user_id: row.deleted for row in await past.all(models.Customer)}
    assert {"user-0", "user-1"} <= users.keys()
    assert sum(users.values()) == 1, "the deleted one is there, for the sake of its invoices"
    assert {row.status for row in await past.all(models.Subscription)} == {"active", "canceled"}
    assert {row.plan for row in await past.all(models.Subscription)} == {"pro"}
    assert await past.all(models.OutboxMessage) == []
    assert await audit_gaps(past) == []
    assert (await compare(past)).drifted == 0


async def test_a_second_time_changes_nothing(past: Account) -> None:
    await take_over(past)
    before = await dump(past)
    before.pop("cursors")
    progress = await take_over(past)
    assert (progress.seen, progress.written) == (16 + await catalogue(past), 0)
    after = await dump(past)
    after.pop("cursors")
    assert after == before


async def test_it_goes_on_where_stripe_fell_silent(account: Account) -> None:
    add_customers(account.sandbox, 230)
    with pytest.raises(UnavailableError):
        await take_over(account, Interfered(account.provider, away_at("list_customers", 3)))
    assert len(await account.all(models.Customer)) == 200
    asked = Interfered(account.provider, nobody)
    progress = await take_over(account, asked)
    assert (progress.seen, progress.written) == (30 + await catalogue(account), 30)
    assert asked.calls.count("list_customers") == 1
    assert "retrieve_customer" not in asked.calls, "what a list shows is believed where there is no row"
    assert len({row.user_id for row in await account.all(models.Customer)}) == 230


async def test_what_a_list_shows_never_replaces_a_newer_row(past: Account) -> None:
    box = past.sandbox

    class Slow(Interfered):
        async def list_subscriptions(self, **asked: Any) -> Any:
            page = await past.provider.list_subscriptions(**asked)
            for row in box.rows("subscription"):
                if row["status"] == "active":
                    change(box, lambda id=row["id"]: subscriptions.cancel(box, {}, id))
            await past.deliver_and_process(past.events())
            return page

    await take_over(past, Slow(past.provider, nobody))
    assert {row.status for row in await past.all(models.Subscription)} == {"canceled"}
    assert await differences(past, past.events()) == []


async def test_webhooks_may_come_while_it_runs(past: Account) -> None:
    async def webhooks() -> None:
        for event in past.events():
            await past.deliver(event)
            await past.process()

    await asyncio.gather(webhooks(), take_over(past))
    await past.process()
    assert await differences(past, past.events()) == []
    assert await audit_gaps(past) == []


async def test_of_two_customers_of_one_user_one_is_theirs(account: Account) -> None:
    with account.sandbox.transaction():
        for _ in range(2):
            customers.create(account.sandbox, {"metadata": {"user_id": "ada"}})
    await take_over(account)
    assert sorted(str(row.user_id) for row in await account.all(models.Customer)) == ["None", "ada"]


async def test_rows_that_stripe_shows_otherwise_are_brought_in_line(past: Account) -> None:
    await take_over(past)
    async with past.sessions.begin() as session:
        await session.execute(update(models.Subscription).values(status="past_due"))
    change(past.sandbox, lambda: payment_methods.detach(past.sandbox, {}, attached(past.sandbox)))
    await take_over(past)
    assert {row.status for row in await past.all(models.Subscription)} == {"active", "canceled"}
    assert (await compare(past)).drifted == 0


def attached(sandbox: Sandbox) -> str:
    id: str = next(row["id"] for row in sandbox.rows("payment_method") if row["customer"])
    return id


async def test_since_leaves_out_what_was_made_earlier(past: Account) -> None:
    assert (await take_over(past, since=int(time.time()) + 60)).seen == 0
    assert (await take_over(past, since=int(time.time()) - 600)).seen == 16 + await catalogue(past)


async def test_what_has_been_acknowledged_but_not_applied_is_still_announced(account: Account) -> None:
    await account.buy()
    for event in account.events():
        await account.deliver(event)
    await take_over(account)
    await account.process()
    assert await told(account) == ["payment.received", "subscription.activated"]

    [id] = [row["id"] for row in account.sandbox.rows("subscription")]
    change(account.sandbox, lambda: subscriptions.cancel(account.sandbox, {}, id))
    await account.deliver(account.events("customer.subscription.deleted")[-1])
    await take_over(account)
    await account.process()
    assert await told(account) == ["payment.received", "subscription.activated", "subscription.canceled"]


async def told(account: Account) -> list[str]:
    return sorted(row.type for row in await account.all(models.OutboxMessage))


async def test_a_customer_of_unknown_shape_stops_nobody_else(past: Account) -> None:
    [spoilt] = [row["id"] for row in past.sandbox.rows("customer") if row["metadata"].get("user_id") == "user-0"]
    change(past.sandbox, lambda: customers.update(past.sandbox, {"name": "a\0b"}, spoilt))
    progress = await take_over(past)
    assert progress.left == 5, "the customer, the subscription, the invoice, its payment intent and the charge"
    assert spoilt not in {row.stripe_id for row in await past.all(models.Customer)}
    assert len(await past.all(models.Subscription)) == 2

    change(past.sandbox, lambda: customers.update(past.sandbox, {"name": "a"}, spoilt))
    assert (await take_over(past)).left == 0
    assert (await compare(past)).drifted == 0


async def test_a_list_is_begun_again_when_its_place_is_gone(account: Account) -> None:
    add_customers(account.sandbox, 230)
    with pytest.raises(UnavailableError):
        await take_over(account, Interfered(account.provider, away_at("list_customers", 3)))
    async with account.sessions.begin() as session:
        cursor = await session.get_one(models.Cursor, "sync")
        cursor.value = {**cursor.value, "place": {**cursor.value["place"], "after": "cus_deleted_since"}}
    progress = await take_over(account)
    assert (progress.seen, progress.written) == (230 + await catalogue(account), 30)


async def test_a_list_that_always_loses_its_place_is_not_begun_for_ever(account: Account) -> None:
    add_customers(account.sandbox, 130)

    class Forgetful(Interfered):
        async def list_customers(self, *, since: int | None, after: str | None) -> Any:
            self.calls.append("list_customers")
            if after is not None:
                raise NotFoundError("Stripe knows no such object.")
            return await account.provider.list_customers(since=since, after=None)

    forgetful = Forgetful(account.provider, nobody)
    for _ in range(2):
        forgetful.calls.clear()
        with pytest.raises(NotFoundError):
            await take_over(account, forgetful)
        assert 6 <= forgetful.calls.count("list_customers") <= 8
    assert (await take_over(account)).left == 0
    assert len(await account.all(models.Customer)) == 130


async def test_one_who_is_busy_keeps_nobody_else_waiting(account: Account) -> None:
    add_customers(account.sandbox, 30)
    busy = account.sandbox.rows("customer")[0]["id"]
    async with transaction(account.sessions) as session:
        await ours.lock(session, busy)
        task = asyncio.create_task(take_over(account))
        for _ in range(500):
            await asyncio.sleep(0.01)
            if rows := await account.all(models.Customer):
                break
        assert len(rows) == 29
        assert busy not in {row.stripe_id for row in rows}
        assert not task.done()
    assert (await task).written == 30


async def test_a_user_two_new_customers_claim_at_once_goes_to_one_of_them(account: Account) -> None:
    add_customers(account.sandbox, 5)
    change(account.sandbox, lambda: customers.create(account.sandbox, {"metadata": {"user_id": "user-3"}}))
    assert (await take_over(account)).written == 6
    assert min(str(row.user_id) for row in await account.all(models.Customer)) == "None"
    assert (await compare(account)).drifted == 0


async def test_how_long_ago_moves_on_and_the_place_stays(account: Account) -> None:
    add_customers(account.sandbox, 230)
    week = int(time.time()) - 7 * 86_400
    with pytest.raises(UnavailableError):
        await take_over(account, Interfered(account.provider, away_at("list_customers", 2)), since=week)
    assert (await take_over(account, since=week + 60)).seen == 130 + await catalogue(account)
