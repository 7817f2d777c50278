"""Charges in two steps over HTTP: uses held, then captured or released, each just once."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from crediting import audit, buy, take_back
from serving import API, Bearer, CreateKey
from sqlalchemy import delete, update

from app import models
from app.db import Sessions, transaction
from app.services.catalog import Catalog
from app.values import unix_now


class Backend:
    """One that charges Ada."""

    def __init__(self, client: httpx.AsyncClient, key: Bearer) -> None:
        self.client, self.key, self.wishes = client, key, 0

    async def post(self, path: str, body: dict[str, Any] | None = None, key: str | None = None) -> httpx.Response:
        self.wishes += 1
        headers = {**self.key, "Idempotency-Key": key or f"wish-{self.wishes}"}
        return await self.client.post(f"{API}{path}", json=body, headers=headers)

    async def done(self, path: str, body: dict[str, Any] | None = None, key: str | None = None) -> dict[str, Any]:
        answer = await self.post(path, body, key)
        assert answer.status_code in {200, 201}, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def refusal(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        answer = await self.post(path, body)
        return answer.status_code, answer.json()["code"]

    async def get(self, path: str) -> Any:
        answer = await self.client.get(f"{API}{path}", headers=self.key)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def hold(self, quantity: int = 3, **more: Any) -> dict[str, Any]:
        return await self.done("/charges", {"user_id": "ada", "quantity": quantity, "hold": True, **more})

    async def balance(self) -> tuple[int, int, int]:
        """Available, held, spent."""
        account = await self.get("/accounts/ada")
        return account["available"], account["held"], account["total_uses"]


@pytest.fixture
async def backend(client: httpx.AsyncClient, create_key: CreateKey) -> Backend:
    return Backend(client, await create_key("credits:write", "credits:read"))


async def test_what_is_held_is_captured_in_part_and_the_rest_given_back(backend: Backend) -> None:
    held = await backend.hold(3, description="a long answer", metadata={"message_id": "m-1"})
    assert await backend.balance() == (0, 3, 0)
    assert (held["status"], held["captured"], held["balance_after"]) == ("held", 0, 0)
    captured = await backend.done(f"/charges/{held['charge_id']}/capture", {"quantity": 2})
    assert captured == held | {"status": "captured", "captured": 2}
    assert await backend.balance() == (1, 0, 2)
    assert await backend.get(f"/charges/{held['charge_id']}") == captured
    rows = await backend.get("/credits/ledger?user_id=ada")
    names = ("kind", "source", "destination", "amount", "balance_after")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("release", "held", "free", 1, 1),
        ("capture", "held", "consumed", 2, 0),
        ("hold", "free", "held", 3, 0),
        ("grant", "issued", "free", 3, 3),
    ]


async def test_without_a_quantity_all_of_it_is_captured(backend: Backend) -> None:
    held = await backend.hold(2)
    captured = await backend.done(f"/charges/{held['charge_id']}/capture")
    assert (captured["status"], captured["quantity"], captured["captured"]) == ("captured", 2, 2)
    assert await backend.balance() == (1, 0, 2)


async def test_what_is_held_cannot_be_spent_and_comes_back_when_it_is_released(backend: Backend) -> None:
    held = await backend.hold(3)
    assert await backend.refusal("/charges", {"user_id": "ada"}) == (402, "insufficient_credits")
    released = await backend.done(f"/charges/{held['charge_id']}/release")
    assert released == held | {"status": "released"}
    assert await backend.balance() == (3, 0, 0)
    assert (await backend.done("/charges", {"user_id": "ada"}))["balance_after"] == 2


async def test_a_hold_is_captured_or_released_once_whatever_the_key(backend: Backend) -> None:
    captured, released = await backend.hold(2), await backend.hold(1)
    capture, release = f"/charges/{captured['charge_id']}/capture", f"/charges/{released['charge_id']}/release"
    first = await backend.done(capture, {"quantity": 1}, key="capture")
    again = await backend.post(capture, {"quantity": 1}, key="capture")
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (first, "true")
    assert await backend.done(capture, {"quantity": 1}) == first
    assert await backend.refusal(capture, {"quantity": 2}) == (409, "hold_captured")
    assert await backend.refusal(capture) == (409, "hold_captured")
    assert await backend.refusal(f"/charges/{captured['charge_id']}/release") == (409, "hold_captured")
    gone = await backend.done(release)
    assert await backend.done(release) == gone
    assert await backend.refusal(f"/charges/{released['charge_id']}/capture") == (409, "hold_released")
    assert await backend.balance() == (2, 0, 1)


async def test_of_many_who_end_a_hold_at_once_one_does(backend: Backend, sessions: Sessions) -> None:
    held = await backend.hold(3)
    path = f"/charges/{held['charge_id']}"
    tries = [backend.post(f"{path}/capture", {"quantity": number}) for number in (1, 2, 3)]
    answers = await asyncio.gather(*tries, backend.post(f"{path}/release"))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    [winner] = [answer.json() for answer in answers if answer.status_code == 200]
    assert await backend.balance() == (3 - winner["captured"], 0, winner["captured"])
    assert await audit(sessions) == []


async def test_a_capture_takes_between_one_and_what_is_held(backend: Backend) -> None:
    held = await backend.hold(2)
    capture = f"/charges/{held['charge_id']}/capture"
    assert await backend.refusal(capture, {"quantity": 3}) == (422, "more_than_held")
    for wrong in ({"quantity": 0}, {"quantity": -1}, {"quantity": "1"}, {"amount": 1}):
        assert (await backend.post(capture, wrong)).status_code == 422
    assert await backend.balance() == (1, 2, 0)


async def test_a_charge_that_was_not_held_is_neither_captured_nor_released(backend: Backend) -> None:
    charge = await backend.done("/charges", {"user_id": "ada", "quantity": 2})
    assert charge["expires_at"] is None
    assert await backend.get(f"/charges/{charge['charge_id']}") == charge
    assert await backend.refusal(f"/charges/{charge['charge_id']}/release") == (409, "charge_not_held")
    assert await backend.refusal(f"/charges/{charge['charge_id']}/capture", {"quantity": 1}) == (409, "charge_not_held")
    assert await backend.balance() == (1, 0, 2)


async def lapse(sessions: Sessions) -> None:
    async with transaction(sessions) as session:
        await session.execute(update(models.CreditCharge).values(expires_at=unix_now()))


async def test_a_hold_that_has_lapsed_cannot_be_captured(backend: Backend, sessions: Sessions) -> None:
    """Even before the worker has seen to it: which of the two is first must not matter."""
    held = await backend.hold(3, expires_in=60)
    assert held["expires_at"] == held["created_at"] + 60
    await lapse(sessions)
    assert await backend.refusal(f"/charges/{held['charge_id']}/capture") == (409, "hold_expired")
    assert await backend.balance() == (0, 3, 0)
    await backend.done(f"/charges/{held['charge_id']}/release")
    assert await backend.balance() == (3, 0, 0)
    assert await backend.refusal(f"/charges/{held['charge_id']}/capture") == (409, "hold_released")


async def test_a_hold_lasts_as_long_as_the_catalogue_says(backend: Backend, catalog: Catalog) -> None:
    held = await backend.hold(1)
    assert held["expires_at"] == held["created_at"] + catalog.credits.hold_seconds


async def test_a_capture_succeeds_though_all_the_rest_was_taken_back_and_the_account_suspended(
    backend: Backend, sessions: Sessions
) -> None:
    await backend.hold(1)  # the account, and one of its free uses
    purchase = await buy(sessions, 20)
    held = await backend.hold(10)
    async with transaction(sessions) as session:
        await take_back(session, purchase, 20)
        await session.execute(update(models.CreditAccount).values(status="suspended"))
    assert (await backend.get("/accounts/ada"))["owed"] == 8
    captured = await backend.done(f"/charges/{held['charge_id']}/capture", {"quantity": 4})
    assert captured["captured"] == 4
    account = await backend.get("/accounts/ada")
    assert (account["available"], account["held"], account["owed"], account["total_uses"]) == (0, 1, 2, 4)
    assert await audit(sessions) == []


async def test_only_backends_that_may_charge_end_holds(
    client: httpx.AsyncClient, backend: Backend, create_key: CreateKey, ada: Bearer
) -> None:
    held = await backend.hold(1)
    path = f"{API}/charges/{held['charge_id']}"
    reader = await create_key("credits:read")
    for who in (ada, reader, await create_key("operator", "billing:write")):
        for what in ("capture", "release"):
            answer = await client.post(f"{path}/{what}", headers={**who, "Idempotency-Key": what})
            assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert (await client.get(path, headers=reader)).status_code == 200
    assert (await client.get(path, headers=ada)).status_code == 403
    for what in ("capture", "release"):
        keyless = await client.post(f"{path}/{what}", headers=backend.key)
        assert (keyless.status_code, keyless.json()["errors"][0]["param"]) == (422, "Idempotency-Key")
    assert await backend.balance() == (2, 1, 0)


async def test_there_is_no_charge_that_nobody_made(client: httpx.AsyncClient, backend: Backend) -> None:
    for what in ("capture", "release"):
        assert await backend.refusal(f"/charges/{uuid4()}/{what}") == (404, "charge_not_found")
    answer = await client.get(f"{API}/charges/{uuid4()}", headers=backend.key)
    assert (answer.status_code, answer.json()["code"]) == (404, "charge_not_found")
    assert (await client.get(f"{API}/charges/1", headers=backend.key)).status_code == 422


async def test_a_capture_is_done_once_even_when_its_answer_is_forgotten(backend: Backend, sessions: Sessions) -> None:
    held = await backend.hold(3)
    path = f"/charges/{held['charge_id']}/capture"
    first = await backend.done(path, {"quantity": 2}, key="capture")
    async with transaction(sessions) as session:
        await session.execute(delete(models.IdempotencyKey))
    assert await backend.done(path, {"quantity": 2}, key="capture") == first
    assert await backend.balance() == (1, 0, 2)
