"""A fresh sandbox for every test, the SDK's client on it, and a check of every shape that came back."""

import time
from collections.abc import AsyncIterator

import httpx
import pytest
import stripe
from sandbox.driving import SECRET, AsyncTransport, ManualClock, Receiver, Recorder, Shop
from sandbox.shapes import violations
from starlette.applications import Starlette

from app.sandbox.app import create_sandbox
from app.sandbox.sandbox import Sandbox

stripe.enable_telemetry = False


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def sandbox_app(clock: ManualClock, receiver: Receiver) -> AsyncIterator[Starlette]:
    app = create_sandbox(webhook_client=receiver.client, now=clock, base_url="http://sandbox.test")
    sandbox: Sandbox = app.state.sandbox
    sandbox.add_webhook_endpoint("http://app.test/hook", SECRET)
    yield app
    await sandbox.aclose()


@pytest.fixture
def sandbox(sandbox_app: Starlette) -> Sandbox:
    found: Sandbox = sandbox_app.state.sandbox
    return found


@pytest.fixture
async def transport(sandbox_app: Starlette) -> AsyncIterator[Recorder]:
    """Everything that was answered and announced has to fit the SDK's classes, whatever the test is about."""
    recorder = Recorder(sandbox_app)
    yield recorder
    said = [*recorder.answers, *sandbox_app.state.sandbox.rows("event")]
    wrong = sorted({found for answer in said for found in violations(answer)})
    assert not wrong, "\n".join(wrong)


@pytest.fixture
async def http(transport: Recorder) -> AsyncIterator[httpx.AsyncClient]:
    """Plain HTTP with the right key, for what the SDK would not send."""
    headers = {"Authorization": "Bearer sk_test_billhook"}
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox.test", headers=headers) as client:
        yield client


@pytest.fixture
async def shop(client: stripe.StripeClient, sandbox: Sandbox, clock: ManualClock) -> Shop:
    """A customer and two monthly plans on one product each."""
    basic, pro = [
        await client.v1.products.create_async(
            {
                "name": name,
                "default_price_data": {"currency": "usd", "unit_amount": cents, "recurring": {"interval": "month"}},
            }
        )
        for name, cents in (("Basic", 2900), ("Pro", 9900))
    ]
    customer = await client.v1.customers.create_async({"email": "ada@example.com"})
    return Shop(client, sandbox, clock, customer.id, str(basic.default_price), str(pro.default_price))


@pytest.fixture
async def client(transport: Recorder) -> AsyncIterator[stripe.StripeClient]:
    async with httpx.AsyncClient(transport=transport) as http_client:
        yield stripe.StripeClient(
            "sk_test_billhook",
            base_addresses={"api": "http://sandbox.test"},
            http_client=AsyncTransport(http_client),
        )
