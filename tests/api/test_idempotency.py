"""Idempotency-Key: the first answer for every repetition, whatever process asks and however often."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Response
from serving import API, Bearer, CreateKey, serving
from sqlalchemy import func, select, text, update

from app.api.deps import IdempotencyKeyDep, SessionDep
from app.db import Sessions
from app.errors import ConflictError, UnavailableError
from app.main import create_app
from app.models import IdempotencyKey
from app.provider.protocol import BillingProvider
from app.settings import Settings

ORDERS = f"{API}/test/orders"


class Orders:
    """A route that counts how often it really ran, and can be told to wait or to fail."""

    def __init__(self) -> None:
        self.ran = 0
        self.derived: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()
        self.error: Exception | None = None

    async def place(
        self, session: SessionDep, key: IdempotencyKeyDep, response: Response, body: dict[str, str]
    ) -> dict[str, object]:
        self.ran += 1
        self.derived.append(key)
        self.started.set()
        await session.execute(text("SELECT 1"))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        response.status_code = 201
        response.headers["Location"] = f"{ORDERS}/{self.ran}"
        return {"number": self.ran, **body}


@pytest.fixture
def orders() -> Orders:
    return Orders()


@pytest.fixture
def shop(quiet: Settings, provider: BillingProvider, orders: Orders) -> FastAPI:
    app = create_app(quiet, provider=provider)
    app.add_api_route(ORDERS, orders.place, methods=["POST", "PATCH", "DELETE"], include_in_schema=False)
    return app


@pytest.fixture
async def buyer(shop: FastAPI, ada: Bearer) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(shop) as client:
        client.headers.update(ada)
        yield client


async def place(client: httpx.AsyncClient, key: str, **body: str) -> httpx.Response:
    return await client.post(ORDERS, json=body, headers={"Idempotency-Key": key})


async def rows(sessions: Sessions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(IdempotencyKey)) or 0


async def test_a_repetition_is_given_the_first_answer(buyer: httpx.AsyncClient, orders: Orders) -> None:
    first, second = await place(buyer, "k", plan="pro"), await place(buyer, "k", plan="pro")
    assert orders.ran == 1
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    for name in ("content-type", "location"):
        assert first.headers[name] == second.headers[name]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_another_process_gives_the_same_answer(
    buyer: httpx.AsyncClient, shop: FastAPI, orders: Orders, ada: Bearer
) -> None:
    first = await place(buyer, "k")
    async with serving(shop) as other:
        other.headers.update(ada)
        second = await place(other, "k")
    assert (orders.ran, second.content) == (1, first.content)


async def test_an_error_is_the_answer_too(buyer: httpx.AsyncClient, orders: Orders) -> None:
    orders.error = ConflictError("There is one already.", code="taken")
    first = await place(buyer, "k")
    orders.error = None
    second = await place(buyer, "k")
    assert (orders.ran, first.status_code, second.status_code) == (1, 409, 409)
    assert second.json()["code"] == "taken"
    assert second.headers["content-type"] == "application/problem+json"


async def test_another_body_path_or_method_with_the_key_is_refused(buyer: httpx.AsyncClient, orders: Orders) -> None:
    await place(buyer, "k", plan="pro")
    headers = {"Idempotency-Key": "k"}
    for response in (
        await place(buyer, "k", plan="basic"),
        await buyer.post(ORDERS + "?x=1", json={"plan": "pro"}, headers=headers),
        await buyer.patch(ORDERS, json={"plan": "pro"}, headers=headers),
    ):
        assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
    assert orders.ran == 1


async def test_callers_do_not_share_keys(
    buyer: httpx.AsyncClient, orders: Orders, grace: Bearer, create_key: CreateKey
) -> None:
    await place(buyer, "k")
    for other in (grace, await create_key("billing:write")):
        response = await buyer.post(ORDERS, json={"x": "y"}, headers={"Idempotency-Key": "k"} | other)
        assert response.status_code == 201
    assert orders.ran == 3
    assert len(set(orders.derived)) == 3


async def test_while_the_first_runs_a_repetition_is_put_off(buyer: httpx.AsyncClient, orders: Orders) -> None:
    orders.gate.clear()
    first = asyncio.create_task(place(buyer, "k"))
    await orders.started.wait()
    early = await place(buyer, "k")
    assert (early.status_code, early.json()["code"]) == (409, "idempotency_key_in_use")
    assert early.json()["retryable"] is True
    orders.gate.set()
    assert (await first).status_code == 201
    assert (await place(buyer, "k")).content == (await first).content
    assert orders.ran == 1


async def test_fifty_at_once_run_once(buyer: httpx.AsyncClient, orders: Orders) -> None:
    answers = await asyncio.gather(*(place(buyer, "k") for _ in range(50)))
    assert orders.ran == 1
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1


async def test_what_passes_by_itself_may_be_tried_again(
    buyer: httpx.AsyncClient, orders: Orders, sessions: Sessions
) -> None:
    for error in (RuntimeError("bug"), UnavailableError("Stripe is away.")):
        orders.error = error
        assert (await place(buyer, "k")).status_code in {500, 503}
        assert await rows(sessions) == 0
    orders.error = None
    assert (await place(buyer, "k")).status_code == 201
    assert orders.ran == 3
    assert len(set(orders.derived)) == 1


async def test_a_dead_processs_claim_is_taken_over(
    buyer: httpx.AsyncClient, orders: Orders, sessions: Sessions
) -> None:
    orders.gate.clear()
    lost = asyncio.create_task(place(buyer, "k"))
    await orders.started.wait()
    async with sessions.begin() as session:
        await session.execute(update(IdempotencyKey).values(locked_at=func.now() - text("interval '61 s'")))
    assert (await place(buyer, "k", other="body")).status_code == 422
    orders.started.clear()
    taking_over = asyncio.create_task(place(buyer, "k"))
    await orders.started.wait()
    orders.gate.set()
    successor = await taking_over
    assert (successor.status_code, orders.ran) == (201, 2)
    await lost
    # The one that had been given up came back first, and its answer is not the one that counts.
    again = await place(buyer, "k")
    assert (orders.ran, again.content) == (2, successor.content)


async def test_the_same_key_a_day_later_is_another_request(
    buyer: httpx.AsyncClient, orders: Orders, sessions: Sessions
) -> None:
    await place(buyer, "k", plan="pro")
    async with sessions.begin() as session:
        await session.execute(update(IdempotencyKey).values(created_at=func.now() - text("interval '25 h'")))
    assert (await place(buyer, "k", plan="basic")).json()["plan"] == "basic"
    assert orders.ran == 2


async def test_a_key_may_stand_in_quotes(buyer: httpx.AsyncClient, orders: Orders) -> None:
    await place(buyer, '"k"')
    assert (await place(buyer, "k")).headers["idempotent-replayed"] == "true"
    assert orders.ran == 1


async def test_a_key_that_is_none_is_refused(buyer: httpx.AsyncClient, orders: Orders) -> None:
    for key in ("", '""', "a b", "x" * 256, "k\x7f"):
        response = await place(buyer, key)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_idempotency_key"), key
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert (await buyer.post(ORDERS, json={}, headers=twice)).status_code == 422
    assert orders.ran == 0


async def test_strangers_leave_no_trace(buyer: httpx.AsyncClient, sessions: Sessions) -> None:
    response = await buyer.post(ORDERS, json={}, headers={"Idempotency-Key": "k", "Authorization": "Bearer no"})
    assert response.status_code == 201  # the test's own route asks for no token
    assert await rows(sessions) == 0


async def test_reading_and_webhooks_need_no_key(buyer: httpx.AsyncClient, sessions: Sessions) -> None:
    await buyer.get(f"{API}/plans", headers={"Idempotency-Key": "k"})
    response = await buyer.post(f"{API}/webhook", content=b"{}", headers={"Idempotency-Key": "k"})
    assert response.status_code == 400
    assert await rows(sessions) == 0


async def test_stripe_is_sent_the_same_key_for_the_same_request_and_another_for_any_other(
    buyer: httpx.AsyncClient, orders: Orders
) -> None:
    await place(buyer, "k")
    await place(buyer, "l")
    await buyer.post(ORDERS, json={})
    await buyer.post(ORDERS, json={})
    assert len(set(orders.derived)) == 4
    assert all(key.isalnum() and len(key) <= 64 for key in orders.derived)
