"""The provider alone, without a database or settings: every operation it has, against the sandbox."""

import asyncio
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from app.errors import (
    BillingError,
    ConflictError,
    NotFoundError,
    PaymentFailedError,
    RateLimitedError,
    UnavailableError,
)
from app.provider.invoice_objects import LineWish
from app.provider.stripe import StripeProvider
from app.provider.subscription_objects import ItemWish
from app.sandbox.app import create_sandbox
from app.sandbox.cards import Card
from app.sandbox.checkout import Paid, pay
from app.sandbox.resources import coupons, credit_notes, promotion_codes
from app.sandbox.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
KEY = "sk_test_library"
#: No operations on Stripe's objects.
BESIDES = {"livemode", "warm", "aclose", "verify_signature", "construct_event", "parse_envelope", "parse_event"}


class Used:
    """The provider, remembering which of its operations were called and did not fail."""

    def __init__(self, provider: StripeProvider) -> None:
        self._provider = provider
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._provider, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await operation(*args, **kwargs)
            self.names.add(name)
            return result

        return call


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox_app(clock: Clock) -> AsyncIterator[Starlette]:
    app = create_sandbox(secret_key=KEY, base_url="http://sandbox.test", now=clock)
    yield app
    await app.state.sandbox.aclose()


@pytest.fixture
async def stripe(sandbox_app: Starlette) -> AsyncIterator[Used]:
    transport = httpx.ASGITransport(sandbox_app)
    async with StripeProvider(KEY, base_url="http://sandbox.test", transport=transport) as provider:
        yield Used(provider)


def key() -> dict[str, str]:
    return {"idempotency_key": f"key-{time.perf_counter_ns()}"}


async def test_every_operation_does_its_work_on_the_sandbox(stripe: Used, sandbox_app: Starlette, clock: Clock) -> None:
    sandbox: Sandbox = sandbox_app.state.sandbox
    customer = await customers(stripe)
    price, yearly, pack = await catalogue(stripe)
    await meters(stripe, sandbox, customer, clock)
    await checkouts(stripe, sandbox, customer, price, pack)
    await cards(stripe, customer)
    await subscriptions(stripe, sandbox, customer, price, yearly)
    await promotion_code(stripe, sandbox)
    await payments(stripe, customer, clock)
    await invoices(stripe, sandbox, customer, pack)
    events = await stripe.list_events(types=["customer.created"], since=0, until=int(clock.now) + 5, after=None)
    assert len(events.objects) == 2
    operations = {name for name in dir(StripeProvider) if not name.startswith("_")} - BESIDES
    assert operations - stripe.names == set()
    assert stripe.names <= operations


async def customers(stripe: Used) -> str:
    made = await stripe.create_customer(
        email="ada@example.com",
        name="Ada",
        phone="+491511234567",
        address={"line1": "Hafenstr. 1", "city": "Kiel", "country": "DE"},
        metadata={"user_id": "1"},
        tax_ids=[("eu_vat", "DE123456789")],
        payment_method="pm_card_visa",
        **key(),
    )
    id = made.object.id
    assert made.object.default_payment_method is not None
    changed = await stripe.update_customer(id, name="Ada Lovelace", metadata={"user_id": None, "b": "2"}, **key())
    assert (changed.object.name, changed.object.metadata) == ("Ada Lovelace", {"b": "2"})
    assert (await stripe.retrieve_customer(id)).object == changed.object
    assert [found.id for found in (await stripe.list_customers(email="ada@example.com")).objects] == [id]
    tax_id = await stripe.create_tax_id(id, type="gb_vat", value="GB123456789", **key())
    assert {found.type for found in await stripe.list_tax_ids(id)} == {"eu_vat", "gb_vat"}
    await stripe.delete_tax_id(id, tax_id.id)
    assert len(await stripe.list_tax_ids(id)) == 1
    gone = await stripe.create_customer(metadata={}, **key())
    assert (await stripe.delete_customer(gone.object.id)).object.deleted
    assert (await stripe.delete_customer(gone.object.id)).object.deleted
    return str(id)


