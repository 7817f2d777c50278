"""However a customer clicks, there is one live subscription."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from billing import Account, card
from pydantic import SecretStr
from serving import API, bearer, serving

from app import models
from app.main import create_app
from app.sandbox import checkout as hosted
from app.sandbox.errors import ApiError
from app.services.identity import mint_development_token
from app.settings import Settings

ANSWERS = {200, 409}


@pytest.fixture(params=["with Redis", "without Redis"])
async def processes(
    account: Account, settings: Settings, request: pytest.FixtureRequest
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two API processes' worth of state on one database."""
    if request.param == "without Redis":
        settings = settings.model_copy(update={"redis_url": SecretStr("unix:///nowhere")})
    async with (
        serving(create_app(settings, provider=account.provider)) as one,
        serving(create_app(settings, provider=account.provider)) as other,
    ):
        for client in (one, other):
            client.headers.update(bearer(mint_development_token(settings, "demo-1", email="ada@example.com")))
        yield [one, other]


async def open_tab(client: httpx.AsyncClient, plan: str) -> httpx.Response:
    urls = {"success_url": "https://app.example.com/done", "cancel_url": "https://app.example.com/"}
    return await client.post(f"{API}/checkout/session", json={"plan": plan, **urls})


def pay_all(account: Account) -> None:
    """Pay whatever can still be paid."""
    for session in account.sandbox.rows("checkout.session"):
        try:
            hosted.pay(account.sandbox, session["id"], card())
        except ApiError as error:
            assert error.code == "checkout_session_not_open"  # noqa: PT017 - some are paid, the others must say so


async def test_ten_tabs_for_one_plan_share_one_session(account: Account, processes: list[httpx.AsyncClient]) -> None:
    answers = await asyncio.gather(*(open_tab(processes[n % 2], "pro") for n in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["url"] for answer in answers}) == 1
    assert len(account.sandbox.rows("customer")) == 1
    pay_all(account)
    assert [row["status"] for row in account.sandbox.rows("subscription")] == ["active"]
    late = await open_tab(processes[0], "basic")
    assert (late.status_code, late.json()["code"]) == (409, "already_subscribed")


async def test_tabs_for_different_plans_end_in_one_subscription(
    account: Account, processes: list[httpx.AsyncClient]
) -> None:
    for plans in (("pro", "basic"), ("basic", "pro", "enterprise", "basic")):
        answers = await asyncio.gather(*(open_tab(processes[n % 2], plan) for n, plan in enumerate(plans)))
        assert {answer.status_code for answer in answers} <= ANSWERS
        assert any(answer.status_code == 200 for answer in answers)
    # Only what somebody was sent to can be paid.
    shown = {row.stripe_id for row in await account.all(models.CheckoutSession) if row.ours}
    payable = [
        row for row in account.sandbox.rows("checkout.session") if row["status"] == "open" and row["id"] in shown
    ]
    assert len(payable) == 1
    hosted.pay(account.sandbox, payable[0]["id"], card())
    assert len(account.sandbox.rows("subscription")) == 1
    late = await open_tab(processes[1], "enterprise")
    assert (late.status_code, late.json()["code"]) == (409, "already_subscribed")
