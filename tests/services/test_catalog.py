"""Bringing Stripe in line with plans.yaml, and which price a plan is sold at."""

import asyncio
from typing import Any

import pytest
from billing import Account
from sqlalchemy import select

from app import models
from app.db import transaction
from app.errors import ConflictError, InvalidRequestError, NotFoundError, UnavailableError
from app.provider.stripe import StripeProvider
from app.sandbox.resources import meters, products
from app.services import catalog as catalogs
from app.services import plans_apply
from app.services.catalog import Catalog, Meter
from app.services.plans_apply import Change

MADE = ["billhook_basic", "billhook_enterprise", "billhook_pro", "billhook_starter", "billhook_studio"]


def changed(plans: Catalog, key: str, **fields: Any) -> Catalog:
    return plans.model_copy(update={"plans": {**plans.plans, key: plans.plans[key].model_copy(update=fields)}})


def without(plans: Catalog, key: str) -> Catalog:
    return plans.model_copy(update={"plans": {name: plan for name, plan in plans.plans.items() if name != key}})


async def apply(account: Account, *, archive: bool = False) -> list[Change]:
    """What was done; without what was kept."""
    async with transaction(account.sessions) as session:
        made = await plans_apply.apply(session, account.provider, account.plans, archive=archive)
    return [change for change in made if change.action != "keep"]


async def told(account: Account) -> list[tuple[str, str, str]]:
    found = await plans_apply.diff(account.provider, account.plans)
    return [(change.action, change.what, change.id) for change in found if change.action != "keep"]


async def on_sale(account: Account, plan: str, interval: str | None = None) -> models.Price:
    async with account.sessions() as session:
        return await catalogs.price_for(session, account.plans, plan=plan, price_id=None, interval=interval)


def holder(account: Account, lookup_key: str) -> dict[str, Any]:
    [price] = [price for price in account.sandbox.rows("price") if price["lookup_key"] == lookup_key]
    return price


async def rows(account: Account) -> list[dict[str, Any]]:
    found = [*await account.all(models.Product), *await account.all(models.Price)]
    return [{c.key: getattr(row, c.key) for c in row.__table__.columns} for row in found]


async def test_applying_twice_changes_nothing(account: Account) -> None:
    events, before = account.events(), await rows(account)
    assert await told(account) == []
    assert await apply(account, archive=True) == []
    assert account.events() == events
    assert await rows(account) == before
    assert sorted(row["id"] for row in account.sandbox.rows("product")) == MADE
    assert sorted(row["lookup_key"] for row in account.sandbox.rows("price")) == MADE
    assert [row["event_name"] for row in account.sandbox.rows("billing.meter")] == ["billhook_api_calls"]


async def test_an_account_that_has_nothing_is_given_everything(provider: StripeProvider, catalog: Catalog) -> None:
    found = await plans_apply.diff(provider, catalog)
    assert {change.action for change in found} == {"create"}
    assert [(change.what, change.id) for change in found[:3]] == [
        ("meter", "billhook_api_calls"),
        ("product", "billhook_basic"),
        ("price", "billhook_basic"),
    ]
    assert len(found) == 11


async def test_a_diff_says_what_differs_and_changes_nothing(account: Account) -> None:
    account.plans = changed(account.plans, "pro", amount=12900, name="Professional")
    events = account.events()
    found = [c for c in await plans_apply.diff(account.provider, account.plans) if c.action != "keep"]
    assert found == [
        Change(what="product", id="billhook_pro", action="update", fields={"name": ("Pro", "Professional")}),
        Change(what="price", id="billhook_pro", action="replace", fields={"amount": (9900, 12900)}),
    ]
    assert account.events() == events


