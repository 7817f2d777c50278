"""`plans apply` where Stripe refuses, breaks off at any call, or holds what others made."""

import itertools
from typing import Any

import pytest
from billing import ADA, Account, card
from services.test_catalog import apply, changed, holder, on_sale, told, without

from app import models
from app.errors import NotFoundError, UnavailableError
from app.provider.stripe_client import StripeClient
from app.sandbox import checkout as hosted
from app.services import access
from app.services import catalog as catalogs

PRO = "billhook_pro"


async def price(account: Account, product: str, amount: int, **more: Any) -> str:
    asked = {"interval": "month", "lookup_key": None, "transfer_lookup_key": False, "metadata": {}, **more}
    made = await account.provider.create_price(
        product=product, currency="usd", unit_amount=amount, idempotency_key=f"k-{product}-{amount}", **asked
    )
    return made.object.id


async def by_id(account: Account) -> dict[str, models.Price]:
    return {row.stripe_id: row for row in await account.all(models.Price)}


def product(account: Account, id: str) -> dict[str, Any]:
    return account.sandbox.get("product", id)


async def test_a_replaced_default_price_gives_way_before_it_is_archived(account: Account) -> None:
    old = holder(account, PRO)["id"]
    await account.provider.update_product(PRO, default_price=old)
    account.plans = changed(account.plans, "pro", amount=12900)
    assert [(c.action, c.id) for c in await apply(account, archive=True)] == [("replace", PRO)]
    assert [(c.action, c.id) for c in await apply(account, archive=True)] == [("archive", old)]
    new = holder(account, PRO)["id"]
    assert (product(account, PRO)["default_price"], account.sandbox.get("price", old)["active"]) == (new, False)
    assert (await by_id(account))[old].active is False
    assert {row.stripe_id: row.default_price for row in await account.all(models.Product)}[PRO] == new
    assert await told(account) == []


async def test_the_default_price_of_what_is_no_longer_sold_stays_with_its_archived_product(account: Account) -> None:
    kept = holder(account, "billhook_enterprise")["id"]
    await account.provider.update_product("billhook_enterprise", default_price=kept)
    account.plans = without(account.plans, "enterprise")
    assert [(c.action, c.what) for c in await apply(account, archive=True)] == [("archive", "product")]
    assert (product(account, "billhook_enterprise")["active"], account.sandbox.get("price", kept)["active"]) == (
        False,
        True,
    )
    assert await told(account) == []


async def test_a_price_that_only_its_lookup_key_names_is_marked_before_it_loses_it(account: Account) -> None:
    """Its subscribers would else lose their plan wherever our rows are made anew."""
    old = await price(account, "billhook_pro", 7900, lookup_key=PRO, transfer_lookup_key=True)
    await apply(account)
    assert account.sandbox.get("price", old)["lookup_key"] is None
    assert account.sandbox.get("price", old)["metadata"] == {"billhook_plan": "pro"}
    assert (await by_id(account))[old].plan == "pro"


async def test_a_price_made_by_hand_as_the_file_has_it_is_kept_and_marked(account: Account) -> None:
    former = holder(account, PRO)["id"]
    mine = await price(account, PRO, 9900, lookup_key=PRO, transfer_lookup_key=True)
    assert [(c.action, c.id, c.fields) for c in await apply(account)] == [("update", PRO, {"plan": (None, "pro")})]
    assert holder(account, PRO)["id"] == mine
    assert await told(account) == [("archive", "price", former)]


async def test_an_archived_price_made_by_hand_is_sold_and_marked_at_once(account: Account) -> None:
    mine = await price(account, PRO, 9900, lookup_key=PRO, transfer_lookup_key=True)
    await account.provider.update_price(mine, active=False)
    [change] = await apply(account)
    assert (change.action, change.fields) == ("reactivate", {"plan": (None, "pro")})
    assert [one for one in await told(account) if one[0] != "archive"] == []
    assert ((await on_sale(account, "pro")).stripe_id, (await on_sale(account, "pro")).plan) == (mine, "pro")


async def test_a_price_of_another_plan_that_took_the_lookup_key_is_replaced(account: Account) -> None:
    other = await price(
        account, PRO, 9900, lookup_key=PRO, transfer_lookup_key=True, metadata={"billhook_plan": "basic"}
    )
    [change] = await apply(account)
    assert (change.action, change.fields) == ("replace", {"plan": ("basic", "pro")})
    assert account.sandbox.get("price", other)["metadata"] == {"billhook_plan": "basic"}
    assert (await on_sale(account, "pro")).plan == "pro"