async def catalogue(stripe: Used) -> tuple[str, str, str]:
    product = await stripe.create_product(id="pro", name="Pro", description="All of it", metadata={}, **key())
    with pytest.raises(ConflictError):
        await stripe.create_product(id="pro", name="Pro", description=None, metadata={}, **key())
    await stripe.update_product("pro", name="Pro!", description="", **key())
    assert (await stripe.retrieve_product("pro")).object.description is None
    assert [found.id for found in (await stripe.list_products()).objects] == [product.object.id]
    made = []
    for amount, interval, lookup_key in ((2000, "month", "monthly"), (20_000, "year", "yearly"), (500, None, "pack")):
        price = await stripe.create_price(
            product="pro",
            currency="usd",
            unit_amount=amount,
            interval=interval,
            lookup_key=lookup_key,
            transfer_lookup_key=False,
            metadata={},
            **key(),
        )
        made.append(price.object.id)
    await stripe.update_price(made[2], nickname="Pack of five", **key())
    assert (await stripe.retrieve_price(made[2])).object.nickname == "Pack of five"
    assert len((await stripe.list_prices(product="pro", active=True)).objects) == 3
    assert [found.object.id for found in await stripe.find_prices(["yearly"])] == [made[1]]
    return made[0], made[1], made[2]


async def meters(stripe: Used, sandbox: Sandbox, customer: str, clock: Clock) -> None:
    meter = await stripe.create_meter(display_name="Calls", event_name="calls", formula="sum", **key())
    assert (await stripe.rename_meter(meter.id, display_name="API calls")).display_name == "API calls"
    assert [found.id for found in await stripe.list_meters()] == [meter.id]
    await stripe.reactivate_meter(meter.id)
    minute = int(clock.now) // 60 * 60
    for identifier, value in (("u-1", 3), ("u-2", 4)):
        await stripe.create_meter_event(
            event_name="calls", customer=customer, value=value, identifier=identifier, timestamp=minute, **key()
        )
    with pytest.raises(ConflictError) as raised:
        await stripe.create_meter_event(
            event_name="calls", customer=customer, value=9, identifier="u-1", timestamp=minute, **key()
        )
    assert raised.value.code == "duplicate_meter_event"
    await stripe.cancel_meter_event(event_name="calls", identifier="u-2", **key())
    clock.now += 120
    summed = await stripe.list_meter_summaries(meter.id, customer=customer, start_time=minute, end_time=minute + 60)
    assert [summary.aggregated_value for summary in summed] == [3]
    await stripe.create_meter_event(
        event_name="calls", customer="cus_nobody", value=1, identifier="u-3", timestamp=minute, **key()
    )
    clock.now += 3600
    sandbox.tick()
    (event,) = sandbox.rows("v2.core.event")
    report = await stripe.retrieve_meter_error_report(event["id"])
    assert [error.identifiers for error in report.errors] == [["u-3"]]


async def checkouts(stripe: Used, sandbox: Sandbox, customer: str, price: str, pack: str) -> None:
    session = await stripe.create_subscription_session(
        customer=customer,
        price=price,
        quantity=1,
        success_url="https://app.example/done",
        cancel_url="https://app.example/plans",
        client_reference_id="1",
        trial_period_days=14,
        promotion_code=None,
        metadata={"user_id": "1"},
        **key(),
    )
    assert (await stripe.retrieve_checkout_session(session.object.id)).object.status == "open"
    assert (await stripe.expire_checkout_session(session.object.id)).object.status == "expired"
    once = await stripe.create_payment_session(
        customer=customer,
        price=pack,
        success_url="https://app.example/done",
        cancel_url=None,
        client_reference_id=None,
        description="Pack of five",
        setup_future_usage="off_session",
        metadata={"order": "7"},
        **key(),
    )
    paid = pay(sandbox, once.object.id, Card("4242424242424242", 12, 2040, "123"))
    assert isinstance(paid, Paid)
    done = await stripe.retrieve_checkout_session(once.object.id)
    assert (done.object.mode, done.object.amount_total, done.object.payment_status) == ("payment", 500, "paid")
    intent = await stripe.retrieve_payment_intent(str(done.object.payment_intent))
    assert (intent.object.metadata, intent.object.setup_future_usage) == ({"order": "7"}, "off_session")
    url = await stripe.create_portal_session(
        customer=customer, return_url="https://app.example/", flow=None, subscription=None
    )
    assert url.startswith(sandbox.base_url)