async def test_a_new_amount_is_a_new_price_and_subscribers_keep_their_plan(account: Account) -> None:
    await account.buy(plan="pro")
    old = holder(account, "billhook_pro")
    account.plans = changed(account.plans, "pro", amount=12900)
    await apply(account)
    new = holder(account, "billhook_pro")
    assert (new["unit_amount"], old["id"] != new["id"], old["active"]) == (12900, True, True)

    await account.deliver_and_process(account.events())
    [subscription] = await account.all(models.Subscription)
    assert (subscription.price, subscription.unit_amount, subscription.plan) == (old["id"], 9900, "pro")
    assert (await on_sale(account, "pro")).stripe_id == new["id"]
    async with account.sessions() as session:
        of_pro = (await session.scalars(select(models.Price).where(models.Price.plan == "pro"))).all()
        with pytest.raises(NotFoundError):
            await catalogs.price_for(session, account.plans, plan=None, price_id=old["id"])
    assert {row.stripe_id: row.lookup_key for row in of_pro} == {old["id"]: None, new["id"]: "billhook_pro"}


async def test_an_amount_that_comes_back_is_sold_again(account: Account) -> None:
    first = holder(account, "billhook_pro")["id"]
    for amount in (12900, 9900, 12900):
        account.plans = changed(account.plans, "pro", amount=amount)
        assert [change.action for change in await apply(account)] == ["replace"]
        assert (await on_sale(account, "pro")).unit_amount == amount
    assert len([price for price in account.sandbox.rows("price") if price["product"] == "billhook_pro"]) == 4
    assert holder(account, "billhook_pro")["id"] != first


async def test_old_prices_are_archived_only_when_asked(account: Account) -> None:
    old = holder(account, "billhook_pro")["id"]
    account.plans = changed(account.plans, "pro", amount=12900)
    assert ("archive", "price", old) not in await told(account)
    await apply(account)
    assert await told(account) == [("archive", "price", old)]
    assert await apply(account) == []
    assert [(c.action, c.id) for c in await apply(account, archive=True)] == [("archive", old)]
    async with account.sessions() as session:
        row = await session.scalar(select(models.Price).where(models.Price.stripe_id == old))
    assert row is not None
    assert (row.active, row.plan) == (False, "pro")
    assert await told(account) == []


async def test_a_plan_that_left_the_file_is_archived_only_when_asked(account: Account) -> None:
    await account.buy(plan="enterprise")
    price = holder(account, "billhook_enterprise")["id"]
    account.plans = without(account.plans, "enterprise")
    gone = [("archive", "price", price), ("archive", "product", "billhook_enterprise")]
    assert await told(account) == gone
    assert await apply(account) == []
    assert [(c.action, c.what, c.id) for c in await apply(account, archive=True)] == gone
    assert await told(account) == []
    assert {p.stripe_id: p.active for p in await account.all(models.Product)}["billhook_enterprise"] is False

    await account.deliver_and_process(account.events())
    [subscription] = await account.all(models.Subscription)
    assert (subscription.status, subscription.plan) == ("active", "enterprise")


async def test_a_plan_that_comes_back_is_sold_again_at_its_old_price(account: Account) -> None:
    price = holder(account, "billhook_enterprise")["id"]
    whole, account.plans = account.plans, without(account.plans, "enterprise")
    await apply(account, archive=True)
    account.plans = whole
    assert [(c.action, c.what) for c in await apply(account)] == [("update", "product"), ("reactivate", "price")]
    assert (await on_sale(account, "enterprise")).stripe_id == price


async def test_what_others_made_is_left_alone(account: Account) -> None:
    made = await account.provider.create_product(
        id=None, name="Consulting", description=None, metadata={}, idempotency_key="k-1"
    )
    for product in (made.object.id, "billhook_pro"):
        await account.provider.create_price(
            product=product,
            currency="usd",
            unit_amount=100,
            interval=None,
            lookup_key=None,
            transfer_lookup_key=False,
            metadata={},
            idempotency_key=f"k-{product}",
        )
    assert await told(account) == []
    assert await apply(account, archive=True) == []


