"""Operators keep products at Stripe, and read them from our own rows."""

from collections.abc import AsyncIterator

import httpx
import pytest
from billing import Account
from serving import API, PROBLEM, Bearer, CreateKey, serving

from app.main import create_app
from app.settings import Settings


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


async def make(client: httpx.AsyncClient, operator: Bearer, **fields: object) -> dict[str, object]:
    answer = await client.post(f"{API}/products", json={"name": "Consulting", **fields}, headers=operator)
    assert answer.status_code == 201, answer.text
    made: dict[str, object] = answer.json()
    return made


async def test_a_product_is_made_read_changed_and_archived(
    client: httpx.AsyncClient, operator: Bearer, account: Account
) -> None:
    made = await make(client, operator, description="By the hour", metadata={"team": "sales"})
    at_stripe = account.sandbox.get("product", str(made["id"]))
    assert made == {
        "id": at_stripe["id"],
        "name": "Consulting",
        "description": "By the hour",
        "active": True,
        "plan": None,
        "default_price": None,
        "metadata": {"team": "sales"},
        "created": at_stripe["created"],
    }
    url = f"{API}/products/{made['id']}"
    assert (await client.get(url, headers=operator)).json() == made

    change = {"name": "Advice", "description": "", "metadata": {"team": "", "floor": "3"}}
    changed = await client.patch(url, json=change, headers=operator)
    assert changed.status_code == 200, changed.text
    assert changed.json() == made | {"name": "Advice", "description": None, "metadata": {"floor": "3"}}

    archived = await client.delete(url, headers=operator)
    assert (archived.status_code, archived.json()["active"]) == (200, False)
    assert (await client.delete(url, headers=operator)).json() == archived.json()
    assert account.sandbox.get("product", str(made["id"]))["active"] is False
    back = await client.patch(url, json={"active": True}, headers=operator)
    assert back.json()["active"] is True
    # What the webhooks tell of all this is no news.
    await account.deliver_and_process(account.events())
    assert (await client.get(url, headers=operator)).json() == back.json()


async def test_products_are_listed_filtered_and_paged(client: httpx.AsyncClient, operator: Bearer) -> None:
    made = [str((await make(client, operator, name=f"Product {n}"))["id"]) for n in range(3)]
    await client.delete(f"{API}/products/{made[0]}", headers=operator)

    async def ids(query: str) -> list[str]:
        answer = await client.get(f"{API}/products?{query}", headers=operator)
        assert answer.status_code == 200, answer.text
        return [product["id"] for product in answer.json()]

    everything = await ids("limit=100")
    sold = {f"billhook_{key}" for key in ("basic", "pro", "enterprise", "starter", "studio")}
    assert set(everything) == {*made, *sold}
    assert await ids("active=false") == [made[0]]
    assert set(await ids("active=true")) == set(everything) - {made[0]}
    assert await ids(f"limit=3&starting_after={everything[1]}") == everything[2:5]
    first = await client.get(f"{API}/products?limit=2&active=true", headers=operator)
    link = first.headers["link"].partition("<")[2].partition(">")[0]
    second = [product["id"] for product in (await client.get(link, headers=operator)).json()]
    assert [p["id"] for p in first.json()] + second == [id for id in everything if id != made[0]][:4]


async def test_a_repeated_request_makes_one_product(
    client: httpx.AsyncClient, operator: Bearer, account: Account
) -> None:
    headers = operator | {"Idempotency-Key": "once"}
    bodies = [(await client.post(f"{API}/products", json={"name": "Once"}, headers=headers)).json() for _ in range(2)]
    assert bodies[0] == bodies[1]
    assert [row["name"] for row in account.sandbox.rows("product")].count("Once") == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "", {}, 422, "invalid_request"),
        ("POST", "", {"name": ""}, 422, "invalid_request"),
        ("POST", "", {"name": "x", "id": "mine"}, 422, "invalid_request"),
        ("POST", "", {"name": "x", "metadata": {"k" * 41: "v"}}, 422, "invalid_request"),
        ("PATCH", "/billhook_pro", {}, 422, "invalid_request"),
        ("PATCH", "/billhook_pro", {"name": None}, 422, "invalid_request"),
        ("PATCH", "/prod_nope", {"name": "x"}, 404, "product_not_found"),
        ("DELETE", "/prod_nope", None, 404, "product_not_found"),
        ("GET", "/prod_nope", None, 404, "product_not_found"),
        ("GET", "?starting_after=prod_nope", None, 404, "product_not_found"),
        ("GET", "?activ=true", None, 422, "unknown_parameter"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    *, client: httpx.AsyncClient, operator: Bearer, method: str, path: str, body: object, status: int, code: str
) -> None:
    answer = await client.request(method, f"{API}/products{path}", json=body, headers=operator)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert answer.json()["code"] == code


async def test_a_product_that_stripe_no_longer_has_is_not_found(
    client: httpx.AsyncClient, operator: Bearer, account: Account
) -> None:
    made = await make(client, operator)
    row = account.sandbox.get("product", str(made["id"]))
    row.clear()
    row.update({"id": made["id"], "object": "product", "deleted": True})
    answer = await client.patch(f"{API}/products/{made['id']}", json={"name": "x"}, headers=operator)
    assert answer.status_code == 404, answer.text


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_only_operators_see_products_and_prices(
    client: httpx.AsyncClient, create_key: CreateKey, ada: Bearer, method: str
) -> None:
    for path in ("products", "prices"):
        for caller in (ada, await create_key("billing:read", "billing:write")):
            answer = await client.request(
                method, f"{API}/{path}", headers=caller, json={} if method == "POST" else None
            )
            assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


async def test_who_changed_what_is_in_the_audit_log(client: httpx.AsyncClient, operator: Bearer) -> None:
    made = await make(client, operator)
    await client.delete(f"{API}/products/{made['id']}", headers=operator)
    rows = (await client.get(f"{API}/audit?limit=100", headers=operator)).json()
    mine = [row for row in rows if row["subject"] == made["id"]]
    assert [row["action"] for row in mine] == ["product.updated", "product.created"]
    assert all(row["actor"].startswith("key:") for row in mine)
    assert (mine[0]["before"], mine[0]["after"]) == ({"active": True}, {"active": False})
