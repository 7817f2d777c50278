"""Every operation of the provider against the sandbox: what it makes and reads, and what the webhooks tell of it."""

import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.errors import ConflictError, NotFoundError, ProviderError
from app.provider.objects import CheckoutSession, Event, Price, Snapshot, Subscription
from app.provider.stripe import StripeProvider
from app.sandbox.app import create_sandbox
from app.sandbox.cards import Card
from app.sandbox.checkout import Paid, pay
from app.sandbox.sandbox import Sandbox

KEY = "sk_test_Qabc"
URL = "http://sandbox.test"
NEXT_YEAR = time.gmtime().tm_year % 100 + 1
GOOD_CARD = Card("4242424242424242", 12, NEXT_YEAR, "123")


class Receiver:
    """An endpoint that verifies and parses what it gets, as the service will."""

    def __init__(self) -> None:
        self.secret = ""
        self.verifier = StripeProvider(KEY)
        self.events: list[Event] = []
        self.app = Starlette(routes=[Route("/hook", self.receive, methods=["POST"])])

    async def receive(self, request: Request) -> Response:
        body = await request.body()
        header = request.headers["stripe-signature"]
        if not self.verifier.verify_signature(body, header, secrets=[self.secret.encode()], now=int(time.time())):
            return Response(status_code=400)
        self.events.append(self.verifier.parse_event(json.loads(body)))
        return Response()


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def sandbox_app(receiver: Receiver) -> AsyncIterator[Starlette]:
    client = httpx.AsyncClient(transport=httpx.ASGITransport(receiver.app))
    app = create_sandbox(secret_key=KEY, base_url=URL, webhook_client=client)
    receiver.secret = app.state.sandbox.add_webhook_endpoint("http://service.test/hook")["_secret"]
    yield app
    await app.state.sandbox.aclose()
    await client.aclose()


@pytest.fixture
def sandbox(sandbox_app: Starlette) -> Sandbox:
    sandbox: Sandbox = sandbox_app.state.sandbox
    return sandbox


@pytest.fixture
async def provider(sandbox_app: Starlette) -> AsyncIterator[StripeProvider]:
    async with StripeProvider(KEY, base_url=URL, transport=httpx.ASGITransport(sandbox_app)) as provider:
        yield provider


async def new_customer(provider: StripeProvider) -> str:
    created = await provider.create_customer(
        email="ada@example.com", name="Ada", metadata={"user_id": "demo-1"}, idempotency_key="customer-1"
    )
    return created.object.id


async def new_price(
    provider: StripeProvider, *, interval: str | None = "month", lookup_key: str = "pro_monthly"
) -> Price:
    await provider.create_product(
        id="billhook_pro", name="Pro", description=None, metadata={}, idempotency_key="product"
    )
    made = await provider.create_price(
        product="billhook_pro",
        currency="usd",
        unit_amount=9900,
        interval=interval,
        lookup_key=lookup_key,
        transfer_lookup_key=True,
        metadata={"plan": "pro"},
        idempotency_key=f"price-{lookup_key}-{interval}",
    )
    return made.object


async def new_session(
    provider: StripeProvider, customer: str, *, trial_period_days: int | None = None, idempotency_key: str = "session-1"
) -> Snapshot[CheckoutSession]:
    return await provider.create_subscription_session(
        customer=customer,
        price=(await new_price(provider)).id,
        quantity=1,
        success_url="https://shop.example/done",
        cancel_url="https://shop.example/no",
        client_reference_id="demo-1",
        trial_period_days=trial_period_days,
        promotion_code=None,
        metadata={"user_id": "demo-1"},
        idempotency_key=idempotency_key,
    )


async def subscribe(
    provider: StripeProvider, sandbox: Sandbox, *, trial_period_days: int | None = None
) -> Snapshot[Subscription]:
    session = await new_session(provider, await new_customer(provider), trial_period_days=trial_period_days)
    assert isinstance(pay(sandbox, session.object.id, GOOD_CARD), Paid)
    paid = await provider.retrieve_checkout_session(session.object.id)
    assert paid.object.subscription is not None
    return await provider.retrieve_subscription(paid.object.subscription)


async def test_a_customer_is_made_once_per_key_and_read_back(provider: StripeProvider) -> None:
    before = int(time.time())
    made = await provider.create_customer(
        email="ada@example.com", name="Ada", metadata={"user_id": "demo-1"}, idempotency_key="k-1"
    )
    again = await provider.create_customer(
        email="ada@example.com", name="Ada", metadata={"user_id": "demo-1"}, idempotency_key="k-1"
    )
    read = await provider.retrieve_customer(made.object.id)
    assert made.object == again.object == read.object
    assert (read.object.email, read.object.name, read.object.metadata) == (
        "ada@example.com",
        "Ada",
        {"user_id": "demo-1"},
    )
    assert before <= read.at <= time.time() + 1


