"""Subscriptions have the plan of their price, in whatever order Stripe tells of subscription, price and product."""

from itertools import permutations
from typing import Any

import pytest
from billing import ADA, Account

from app import models
from app.db import transaction
from app.provider.subscription_objects import ItemWish
from app.services import access, customers


async def product(account: Account, **metadata: str) -> str:
    made = await account.provider.create_product(
        id=None, name="Lite", description=None, metadata=metadata, idempotency_key="product"
    )
    return made.object.id


async def price(account: Account, product: str, amount: int = 1900, **more: Any) -> str:
    asked = {"lookup_key": None, "transfer_lookup_key": False, "metadata": {}, **more}
    made = await account.provider.create_price(
        product=product, currency="usd", unit_amount=amount, interval="month", idempotency_key=f"k-{amount}", **asked
    )
    return made.object.id


async def subscribe(account: Account, price: str) -> None:
    """A subscription of Ada's, with a trial so that nothing is to be paid; made by others, beside Billhook."""
    async with transaction(account.sessions) as session:
        shown = await customers.create_at_stripe(session, account.provider, ADA)
    await account.provider.create_subscription(
        customer=shown.object.id,
        items=[ItemWish(price=price, quantity=1)],
        trial_period_days=7,
        metadata={},
        idempotency_key="subscription",
    )


async def granted(account: Account) -> tuple[str | None, str]:
    """The plan on Ada's subscription, and what she has of it."""
    [subscription] = await account.all(models.Subscription)
    assert subscription.items[0]["plan"] == subscription.plan
    async with account.sessions() as session:
        found = await access.explain(session, account.plans, ADA.user_id, now=subscription.created)
    return subscription.plan, found.held.plan.key


ABOUT = ("product.created", "price.created", "customer.subscription.created")


@pytest.mark.parametrize("order", list(permutations(ABOUT)), ids=" ".join)
async def test_the_plan_of_a_price_s_product_is_known_whatever_is_told_first(
    account: Account, order: tuple[str, ...]
) -> None:
    await subscribe(account, await price(account, await product(account, billhook_plan="basic")))
    for type in order:
        await account.deliver_and_process(account.events(type)[-1:])
    assert await granted(account) == ("basic", "basic")


async def test_a_price_and_product_nobody_told_of_are_asked_for_once(account: Account) -> None:
    await subscribe(account, await price(account, await product(account, billhook_plan="basic")))
    await account.deliver_and_process(account.events("customer.subscription.created"))
    assert await granted(account) == ("basic", "basic")
    assert "Lite" in {row.name for row in await account.all(models.Product)}


@pytest.mark.parametrize("about", ["product", "price"])
@pytest.mark.parametrize("alone", [False, True], ids=["in a batch", "alone"])
async def test_subscriptions_follow_when_their_price_becomes_a_plan_s(
    account: Account, about: str, *, alone: bool
) -> None:
    made = await product(account)
    price_id = await price(account, made)
    await subscribe(account, price_id)
    await account.deliver_and_process(account.events())
    assert await granted(account) == (None, "free")
    if about == "product":
        await account.provider.update_product(made, metadata={"billhook_plan": "basic"})
    else:
        await account.provider.update_price(price_id, metadata={"billhook_plan": "basic"})
    for event in account.events(f"{about}.updated"):
        await account.deliver(event)
    await (account.process_alone() if alone else account.process())
    assert await granted(account) == ("basic", "basic")
    told = [row for row in await account.all(models.AuditRow) if row.action == "subscription.updated"]
    assert [(row.before["plan"], row.after["plan"]) for row in told] == [(None, "basic")]


def moved(account: Account, first: str, second: str) -> list[dict[str, Any]]:
    return [event for event in account.events() if event["data"]["object"]["id"] in {first, second}]


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
async def test_any_order_of_a_lookup_key_s_events_ends_the_same(account: Account, order: tuple[int, ...]) -> None:
    """The old price is made, and another takes its key over; then the old one is archived."""
    marked = {"metadata": {"billhook_plan": "pro"}, "lookup_key": "billhook_pro.week", "transfer_lookup_key": True}
    old = await price(account, "billhook_pro", 100, **marked)
    new = await price(account, "billhook_pro", 200, **marked)
    await account.provider.update_price(old, active=False)
    told = moved(account, old, new)
    assert len(told) == len(order)
    for at in order:
        await account.deliver_and_process([told[at]])
    found = {row.stripe_id: (row.plan, row.lookup_key, row.active) for row in await account.all(models.Price)}
    assert (found[old], found[new]) == (("pro", None, False), ("pro", "billhook_pro.week", True))
