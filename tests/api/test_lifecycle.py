"""One customer's life on a test clock, from the trial on: Stripe's clock moves, webhooks arrive, HTTP shows."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from billing import Account, card
from sandbox.driving import AsyncTransport
from serving import Bearer, CreateKey, serving
from starlette.applications import Starlette
from stripe import StripeClient
from subscribing import DAY, URLS, Caller, StripeClock, tell

from app import models
from app.main import create_app
from app.sandbox import account_settings
from app.sandbox import checkout as hosted
from app.sandbox.app import create_sandbox
from app.sandbox.resources import payment_methods
from app.settings import Settings
from app.values import unix_now

TRIAL_DAYS = 14
RENEWAL_FAILS = "pm_card_chargeCustomerFail"
RETRIED_AFTER = (3 * DAY, 3 * DAY, 4 * DAY, 4 * DAY)


@dataclass
class Life:
    """Ada, an operator, and her test clock: it begins in the past, so that grace is measured against our present."""

    account: Account
    ada: Caller
    operator: Caller
    stripe: StripeClient
    clock: str = ""
    customer: str = ""

    async def advance(self, to: int) -> None:
        """In steps of four weeks: Stripe lets at most two of the subscription's intervals pass at once."""
        clocks = self.stripe.v1.test_helpers.test_clocks
        now = (await clocks.retrieve_async(self.clock)).frozen_time
        while now < to:
            now = min(to, now + 28 * DAY)
            await clocks.advance_async(self.clock, {"frozen_time": now})
            while (await clocks.retrieve_async(self.clock)).status != "ready":
                pass
        await tell(self.account)

    async def begin(self, *, days_ago: int) -> None:
        """Ada comes; her customer at Stripe is on a test clock, which only its creation can say."""
        v1 = self.stripe.v1
        clock = await v1.test_helpers.test_clocks.create_async({"frozen_time": unix_now() - days_ago * DAY})
        customer = await v1.customers.create_async(
            {"email": "ada@example.com", "test_clock": clock.id, "metadata": {"user_id": "ada"}}
        )
        self.clock, self.customer = clock.id, customer.id
        await tell(self.account)

    async def subscribe(self, plan: str) -> None:
        opened = await self.ada.done("/checkout/session", {"plan": plan, **URLS})
        hosted.pay(self.account.sandbox, opened["session_id"], card())
        await tell(self.account)

    async def pay_with(self, method: str) -> None:
        """Ada adds a card, and says that it is to be charged from now on."""
        with self.account.sandbox.changing():
            added = payment_methods.attach(self.account.sandbox, {"customer": self.customer}, method)
        await tell(self.account)
        await self.ada.done(f"/payment-methods/{added['id']}/default")

    async def access(self) -> tuple[str, str]:
        held = await self.ada.get("/entitlements")
        return held["plan"], held["rule"]

    async def subscription(self) -> Any:
        return await self.ada.get("/subscription")


@pytest.fixture
def now() -> StripeClock:
    return StripeClock()


@pytest.fixture
async def sandbox_app(now: StripeClock) -> AsyncIterator[Starlette]:
    app = create_sandbox(secret_key="sk_test_billhook", base_url="http://sandbox.test", now=now)
    yield app
    await app.state.sandbox.aclose()


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def life(
    client: httpx.AsyncClient, account: Account, sandbox_app: Starlette, ada: Bearer, create_key: CreateKey
) -> AsyncIterator[Life]:
    operator = Caller(client, await create_key("operator", "billing:read"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox_app)) as http:
        stripe = StripeClient(
            "sk_test_billhook", base_addresses={"api": account.sandbox.base_url}, http_client=AsyncTransport(http)
        )
        yield Life(account, Caller(client, ada), operator, stripe)


async def upgraded(life: Life) -> dict[str, Any]:
    """Trial, first payment, upgrade ten days later; the subscription as it is then."""
    await life.subscribe("basic")
    trial = await life.subscription()
    assert (trial["status"], await life.access()) == ("trialing", ("basic", "trialing:grant"))
    assert trial["trial_end"] == trial["created"] + TRIAL_DAYS * DAY
    assert [invoice["amount_paid_minor"] for invoice in await life.ada.get("/invoices")] == [0]

    await life.advance(trial["trial_end"] + 3600)
    active = await life.subscription()
    assert (active["status"], await life.access()) == ("active", ("basic", "active:grant"))
    assert [invoice["amount_paid_minor"] for invoice in await life.ada.get("/invoices")] == [2900, 0]

    await life.advance(trial["trial_end"] + 10 * DAY)
    shown = await life.ada.preview(plan="pro")
    assert 0 < shown["amount_due_minor"] < 9900 - 2900
    done = await life.ada.done("/subscription/change", {"preview_id": shown["preview_id"]})
    await tell(life.account)
    invoice, *_ = await life.ada.get("/invoices")
    assert (invoice["id"], invoice["status"]) == (done["invoice"], "paid")
    assert invoice["amount_paid_minor"] == invoice["total_minor"] == shown["amount_due_minor"]
    lines = (await life.ada.get(f"/invoices/{invoice['id']}"))["lines"]
    assert [line["amount_minor"] for line in lines] == [line["amount_minor"] for line in shown["lines"]]
    assert await life.access() == ("pro", "active:grant")
    changed: dict[str, Any] = await life.subscription()
    assert changed["current_period_end"] == active["current_period_end"]
    return changed


