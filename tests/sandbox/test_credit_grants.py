"""Billing credits: granted, expired, voided, and what is left."""

from typing import Any

import pytest
import stripe
from sandbox.driving import Receiver, Shop

Refused = stripe.InvalidRequestError
METERED = {"scope": {"price_type": "metered"}}


async def grant(shop: Shop, value: int = 1000, **params: Any) -> Any:
    defaults = {
        "customer": shop.customer,
        "amount": {"type": "monetary", "monetary": {"currency": "usd", "value": value}},
        "applicability_config": METERED,
    }
    return await shop.client.v1.billing.credit_grants.create_async({**defaults, **params})


async def left(shop: Shop, **which: Any) -> dict[str, int]:
    asked = which or {"type": "applicability_scope", "applicability_scope": {"price_type": "metered"}}
    found = await shop.client.v1.billing.credit_balance_summary.retrieve_async(
        {"customer": shop.customer, "filter": asked}
    )
    return {b.available_balance.monetary.currency: b.available_balance.monetary.value for b in found.balances}


async def transactions(shop: Shop) -> list[str]:
    listed = shop.client.v1.billing.credit_balance_transactions.list_async
    rows = (await listed({"customer": shop.customer})).data
    return [str((row.credit or row.debit).type) for row in reversed(rows)]


async def test_grants_add_up_until_they_are_voided_or_expire(shop: Shop, receiver: Receiver) -> None:
    first, second = await grant(shop), await grant(shop, 500, expires_at=shop.sandbox.now() + 100)
    later = await grant(shop, 70, effective_at=shop.sandbox.now() + 50, name="Later", priority=0)
    assert (first.priority, first.category, later.name) == (50, "paid", "Later")
    assert await left(shop) == {"usd": 1500}
    assert await left(shop, type="credit_grant", credit_grant=second.id) == {"usd": 500}
    shop.clock.advance(seconds=50)
    assert await left(shop) == {"usd": 1570}
    shop.clock.advance(seconds=50)
    assert await left(shop) == {"usd": 1070}
    grants = shop.client.v1.billing.credit_grants
    assert (await grants.void_grant_async(first.id)).voided_at == shop.sandbox.now()
    await grants.update_async(later.id, {"metadata": {"why": "gift"}})
    await grants.expire_async(later.id)
    assert await left(shop) == {"usd": 0}
    assert await transactions(shop) == [
        *["credits_granted"] * 3,
        "credits_expired",
        "credits_voided",
        "credits_expired",
    ]
    for id in (first.id, second.id):
        with pytest.raises(Refused, match="cannot be"):
            await grants.expire_async(id)
    assert len((await grants.list_async({"customer": shop.customer})).data) == 3
    assert (await grants.retrieve_async(first.id)).voided_at
    await shop.sandbox.drain()
    assert receiver.types().count("billing.credit_grant.created") == 3
    assert receiver.types().count("billing.credit_grant.updated") == 3
    assert receiver.types().count("billing.credit_balance_transaction.created") == 6


async def test_odd_grants_are_refused(shop: Shop) -> None:
    now = shop.sandbox.now()
    for wrong in (
        {"customer": "cus_nope"},
        {"amount": {"type": "monetary"}},
        {"amount": {"type": "monetary", "monetary": {"currency": "usd", "value": 0}}},
        {"applicability_config": {"scope": {}}},
        {"applicability_config": {"scope": {"prices": [{"id": shop.pro}]}}},
        {"priority": 101},
        {"expires_at": now},
    ):
        with pytest.raises(Refused):
            await grant(shop, **wrong)
    assert shop.sandbox.rows("billing.credit_grant") == []


async def test_a_transaction_tells_of_its_grant(shop: Shop) -> None:
    made = await grant(shop)
    listed = await shop.client.v1.billing.credit_balance_transactions.list_async(
        {"customer": shop.customer, "credit_grant": made.id}
    )
    found = await shop.client.v1.billing.credit_balance_transactions.retrieve_async(
        listed.data[0].id, {"expand": ["credit_grant"]}
    )
    assert (found.credit_grant.id, found.credit.amount.monetary.value) == (made.id, 1000)


async def test_credits_are_refused_where_an_invoice_would_have_to_spend_them(shop: Shop) -> None:
    meter = await shop.client.v1.billing.meters.create_async(
        {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
    )
    price = await shop.client.v1.prices.create_async(
        {
            "currency": "usd",
            "unit_amount": 2,
            "product_data": {"name": "Calls"},
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
        }
    )
    scope = {"applicability_config": {"scope": {"prices": [{"id": price.id}]}}}
    made = await grant(shop, **scope)
    with pytest.raises(Refused, match="does not implement metered prices"):
        await shop.subscribe(items=[{"price": price.id}])
    subscription = await shop.subscribe()
    with pytest.raises(Refused, match="does not implement metered prices"):
        await shop.client.v1.subscription_items.create_async({"subscription": subscription.id, "price": price.id})
    await shop.client.v1.billing.credit_grants.void_grant_async(made.id)
    await shop.client.v1.subscription_items.create_async({"subscription": subscription.id, "price": price.id})
    with pytest.raises(Refused, match="does not implement credit grants"):
        await grant(shop)