async def test_a_product_others_made_is_taken_over_whole(account: Account) -> None:
    """Our row of it named no plan when Stripe was asked."""
    await account.provider.create_product(
        id="billhook_gold", name="Gold?", description=None, metadata={}, idempotency_key="gold"
    )
    await account.deliver_and_process(account.events())
    gold = account.plans.plans["pro"].model_copy(update={"key": "gold", "name": "Gold"})
    account.plans = account.plans.model_copy(update={"plans": {**account.plans.plans, "gold": gold}})
    await apply(account)
    row = {row.stripe_id: row for row in await account.all(models.Product)}["billhook_gold"]
    assert (row.name, row.plan) == ("Gold", "gold")


async def test_a_price_of_a_product_that_is_a_plan_is_on_sale_by_its_id(account: Account) -> None:
    monthly = await price(account, PRO, 8900, lookup_key="friends")
    once = await price(account, PRO, 500, lookup_key="once", interval=None)
    unnamed = await price(account, PRO, 400)
    await account.deliver_and_process(account.events())
    opened = await account.open_checkout(plan=None, price_id=monthly)
    assert account.sandbox.get("checkout.session", opened.stripe_id)["metadata"]["billhook_plan"] == "pro"
    for id in (once, unnamed):
        async with account.sessions() as session:
            with pytest.raises(NotFoundError):
                await catalogs.price_for(session, account.plans, plan=None, price_id=id)


async def test_a_plan_bought_by_the_year_is_that_plan(account: Account) -> None:
    account.plans = changed(account.plans, "pro", other_prices={"year": 99000})
    await apply(account)
    opened = await account.open_checkout(plan="pro", interval="year")
    hosted.pay(account.sandbox, opened.stripe_id, card())
    await account.deliver_and_process(account.events())
    [subscription] = await account.all(models.Subscription)
    assert (subscription.plan, subscription.interval, subscription.unit_amount) == ("pro", "year", 99000)
    async with account.sessions() as session:
        found = await access.explain(session, account.plans, ADA.user_id, now=subscription.created)
    assert found.held.plan.key == "pro"


@pytest.mark.parametrize("after", [False, True], ids=["before Stripe acts", "after Stripe acted"])
async def test_a_run_broken_off_at_any_call_is_completed_by_the_next(
    account: Account, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    plans = changed(account.plans, "pro", name="Professional", amount=12900, other_prices={"year": 129000})
    gold = plans.plans["pro"].model_copy(update={"key": "gold", "name": "Gold", "amount": 19900})
    account.plans = without(plans.model_copy(update={"plans": {**plans.plans, "gold": gold}}), "enterprise")
    await account.provider.update_product(PRO, default_price=holder(account, PRO)["id"])
    send = StripeClient.send
    calls = itertools.count()
    breaks = 0

    async def breaking(self: StripeClient, *args: Any, **more: Any) -> Any:
        if next(calls) != breaks:
            return await send(self, *args, **more)
        if after:
            await send(self, *args, **more)
        raise UnavailableError("The line is cut.")

    monkeypatch.setattr(StripeClient, "send", breaking)
    done = False
    while not done:
        calls = itertools.count()
        try:
            await apply(account, archive=True)
            done = True
        except UnavailableError:
            breaks += 1
    monkeypatch.undo()
    assert breaks > len(account.plans.sold), "each of its calls was cut once"
    await apply(account, archive=True)
    assert await told(account) == []

    sold = [await on_sale(account, *what) for what in (("pro",), ("pro", "year"), ("gold",), ("gold", "year"))]
    assert [price.unit_amount for price in sold] == [12900, 129000, 19900, 129000]
    at_stripe = {price["id"]: price for price in account.sandbox.rows("price")}
    assert sorted(p["unit_amount"] for p in at_stripe.values()) == sorted(
        [2900, 500, 2000, 49900, 9900, 12900, 129000, 19900, 129000]
    )
    assert [p["active"] for p in at_stripe.values() if p["unit_amount"] in {9900, 49900}] == [False, False]
    here = {id: (row.lookup_key, row.active) for id, row in (await by_id(account)).items()}
    assert here == {id: (price["lookup_key"], price["active"]) for id, price in at_stripe.items()}