async def test_a_key_used_for_another_customer_is_a_conflict(provider: StripeProvider) -> None:
    await provider.create_customer(email="ada@example.com", name=None, metadata={}, idempotency_key="k-1")
    with pytest.raises(ConflictError) as raised:
        await provider.create_customer(email="bob@example.com", name=None, metadata={}, idempotency_key="k-1")
    assert raised.value.code == "idempotency_key_reused"


async def test_a_deleted_customer_comes_back_as_deleted(provider: StripeProvider, sandbox_app: Starlette) -> None:
    customer = await new_customer(provider)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox_app), base_url=URL) as client:
        await client.delete(f"/v1/customers/{customer}", headers={"authorization": f"Bearer {KEY}"})
    assert (await provider.retrieve_customer(customer)).object.deleted


async def test_what_stripe_never_had_is_not_found(provider: StripeProvider) -> None:
    for retrieve in (
        provider.retrieve_customer,
        provider.retrieve_subscription,
        provider.retrieve_invoice,
        provider.retrieve_payment_method,
        provider.retrieve_checkout_session,
        provider.retrieve_product,
    ):
        with pytest.raises(NotFoundError):
            await retrieve("nope_1Qabc")


async def test_a_wrong_key_is_our_trouble(sandbox_app: Starlette) -> None:
    transport = httpx.ASGITransport(sandbox_app)
    async with StripeProvider("sk_test_wrong", base_url=URL, transport=transport) as provider:
        with pytest.raises(ProviderError) as raised:
            await provider.retrieve_customer("cus_Qabc")
    assert "wrong" not in raised.value.message


async def test_a_product_is_made_once_and_changed(provider: StripeProvider) -> None:
    made = await provider.create_product(
        id="billhook_pro", name="Pro", description="All of it", metadata={"plan": "pro"}, idempotency_key="k-1"
    )
    assert made.object == (await provider.retrieve_product("billhook_pro")).object
    changed = (await provider.update_product("billhook_pro", name="Pro 2", description="")).object
    assert (changed.name, changed.description, changed.metadata) == ("Pro 2", None, {"plan": "pro"})
    with pytest.raises(ConflictError):
        await provider.create_product(
            id="billhook_pro", name="Pro", description=None, metadata={}, idempotency_key="k-2"
        )


async def test_a_new_price_takes_the_lookup_key_over(provider: StripeProvider) -> None:
    old = await new_price(provider, interval="month")
    new = await new_price(provider, interval="year")
    pack = await new_price(provider, interval=None, lookup_key="pack")
    assert (old.interval, new.interval, pack.interval) == ("month", "year", None)
    found = await provider.find_prices(["pro_monthly", "pack", *(f"none_{n}" for n in range(9))])
    assert {price.object.lookup_key: price.object.id for price in found} == {"pro_monthly": new.id, "pack": pack.id}


async def test_an_open_checkout_session_can_be_expired_once(provider: StripeProvider) -> None:
    session = await new_session(provider, await new_customer(provider))
    assert session.object.status == "open"
    assert session.object.url is not None
    expired = await provider.expire_checkout_session(session.object.id)
    assert (expired.object.status, expired.object.url) == ("expired", None)
    with pytest.raises(ConflictError):
        await provider.expire_checkout_session(session.object.id)


async def test_the_same_key_never_hands_out_an_expired_session_as_open(provider: StripeProvider) -> None:
    customer = await new_customer(provider)
    session = await new_session(provider, customer)
    await provider.expire_checkout_session(session.object.id)
    again = await new_session(provider, customer)
    assert (again.object.id, again.object.status) == (session.object.id, "expired")


async def test_a_session_for_an_unknown_price_is_refused(provider: StripeProvider) -> None:
    with pytest.raises(NotFoundError) as raised:
        await provider.create_subscription_session(
            customer=await new_customer(provider),
            price="price_1nope",
            quantity=1,
            success_url="https://shop.example/done",
            cancel_url="https://shop.example/no",
            client_reference_id=None,
            trial_period_days=None,
            promotion_code=None,
            metadata={},
            idempotency_key="k-1",
        )
    assert raised.value.param == "price"


