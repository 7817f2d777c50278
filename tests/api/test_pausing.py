"""Pausing: Stripe's own pause, which stops the service, and pausing the collection, which does not."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import Account
from serving import Bearer, CreateKey, serving
from starlette.applications import Starlette
from subscribing import DAY, Caller, StripeClock, buy, invoices, mirrored, pay_with, tell

from app.main import create_app
from app.sandbox.app import create_sandbox
from app.settings import Settings
from app.values import unix_now

FOR_ADA = "/subscription/pause?user_id=ada"


@pytest.fixture
def clock() -> StripeClock:
    return StripeClock()


@pytest.fixture
async def sandbox_app(clock: StripeClock) -> AsyncIterator[Starlette]:
    app = create_sandbox(secret_key="sk_test_billhook", base_url="http://sandbox.test", now=clock)
    yield app
    await app.state.sandbox.aclose()


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def user(client: httpx.AsyncClient, account: Account, ada: Bearer) -> Caller:
    """Ada, who has bought Pro."""
    await buy(client, account, ada, "pro")
    return Caller(client, ada)


@pytest.fixture
async def backend(client: httpx.AsyncClient, create_key: CreateKey) -> Caller:
    return Caller(client, await create_key("billing:write"))


async def test_a_pause_stops_the_service_and_ending_it_begins_a_new_period(
    user: Caller, account: Account, clock: StripeClock
) -> None:
    held = await user.get("/subscription")
    paused = await user.done("/subscription/pause")
    assert (paused["status"], paused["pause"]["behavior"], paused["pause"]["reason"]) == (
        "paused",
        "pause",
        "pause_requested",
    )
    entitled = await user.get("/entitlements")
    assert (entitled["plan"], entitled["rule"]) == ("free", "paused:deny")
    assert await user.refusal("/subscription/pause") == (409, "subscription_not_pausable")
    before = await mirrored(account)
    await tell(account)
    assert await mirrored(account) == before

    clock.ahead += 40 * DAY
    account.sandbox.tick()
    assert len(invoices(account.sandbox)) == 1
    resumed = await user.done("/subscription/unpause", key="once")
    assert (resumed["status"], resumed["subscription"]["status"]) == ("done", "active")
    assert resumed["subscription"]["pause"] is None
    assert resumed["subscription"]["current_period_start"] > held["current_period_end"]
    assert await user.done("/subscription/unpause", key="once") == resumed
    assert [row["id"] for row in invoices(account.sandbox)][1:] == [resumed["invoice"]]
    assert (await user.get("/entitlements"))["plan"] == "pro"
    assert await user.refusal("/subscription/unpause") == (409, "subscription_not_paused")


async def test_ending_a_pause_with_a_card_that_fails_says_how_to_pay(
    user: Caller, account: Account, clock: StripeClock
) -> None:
    clock.ahead += 20 * DAY  # what is unused by then doesn't pay for a whole period
    await user.done("/subscription/pause")
    pay_with(account.sandbox, "pm_card_chargeCustomerFail")
    resumed = await user.done("/subscription/unpause")
    assert resumed["status"] == "requires_action"
    assert "_secret_" in resumed["client_secret"]
    assert resumed["hosted_invoice_url"] is not None
    assert resumed["subscription"]["payment"]["amount_due_minor"] == resumed["amount_due_minor"]


@pytest.mark.parametrize("behavior", ["keep_as_draft", "mark_uncollectible", "void"])
async def test_pausing_the_collection_keeps_service_and_charges_nothing(
    user: Caller, backend: Caller, account: Account, clock: StripeClock, behavior: str
) -> None:
    until = unix_now() + 45 * DAY
    paused = await backend.done(FOR_ADA, {"behavior": behavior, "resumes_at": until})
    assert paused["status"] == "active"
    assert paused["pause"] == {"behavior": behavior, "resumes_at": until, "reason": None}
    clock.ahead += 32 * DAY
    account.sandbox.tick()
    await tell(account)
    assert [row["amount_paid"] for row in invoices(account.sandbox)] == [9900, 0]
    assert (await user.get("/entitlements"))["rule"] == "active:grant"
    ended = await user.done("/subscription/unpause")
    assert (ended["status"], ended["invoice"], ended["subscription"]["pause"]) == ("done", None, None)


@pytest.mark.parametrize("behavior", ["keep_as_draft", "mark_uncollectible", "void"])
async def test_customers_can_t_take_the_service_without_its_bills(user: Caller, behavior: str) -> None:
    assert await user.refusal("/subscription/pause", {"behavior": behavior}) == (403, "permission_denied")
    assert (await user.get("/subscription"))["pause"] is None


async def test_a_pause_of_the_collection_ends_by_itself(
    user: Caller, backend: Caller, account: Account, clock: StripeClock
) -> None:
    await backend.done(FOR_ADA, {"behavior": "void", "resumes_at": unix_now() + 5 * DAY})
    clock.ahead += 6 * DAY
    account.sandbox.tick()
    await tell(account)
    assert (await user.get("/subscription"))["pause"] is None


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"behavior": "pause", "resumes_at": 4_000_000_000}, "resumes_at_not_supported"),
        ({"behavior": "void", "resumes_at": 1_000_000_000}, "not_in_the_future"),
        ({"behavior": "stop"}, "invalid_request"),
    ],
)
async def test_a_pause_that_makes_no_sense_is_refused(
    user: Caller, backend: Caller, wish: dict[str, Any], code: str
) -> None:
    assert await backend.refusal(FOR_ADA, wish) == (422, code)
    assert (await user.get("/subscription"))["pause"] is None


async def test_operators_pause_anybody_s(user: Caller, client: httpx.AsyncClient, create_key: CreateKey) -> None:
    operator = Caller(client, await create_key("operator"))
    id = (await user.get("/subscription"))["id"]
    assert (await operator.done(f"/subscriptions/{id}/pause", {"behavior": "void"}))["pause"]["behavior"] == "void"
    assert (await operator.done(f"/subscriptions/{id}/unpause"))["subscription"]["pause"] is None
    assert (await user.refusal(f"/subscriptions/{id}/pause"))[0] == 403
