"""Nothing is had that isn't paid: not by changing, pausing or ending a subscription, nor by doing so again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import Account
from serving import Bearer, CreateKey, serving
from starlette.applications import Starlette
from subscribing import DAY, Caller, StripeClock, buy, invoices, pay_with, tell

from app import models
from app.main import create_app
from app.sandbox.app import create_sandbox
from app.sandbox.resources import customers
from app.settings import Settings

FOR_ADA = "/subscription/change/preview?user_id=ada"


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
async def operator(client: httpx.AsyncClient, create_key: CreateKey) -> Caller:
    return Caller(client, await create_key("operator", "billing:write"))


@pytest.fixture
async def user(client: httpx.AsyncClient, account: Account, ada: Bearer, clock: StripeClock) -> Caller:
    """Ada, who bought Pro ten days ago."""
    await buy(client, account, ada, "pro")
    clock.ahead += 10 * DAY
    return Caller(client, ada)


@pytest.fixture
async def late(user: Caller, account: Account, clock: StripeClock) -> Caller:
    """Ada, whose renewal has just failed."""
    pay_with(account.sandbox, "pm_card_chargeCustomerFail")
    clock.ahead += 22 * DAY
    account.sandbox.tick()
    await tell(account)
    assert (await user.get("/subscription"))["status"] == "past_due"
    return user


@pytest.mark.parametrize("proration", ["create_prorations", "none"])
async def test_customers_can_t_let_paying_for_more_wait(user: Caller, proration: str) -> None:
    for more in ({"plan": "enterprise"}, {"quantity": 2}):
        refusal = await user.refusal("/subscription/change/preview", {**more, "proration": proration})
        assert refusal == (403, "permission_denied"), more
    less = await user.preview(plan="basic", proration=proration)
    changed = await user.done("/subscription/change", {"preview_id": less["preview_id"]})
    assert changed["subscription"]["plan"] == "basic"


async def test_prorations_may_wait_for_the_next_invoice(
    user: Caller, operator: Caller, account: Account, clock: StripeClock
) -> None:
    shown = await operator.done(FOR_ADA, {"plan": "enterprise", "proration": "create_prorations"})
    assert shown["amount_due_minor"] == 0
    assert shown["invoice_at"] == (await user.get("/subscription"))["current_period_end"]
    assert [line["proration"] for line in shown["lines"]].count(True) == 2
    changed = await user.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert (changed["status"], changed["invoice"], changed["subscription"]["plan"]) == ("done", None, "enterprise")
    assert len(invoices(account.sandbox)) == 1
    clock.ahead += 31 * DAY
    account.sandbox.tick()
    *_, renewal = invoices(account.sandbox)
    assert renewal["total"] == shown["invoice_total_minor"]


async def test_a_change_without_proration_costs_nothing_now(user: Caller, operator: Caller, account: Account) -> None:
    shown = await operator.done(FOR_ADA, {"plan": "enterprise", "proration": "none"})
    assert (shown["amount_due_minor"], shown["invoice_total_minor"]) == (0, 49900)
    changed = await user.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert changed["subscription"]["plan"] == "enterprise"
    assert len(invoices(account.sandbox)) == 1


async def test_while_collection_is_paused_nothing_is_changed_that_costs(
    user: Caller, operator: Caller, account: Account
) -> None:
    await operator.done("/subscription/pause?user_id=ada", {"behavior": "void"})
    assert await user.refusal("/subscription/change/preview", {"plan": "enterprise"}) == (409, "collection_paused")
    await operator.done("/subscription/unpause?user_id=ada")
    shown = await user.preview(plan="enterprise")
    await operator.done("/subscription/pause?user_id=ada", {"behavior": "void"})
    stale = await user.refusal("/subscription/change", {"preview_id": shown["preview_id"]})
    assert stale == (409, "preview_stale")
    assert len(invoices(account.sandbox)) == 1


async def test_no_change_is_made_of_a_period_that_is_not_paid(late: Caller, operator: Caller) -> None:
    for wish in ({"plan": "basic"}, {"plan": "basic", "proration": "create_prorations"}, {"quantity": 2}):
        assert await late.refusal("/subscription/change/preview", wish) == (409, "payment_due"), wish
        assert await operator.refusal(FOR_ADA, wish) == (409, "payment_due"), wish
    assert (await late.done("/subscription/change", {"plan": "basic", "at": "period_end"}))["status"] == "scheduled"


async def test_a_period_that_is_not_paid_can_t_be_paused_away(late: Caller, operator: Caller) -> None:
    assert await late.refusal("/subscription/pause") == (409, "subscription_not_pausable")
    assert await operator.refusal("/subscription/pause?user_id=ada") == (409, "subscription_not_pausable")
    await operator.done("/subscription/pause?user_id=ada", {"behavior": "keep_as_draft"})


async def test_unused_time_that_was_not_paid_is_not_given_back(
    late: Caller, operator: Caller, account: Account
) -> None:
    path = f"/subscriptions/{(await late.get('/subscription'))['id']}/cancel"
    refusal = await operator.refusal(path, {"at_period_end": False, "refund": "prorated"})
    assert refusal == (409, "nothing_to_refund")
    assert account.sandbox.rows("refund") == []


async def test_what_a_waiting_upgrade_would_cost_is_not_given_back(
    user: Caller, operator: Caller, clock: StripeClock
) -> None:
    """Pro is paid, Enterprise stands on the next invoice: given back is what is left of Pro alone."""
    held = await user.get("/subscription")
    shown = await operator.done(FOR_ADA, {"plan": "enterprise", "proration": "create_prorations"})
    await operator.done(f"/subscriptions/{held['id']}/change", {"preview_id": shown["preview_id"]})
    ended = await operator.done(f"/subscriptions/{held['id']}/cancel", {"at_period_end": False, "refund": "prorated"})
    left, length = held["current_period_end"] - int(clock()), held["current_period_end"] - held["current_period_start"]
    assert abs(ended["refunded_minor"] - 9900 * left // length) <= 2


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_prorated_refund_is_made_once_and_told_of_alike(
    user: Caller,
    operator: Caller,
    account: Account,
    clock: StripeClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    forgotten: bool,
) -> None:
    """Also when it is tried again after Stripe has forgotten the first try's key, and after another refund."""
    held = await user.get("/subscription")
    path, body = f"/subscriptions/{held['id']}/cancel", {"at_period_end": False, "refund": "prorated"}
    [charge] = account.sandbox.rows("charge")
    await operator.done(f"/payments/{charge['id']}/refunds", {"amount_minor": 500})
    with monkeypatch.context() as broken:

        async def fails(*_args: object, **_more: object) -> None:
            raise ConnectionError("the process dies between the refund and the cancellation")

        broken.setattr(account.provider, "cancel_subscription", fails)
        assert (await operator.post(path, body)).status_code in {500, 503}
    await tell(account)
    first = next(row.amount for row in await account.all(models.Refund) if row.amount != 500)
    clock.ahead += 2 * DAY if forgotten else 60
    ended = await operator.done(path, body)
    assert ended["refunded_minor"] == first
    assert sorted(row["amount"] for row in account.sandbox.rows("refund")) == [500, first]