async def cards(stripe: Used, customer: str) -> None:
    card = await stripe.attach_payment_method("pm_card_mastercard", customer=customer, **key())
    assert card.object.id in {found.id for found in (await stripe.list_payment_methods(customer)).objects}
    assert (await stripe.retrieve_payment_method(card.object.id)).object.customer == customer
    assert (await stripe.detach_payment_method(card.object.id, **key())).object.customer is None
    with pytest.raises(PaymentFailedError):
        await stripe.attach_payment_method("pm_card_visa_chargeDeclined", customer=customer, **key())
    setup = await stripe.create_setup_intent(customer=customer, **key())
    assert (await stripe.retrieve_setup_intent(setup.id)).status == "requires_payment_method"
    assert (await stripe.cancel_setup_intent(setup.id, **key())).status == "canceled"


async def subscriptions(stripe: Used, sandbox: Sandbox, customer: str, price: str, yearly: str) -> None:
    made = await stripe.create_subscription(
        customer=customer, items=[ItemWish(price=price, quantity=1)], metadata={}, **key()
    )
    id, item = made.object.id, made.object.items[0]
    assert made.object.status == "active"
    assert await stripe.retrieve_paying_intent(made.object.latest_invoice) is not None
    assert (await stripe.update_subscription(id, metadata={"a": "1"}, **key())).object.metadata == {"a": "1"}
    card = (await stripe.list_payment_methods(customer)).objects[0].id
    changed = await stripe.set_subscription_payment_method(id, payment_method=card, **key())
    assert changed.object.default_payment_method == card
    change: dict[str, Any] = {
        "items": [ItemWish(price=price, quantity=3, id=item.id)],
        "proration_behavior": "always_invoice",
        "proration_date": sandbox.now(),
    }
    preview = await stripe.preview_change(id, **change)
    after = await stripe.change_subscription(id, **change, **key())
    assert after.object.items[0].quantity == 3
    assert (await stripe.retrieve_invoice(after.object.latest_invoice)).object.total == preview.total > 0
    assert (await stripe.preview_upcoming_invoice(customer)).total == 6000
    assert (await stripe.set_cancel_at_period_end(id, cancel=True, reason="Dear", **key())).object.cancel_at_period_end
    await stripe.set_cancel_at_period_end(id, cancel=False, **key())
    scheduled = await stripe.schedule_change(id, items=[ItemWish(price=yearly, quantity=1)], **key())
    schedule = scheduled.object.id
    assert (await stripe.retrieve_subscription_schedule(schedule)).object.status == "active"
    assert [found.id for found in (await stripe.list_subscription_schedules()).objects] == [schedule]
    assert (await stripe.release_subscription_schedule(schedule, **key())).object.status == "released"
    paused = await stripe.set_pause_collection(id, behavior="void", **key())
    assert paused.object.pause_collection == "void"
    await stripe.set_pause_collection(id, behavior=None, **key())
    assert (await stripe.pause_subscription(id, **key())).object.status == "paused"
    assert (await stripe.resume_subscription(id, **key())).object.status == "active"
    assert (await stripe.preview_cancellation(id)).total <= 0
    assert [found.id for found in (await stripe.list_subscriptions(customer=customer)).objects] == [id]
    assert (await stripe.cancel_subscription(id, **key())).object.status == "canceled"
    assert (await stripe.retrieve_subscription(id)).object.ended_at is not None
    unpaid = await stripe.create_subscription(
        customer=customer,
        items=[ItemWish(price=price)],
        payment_behavior="default_incomplete",
        metadata={},
        **key(),
    )
    assert unpaid.object.status == "incomplete"
    assert await stripe.retrieve_confirmation_secret(unpaid.object.latest_invoice) is not None


