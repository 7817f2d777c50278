"""Idempotency keys: the first answer again, or a conflict."""

import asyncio

import httpx
import pytest
import stripe
from sandbox.driving import AsyncTransport, ManualClock, Shop
from typing_extensions import override

from app.sandbox.app import create_sandbox


async def test_the_same_key_and_parameters_give_the_first_answer(http: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await http.post("/v1/customers", data={"email": "a@example.com", "name": "A"}, headers=headers)
    again = await http.post("/v1/customers", data={"name": "A", "email": "a@example.com"}, headers=headers)
    assert again.json() == first.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Original-Request"] == first.headers["Request-Id"] != again.headers["Request-Id"]
    assert len((await http.get("/v1/customers")).json()["data"]) == 1


@pytest.mark.parametrize(("path", "email"), [("customers", "b@example.com"), ("products", "a@example.com")])
async def test_the_same_key_with_another_request_is_an_idempotency_error(
    http: httpx.AsyncClient, path: str, email: str
) -> None:
    headers = {"Idempotency-Key": "k1"}
    await http.post("/v1/customers", data={"email": "a@example.com"}, headers=headers)
    answer = await http.post(f"/v1/{path}", data={"email": email}, headers=headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "idempotency_error"
    assert error["message"] == (
        "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using "
        "a key other than 'k1' if you meant to execute a different request."
    )


async def test_a_refused_outcome_is_replayed_but_a_wrong_parameter_is_not(shop: Shop, http: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    form = {"customer": shop.customer}
    refused = await http.post("/v1/payment_methods/pm_nope/attach", data=form, headers=headers)
    again = await http.post("/v1/payment_methods/pm_nope/attach", data=form, headers=headers)
    assert (refused.status_code, again.status_code) == (404, 404)
    assert again.headers["Idempotent-Replayed"] == "true"
    headers = {"Idempotency-Key": "k2"}
    assert (await http.post("/v1/customers", data={"wat": "1"}, headers=headers)).status_code == 400
    assert (await http.post("/v1/customers", data={"name": "A"}, headers=headers)).status_code == 200


async def test_a_key_at_work_is_409() -> None:
    app = create_sandbox(latency=0.05)
    headers = {"Authorization": "Bearer sk_test_billhook", "Idempotency-Key": "k1"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://s", headers=headers) as http:
        answers = await asyncio.gather(*(http.post("/v1/customers", data={"name": "A"}) for _ in range(3)))
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
        error = max(answers, key=lambda answer: answer.status_code).json()["error"]
        assert error["code"] == "idempotency_key_in_use"
        assert error["message"].endswith("still going through): k1. Please try again later.")
        assert (await http.post("/v1/customers", data={"name": "A"})).headers["Idempotent-Replayed"] == "true"


async def test_the_sdk_retries_into_the_first_answer() -> None:
    """A client that lost the answer to its POST sends it again and gets the same customer."""
    app = create_sandbox()

    class LosingTheFirst(httpx.ASGITransport):
        lost = 0

        @override
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            if self.lost == 0:
                self.lost += 1
                raise httpx.ReadTimeout("the answer was lost", request=request)
            return response

    transport = LosingTheFirst(app)
    async with httpx.AsyncClient(transport=transport) as http:
        client = stripe.StripeClient(
            "sk_test_billhook",
            base_addresses={"api": "http://s"},
            http_client=AsyncTransport(http),
            max_network_retries=1,
        )
        made = await client.v1.customers.create_async({"name": "A"})
        assert [c.id for c in await client.v1.customers.list_async()] == [made.id]
    assert transport.lost == 1


async def test_a_key_is_forgotten_after_a_day(clock: ManualClock, http: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await http.post("/v1/products", data={"name": "A"}, headers=headers)
    clock.advance(hours=25)
    assert (await http.post("/v1/products", data={"name": "A"}, headers=headers)).json()["id"] != first.json()["id"]


async def test_the_event_names_request_and_key(http: httpx.AsyncClient) -> None:
    made = await http.post("/v1/customers", headers={"Idempotency-Key": "k1"})
    events = (await http.get("/v1/events")).json()["data"]
    assert events[0]["request"] == {"id": made.headers["Request-Id"], "idempotency_key": "k1"}
