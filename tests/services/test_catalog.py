"""plans.yaml, and bringing Stripe in line with it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from billing import Account
from sqlalchemy import select

from app import models
from app.db import transaction
from app.services import catalog
from app.services.catalog import Catalog, CatalogError

ROOT = Path(__file__).parents[2]


def changed(plans: Catalog, **amounts: int) -> Catalog:
    new = {key: plan.model_copy(update={"amount": amounts.get(key, plan.amount)}) for key, plan in plans.plans.items()}
    return plans.model_copy(update={"plans": new})


async def test_applying_twice_changes_nothing(account: Account) -> None:
    before = account.events()
    assert {change.action for change in await account.apply_plans()} == {"keep"}
    assert account.events() == before
    assert len(account.sandbox.rows("price")) == len(account.sandbox.rows("product")) == 3


async def test_a_dry_run_only_shows(account: Account) -> None:
    account.plans = changed(account.plans, pro=12900)
    async with transaction(account.sessions) as session:
        changes = await catalog.apply(session, account.provider, account.plans, livemode=False, dry_run=True)
    assert [(change.action, change.id) for change in changes if change.action != "keep"] == [
        ("replace", "billhook_pro")
    ]
    assert len(account.sandbox.rows("price")) == 3


async def test_a_new_amount_is_a_new_price_and_subscribers_keep_their_plan(account: Account) -> None:
    await account.buy(plan="pro")
    [old] = [price for price in account.sandbox.rows("price") if price["lookup_key"] == "billhook_pro"]
    account.plans = changed(account.plans, pro=12900)
    await account.apply_plans()
    [new] = [price for price in account.sandbox.rows("price") if price["lookup_key"] == "billhook_pro"]
    assert (new["unit_amount"], old["id"] != new["id"]) == (12900, True)

    await account.deliver_and_process(account.events())
    [subscription] = await account.all(models.Subscription)
    assert (subscription.price, subscription.unit_amount, subscription.plan) == (old["id"], 9900, "pro")
    async with account.sessions() as session:
        on_sale = await catalog.price_for(session, account.plans, plan="pro", price_id=None)
        rows = (await session.scalars(select(models.Price).where(models.Price.plan == "pro"))).all()
    assert on_sale.stripe_id == new["id"]
    assert {row.stripe_id: row.lookup_key for row in rows} == {old["id"]: None, new["id"]: "billhook_pro"}


async def test_an_emptied_database_finds_its_prices_at_stripe(account: Account) -> None:
    async with account.sessions.begin() as session:
        await session.execute(models.Price.__table__.delete())
    assert {change.action for change in await account.apply_plans()} == {"keep"}
    async with account.sessions() as session:
        assert (await catalog.price_for(session, account.plans, plan="basic", price_id=None)).unit_amount == 2900


def with_plan(**fields: Any) -> dict[str, Any]:
    data = yaml.safe_load((ROOT / "plans.yaml").read_text())
    data["plans"]["pro"] |= fields
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected a mapping"),
        (with_plan(amount=-1), "plans.pro.amount"),
        (with_plan(amount=9.5), "plans.pro.amount"),
        (with_plan(price=9900), "plans.pro.price"),
        (with_plan(interval="fortnight"), "plans.pro.interval"),
        (with_plan(limits={"seats": -1}), "plans.pro.limits.seats"),
        (with_plan() | {"default_plan": "pro"}, "must be one of the plans, with amount 0"),
        (with_plan() | {"currency": "dollars"}, "currency"),
        (with_plan() | {"access": {"active": "perhaps"}}, "access.active"),
    ],
)
def test_a_file_that_makes_no_sense_says_where(tmp_path: Path, data: Any, message: str) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(CatalogError, match=message):
        catalog.load(path)


@pytest.mark.parametrize("text", ["plans: {", "\0"])
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(text)
    with pytest.raises(CatalogError):
        catalog.load(path)
    with pytest.raises(CatalogError, match="No such file"):
        catalog.load(tmp_path / "missing.yaml")