async def promotion_code(stripe: Used, sandbox: Sandbox) -> None:
    with sandbox.transaction():
        coupon = coupons.create(sandbox, {"percent_off": 10.0, "duration": "once"})
        code = promotion_codes.create(
            sandbox, {"promotion": {"type": "coupon", "coupon": coupon["id"]}, "code": "SPRING"}
        )
    assert await stripe.find_promotion_code("SPRING") == code["id"]


async def payments(stripe: Used, customer: str, clock: Clock) -> None:
    hold = await stripe.create_payment_intent(
        amount=500,
        currency="usd",
        customer=customer,
        capture_method="manual",
        payment_method=(await stripe.list_payment_methods(customer)).objects[0].id,
        metadata={},
        **key(),
    )
    id = hold.object.id
    assert (await stripe.confirm_payment_intent(id, off_session=True, **key())).object.status == "requires_capture"
    assert (await stripe.capture_payment_intent(id, amount=400, **key())).object.amount_received == 400
    taken = (await stripe.retrieve_payment_intent(id)).object
    charge = (await stripe.retrieve_charge(taken.latest_charge)).object
    assert charge.amount_captured == 400
    assert charge.id in {found.id for found in (await stripe.list_charges(customer=customer)).objects}
    refund = await stripe.create_refund(payment_intent=id, amount=150, reason="requested_by_customer", **key())
    assert (await stripe.retrieve_refund(refund.object.id)).object.amount == 150
    assert [found.id for found in (await stripe.list_refunds()).objects] == [refund.object.id]
    with pytest.raises(BillingError) as raised:
        await stripe.create_refund(payment_intent=id, amount=900, **key())
    assert (raised.value.status_code, raised.value.param) == (422, "amount_minor")
    other = await stripe.create_payment_intent(amount=700, currency="jpy", customer=None, metadata={}, **key())
    assert (
        await stripe.cancel_payment_intent(other.object.id, reason="abandoned", **key())
    ).object.status == "canceled"
    assert len((await stripe.list_payment_intents()).objects) > len(
        (await stripe.list_payment_intents(customer=customer)).objects
    )
    await stripe.create_payment_intent(
        amount=900,
        currency="usd",
        customer=None,
        payment_method="pm_card_createDispute",
        confirm=True,
        off_session=True,
        metadata={},
        **key(),
    )
    clock.now += 60
    (dispute,) = (await stripe.list_disputes()).objects
    assert (await stripe.retrieve_dispute(dispute.id)).object.status == "needs_response"
    assert (await stripe.retrieve_balance()).pending
    moved = await stripe.list_balance_transactions(source=charge.id)
    assert [found.amount for found in moved.objects] == [400]


