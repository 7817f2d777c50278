"""The state file: what a restart, or a kill in mid-write, leaves."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import stripe
from sandbox.driving import GOOD, SECRET, AsyncTransport, Receiver
from starlette.applications import Starlette

from app.sandbox import checkout
from app.sandbox.app import create_sandbox


def sdk(app: Starlette) -> Any:
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
    return stripe.StripeClient("sk_test_billhook", base_addresses={"api": "http://s"}, http_client=AsyncTransport(http))


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_restart_keeps_everything(tmp_path: Path, receiver: Receiver) -> None:
    file = tmp_path / "state" / "sandbox.jsonl"
    app = create_sandbox(state_file=file, webhook_client=receiver.client)
    app.state.sandbox.hold_deliveries()
    app.state.sandbox.add_webhook_endpoint("http://app.test/hook", SECRET)
    v1 = sdk(app).v1
    price = {"currency": "usd", "unit_amount": 9900, "recurring": {"interval": "month"}}
    product = await v1.products.create_async({"name": "Pro", "default_price_data": price})
    session = await v1.checkout.sessions.create_async(
        {
            "mode": "subscription",
            "line_items": [{"price": str(product.default_price), "quantity": 1}],
            "success_url": "http://app/ok",
        },
        {"idempotency_key": "buy"},
    )
    checkout.pay(app.state.sandbox, session.id, GOOD, "ada@example.com")
    kinds = ("customer", "product", "price", "checkout.session", "subscription", "invoice", "event", "_delivery")
    before = {kind: app.state.sandbox.rows(kind) for kind in kinds}
    assert all(before.values())
    await app.state.sandbox.aclose()

    again = create_sandbox(state_file=file, webhook_client=receiver.client)
    assert {kind: again.state.sandbox.rows(kind) for kind in kinds} == before
    replayed = await sdk(again).v1.checkout.sessions.create_async(
        {
            "mode": "subscription",
            "line_items": [{"price": str(product.default_price), "quantity": 1}],
            "success_url": "http://app/ok",
        },
        {"idempotency_key": "buy"},
    )
    assert replayed.id == session.id
    await again.state.sandbox.drain()
    assert receiver.types() == [event["type"] for event in before["event"]]
    await again.state.sandbox.aclose()


async def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.jsonl"
    app = create_sandbox(state_file=file)
    await sdk(app).v1.customers.create_async()
    assert file.stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == ["sandbox.jsonl"]


async def test_a_line_cut_short_by_a_kill_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.jsonl"
    app = create_sandbox(state_file=file)
    kept = await sdk(app).v1.customers.create_async({"name": "kept"})
    with file.open("a") as state:
        state.write('{"customer": {"cus_half": {"id": "cus_')
    again = create_sandbox(state_file=file)
    assert [c.id for c in await sdk(again).v1.customers.list_async()] == [kept.id]
    later = await sdk(again).v1.customers.create_async({"name": "later"})
    third = create_sandbox(state_file=file)
    assert [c.id for c in await sdk(third).v1.customers.list_async()] == [later.id, kept.id]


async def test_a_refused_request_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.jsonl"
    app = create_sandbox(state_file=file)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s") as http:
        http.headers["Authorization"] = "Bearer sk_test_billhook"
        form = {"name": "Pro", "default_price_data[currency]": "usd"}
        assert (await http.post("/v1/products", data=form)).status_code == 400
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{}]


async def test_reading_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.jsonl"
    v1 = sdk(create_sandbox(state_file=file)).v1
    customer = await v1.customers.create_async()
    size = file.stat().st_size
    await v1.customers.retrieve_async(customer.id)
    await v1.customers.list_async({"expand": ["data.subscriptions"]})
    assert file.stat().st_size == size


async def test_a_seed_gives_the_same_ids_and_never_one_twice(tmp_path: Path) -> None:
    apps = [create_sandbox(seed=7), create_sandbox(seed=7), create_sandbox(seed=8)]
    first, second, other = [(await sdk(app).v1.customers.create_async()).id for app in apps]
    assert first == second != other
    file = tmp_path / "sandbox.jsonl"
    made = [(await sdk(create_sandbox(seed=7, state_file=file)).v1.customers.create_async()).id for _ in range(5)]
    assert len(set(made)) == 5


async def test_kill_9_loses_no_answered_request(tmp_path: Path) -> None:
    """Another process takes customers as fast as it can and is killed: all that it acknowledged are there."""
    file = tmp_path / "sandbox.jsonl"
    program = """
import asyncio, sys
from pathlib import Path
import httpx
from app.sandbox.app import create_sandbox
async def main():
    transport = httpx.ASGITransport(create_sandbox(state_file=Path(sys.argv[1])))
    async with httpx.AsyncClient(transport=transport, base_url="http://s") as http:
        http.headers["Authorization"] = "Bearer sk_test_billhook"
        while True:
            print((await http.post("/v1/customers")).json()["id"], flush=True)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(file), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged = [(await process.stdout.readline()).decode().strip() for _ in range(25)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += (await process.stdout.read()).decode().split()
    await process.wait()
    kept = create_sandbox(state_file=file).state.sandbox.ids("customer")
    assert acknowledged == kept[: len(acknowledged)]
