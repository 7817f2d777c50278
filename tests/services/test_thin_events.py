"""Thin events: they name an object and show nothing of it."""

import itertools
from typing import Any

import pytest
from billing import Account
from sqlalchemy import func, select, update

from app import models
from app.services import inbox
from app.services.customers import lock_number

_numbers = itertools.count(1)


def thin(type: str, related: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "id": f"evt_thin_{next(_numbers)}",
        "object": "v2.core.event",
        "type": type,
        "created": "2026-11-21T08:00:00.000Z",
        "livemode": False,
        "context": None,
        "related_object": related,
    }


async def test_a_thin_event_about_an_object_we_mirror_has_it_fetched(account: Account) -> None:
    await account.buy(plan="pro")
    [subscription] = account.sandbox.rows("subscription")
    [invoice] = account.sandbox.rows("invoice")
    receipts = [
        await account.deliver(thin("v1.customer.subscription.active", {"id": subscription["id"], "type": "anything"})),
        await account.deliver(thin("v1.invoice.paid", {"id": invoice["id"], "type": "invoice"})),
    ]
    assert [receipt.outcome for receipt in receipts] == ["stored", "stored"]
    await account.process()
    assert [row.status for row in await account.all(models.StripeEvent)] == ["processed", "processed"]
    [row] = await account.all(models.Subscription)
    assert (row.stripe_id, row.status, row.plan) == (subscription["id"], "active", "pro")
    assert [row.status for row in await account.all(models.Invoice)] == ["paid"]


async def test_a_thin_event_waits_while_its_customer_s_rows_are_being_written(account: Account) -> None:
    await account.buy(plan="pro")
    [subscription] = account.sandbox.rows("subscription")
    await account.deliver(thin("v1.customer.subscription.updated", {"id": subscription["id"], "type": "subscription"}))
    async with account.sessions.begin() as session:
        await session.execute(select(func.pg_advisory_xact_lock(lock_number(subscription["customer"]))))
        assert await account.inbox.process_key(subscription["id"]) == 0
    assert await account.inbox.process_key(subscription["id"]) == 1
    assert len(await account.all(models.Subscription)) == 1


@pytest.mark.parametrize(
    "event",
    [
        thin("v1.billing.meter.error_report_triggered", {"id": "mtr_1", "type": "billing.meter"}),
        thin("v1.billing.meter.no_meter_found"),
        thin("v1.invoice.upcoming", {"id": "upcoming", "type": "invoice"}),
        thin("v1.invoice_payment.paid", {"id": "inpay_1", "type": "invoice_payment"}),
        thin("v2.core.account.updated", {"id": "acct_1", "type": "v2.core.account"}),
    ],
    ids=lambda event: event["type"],
)
async def test_other_thin_events_are_kept_beside_the_snapshots(account: Account, event: dict[str, Any]) -> None:
    assert (await account.deliver(event)).outcome == "ignored"
    assert (await account.deliver(event)).outcome == "duplicate"
    [row] = await account.all(models.StripeEvent)
    assert (row.type, row.reason, row.created) == (event["type"], "unhandled_type", 1795248000)


async def test_a_dead_thin_event_can_be_replayed(account: Account) -> None:
    await account.buy(plan="pro")
    [invoice] = account.sandbox.rows("invoice")
    event = thin("v1.invoice.paid", {"id": invoice["id"], "type": "invoice"})
    await account.deliver(event)
    async with account.sessions.begin() as session:
        await session.execute(update(models.StripeEvent).values(status="dead", attempts=12))
    async with account.sessions.begin() as session:
        await inbox.replay(session, event["id"], account=None, livemode=False, actor="cli")
    await account.process()
    assert [row.status for row in await account.all(models.StripeEvent)] == ["processed"]
    assert [row.status for row in await account.all(models.Invoice)] == ["paid"]
