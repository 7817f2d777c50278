"""The ledger of prepaid credits over HTTP, and what operators enter in it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from crediting import audit, buy, take_back
from serving import API, Bearer, CreateKey
from sqlalchemy import delete, func, select

from app import models
from app.db import Sessions, transaction
from app.values import unix_now

DAY = 86_400


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


Spend = Callable[..., Awaitable[None]]
"""Charges Ada, or whom it is told, so many uses."""


@pytest.fixture
async def spend(client: httpx.AsyncClient, create_key: CreateKey) -> Spend:
    key = await create_key("credits:write")

    async def charge(quantity: int, user_id: str = "ada") -> None:
        body = {"user_id": user_id, "quantity": quantity, "idempotency_key": uuid4().hex}
        answer = await client.post(f"{API}/charges", json=body, headers=key)
        assert answer.status_code == 201, answer.text

    return charge


async def enter(
    client: httpx.AsyncClient, operator: Bearer, what: str, key: str | None = None, **body: Any
) -> httpx.Response:
    headers = operator if key is None else {**operator, "Idempotency-Key": key}
    return await client.post(f"{API}/credits/{what}", json=body, headers=headers)


async def entered(client: httpx.AsyncClient, operator: Bearer, what: str, key: str, **body: Any) -> dict[str, Any]:
    answer = await enter(client, operator, what, key, **body)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def look(client: httpx.AsyncClient, who: Bearer, what: str, **query: Any) -> Any:
    answer = await client.get(f"{API}/{what}", params=query, headers=who)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def balance(client: httpx.AsyncClient, who: Bearer) -> tuple[int, int, int]:
    account = await look(client, who, "accounts/ada")
    return account["free_uses_remaining"], account["credits_remaining"], account["owed"]


async def forget_answers(sessions: Sessions) -> None:
    """As after a day."""
    async with transaction(sessions) as session:
        await session.execute(delete(models.IdempotencyKey))


async def test_the_ledger_tells_of_every_transfer_newest_first(
    client: httpx.AsyncClient, sessions: Sessions, spend: Spend, ada: Bearer
) -> None:
    await spend(2)
    purchase = await buy(sessions, 20)
    await spend(2)
    rows = await look(client, ada, "credits/ledger")
    moves = [(row["kind"], row["source"], row["destination"], row["amount"], row["balance_after"]) for row in rows]
    assert moves == [
        ("charge", "paid", "consumed", 1, 19),
        ("charge", "free", "consumed", 1, 20),
        ("grant", "issued", "paid", 20, 21),
        ("charge", "free", "consumed", 2, 1),
        ("grant", "issued", "free", 3, 3),
    ]
    bought = rows[2]
    assert bought["purchase_id"] == str(purchase)
    assert (bought["charge_id"], bought["reason"]) == (None, None)
    assert rows[0]["grant_id"] == bought["grant_id"]
    assert rows[0]["charge_id"] == rows[1]["charge_id"]
    assert bought["created_at"] <= unix_now()


async def test_the_ledger_is_read_page_by_page(client: httpx.AsyncClient, spend: Spend, ada: Bearer) -> None:
    for _ in range(3):
        await spend(1)
    everything = await look(client, ada, "credits/ledger")
    page = await client.get(f"{API}/credits/ledger", params={"limit": 3}, headers=ada)
    assert page.json() == everything[:3]
    rest = await client.get(page.links["next"]["url"], headers=ada)
    assert rest.json() == everything[3:]
    assert rest.links == {}
    for wrong in ("x", "-1", str(2**63), "1.0"):
        refused = await client.get(f"{API}/credits/ledger", params={"starting_after": wrong}, headers=ada)
        assert (refused.status_code, refused.json()["errors"][0]["param"]) == (422, "starting_after")


async def test_grants_are_read_page_by_page_with_what_is_left(
    client: httpx.AsyncClient, operator: Bearer, sessions: Sessions, spend: Spend, ada: Bearer
) -> None:
    await buy(sessions, 20)
    soon = unix_now() + DAY
    given = await entered(
        client, operator, "grants", "1", user_id="ada", uses=5, expires_at=soon, reason="sorry for the outage"
    )
    await spend(4)  # the three free ones, and one of what expires first
    found = await look(client, ada, "credits/grants")
    assert sorted((grant["book"], grant["uses"], grant["remaining"]) for grant in found) == [
        ("free", 3, 0),
        ("paid", 5, 4),
        ("paid", 20, 20),
    ]
    [shown] = [grant for grant in found if grant["id"] == given["id"]]
    assert (shown["expires_at"], shown["reason"], shown["purchase_id"]) == (soon, "sorry for the outage", None)
    pages, url = [], f"{API}/credits/grants?limit=1"
    while url:
        answer = await client.get(url, headers=ada)
        pages += answer.json()
        url = answer.links.get("next", {}).get("url", "")
    assert pages == found
    refused = await client.get(f"{API}/credits/grants", params={"starting_after": "x"}, headers=ada)
    assert refused.status_code == 422


@pytest.mark.parametrize("what", ["credits/ledger", "credits/grants"])
async def test_users_read_their_own_ledger_and_grants_alone(
    *,
    client: httpx.AsyncClient,
    spend: Spend,
    ada: Bearer,
    grace: Bearer,
    create_key: CreateKey,
    what: str,
) -> None:
    await spend(1)
    reader = await create_key("credits:read")
    hers = await look(client, ada, what)
    assert hers
    assert await look(client, reader, what, user_id="ada") == hers
    assert await look(client, grace, what) == []
    assert await look(client, reader, what, user_id="nobody") == []
    other = await client.get(f"{API}/{what}", params={"user_id": "ada"}, headers=grace)
    assert (other.status_code, other.json()["code"]) == (404, "user_not_found")
    stranger = await client.get(f"{API}/{what}", params={"user_id": "ada"}, headers=await create_key("billing:read"))
    assert stranger.status_code == 403
    await spend(1, "grace")
    after = await client.get(f"{API}/{what}", params={"starting_after": hers[0]["id"]}, headers=grace)
    assert after.status_code == 404


async def test_an_operator_gives_uses_to_whoever_has_no_account_yet(
    client: httpx.AsyncClient, operator: Bearer, ada: Bearer, sessions: Sessions
) -> None:
    given = await entered(client, operator, "grants", "1", user_id="ada", uses=50, reason="welcome")
    assert given == {
        "id": given["id"],
        "account_id": given["account_id"],
        "book": "paid",
        "uses": 50,
        "remaining": 50,
        "expires_at": None,
        "purchase_id": None,
        "reason": "welcome",
        "created_at": given["created_at"],
    }
    assert await balance(client, ada) == (3, 50, 0)
    assert (await look(client, ada, "credits/ledger"))[0]["reason"] == "welcome"
    async with sessions() as session:
        [row] = await session.scalars(select(models.AuditRow).where(models.AuditRow.subject == given["account_id"]))
    assert (row.action, row.after) == ("credits.granted", {"uses": 50, "expires_at": None, "reason": "welcome"})
    assert row.actor.startswith("key:")


async def test_a_grant_is_given_once_even_when_its_answer_is_forgotten(
    client: httpx.AsyncClient, operator: Bearer, ada: Bearer, spend: Spend, sessions: Sessions
) -> None:
    body = {"user_id": "ada", "uses": 5, "expires_at": unix_now() + DAY, "reason": "sorry"}
    first = await entered(client, operator, "grants", "1", **body)
    again = await enter(client, operator, "grants", "1", **body)
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (first, "true")
    await spend(4)
    await forget_answers(sessions)
    assert await entered(client, operator, "grants", "1", **body) == first | {"remaining": 4}
    for other in ({"uses": 6}, {"reason": "other"}, {"user_id": "grace"}, {"expires_at": None}):
        await forget_answers(sessions)
        refused = await enter(client, operator, "grants", "1", **body | other)
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert await balance(client, ada) == (0, 4, 0)
    async with sessions() as session:
        actions = select(func.count()).where(models.AuditRow.action == "credits.granted")
        assert await session.scalar(actions) == 1


async def test_two_operators_with_the_same_key_give_twice(
    client: httpx.AsyncClient, create_key: CreateKey, ada: Bearer
) -> None:
    for _ in range(2):
        await entered(client, await create_key("operator"), "grants", "1", user_id="ada", uses=5, reason="sorry")
    assert await balance(client, ada) == (3, 10, 0)


async def test_what_is_owed_is_settled_from_a_grant_first(
    client: httpx.AsyncClient, operator: Bearer, ada: Bearer, spend: Spend, sessions: Sessions
) -> None:
    purchase = await buy(sessions, 20)
    await spend(21)
    async with transaction(sessions) as session:
        await take_back(session, purchase, 20)
    assert await balance(client, ada) == (0, 0, 18)
    entitled = await look(client, ada, "entitlements")
    assert entitled["credits"] == {"available": 0, "free": 0, "paid": 0, "owed": 18}
    given = await entered(client, operator, "grants", "1", user_id="ada", uses=20, reason="let us forget it")
    assert (given["uses"], given["remaining"]) == (20, 2)
    assert await balance(client, ada) == (0, 2, 0)
    rows = await look(client, ada, "credits/ledger", limit=2)
    assert [(row["kind"], row["source"], row["destination"], row["amount"]) for row in rows] == [
        ("settle", "paid", "owed", 18),
        ("grant", "issued", "paid", 20),
    ]
    assert await audit(sessions) == []


async def test_an_adjustment_gives_or_takes_away_once(
    client: httpx.AsyncClient, operator: Bearer, ada: Bearer, sessions: Sessions
) -> None:
    await buy(sessions, 20)
    up = await entered(client, operator, "adjustments", "up", user_id="ada", uses=2, reason="counted twice")
    assert (up["uses"], up["available"], up["owed"]) == (2, 25, 0)
    down = await entered(client, operator, "adjustments", "down", user_id="ada", uses=-10, reason="counted too few")
    assert down == up | {"uses": -10, "reason": "counted too few", "available": 15, "created_at": down["created_at"]}
    assert await balance(client, ada) == (0, 15, 0)
    await entered(client, operator, "adjustments", "more", user_id="ada", uses=-1, reason="counted too few")
    for key, body in (
        ("up", {"uses": 2, "reason": "counted twice"}),
        ("down", {"uses": -10, "reason": "counted too few"}),  # of several grants, and so several transfers
    ):
        await forget_answers(sessions)
        again = await entered(client, operator, "adjustments", key, user_id="ada", **body)
        assert (again["uses"], again["available"]) == (body["uses"], 14)
        await forget_answers(sessions)
        other = await enter(client, operator, "adjustments", key, user_id="ada", **body | {"uses": -3})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await balance(client, ada) == (0, 14, 0)
    async with sessions() as session:
        found = select(models.AuditRow).where(models.AuditRow.action == "credits.adjusted").order_by(models.AuditRow.id)
        told = [row.after for row in await session.scalars(found)]
    assert [row["uses"] for row in told if row] == [2, -10, -1]
    assert await audit(sessions) == []


async def test_an_adjustment_takes_no_more_than_there_is(
    client: httpx.AsyncClient, operator: Bearer, ada: Bearer, spend: Spend, sessions: Sessions
) -> None:
    unknown = await enter(client, operator, "adjustments", "1", user_id="ada", uses=-1, reason="counted too few")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "account_not_found")
    await spend(1)
    refused = await enter(client, operator, "adjustments", "2", user_id="ada", uses=-3, reason="counted too few")
    assert (refused.status_code, refused.json()["code"]) == (422, "insufficient_credits")
    assert await balance(client, ada) == (2, 0, 0)
    async with sessions() as session:
        assert (
            await session.scalars(select(models.AuditRow.action).where(models.AuditRow.action.like("credits.%")))
        ).all() == []
    all_of_it = await entered(client, operator, "adjustments", "3", user_id="ada", uses=-2, reason="counted too few")
    assert all_of_it["available"] == 0


@pytest.mark.parametrize("what", ["grants", "adjustments"])
async def test_entries_need_an_operator_a_key_and_a_reason(
    *, client: httpx.AsyncClient, operator: Bearer, create_key: CreateKey, ada: Bearer, spend: Spend, what: str
) -> None:
    await spend(1)
    body = {"user_id": "ada", "uses": 5, "reason": "sorry"}
    for who in (ada, await create_key("credits:write", "billing:write")):
        refused = await enter(client, who, what, "1", **body)
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    keyless = await enter(client, operator, what, **body)
    assert (keyless.status_code, keyless.json()["errors"][0]["param"]) == (422, "Idempotency-Key")
    for number, wrong in enumerate(
        ({"reason": ""}, {"reason": None}, {"uses": 0}, {"uses": 2**40}, {"uses": "5"}, {"user_id": None}, {"paid": 1})
    ):
        refused = await enter(client, operator, what, f"wrong-{number}", **body | wrong)
        assert refused.status_code == 422, wrong
    assert await balance(client, ada) == (2, 0, 0)


async def test_a_grant_cannot_have_expired_or_be_negative(client: httpx.AsyncClient, operator: Bearer) -> None:
    late = await enter(
        client, operator, "grants", "1", user_id="ada", uses=5, expires_at=unix_now() - 1, reason="sorry"
    )
    assert (late.status_code, late.json()["code"]) == (422, "expires_in_past")
    assert (await enter(client, operator, "grants", "2", user_id="ada", uses=-5, reason="sorry")).status_code == 422


async def test_whoever_chose_anothers_account_id_as_user_id_is_not_taken_for_them(
    client: httpx.AsyncClient, create_key: CreateKey, ada: Bearer
) -> None:
    operator = await create_key("operator", "credits:read")
    hers = await entered(client, operator, "grants", "1", user_id="ada", uses=5, reason="welcome")
    await entered(client, operator, "grants", "2", user_id=hers["account_id"], uses=1, reason="welcome")
    address = f"{API}/accounts/{hers['account_id']}"
    for refused in (
        await client.get(address, headers=operator),
        await client.patch(address, headers=operator, json={"status": "suspended"}),
        await client.delete(address, headers=operator),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "account_ambiguous")
    for who, id in ((operator, "ada"), (ada, hers["account_id"])):
        found = (await client.get(f"{API}/accounts/{id}", headers=who)).json()
        assert (found["account_id"], found["status"]) == (hers["account_id"], "active")


async def test_nothing_is_entered_in_a_closed_account(
    client: httpx.AsyncClient, operator: Bearer, spend: Spend, sessions: Sessions
) -> None:
    await spend(1)
    async with transaction(sessions) as session:
        [account] = await session.scalars(select(models.CreditAccount))
        account.status = "closed"
    for what in ("grants", "adjustments"):
        refused = await enter(client, operator, what, what, user_id="ada", uses=5, reason="sorry")
        assert (refused.status_code, refused.json()["code"]) == (409, "account_closed")


async def test_operators_and_charges_at_the_same_time_wait_for_each_other(
    *, client: httpx.AsyncClient, operator: Bearer, spend: Spend, ada: Bearer, sessions: Sessions
) -> None:
    """None of them deadlocks: whoever locks the audit log does so before the account."""
    account = f"{API}/accounts/ada"
    tries = [
        *(enter(client, operator, "grants", f"give-{n}", user_id="ada", uses=5, reason="sorry") for n in range(10)),
        *(client.patch(account, json={"status": "active"}, headers=operator) for _ in range(3)),
    ]
    await spend(1)
    answers = await asyncio.gather(*tries, *(spend(1) for _ in range(2)))
    assert {answer.status_code for answer in answers if answer is not None} == {200, 201}
    tries = [
        *(
            enter(client, operator, "adjustments", f"take-{n}", user_id="ada", uses=-4, reason="late")
            for n in range(10)
        ),
        client.patch(account, json={"status": "suspended"}, headers=operator),
        client.patch(account, json={"status": "active"}, headers=operator),
    ]
    answers = await asyncio.gather(*tries)
    assert {answer.status_code for answer in answers} == {200, 201}
    assert await balance(client, ada) == (0, 10, 0)
    assert await audit(sessions) == []