async def failing(life: Life) -> dict[str, Any]:
    """The renewal after that fails; the subscription as it is then."""
    before = await upgraded(life)
    await life.pay_with(RENEWAL_FAILS)
    await life.advance(before["current_period_end"] + 2 * 3600)
    late: dict[str, Any] = await life.subscription()
    assert (late["status"], late["payment"]["attempt_count"]) == ("past_due", 1)
    assert (late["payment"]["amount_due_minor"], late["payment"]["currency"]) == (9900, "usd")
    assert late["payment"]["hosted_invoice_url"].startswith("http")
    return late


async def test_a_failed_renewal_is_forgiven_for_a_while_and_recovers_with_another_card(life: Life) -> None:
    await life.begin(days_ago=47)  # the renewal fails two to five days ago; Pro's grace is seven
    late = await failing(life)
    assert await life.access() == ("pro", "past_due:grace")
    assert unix_now() < late["payment"]["grace_ends_at"] < unix_now() + 7 * DAY

    await life.pay_with("pm_card_visa")
    assert (await life.subscription())["status"] == "past_due"
    await life.advance(late["payment"]["next_payment_attempt"] + 60)
    recovered = await life.subscription()
    assert (recovered["status"], recovered["payment"]) == ("active", None)
    assert await life.access() == ("pro", "active:grant")
    last, *_ = await life.ada.get("/invoices")
    assert (last["id"], last["status"], last["amount_paid_minor"]) == (late["payment"]["invoice"], "paid", 9900)
    await follows_stripe(life)
    assert {"subscription.past_due", "payment.failed", "subscription.recovered", "payment.received"} <= await told(life)


async def test_a_renewal_that_is_never_paid_ends_on_the_free_plan(life: Life) -> None:
    account_settings.change(life.account.sandbox, after_retries="unpaid")
    await life.begin(days_ago=75)
    late = await failing(life)
    assert await life.access() == ("free", "past_due:grace_over")

    for attempt in range(2, len(RETRIED_AFTER) + 2):
        due = (await life.subscription())["payment"]["next_payment_attempt"]
        await life.advance(due + 60)
        left = await life.subscription()
        assert left["payment"]["attempt_count"] == attempt
    assert (left["status"], left["payment"]["next_payment_attempt"]) == ("unpaid", None)
    assert left["payment"]["invoice"] == late["payment"]["invoice"]
    assert await life.access() == ("free", "unpaid:deny")
    status = await life.ada.get("/subscription/status")
    assert (status["tier"], status["status"]) == ("free", "unpaid")
    assert (await life.ada.get("/invoices"))[0]["status"] == "open"
    await follows_stripe(life)
    assert "subscription.unpaid" in await told(life)


async def test_a_renewal_can_be_disputed_and_the_dispute_lost(life: Life, now: StripeClock) -> None:
    await life.begin(days_ago=75)
    before = await upgraded(life)
    await life.pay_with("pm_card_createDispute")
    await life.advance(before["current_period_end"] + 2 * 3600)
    assert (await life.subscription())["status"] == "active"
    now.ahead += 60  # banks take a moment
    life.account.sandbox.tick()
    await tell(life.account)
    [dispute] = await life.operator.get("/disputes")
    assert (dispute["status"], dispute["amount_minor"]) == ("needs_response", 9900)
    payment, *_ = await life.operator.get("/payments/recent")
    assert (payment["id"], payment["disputed"]) == (dispute["charge"], True)

    await life.stripe.v1.disputes.close_async(dispute["id"])
    await tell(life.account)
    [lost] = await life.operator.get("/disputes")
    assert (lost["id"], lost["status"]) == (dispute["id"], "lost")
    assert await life.access() == ("pro", "active:grant")  # whether to go on is the seller's decision
    await follows_stripe(life)
    assert {"dispute.opened", "dispute.closed"} <= await told(life)


async def follows_stripe(life: Life) -> None:
    """Every event again, backwards: nothing may change any more."""
    before = await life.account.state()
    await life.account.deliver_and_process(reversed(life.account.events()))
    assert await life.account.state() == before


async def told(life: Life) -> set[str]:
    return {message.type for message in await life.account.all(models.OutboxMessage)}