async def test_a_purchase_reads_whole_from_session_to_card(provider: StripeProvider, sandbox: Sandbox) -> None:
    subscription = (await subscribe(provider, sandbox)).object
    assert (subscription.status, subscription.metadata) == ("active", {"user_id": "demo-1"})
    [item] = subscription.items
    assert (item.price.lookup_key, item.price.unit_amount, item.quantity) == ("pro_monthly", 9900, 1)
    assert subscription.current_period_start is not None
    assert subscription.current_period_end is not None
    assert 28 <= (subscription.current_period_end - subscription.current_period_start) / 86400 <= 31

    assert subscription.latest_invoice is not None
    invoice = (await provider.retrieve_invoice(subscription.latest_invoice)).object
    assert (invoice.status, invoice.amount_paid, invoice.subscription) == ("paid", 9900, subscription.id)
    assert invoice.paid_at is not None
    assert invoice.hosted_invoice_url is not None

    assert subscription.default_payment_method is not None
    card = (await provider.retrieve_payment_method(subscription.default_payment_method)).object
    assert (card.customer, card.brand, card.last4) == (subscription.customer, "visa", "4242")


async def test_a_trial_begins_without_a_charge(provider: StripeProvider, sandbox: Sandbox) -> None:
    subscription = (await subscribe(provider, sandbox, trial_period_days=14)).object
    assert subscription.status == "trialing"
    assert subscription.trial_start is not None
    assert subscription.trial_end == subscription.trial_start + 14 * 86400


async def test_a_subscription_is_ended_later_kept_and_ended_now(provider: StripeProvider, sandbox: Sandbox) -> None:
    id = (await subscribe(provider, sandbox)).object.id
    leaving = await provider.set_cancel_at_period_end(id, cancel=True, reason="Too dear", idempotency_key="k-1")
    assert (leaving.object.status, leaving.object.cancel_at_period_end) == ("active", True)
    assert leaving.object.cancel_at == leaving.object.current_period_end
    assert sandbox.get("subscription", id)["cancellation_details"]["comment"] == "Too dear"

    kept = await provider.set_cancel_at_period_end(id, cancel=False, idempotency_key="k-2")
    assert (kept.object.cancel_at_period_end, kept.object.cancel_at) == (False, None)

    gone = await provider.cancel_subscription(id, reason="Moved", idempotency_key="k-3")
    assert gone.object.status == "canceled"
    assert gone.object.ended_at is not None
    assert (await provider.cancel_subscription(id, idempotency_key="k-4")).object == gone.object
    with pytest.raises(ConflictError):
        await provider.set_cancel_at_period_end(id, cancel=True, idempotency_key="k-5")


async def test_a_cancellation_by_date_is_taken_back_too(
    provider: StripeProvider, sandbox: Sandbox, sandbox_app: Starlette
) -> None:
    subscription = (await subscribe(provider, sandbox)).object
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox_app), base_url=URL) as client:
        await client.post(
            f"/v1/subscriptions/{subscription.id}",
            data={"cancel_at": str(subscription.current_period_end)},
            headers={"authorization": f"Bearer {KEY}"},
        )
    assert (await provider.retrieve_subscription(subscription.id)).object.cancel_at is not None
    kept = await provider.set_cancel_at_period_end(subscription.id, cancel=False, idempotency_key="k-1")
    assert (kept.object.cancel_at_period_end, kept.object.cancel_at) == (False, None)


async def test_the_portal_opens_on_every_page(provider: StripeProvider, sandbox: Sandbox) -> None:
    subscription = (await subscribe(provider, sandbox)).object
    urls = [
        await provider.create_portal_session(
            customer=subscription.customer,
            return_url="https://shop.example/",
            flow=flow,
            subscription=subscription.id,
        )
        for flow in (None, "payment_method_update", "subscription_cancel", "subscription_update")
    ]
    assert len(set(urls)) == 4
    assert all(url.startswith(f"{URL}/p/session/") for url in urls)


async def test_every_webhook_of_a_purchase_is_verified_and_read(
    provider: StripeProvider, sandbox: Sandbox, receiver: Receiver
) -> None:
    subscription = (await subscribe(provider, sandbox)).object
    await provider.cancel_subscription(subscription.id, idempotency_key="k-9")
    await sandbox.drain()
    told = {event.type: event for event in receiver.events}
    assert {
        "customer.created",
        "customer.subscription.created",
        "invoice.paid",
        "payment_method.attached",
        "checkout.session.completed",
        "customer.subscription.deleted",
    } <= told.keys()
    mirrored = {"customer", "subscription", "invoice", "payment_method", "checkout.session"}
    assert [event.type for event in receiver.events if event.object_type in mirrored and event.object is None] == []
    assert {event.customer for event in receiver.events if event.object_type in mirrored} == {subscription.customer}
    assert (
        told["customer.subscription.deleted"].object == (await provider.retrieve_subscription(subscription.id)).object
    )
    assert {event.api_version for event in receiver.events} == {stripe.api_version}