async def invoices(stripe: Used, sandbox: Sandbox, customer: str, pack: str) -> None:
    async def drafted(*lines: LineWish, **more: Any) -> str:
        draft = await stripe.create_invoice(customer=customer, lines=lines, metadata={}, **more, **key())
        assert draft.object.status == "draft"
        return str(draft.object.id)

    id = await drafted(LineWish(price=pack, quantity=3), LineWish(amount=-100, description="For you"))
    open_ = await stripe.finalize_invoice(id, **key())
    assert (open_.object.status, open_.object.total) == ("open", 1400)
    paid = await stripe.pay_invoice(id, payment_method=None, paid_out_of_band=False, **key())
    assert (paid.object.status, paid.object.amount_paid) == ("paid", 1400)
    assert id in {found.id for found in (await stripe.list_invoices(customer=customer)).objects}
    with pytest.raises(ConflictError):
        await stripe.void_invoice(id, **key())
    sent = await drafted(LineWish(price=pack), collection_method="send_invoice", days_until_due=7)
    assert (await stripe.send_invoice(sent, **key())).object.status == "open"
    assert (await stripe.mark_invoice_uncollectible(sent, **key())).object.status == "uncollectible"
    other = await drafted(LineWish(price=pack))
    await stripe.finalize_invoice(other, **key())
    assert (await stripe.void_invoice(other, **key())).object.status == "void"
    dropped = await drafted(LineWish(price=pack))
    await stripe.delete_invoice(dropped)
    with pytest.raises(NotFoundError):
        await stripe.retrieve_invoice(dropped)
    with sandbox.transaction():
        note = credit_notes.create(sandbox, {"invoice": id, "amount": 400, "credit_amount": 400})
    assert (await stripe.retrieve_credit_note(note["id"])).object.total == 400
    assert [found.id for found in (await stripe.list_credit_notes()).objects] == [note["id"]]


def test_the_documentation_names_every_operation() -> None:
    text = (ROOT / "docs" / "library.md").read_text()
    table = text[text.index("## What there is") : text.index("## What comes back")]
    named = re.findall(r"`(\w+)`", table)
    assert sorted(named) == sorted(set(named))
    assert set(named) == {name for name in dir(StripeProvider) if not name.startswith("_")} - {
        "aclose",
        "livemode",
        "warm",
    }


async def test_what_fails_at_stripe_fails_as_one_of_our_errors(stripe: Used, sandbox_app: Starlette) -> None:
    sandbox: Sandbox = sandbox_app.state.sandbox
    sandbox.faults.add("rate_limit", seconds=60)  # longer than an operation may take, so it is not waited for
    with pytest.raises(RateLimitedError) as limited:
        await stripe.retrieve_balance()
    assert (limited.value.status_code, limited.value.code, limited.value.retry_after) == (429, "rate_limited", 60)
    with pytest.raises(NotFoundError) as missing:
        await stripe.retrieve_customer("cus_nobody")
    assert (missing.value.status_code, missing.value.code) == (404, "not_found")


@pytest.fixture
async def served(sandbox_app: Starlette) -> AsyncIterator[str]:
    """The sandbox behind a socket: in the process nothing ever times out."""
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


async def test_an_answer_that_never_came_is_had_by_asking_again(served: str, sandbox_app: Starlette) -> None:
    sandbox: Sandbox = sandbox_app.state.sandbox
    sandbox.faults.add("timeout_after", method="POST")
    async with StripeProvider(KEY, base_url=served, timeout=1, max_network_retries=0) as stripe:
        with pytest.raises(UnavailableError) as raised:
            await stripe.create_customer(name="Ada", metadata={}, idempotency_key="k-1")
        assert (raised.value.status_code, raised.value.retryable) == (503, True)
        made = await stripe.create_customer(name="Ada", metadata={}, idempotency_key="k-1")
    assert [row["id"] for row in sandbox.rows("customer")] == [made.object.id]


def test_it_needs_neither_a_database_nor_a_web_framework() -> None:
    """A script that only talks to Stripe loads nothing of the service."""
    program = "import sys, app.provider.stripe, app.provider.samples; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)  # noqa: S603 - our own program
    loaded = set(ran.stdout.split())
    assert "app.provider.stripe" in loaded
    assert loaded & {"app.settings", "app.db", "app.models", "sqlalchemy", "asyncpg", "fastapi", "starlette"} == set()


async def test_a_500_is_tried_again(stripe: Used, sandbox_app: Starlette) -> None:
    sandbox_app.state.sandbox.faults.add("error", times=2, method="POST")
    made = await stripe.create_customer(metadata={}, **key())
    assert [row["id"] for row in sandbox_app.state.sandbox.rows("customer")] == [made.object.id]
    assert sandbox_app.state.sandbox.faults.rows()[0]["struck"] == 2
