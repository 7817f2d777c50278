"""The report of the latest comparison with Stripe, for operators."""

from collections.abc import AsyncIterator

import httpx
import pytest
from billing import Account
from comparing import compare, listed
from serving import API, Bearer, CreateKey, serving

from app.main import create_app
from app.sandbox.resources import customers
from app.settings import Settings

REPORT = f"{API}/reconcile/report"


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


def add_customers(account: Account, many: int) -> None:
    with account.sandbox.transaction():
        for _ in range(many):
            customers.create(account.sandbox, {})


async def test_there_is_no_report_before_the_first_comparison(client: httpx.AsyncClient, operator: Bearer) -> None:
    answer = await client.get(REPORT, headers=operator)
    assert (answer.status_code, answer.json()["code"]) == (404, "reconcile_report_not_found")


async def test_the_latest_comparison_is_reported_with_what_it_found(
    client: httpx.AsyncClient, operator: Bearer, account: Account
) -> None:
    await compare(account)
    add_customers(account, 1)
    run = await compare(account, repair=True)
    report = (await client.get(REPORT, headers=operator)).json()
    [difference] = report.pop("differences")
    assert report == {
        "id": str(run.id),
        "actor": "cli",
        "repair": True,
        "since": None,
        "status": "done",
        "compared": listed(account),
        "drifted": 1,
        "repaired": 1,
        "error": None,
        "started_at": int(run.started_at.timestamp()),
        "finished_at": int(run.finished_at.timestamp()) if run.finished_at else None,
    }
    [customer] = account.sandbox.rows("customer")
    assert {name: difference[name] for name in ("object", "stripe_id", "customer", "cause", "fields", "repaired")} == {
        "object": "customer",
        "stripe_id": customer["id"],
        "customer": customer["id"],
        "cause": "missing",
        "fields": {},
        "repaired": True,
    }


async def test_its_pages_stay_those_of_one_comparison(
    client: httpx.AsyncClient, operator: Bearer, account: Account
) -> None:
    add_customers(account, 5)
    run = await compare(account)
    first = await client.get(f"{REPORT}?limit=3", headers=operator)
    shown = first.json()["differences"]
    assert len(shown) == 3
    await compare(account, repair=True)  # which is the latest one from now on
    url = first.headers["link"].removeprefix("<").split(">")[0]
    second = await client.get(url, headers=operator)
    shown += second.json()["differences"]
    assert second.json()["id"] == str(run.id)
    assert "link" not in second.headers
    assert sorted(row["stripe_id"] for row in shown) == sorted(row["id"] for row in account.sandbox.rows("customer"))


@pytest.mark.parametrize("wrong", ["x", "-1", "9" * 40])
async def test_a_difference_s_id_is_a_number(client: httpx.AsyncClient, operator: Bearer, wrong: str) -> None:
    answer = await client.get(REPORT, params={"starting_after": wrong}, headers=operator)
    assert (answer.status_code, answer.json()["errors"][0]["param"]) == (422, "starting_after")


async def test_it_is_for_operators(client: httpx.AsyncClient, ada: Bearer, create_key: CreateKey) -> None:
    for caller in (ada, await create_key("billing:read")):
        assert (await client.get(REPORT, headers=caller)).status_code == 403