async def test_a_plan_may_be_sold_by_several_intervals(account: Account) -> None:
    account.plans = changed(account.plans, "pro", other_prices={"year": 99000})
    assert [(c.action, c.id) for c in await apply(account)] == [("create", "billhook_pro.year")]
    monthly, yearly = await on_sale(account, "pro"), await on_sale(account, "pro", "year")
    assert (monthly.unit_amount, monthly.interval) == (9900, "month")
    assert (yearly.unit_amount, yearly.interval, yearly.plan) == (99000, "year", "pro")
    assert (await on_sale(account, "pro", "month")).stripe_id == monthly.stripe_id
    with pytest.raises(InvalidRequestError) as raised:
        await on_sale(account, "pro", "week")
    assert (raised.value.code, raised.value.param) == ("interval_not_sold", "interval")


async def test_a_free_plan_and_a_price_that_was_archived_are_not_sold(account: Account) -> None:
    with pytest.raises(InvalidRequestError) as free:
        await on_sale(account, "free")
    assert free.value.code == "plan_is_free"
    await account.provider.update_price(holder(account, "billhook_pro")["id"], active=False)
    await account.deliver_and_process(account.events())
    with pytest.raises(ConflictError) as raised:
        await on_sale(account, "pro")
    assert raised.value.code == "plan_not_applied"


async def test_two_who_apply_at_once_make_everything_once(account: Account) -> None:
    new = changed(account.plans, "pro", amount=12900, other_prices={"year": 129000})
    extra = new.plans["pro"].model_copy(update={"key": "gold", "name": "Gold"})
    meter = Meter(key="seats", name="Seats", event_name="seats")
    account.plans = new.model_copy(
        update={"plans": {**new.plans, "gold": extra}, "meters": {**new.meters, "seats": meter}}
    )
    await asyncio.gather(*(apply(account) for _ in range(4)))
    assert await told(account) == [("archive", "price", (await old_prices(account))[0])]
    assert len(await old_prices(account)) == 1
    assert len(account.sandbox.rows("product")) == 6
    assert len(account.sandbox.rows("billing.meter")) == 2
    assert sorted(p["lookup_key"] or "" for p in account.sandbox.rows("price")) == sorted(
        ["", *MADE, "billhook_gold", "billhook_gold.year", "billhook_pro.year"]
    )


async def old_prices(account: Account) -> list[str]:
    return [price["id"] for price in account.sandbox.rows("price") if price["lookup_key"] is None]