async def test_two_trials_at_the_same_moment_become_one(
    operator: Caller, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, create = asyncio.Barrier(2), account.provider.create_subscription

    async def at_once(**wish: Any) -> Any:
        await together.wait()
        return await create(**wish)

    monkeypatch.setattr(account.provider, "create_subscription", at_once)
    wish = {"user_id": "carol", "items": [{"plan": "basic"}], "trial_days": 7}
    answers = await asyncio.gather(operator.post("/subscriptions", wish), operator.post("/subscriptions", wish))
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    assert {answer.json().get("code") for answer in answers} == {None, "trial_used"}
    assert sorted(row["status"] for row in account.sandbox.rows("subscription")) == ["canceled", "trialing"]
    await tell(account)
    [kept] = await operator.get("/subscriptions?status=trialing")
    assert kept["id"] in {answer.json().get("subscription", {}).get("id") for answer in answers}


async def test_whoever_becomes_a_customer_anew_gets_no_other_trial(operator: Caller, account: Account) -> None:
    wish = {"user_id": "carol", "items": [{"plan": "basic"}], "trial_days": 7}
    await operator.done("/subscriptions", wish)
    [person] = account.sandbox.rows("customer")
    with account.sandbox.changing():
        customers.delete(account.sandbox, {}, person["id"])
    await tell(account)
    assert await operator.refusal("/subscriptions", wish) == (409, "trial_used")


async def test_the_end_of_a_pause_is_told_alike_when_its_answer_got_lost_and_a_webhook_came_first(
    user: Caller, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    await user.done("/subscription/pause")
    pay_with(account.sandbox, "pm_card_chargeCustomerFail")
    resume = account.provider.resume_subscription

    async def lost(*args: str, **more: str) -> None:
        await resume(*args, **more)
        await tell(account)
        raise ConnectionError("the process dies after Stripe's answer")

    with monkeypatch.context() as broken:
        broken.setattr(account.provider, "resume_subscription", lost)
        assert (await user.post("/subscription/unpause", key="once")).status_code in {500, 503}
    told = await user.done("/subscription/unpause", key="once")
    assert (told["status"], told["invoice"]) == ("requires_action", invoices(account.sandbox)[-1]["id"])
    assert "_secret_" in told["client_secret"]
    assert len(invoices(account.sandbox)) == 2
    assert await user.refusal("/subscription/unpause", key="another") == (409, "subscription_not_paused")
