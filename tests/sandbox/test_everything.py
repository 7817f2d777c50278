"""One walk through all that the sandbox does, by the real SDK: async in process, sync over a socket."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import stripe
import uvicorn
from sandbox.driving import GOOD, Recorder, card
from sandbox.shapes import violations
from starlette.applications import Starlette
from typing_extensions import override

from app.sandbox import checkout
from app.sandbox.app import create_sandbox
from app.sandbox.errors import CardError
from app.sandbox.resources import disputes
from app.sandbox.sandbox import Sandbox

Call = Callable[..., Awaitable[Any]]
Act = Callable[[Callable[[], Any]], Awaitable[Any]]


async def walk(client: stripe.StripeClient, call: Call, sandbox: Sandbox, act: Act) -> None:
    """Use every operation. ``call`` makes an API request, ``act`` does what a hosted page would."""
    v1 = client.v1
    endpoint = await call(v1.webhook_endpoints, "create", {"url": "http://127.0.0.1:9/x", "enabled_events": ["*"]})
    assert endpoint.secret.startswith("whsec_")
    await call(v1.webhook_endpoints, "update", endpoint.id, {"enabled_events": ["invoice.paid"], "disabled": True})
    assert (await call(v1.webhook_endpoints, "retrieve", endpoint.id)).status == "disabled"
    assert [e.id for e in await call(v1.webhook_endpoints, "list") if e.id == endpoint.id] == [endpoint.id]
    assert (await call(v1.webhook_endpoints, "delete", endpoint.id)).deleted

    basic, pro, yearly, pack = await catalogue(v1, call)
    customer = await call(v1.customers, "create", {"email": "ada@example.com", "metadata": {"user": "1"}})
    await call(v1.customers, "update", customer.id, {"name": "Ada", "address": {"country": "DE"}})
    assert (await call(v1.customers, "retrieve", customer.id)).name == "Ada"
    assert [c.id for c in await call(v1.customers, "list", {"email": "ada@example.com"})] == [customer.id]

    await cards_and_setups(v1, call, customer.id)
    subscription = await bought_in_checkout(v1, call, act, sandbox, customer=customer.id, pro=pro, pack=pack)
    await changed(v1, call, subscription, basic=basic, pro=pro, yearly=yearly)
    await made_by_api(v1, call, customer.id, basic)
    await paid_by_api(v1, call, act, sandbox)
    await on_a_test_clock(v1, call, basic=basic, pro=pro)
    await invoices(v1, call, customer.id, subscription)
    await portal(v1, call, customer.id, subscription)

    found = await call(v1.events, "list", {"types": ["invoice.paid", "customer.created"], "limit": 100})
    assert {event.type for event in found} == {"invoice.paid", "customer.created"}
    assert (await call(v1.events, "retrieve", found.data[0].id)).id == found.data[0].id
    assert (await call(v1.customers, "delete", customer.id)).deleted
    assert (await call(v1.customers, "retrieve", customer.id)).deleted


async def catalogue(v1: Any, call: Call) -> tuple[str, str, str, str]:
    product = await call(v1.products, "create", {"name": "Basic", "metadata": {"plan": "basic"}})
    await call(v1.products, "update", product.id, {"description": "The small one"})
    assert (await call(v1.products, "retrieve", product.id)).description == "The small one"
    monthly = {"currency": "usd", "unit_amount": 2900, "recurring": {"interval": "month"}}
    basic = await call(v1.prices, "create", {**monthly, "product": product.id, "lookup_key": "basic"})
    taken = {**monthly, "product": product.id, "lookup_key": "basic", "transfer_lookup_key": True}
    basic = await call(v1.prices, "create", taken)
    await call(v1.prices, "update", basic.id, {"nickname": "Basic monthly"})
    assert (await call(v1.prices, "retrieve", basic.id)).nickname == "Basic monthly"
    assert [p.id for p in await call(v1.prices, "list", {"lookup_keys": ["basic"]})] == [basic.id]
    default = {"currency": "usd", "unit_amount": 9900, "recurring": {"interval": "month"}}
    pro = await call(v1.products, "create", {"name": "Pro", "default_price_data": default})
    yearly = {"currency": "usd", "unit_amount": 99_000, "recurring": {"interval": "year"}, "product": pro.id}
    pack = {"currency": "usd", "unit_amount": 500, "product_data": {"name": "20 uses"}}
    made = [await call(v1.prices, "create", params) for params in (yearly, pack)]
    unused = await call(v1.products, "create", {"name": "Never sold"})
    assert (await call(v1.products, "delete", unused.id)).deleted
    assert len((await call(v1.products, "list", {"active": True})).data) == 3
    return basic.id, pro.default_price, made[0].id, made[1].id


async def cards_and_setups(v1: Any, call: Call, customer: str) -> None:
    attached = await call(v1.payment_methods, "attach", "pm_card_visa", {"customer": customer})
    await call(v1.payment_methods, "update", attached.id, {"billing_details": {"name": "Ada"}})
    assert (await call(v1.payment_methods, "retrieve", attached.id)).billing_details.name == "Ada"
    made = await call(v1.payment_methods, "create", {"type": "card", "card": {"token": "tok_mastercard"}})
    intent = await call(v1.setup_intents, "create", {"customer": customer, "payment_method": made.id})
    await call(v1.setup_intents, "update", intent.id, {"description": "for later"})
    assert (await call(v1.setup_intents, "confirm", intent.id)).status == "succeeded"
    assert (await call(v1.setup_intents, "retrieve", intent.id)).payment_method == made.id
    spare = await call(v1.setup_intents, "create", {"customer": customer})
    assert (await call(v1.setup_intents, "cancel", spare.id)).status == "canceled"
    assert len((await call(v1.setup_intents, "list", {"customer": customer})).data) == 2
    of_customer = await call(v1.customers.payment_methods, "list", customer)
    assert [m.id for m in of_customer] == [m.id for m in await call(v1.payment_methods, "list", {"customer": customer})]
    assert (await call(v1.customers.payment_methods, "retrieve", customer, made.id)).card.brand == "mastercard"
    assert (await call(v1.payment_methods, "detach", made.id)).customer is None
    settings = {"invoice_settings": {"default_payment_method": attached.id}}
    await call(v1.customers, "update", customer, settings)


async def bought_in_checkout(
    v1: Any, call: Call, act: Act, sandbox: Sandbox, *, customer: str, pro: str, pack: str
) -> Any:
    urls = {"success_url": "http://app/ok?s={CHECKOUT_SESSION_ID}", "cancel_url": "http://app/no"}
    abandoned = {"mode": "payment", "line_items": [{"price": pack, "quantity": 1}], **urls}
    session = await call(v1.checkout.sessions, "create", abandoned)
    assert (await call(v1.checkout.sessions, "expire", session.id)).status == "expired"
    bought = {
        "mode": "subscription",
        "customer": customer,
        "client_reference_id": "user-1",
        "line_items": [{"price": pro, "quantity": 1}],
        "metadata": {"plan": "pro"},
        "subscription_data": {"metadata": {"plan": "pro"}, "description": "Pro plan"},
        "allow_promotion_codes": True,
        "automatic_tax": {"enabled": False},
        **urls,
    }
    session = await call(v1.checkout.sessions, "create", bought)
    assert session.url.endswith(f"/c/pay/{session.id}")
    items = await call(v1.checkout.sessions.line_items, "list", session.id)
    assert [line.description for line in items] == ["Pro"]
    with pytest.raises(CardError, match="insufficient funds"):
        await act(lambda: checkout.pay(sandbox, session.id, card("4000000000009995")))
    assert await act(lambda: checkout.pay(sandbox, session.id, GOOD)) == checkout.Paid(f"http://app/ok?s={session.id}")
    expand = {"expand": ["subscription", "line_items", "customer", "invoice.payments"]}
    session = await call(v1.checkout.sessions, "retrieve", session.id, expand)
    assert (session.status, session.payment_status, session.subscription.status) == ("complete", "paid", "active")
    listed = await call(v1.checkout.sessions, "list", {"subscription": session.subscription.id})
    assert [s.id for s in listed] == [session.id]
    setup = await call(
        v1.checkout.sessions, "create", {"mode": "setup", "currency": "usd", "customer": customer, **urls}
    )
    await act(lambda: checkout.pay(sandbox, setup.id, GOOD))
    session = await call(v1.checkout.sessions, "create", {**abandoned, "customer_creation": "always"})
    await act(lambda: checkout.pay(sandbox, session.id, GOOD, "bo@example.com"))
    intent = (await call(v1.checkout.sessions, "retrieve", session.id)).payment_intent
    paid = await call(v1.payment_intents, "retrieve", intent, {"expand": ["latest_charge", "payment_method"]})
    assert (paid.status, paid.latest_charge.paid, paid.amount_received) == ("succeeded", True, 500)
    assert len((await call(v1.payment_intents, "list")).data) == 2
    assert (await call(v1.charges, "retrieve", paid.latest_charge.id)).payment_intent == intent
    assert len((await call(v1.charges, "list", {"payment_intent": intent})).data) == 1
    refund = await call(v1.refunds, "create", {"payment_intent": intent, "amount": 200, "expand": ["charge"]})
    assert refund.charge.amount_refunded == 200
    await call(v1.refunds, "update", refund.id, {"metadata": {"ticket": "7"}})
    assert (await call(v1.refunds, "retrieve", refund.id)).metadata.ticket == "7"
    assert len((await call(v1.refunds, "list", {"payment_intent": intent})).data) == 1
    return (await call(v1.subscriptions, "list", {"customer": customer})).data[0]


async def changed(v1: Any, call: Call, subscription: Any, *, basic: str, pro: str, yearly: str) -> None:
    item = subscription.items.data[0]
    change = {
        "items": [{"id": item.id, "price": basic}],
        "proration_behavior": "always_invoice",
        "proration_date": item.current_period_start,
    }
    preview = {"subscription": subscription.id, "subscription_details": change}
    shown = await call(v1.invoices, "create_preview", preview)
    assert [line.amount for line in shown.lines.data] == [-9900, 2900]
    assert shown.id.startswith("upcoming_in_")
    updated = await call(v1.subscriptions, "update", subscription.id, {**change, "metadata": {"plan": "basic"}})
    assert (updated.items.data[0].price.id, updated.metadata.plan) == (basic, "basic")
    await call(v1.subscription_items, "update", item.id, {"quantity": 3, "proration_behavior": "none"})
    assert (await call(v1.subscription_items, "retrieve", item.id)).quantity == 3
    added = {"subscription": subscription.id, "price": pro, "quantity": 1}
    second = await call(v1.subscription_items, "create", added)
    of_subscription = await call(v1.subscription_items, "list", {"subscription": subscription.id})
    assert [i.id for i in of_subscription] == [item.id, second.id]
    assert (await call(v1.subscription_items, "delete", second.id)).deleted
    to_year = {"items": [{"id": item.id, "price": yearly}]}
    assert (await call(v1.subscriptions, "update", subscription.id, to_year)).items.data[0].quantity == 1
    paused = {"pause_collection": {"behavior": "void"}}
    assert (await call(v1.subscriptions, "update", subscription.id, paused)).pause_collection.behavior == "void"
    await call(v1.subscriptions, "update", subscription.id, {"pause_collection": ""})
    await call(v1.subscriptions, "update", subscription.id, {"trial_end": int(time.time()) + 7 * 86_400})
    assert (await call(v1.subscriptions, "update", subscription.id, {"trial_end": "now"})).status == "active"
    ending = await call(v1.subscriptions, "update", subscription.id, {"cancel_at_period_end": True})
    assert ending.cancel_at == ending.items.data[0].current_period_end
    assert (await call(v1.subscriptions, "update", subscription.id, {"cancel_at_period_end": False})).cancel_at is None


async def made_by_api(v1: Any, call: Call, customer: str, basic: str) -> None:
    items = [{"price": basic, "quantity": 2}]
    trial = {"customer": customer, "items": items, "trial_period_days": 14}
    trialing = await call(v1.subscriptions, "create", trial)
    assert trialing.status == "trialing"
    expand = {"expand": ["latest_invoice.confirmation_secret"], "payment_behavior": "default_incomplete"}
    pending = await call(v1.subscriptions, "create", {"customer": customer, "items": items, **expand})
    assert pending.status == "incomplete"
    assert pending.latest_invoice.confirmation_secret.client_secret.startswith("pi_")
    await call(v1.invoices, "pay", pending.latest_invoice.id)
    assert (await call(v1.subscriptions, "retrieve", pending.id)).status == "active"
    for made in (trialing, pending):
        assert (await call(v1.subscriptions, "cancel", made.id, {"prorate": True})).status == "canceled"
    everything = await call(v1.subscriptions, "list", {"customer": customer, "status": "all"})
    assert [s.status for s in everything] == ["canceled", "canceled", "active"]


async def paid_by_api(v1: Any, call: Call, act: Act, sandbox: Sandbox) -> None:
    way_back = {"return_url": "http://app/back"}
    intent = await call(v1.payment_intents, "create", {"amount": 5000, "currency": "usd", "capture_method": "manual"})
    await call(v1.payment_intents, "update", intent.id, {"payment_method": "pm_card_createDispute"})
    assert (await call(v1.payment_intents, "confirm", intent.id, way_back)).status == "requires_capture"
    captured = await call(v1.payment_intents, "capture", intent.id, {"amount_to_capture": 4000})
    assert captured.amount_received == 4000
    spare = await call(v1.payment_intents, "create", {"amount": 5000, "currency": "jpy"})
    assert (await call(v1.payment_intents, "cancel", spare.id)).status == "canceled"
    await act(lambda: dispute_at_once(sandbox, captured.latest_charge))
    [dispute] = (await call(v1.disputes, "list", {"charge": captured.latest_charge})).data
    await call(v1.disputes, "update", dispute.id, {"evidence": {"uncategorized_text": "Sent."}, "submit": False})
    assert (await call(v1.disputes, "close", dispute.id)).status == "lost"
    assert (await call(v1.disputes, "retrieve", dispute.id)).evidence.uncategorized_text == "Sent."
    await call(v1.charges, "update", captured.latest_charge, {"description": "Order 7"})
    balance = await call(v1.balance, "retrieve")
    assert {entry.currency for entry in balance.pending} == {"usd"}
    entries = await call(v1.balance_transactions, "list", {"source": captured.latest_charge})
    assert (await call(v1.balance_transactions, "retrieve", entries.data[0].id)).net == 4000 - 146
    with pytest.raises(stripe.InvalidRequestError, match="Canceling this refund is unsupported"):
        await call(v1.refunds, "cancel", (await call(v1.refunds, "list")).data[0].id)


def dispute_at_once(sandbox: Sandbox, charge: str) -> None:
    """Have the charge disputed without the wait, which a real clock would make a slow test."""
    with sandbox.changing():
        disputes.open_(sandbox, charge)


async def on_a_test_clock(v1: Any, call: Call, *, basic: str, pro: str) -> None:
    """Pauses, schedules and everything that takes time."""
    clocks, schedules = v1.test_helpers.test_clocks, v1.subscription_schedules
    start = int(time.time())
    clock = await call(clocks, "create", {"frozen_time": start, "name": "walk"})
    assert clock.id in {c.id for c in await call(clocks, "list")}
    customer = await call(v1.customers, "create", {"test_clock": clock.id, "payment_method": "pm_card_visa"})
    (card,) = await call(v1.payment_methods, "list", {"customer": customer.id})
    default = {"invoice_settings": {"default_payment_method": card.id}}
    await call(v1.customers, "update", customer.id, default)
    bought = {"customer": customer.id, "items": [{"price": pro}]}
    subscription = await call(v1.subscriptions, "create", bought)
    assert (await call(v1.subscriptions, "pause", subscription.id)).status == "paused"
    assert (await call(v1.subscriptions, "resume", subscription.id)).status == "active"
    schedule = await call(schedules, "create", {"from_subscription": subscription.id})
    (current,) = schedule.phases
    end = current.end_date
    phases = [
        {"start_date": current.start_date, "end_date": end, "items": [{"price": pro}]},
        {"items": [{"price": basic, "quantity": 2}], "metadata": {"plan": "basic"}},
    ]
    await call(schedules, "update", schedule.id, {"phases": phases, "end_behavior": "cancel"})
    await call(clocks, "advance", clock.id, {"frozen_time": end})
    assert (await call(clocks, "retrieve", clock.id)).status == "ready"
    expand = {"expand": ["schedule", "latest_invoice"]}
    moved = await call(v1.subscriptions, "retrieve", subscription.id, expand)
    assert moved.items.data[0].price.id == basic
    assert moved.schedule.current_phase.start_date == moved.latest_invoice.created == end
    assert (await call(schedules, "release", schedule.id, {"preserve_cancel_date": True})).status == "released"
    later = {"customer": customer.id, "start_date": end + 86_400, "phases": [{"items": [{"price": basic}]}]}
    second = await call(schedules, "create", later)
    assert [s.id for s in await call(schedules, "list", {"customer": customer.id})] == [second.id, schedule.id]
    assert (await call(schedules, "cancel", second.id)).status == "canceled"
    assert (await call(schedules, "retrieve", second.id)).canceled_at == end
    assert (await call(clocks, "delete", clock.id)).deleted


async def invoices(v1: Any, call: Call, customer: str, subscription: Any) -> None:
    listed = await call(v1.invoices, "list", {"customer": customer, "status": "paid", "limit": 3})
    assert len(listed.data) == 3
    expand = {"expand": ["payments.data.payment.payment_intent", "customer"]}
    first = (await call(v1.invoices, "list", {"subscription": subscription.id})).data[-1]
    invoice = await call(v1.invoices, "retrieve", first.id, expand)
    assert invoice.payments.data[0].payment.payment_intent.status == "succeeded"
    assert invoice.parent.subscription_details.subscription == subscription.id
    assert len((await call(v1.invoices.line_items, "list", invoice.id)).data) == 1
    await call(v1.invoices, "update", invoice.id, {"metadata": {"seen": "yes"}})
    payments = await call(v1.invoice_payments, "list", {"invoice": invoice.id})
    payment = await call(v1.invoice_payments, "retrieve", payments.data[0].id)
    assert payment.status == "paid"
    bill = {"customer": customer, "items": [{"price": invoice.lines.data[0].pricing.price_details.price}]}
    by_invoice = {**bill, "collection_method": "send_invoice", "days_until_due": 7}
    for verb, status in (("void_invoice", "void"), ("mark_uncollectible", "uncollectible")):
        open_one = (await call(v1.subscriptions, "create", by_invoice)).latest_invoice
        assert (await call(v1.invoices, verb, open_one)).status == status
    keep = {"pause_collection": {"behavior": "keep_as_draft"}}
    await call(v1.subscriptions, "update", subscription.id, keep)
    again = {"trial_end": int(time.time()) + 86_400, "proration_behavior": "none"}
    await call(v1.subscriptions, "update", subscription.id, again)
    draft = (await call(v1.subscriptions, "update", subscription.id, {"trial_end": "now"})).latest_invoice
    assert (await call(v1.invoices, "finalize_invoice", draft)).status == "open"
    assert (await call(v1.invoices, "pay", draft, {"paid_out_of_band": True})).status == "paid"


async def portal(v1: Any, call: Call, customer: str, subscription: Any) -> None:
    features = {"features": {"invoice_history": {"enabled": True}}}
    configuration = await call(v1.billing_portal.configurations, "create", features)
    assert (await call(v1.billing_portal.configurations, "retrieve", configuration.id)).is_default
    assert len((await call(v1.billing_portal.configurations, "list")).data) == 1
    cancel = {"type": "subscription_cancel", "subscription_cancel": {"subscription": subscription.id}}
    params = {"customer": customer, "return_url": "http://app/billing", "flow_data": cancel}
    session = await call(v1.billing_portal.sessions, "create", params)
    assert session.url.endswith(f"/p/session/{session.id}")
    assert session.flow.subscription_cancel.subscription == subscription.id


async def test_the_async_sdk_walks_through_everything(
    client: stripe.StripeClient, sandbox: Sandbox, transport: Recorder
) -> None:
    async def call(service: Any, verb: str, *args: Any) -> Any:
        return await getattr(service, f"{verb}_async")(*args)

    async def act(deed: Callable[[], Any]) -> Any:
        return deed()

    await walk(client, call, sandbox, act)
    assert len(transport.answers) > 90


@contextlib.asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[tuple[str, asyncio.AbstractEventLoop]]:
    """Serve on a free port from a thread of its own; gives the address and the server's loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, date_header=False, lifespan="on"))
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", loops[0]
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join)


class Recording(stripe.RequestsClient):
    """The SDK's sync client, keeping every successful answer."""

    def __init__(self) -> None:
        super().__init__(timeout=10)
        self.answers: list[dict[str, Any]] = []

    @override
    def request(self, *args: Any, **kwargs: Any) -> Any:
        body, status, headers = super().request(*args, **kwargs)
        if status == httpx.codes.OK:
            self.answers.append(json.loads(body))
        return body, status, headers


async def test_the_sync_sdk_walks_through_everything_over_a_socket() -> None:
    app = create_sandbox()
    sandbox: Sandbox = app.state.sandbox
    recording = Recording()
    async with served(app) as (address, loop):
        client = stripe.StripeClient("sk_test_billhook", base_addresses={"api": address}, http_client=recording)

        async def call(service: Any, verb: str, *args: Any) -> Any:
            return await asyncio.to_thread(getattr(service, verb), *args)

        async def act(deed: Callable[[], Any]) -> Any:
            async def on_server() -> Any:
                return deed()

            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(on_server(), loop))

        with contextlib.closing(recording):
            await walk(client, call, sandbox, act)
    assert sorted({wrong for answer in recording.answers for wrong in violations(answer)}) == []