async def test_what_an_interrupted_run_left_undone_the_next_one_does(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.plans = changed(changed(account.plans, "basic", amount=3900), "pro", amount=12900)
    create_price = account.provider.create_price

    async def break_off(**price: Any) -> Any:
        if price["lookup_key"] == "billhook_pro":
            raise UnavailableError("Stripe is not reachable.")
        return await create_price(**price)

    monkeypatch.setattr(account.provider, "create_price", break_off)
    with pytest.raises(UnavailableError):
        await apply(account)
    monkeypatch.undo()
    assert (await on_sale(account, "basic")).unit_amount == 2900
    await apply(account)
    assert [(await on_sale(account, plan)).unit_amount for plan in ("basic", "pro")] == [3900, 12900]
    assert len(await old_prices(account)) == 2


async def test_what_was_changed_by_hand_at_stripe_is_put_right(account: Account) -> None:
    await account.provider.update_product("billhook_pro", name="Por", active=False)
    await account.provider.update_price(holder(account, "billhook_pro")["id"], active=False)
    assert [(c.action, c.fields) for c in await apply(account)] == [
        ("update", {"name": ("Por", "Pro"), "active": (False, True)}),
        ("reactivate", {}),
    ]
    assert await told(account) == []


async def test_a_description_that_was_taken_away_is_taken_away_at_stripe(account: Account) -> None:
    account.plans = changed(account.plans, "pro", description="")
    await apply(account)
    assert await told(account) == []
    [pro] = [product for product in account.sandbox.rows("product") if product["id"] == "billhook_pro"]
    assert not pro["description"]


async def test_an_emptied_database_finds_its_prices_at_stripe(account: Account) -> None:
    async with account.sessions.begin() as session:
        await session.execute(models.Price.__table__.delete())
    assert await apply(account) == []
    assert (await on_sale(account, "basic")).unit_amount == 2900


async def test_a_meter_that_sleeps_is_woken_and_renamed(account: Account) -> None:
    [meter] = account.sandbox.rows("billing.meter")
    with account.sandbox.changing(meter["id"]):
        meters.deactivate(account.sandbox, {}, meter["id"])
    calls = account.plans.meters["api_calls"].model_copy(update={"name": "Calls"})
    account.plans = account.plans.model_copy(update={"meters": {"api_calls": calls}})
    assert [(c.action, c.fields) for c in await apply(account)] == [("reactivate", {"name": ("Api calls", "Calls")})]
    [meter] = account.sandbox.rows("billing.meter")
    assert (meter["status"], meter["display_name"]) == ("active", "Calls")
    assert await told(account) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"aggregation": "count"}, "by sum, which can't be changed"), ({"event_name": "calls"}, "can't be changed")],
)
async def test_what_stripe_never_changes_of_a_meter_is_refused(
    account: Account, fields: dict[str, Any], message: str
) -> None:
    calls = account.plans.meters["api_calls"].model_copy(update=fields)
    account.plans = changed(account.plans.model_copy(update={"meters": {"api_calls": calls}}), "pro", amount=12900)
    events = account.events()
    with pytest.raises(ConflictError, match=message) as raised:
        await apply(account)
    assert raised.value.code == "meter_differs"
    assert account.events() == events


async def test_products_and_prices_follow_stripe(account: Account) -> None:
    made = await account.provider.create_product(
        id=None, name="Lite", description=None, metadata={"billhook_plan": "basic"}, idempotency_key="k-1"
    )
    price = await account.provider.create_price(
        product=made.object.id,
        currency="usd",
        unit_amount=1900,
        interval="month",
        nickname="Friends",
        lookup_key="friends",
        transfer_lookup_key=False,
        metadata={},
        idempotency_key="k-2",
    )
    await account.deliver_and_process(account.events())
    rows = {row.stripe_id: row for row in await account.all(models.Price)}
    mine = rows[price.object.id]
    assert (mine.nickname, mine.usage_type, mine.lookup_key, mine.plan) == ("Friends", "licensed", "friends", None)
    async with account.sessions() as session:
        assert await catalogs.plans_of_prices(session, [mine.stripe_id]) == {mine.stripe_id: "basic"}

    await account.provider.create_product(
        id="prod_gone", name="Gone", description=None, metadata={}, idempotency_key="k-3"
    )
    await account.deliver_and_process(account.events())
    with account.sandbox.changing("prod_gone"):
        products.delete(account.sandbox, {}, "prod_gone")
    await account.deliver_and_process(account.events())
    assert {row.stripe_id: row.deleted for row in await account.all(models.Product)}["prod_gone"] is True


async def test_a_price_keeps_its_plan_when_its_lookup_key_moves_on(account: Account) -> None:
    async def make(amount: int) -> str:
        made = await account.provider.create_price(
            product="billhook_pro",
            currency="usd",
            unit_amount=amount,
            interval="month",
            lookup_key="billhook_gold",
            transfer_lookup_key=True,
            metadata={},
            idempotency_key=f"k-{amount}",
        )
        return made.object.id

    first = await make(100)
    await account.deliver_and_process(account.events())
    second = await make(200)
    await account.deliver_and_process(account.events())
    found = {row.stripe_id: (row.plan, row.lookup_key) for row in await account.all(models.Price)}
    assert (found[first], found[second]) == (("gold", None), ("gold", "billhook_gold"))
