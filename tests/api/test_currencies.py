"""Yen have no smaller unit and dinars a thousand fils: what is sold in them is exact on every page of its way."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from billing import Account, card
from serving import API, Bearer, CreateKey, serving

from app.main import create_app
from app.sandbox import checkout as hosted
from app.services.catalog import Catalog
from app.services.plans_file import load
from app.settings import Settings

URLS = {"success_url": "https://app.example.com/done", "cancel_url": "https://app.example.com/"}

PLANS = """\
currency: usd
plans:
  free: {name: Free, amount: 0}
  tokyo: {name: Tokyo, currency: jpy, amount: 2900, other_prices: {year: 29000}}
  kuwait: {name: Kuwait, currency: kwd, amount: 12340, other_prices: {year: 123400}}
packs:
  fils: {name: Fils, currency: kwd, amount: 1500, uses: 20}
default_plan: free
access: {active: grant}
"""


@pytest.fixture
def plans_file(tmp_path: Path) -> Path:
    path = tmp_path / "plans.yaml"
    path.write_text(PLANS)
    return path


@pytest.fixture
def catalog(plans_file: Path) -> Catalog:
    return load(plans_file)


@pytest.fixture
async def client(account: Account, quiet: Settings, plans_file: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = quiet.model_copy(update={"plans_file": plans_file})
    async with serving(create_app(settings, provider=account.provider)) as client:
        yield client


async def get(client: httpx.AsyncClient, path: str, who: Bearer | None = None) -> Any:
    answer = await client.get(f"{API}{path}", headers=who or {})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_pricing_table_has_every_price_as_minor_units_and_as_a_decimal(client: httpx.AsyncClient) -> None:
    free, tokyo, kuwait = await get(client, "/plans")
    assert (free["plan_amount_minor"], free["prices"]) == (0, [])
    assert (tokyo["plan_amount"], tokyo["plan_amount_minor"], tokyo["currency"]) == (2900, 2900, "jpy")
    assert (kuwait["plan_amount"], kuwait["plan_amount_minor"], kuwait["currency"]) == (12.34, 12340, "kwd")
    assert kuwait["prices"] == [
        {"interval": "month", "amount": 12.34, "amount_minor": 12340},
        {"interval": "year", "amount": 123.4, "amount_minor": 123400},
    ]
    [pack] = await get(client, "/packs")
    assert pack == {
        "pack": "fils",
        "name": "Fils",
        "description": "",
        "amount": 1.5,
        "amount_minor": 1500,
        "currency": "kwd",
        "uses": 20,
        "expires_days": None,
    }


@pytest.mark.parametrize(
    ("plan", "interval", "minor", "major", "part", "part_major"),
    [
        ("tokyo", None, 2900, 2900, 1, 1),
        ("tokyo", "year", 29000, 29000, 14999, 14999),
        ("kuwait", "month", 12340, 12.34, 10, 0.01),
        ("kuwait", "year", 123400, 123.4, 61710, 61.71),
    ],
)
async def test_a_plan_is_bought_billed_and_given_back_to_the_last_unit(
    *,
    client: httpx.AsyncClient,
    account: Account,
    ada: Bearer,
    create_key: CreateKey,
    plan: str,
    interval: str | None,
    minor: int,
    major: float,
    part: int,
    part_major: float,
) -> None:
    wish = {"plan": plan, **({} if interval is None else {"interval": interval}), **URLS}
    opened = await client.post(f"{API}/checkout/session", headers=ada, json=wish)
    assert opened.status_code == 200, opened.text
    hosted.pay(account.sandbox, opened.json()["session_id"], card())
    await account.deliver_and_process(account.events())

    currency = "jpy" if plan == "tokyo" else "kwd"
    subscription = await get(client, "/subscription", ada)
    assert (subscription["plan"], subscription["currency"]) == (plan, currency)
    assert (subscription["plan_amount"], subscription["plan_amount_minor"]) == (major, minor)
    [invoice] = await get(client, "/invoices", ada)
    for name in ("amount_due", "amount_paid"):
        assert (invoice[name], invoice[f"{name}_minor"], invoice["currency"]) == (major, minor, currency)

    operator = await create_key("operator")
    [charge] = account.sandbox.rows("charge")
    assert (charge["amount"], charge["currency"]) == (minor, currency)
    back = await client.post(
        f"{API}/payments/{charge['id']}/refunds",
        headers=operator | {"Idempotency-Key": "back"},
        json={"amount_minor": part},
    )
    assert back.status_code == 201, back.text
    rest = await client.post(f"{API}/payments/{charge['id']}/refunds", headers=operator | {"Idempotency-Key": "rest"})
    assert (back.json()["amount"], back.json()["amount_minor"], back.json()["currency"]) == (part_major, part, currency)
    assert rest.json()["amount_minor"] == minor - part
    await account.deliver_and_process(account.events("refund.created", "charge.refunded"))
    listed = await get(client, "/refunds", operator)
    assert sorted(refund["amount_minor"] for refund in listed) == sorted([part, minor - part])
    [price] = [p for p in await get(client, f"/prices?product=billhook_{plan}", operator) if p["amount_minor"] == minor]
    assert (price["amount"], price["currency"], price["plan"]) == (major, currency, plan)


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"plan": "tokyo", "interval": "week"}, "interval_not_sold"),
        ({"plan": "free", "interval": "month"}, "plan_is_free"),
        ({"price_id": "price_1", "interval": "month"}, "invalid_request"),
        ({"plan": "tokyo", "interval": "fortnight"}, "invalid_request"),
    ],
)
async def test_an_interval_nobody_sells_is_refused(
    client: httpx.AsyncClient, ada: Bearer, wish: dict[str, str], code: str
) -> None:
    answer = await client.post(f"{API}/checkout/session", headers=ada, json={**wish, **URLS})
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
