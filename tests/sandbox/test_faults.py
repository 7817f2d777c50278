"""Faults on demand: requests refused or never answered, webhooks twice, late, forged, in the wrong order or lost."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
import uvicorn
from sandbox.driving import SECRET, ManualClock, Receiver
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.sandbox.app import create_sandbox
from app.sandbox.errors import ApiError
from app.sandbox.sandbox import Sandbox


@pytest.fixture
async def http(sandbox_app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """With the right key, and without the check of shapes: what `/_sandbox` answers is no object of Stripe's."""
    headers = {"Authorization": "Bearer sk_test_billhook"}
    transport = httpx.ASGITransport(sandbox_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox.test", headers=headers) as client:
        yield client


async def struck(http: httpx.AsyncClient) -> list[int]:
    return [fault["struck"] for fault in (await http.get("/_sandbox/faults")).json()["data"]]


@pytest.mark.parametrize(
    ("fault", "status", "error", "retry_after"),
    [
        ("rate_limit", 429, ("invalid_request_error", "rate_limit"), "7"),
        ("lock_timeout", 429, ("invalid_request_error", "lock_timeout"), "7"),
        ("error", 500, ("api_error", None), None),
    ],
)
async def test_the_next_two_matching_requests_are_refused_before_any_work(
    http: httpx.AsyncClient, fault: str, status: int, error: tuple[str, str | None], retry_after: str | None
) -> None:
    seconds = {} if retry_after is None else {"seconds": retry_after}
    form = {"fault": fault, "times": 2, "method": "POST", "path": "/v1/customers", **seconds}
    made = await http.post("/_sandbox/faults", data=form)
    assert made.status_code == 200, made.text
    assert (await http.post("/v1/products", data={"name": "Pro"})).status_code == 200
    assert (await http.get("/v1/customers")).status_code == 200
    headers = {"Idempotency-Key": "k1"}
    answers = [await http.post("/v1/customers", headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 200]
    said = answers[0].json()["error"]
    assert (said["type"], said.get("code")) == error
    assert answers[0].headers.get("Retry-After") == retry_after
    assert answers[0].headers["Request-Id"].startswith("req_")
    assert "Idempotent-Replayed" not in answers[2].headers
    assert len((await http.get("/v1/customers")).json()["data"]) == 1
    assert await struck(http) == [2]


async def test_a_path_may_hold_anything_and_json_is_understood(http: httpx.AsyncClient) -> None:
    await http.post("/_sandbox/faults", json={"fault": "error", "path": "/v1/customers/*", "times": 1})
    customer = (await http.post("/v1/customers")).json()["id"]
    assert (await http.get(f"/v1/customers/{customer}")).status_code == 500
    assert (await http.get(f"/v1/customers/{customer}")).status_code == 200


async def test_v2_fails_on_demand_as_well(http: httpx.AsyncClient) -> None:
    await http.post("/_sandbox/faults", data={"fault": "error", "path": "/v2/*"})
    statuses = [(await http.get("/v2/core/event_destinations")).status_code for _ in range(2)]
    assert statuses == [500, 200]


async def test_a_probability_strikes_alike_in_every_run() -> None:
    runs = []
    for seed in (1, 1, 2):
        app = create_sandbox()
        app.state.sandbox.faults.add("error", probability=0.5, seed=seed)
        headers = {"Authorization": "Bearer sk_test_billhook"}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://s", headers=headers
        ) as client:
            runs.append([(await client.get("/v1/customers")).status_code for _ in range(40)])
    assert runs[0] == runs[1] != runs[2]
    assert 8 <= runs[0].count(500) <= 32


async def test_faults_are_listed_and_taken_away(http: httpx.AsyncClient) -> None:
    await http.post("/_sandbox/faults", data={"fault": "drop", "event_type": "invoice.*", "probability": "0.25"})
    listed = (await http.get("/_sandbox/faults")).json()
    assert listed["data"] == [
        {
            "id": "fault_1",
            "object": "sandbox.fault",
            "event_type": "invoice.*",
            "fault": "drop",
            "method": None,
            "path": None,
            "probability": 0.25,
            "seconds": None,
            "seed": 0,
            "struck": 0,
            "times": None,
        }
    ]
    assert (await http.delete("/_sandbox/faults")).json()["data"] == []
    assert await struck(http) == []


@pytest.mark.parametrize(
    ("form", "param", "message"),
    [
        ({"fault": "error", "wat": "1"}, "wat", "Received unknown parameter: wat"),
        ({}, "fault", "Missing required param: fault."),
        ({"fault": "flood"}, "fault", "Invalid fault: must be one of error, lock_timeout, rate_limit, "),
        ({"fault": "error", "times": "many"}, "times", "Invalid integer: many"),
        ({"fault": "error", "times": "0"}, "times", "This value must be greater than or equal to 1."),
        ({"fault": "error", "probability": "1.5"}, "probability", "This value must be greater than 0"),
        ({"fault": "drop", "path": "/v1/customers"}, "path", "A `drop` fault does not take `path`."),
        ({"fault": "error", "event_type": "*"}, "event_type", "A `error` fault does not take `event_type`."),
        ({"fault": "error", "seconds": "3"}, "seconds", "A `error` fault does not take `seconds`."),
        ({"fault": "delay", "seconds": "-1"}, "seconds", "This value must be greater than or equal to 0."),
    ],
)
async def test_a_fault_that_makes_no_sense_is_refused_in_stripes_words(
    http: httpx.AsyncClient, form: dict[str, str], param: str, message: str
) -> None:
    answer = await http.post("/_sandbox/faults", data=form)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["message"].startswith(message)
    assert await struck(http) == []


async def test_what_is_no_json_object_is_refused(http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    for body in ("{", "[1]"):
        assert (await http.post("/_sandbox/faults", content=body, headers=headers)).status_code == 400


async def test_a_page_in_a_browser_may_not_ask_for_faults(http: httpx.AsyncClient) -> None:
    headers = {"Origin": "https://evil.example"}
    answer = await http.post("/_sandbox/faults", data={"fault": "error"}, headers=headers)
    assert answer.status_code == 403
    assert (await http.post("/_sandbox/reset", headers=headers)).status_code == 403
    assert await struck(http) == []


@pytest.fixture
async def served(sandbox_app: Starlette) -> AsyncIterator[str]:
    """The sandbox behind a socket, where a client can give up waiting."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(sandbox_app, log_config=None, date_header=False, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        server.should_exit = True
        await task


@pytest.mark.parametrize(("fault", "done"), [("timeout_before", 0), ("timeout_after", 1)])
async def test_a_timeout_comes_before_the_work_or_after_it(
    served: str, sandbox: Sandbox, fault: Any, done: int
) -> None:
    sandbox.faults.add(fault, method="POST", path="/v1/customers")
    headers = {"Authorization": "Bearer sk_test_billhook", "Idempotency-Key": "k1"}
    async with httpx.AsyncClient(base_url=served, headers=headers, timeout=0.3) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/v1/customers", data={"name": "Ada"})
        await asyncio.sleep(0.2)  # the sandbox has noticed that nobody waits any more
        assert len(sandbox.rows("customer")) == done
        again = await http.post("/v1/customers", data={"name": "Ada"}, timeout=5)
        assert again.status_code == 200
        assert ("Idempotent-Replayed" in again.headers) is bool(done)
    assert [row["name"] for row in sandbox.rows("customer")] == ["Ada"]


async def names(http: httpx.AsyncClient, *names: str) -> None:
    for name in names:
        assert (await http.post("/v1/customers", data={"name": name})).status_code == 200


def received(receiver: Receiver) -> list[str]:
    return [event["data"]["object"]["name"] for event in receiver.events]


async def test_a_duplicated_event_arrives_twice(http: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver) -> None:
    sandbox.faults.add("duplicate", event_type="customer.created")
    await names(http, "A", "B")
    await sandbox.drain()
    assert received(receiver) == ["A", "A", "B"]
    assert receiver.events[0]["id"] == receiver.events[1]["id"]
    assert [row["pending_webhooks"] for row in sandbox.rows("event")] == [0, 0]


async def test_a_reordered_event_is_overtaken_by_the_next_one(
    http: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver
) -> None:
    sandbox.faults.add("reorder")
    await names(http, "A", "B", "C")
    await sandbox.drain()
    assert received(receiver)[0] != "A"
    assert sorted(received(receiver)) == ["A", "B", "C"]


async def test_a_reordered_event_that_nothing_overtakes_comes_late(
    http: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver, clock: ManualClock
) -> None:
    sandbox.faults.add("reorder", seconds=30)
    await names(http, "A")
    await sandbox.drain()
    assert received(receiver) == []
    clock.advance(seconds=31)
    await sandbox.drain()
    assert received(receiver) == ["A"]


async def test_a_delayed_event_comes_when_its_time_has_come(
    http: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver, clock: ManualClock
) -> None:
    sandbox.faults.add("delay", seconds=60)
    await names(http, "A", "B")
    await sandbox.drain()
    assert received(receiver) == ["B"]
    clock.advance(seconds=61)
    await sandbox.drain()
    assert received(receiver) == ["B", "A"]


async def test_a_dropped_event_never_comes_but_is_listed_as_undelivered(
    http: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver, clock: ManualClock
) -> None:
    sandbox.faults.add("drop")
    await names(http, "A", "B")
    clock.advance(days=2)
    await sandbox.drain()
    assert received(receiver) == ["B"]
    lost = (await http.get("/v1/events", params={"delivery_success": "false"})).json()["data"]
    assert [event["data"]["object"]["name"] for event in lost] == ["A"]


async def test_a_bad_signature_is_followed_by_a_good_one(clock: ManualClock) -> None:
    answers: list[int] = []

    async def receive(request: Request) -> Response:
        try:
            stripe.WebhookSignature.verify_header(
                (await request.body()).decode(), request.headers["Stripe-Signature"], SECRET
            )
        except stripe.SignatureVerificationError:
            answers.append(400)
        else:
            answers.append(200)
        return Response(status_code=answers[-1])

    hook = Starlette(routes=[Route("/hook", receive, methods=["POST"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(hook)) as webhooks:
        sandbox: Sandbox = create_sandbox(webhook_client=webhooks, now=clock).state.sandbox
        sandbox.add_webhook_endpoint("http://app.test/hook", SECRET)
        sandbox.faults.add("bad_signature")
        with sandbox.transaction():
            sandbox.emit("product.created", {"id": "prod_1", "object": "product"})
        await sandbox.drain()
        assert answers == [400]
        clock.advance(seconds=10)
        await sandbox.drain()
        assert answers == [400, 200]
        await sandbox.aclose()


def test_a_fault_asked_for_in_the_process_is_held_to_the_same_rules(sandbox: Sandbox) -> None:
    with pytest.raises(ApiError, match="does not take `path`"):
        sandbox.faults.add("drop", path="/v1/customers")


async def test_faults_outlive_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.jsonl"
    first = create_sandbox(state_file=file).state.sandbox
    first.faults.add("error", times=3)
    (kept,) = create_sandbox(state_file=file).state.sandbox.faults.rows()
    assert (kept["fault"], kept["times"], kept["struck"]) == ("error", 3, 0)
