"""Webhook deliveries: signed, retried with fresh signatures, in the test's hands when it wants."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import stripe
from sandbox.driving import GOOD, SECRET, ManualClock, Receiver, Shop
from starlette.applications import Starlette

from app.sandbox import checkout
from app.sandbox.app import create_sandbox
from app.sandbox.delivery import RETRY_DELAYS


async def test_a_change_is_delivered_as_stripe_delivers_it(shop: Shop, receiver: Receiver) -> None:
    await shop.sandbox.drain()
    body, headers = receiver.requests[-1]
    event = stripe.Webhook.construct_event(body, headers["stripe-signature"], SECRET)
    assert event.type == "customer.created"
    assert event.data.object.id == shop.customer
    assert headers["user-agent"].startswith("Stripe/1.0 ")
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert body.startswith(b'{\n  "id": "evt_1')
    assert json.loads(body)["api_version"] == stripe.api_version
    assert (await shop.client.v1.events.retrieve_async(event.id)).pending_webhooks == 0


async def test_a_failed_delivery_is_retried_with_a_fresh_signature(
    shop: Shop, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.sandbox.drain()
    receiver.status = 500
    wall = 2_000_000_000
    monkeypatch.setattr("time.time", lambda: wall)
    await shop.client.v1.customers.update_async(shop.customer, {"name": "Ada"})
    await shop.sandbox.drain()
    assert len((await shop.client.v1.events.list_async({"delivery_success": False})).data) == 1
    wall += 600
    receiver.status = 204
    shop.clock.advance(seconds=RETRY_DELAYS[0])
    await shop.sandbox.drain()
    first, second = receiver.requests[-2:]
    assert first[0] == second[0]
    stamps = [headers["stripe-signature"].split(",")[0] for _, headers in (first, second)]
    assert stamps == ["t=2000000000", "t=2000000600"]
    assert list(await shop.client.v1.events.list_async({"delivery_success": False})) == []


async def test_retries_end_when_the_delays_are_used_up(shop: Shop, receiver: Receiver) -> None:
    await shop.sandbox.drain()
    receiver.status = 302
    receiver.requests.clear()
    await shop.client.v1.customers.update_async(shop.customer, {"name": "Ada"})
    for _ in range(len(RETRY_DELAYS) + 3):
        await shop.sandbox.drain()
        shop.clock.advance(hours=1)
    assert len(receiver.requests) == 1 + len(RETRY_DELAYS)
    assert shop.sandbox.pending_deliveries() == []
    assert len((await shop.client.v1.events.list_async({"delivery_success": False})).data) == 1


async def test_an_endpoint_that_is_away_is_tried_again(shop: Shop) -> None:
    refusing = httpx.MockTransport(
        lambda request: (_ for _ in ()).throw(httpx.ConnectError("refused", request=request))
    )
    async with httpx.AsyncClient(transport=refusing) as client:
        app = create_sandbox(webhook_client=client, now=shop.clock)
        sandbox = app.state.sandbox
        sandbox.add_webhook_endpoint("http://away.test/hook", SECRET)
        with sandbox.changing():
            sandbox.emit("customer.created", {"id": "cus_1", "object": "customer"})
        await sandbox.drain()
        delivery = sandbox.pending_deliveries()[0]
        assert (delivery["attempts"], delivery["response_status"]) == (1, None)
        await sandbox.aclose()


async def test_a_test_can_deliver_in_any_order_twice_or_never(shop: Shop, receiver: Receiver) -> None:
    await shop.sandbox.drain()
    receiver.events.clear()
    shop.sandbox.hold_deliveries()
    for name in ("one", "two", "three"):
        await shop.client.v1.customers.update_async(shop.customer, {"name": name})
    await shop.sandbox.drain()
    assert receiver.events == []
    one, two, three = shop.sandbox.pending_deliveries()
    shop.sandbox.drop(two)
    assert [await shop.sandbox.deliver(d) for d in (three, one, one)] == [200, 200, 200]
    assert [event["data"]["object"]["name"] for event in receiver.events] == ["three", "one", "one"]
    shop.sandbox.release_deliveries()
    await shop.sandbox.drain()
    assert len(receiver.events) == 3


async def test_only_wanted_events_are_sent(shop: Shop) -> None:
    endpoint = await shop.client.v1.webhook_endpoints.create_async(
        {"url": "http://other.test/hook", "enabled_events": ["product.created"]}
    )
    await shop.sandbox.drain()
    await shop.client.v1.products.create_async({"name": "X"})
    await shop.client.v1.customers.create_async()
    sent = [d for d in shop.sandbox.pending_deliveries() if d["webhook_endpoint"] == endpoint.id]
    assert [shop.sandbox.get("event", d["event"])["type"] for d in sent] == ["product.created"]
    shown = await shop.client.v1.webhook_endpoints.retrieve_async(endpoint.id)
    assert not hasattr(shown, "secret")


async def test_a_disabled_endpoint_gets_nothing_more(shop: Shop) -> None:
    await shop.sandbox.drain()
    endpoint = (await shop.client.v1.webhook_endpoints.list_async()).data[0]
    shop.sandbox.hold_deliveries()
    await shop.client.v1.customers.create_async()
    await shop.client.v1.webhook_endpoints.update_async(endpoint.id, {"disabled": True})
    await shop.client.v1.customers.create_async()
    assert shop.sandbox.pending_deliveries() == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"url": "ftp://x", "enabled_events": ["*"]}, "Invalid URL: An explicit scheme"),
        ({"url": "http://x", "enabled_events": ["customer.activated"]}, "Invalid enabled_events: must be one of"),
        ({"url": "http://x", "enabled_events": ["*"], "api_version": "2024-06-20"}, "does not implement API versions"),
    ],
)
async def test_a_wrong_endpoint_is_refused(http: httpx.AsyncClient, params: dict[str, str], message: str) -> None:
    form = {"url": params["url"], "enabled_events[0]": params["enabled_events"][0]}
    form |= {name: value for name, value in params.items() if name == "api_version"}
    answer = await http.post("/v1/webhook_endpoints", data=form)
    assert message in answer.json()["error"]["message"]


async def test_updates_tell_what_changed_and_only_that(shop: Shop, receiver: Receiver) -> None:
    customers = shop.client.v1.customers
    await customers.update_async(shop.customer, {"metadata": {"a": "1", "b": "2"}})
    await customers.update_async(shop.customer, {"name": "Ada", "metadata": {"a": "3", "b": "", "c": "4"}})
    await shop.sandbox.drain()
    event = receiver.last("customer.updated")
    assert event["data"]["object"]["metadata"] == {"a": "3", "c": "4"}
    assert event["data"]["previous_attributes"] == {"metadata": {"a": "1", "b": "2", "c": None}, "name": None}
    count = len(receiver.events)
    await customers.update_async(shop.customer, {"name": "Ada"})
    await shop.sandbox.drain()
    assert len(receiver.events) == count
    await customers.update_async(shop.customer, {"metadata": ""})
    assert (await customers.retrieve_async(shop.customer)).metadata.to_dict() == {}


async def test_subscribing_in_checkout_tells_the_whole_story(shop: Shop, receiver: Receiver) -> None:
    session = await shop.session()
    await shop.sandbox.drain()
    receiver.events.clear()
    checkout.pay(shop.sandbox, session.id, GOOD)
    await shop.sandbox.drain()
    assert receiver.types() == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "payment_method.attached",
        "customer.subscription.created",
        "invoice.created",
        "customer.updated",
        "invoice.finalized",
        "invoice.updated",
        "invoice_payment.paid",
        "invoice.paid",
        "invoice.payment_succeeded",
        "checkout.session.completed",
    ]
    created = receiver.last("customer.subscription.created")["data"]
    assert created["object"]["status"] == "active"
    assert "previous_attributes" not in created
    assert receiver.last("invoice.created")["data"]["object"]["status"] == "draft"
    assert receiver.last("invoice.updated")["data"]["previous_attributes"]["status"] == "open"
    assert receiver.last("checkout.session.completed")["data"]["object"]["payment_status"] == "paid"
    assert {event["created"] for event in receiver.events} == {int(shop.clock())}


async def test_events_are_kept_for_thirty_days_and_until_they_are_delivered(
    shop: Shop, clock: ManualClock, receiver: Receiver
) -> None:
    await shop.sandbox.drain()
    shop.sandbox.hold_deliveries()
    late = await shop.client.v1.customers.create_async()
    clock.advance(days=31)
    assert [e.data.object.id for e in await shop.client.v1.events.list_async()] == [late.id]
    shop.sandbox.release_deliveries()
    await shop.sandbox.drain()
    assert receiver.events[-1]["data"]["object"]["id"] == late.id
    clock.advance(days=1)
    assert list(await shop.client.v1.events.list_async()) == []


async def until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110 - what is waited for happens by timers, which tell nobody
        await asyncio.sleep(0.005)


@pytest.fixture
async def lively(receiver: Receiver) -> AsyncIterator[Starlette]:
    """A sandbox as a server runs it: real time, lifespan, short retries."""
    app = create_sandbox(webhook_client=receiver.client, retry_delays=(0.02, 0.02, 0.02))
    async with app.router.lifespan_context(app):
        yield app


async def test_a_running_sandbox_retries_by_itself(lively: Starlette, receiver: Receiver) -> None:
    sandbox = lively.state.sandbox
    sandbox.add_webhook_endpoint("http://app.test/hook", SECRET)
    receiver.status = 500
    with sandbox.changing():
        sandbox.emit("customer.created", {"id": "cus_1", "object": "customer"})
    await until(lambda: len(receiver.requests) >= 2)
    receiver.status = 200
    await until(lambda: not sandbox.pending_deliveries())
    assert len({event["id"] for event in receiver.events}) == 1
