"""An answer that is kept under an idempotency key, Stripe's or ours, never ties anybody to an old failure."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from billing import ADA, URLS, Account
from provider.scripted_stripe import Reply, ScriptedStripe, refusal
from pydantic import SecretStr
from serving import API, bearer, serving
from sqlalchemy import text
from starlette.applications import Starlette
from typing_extensions import override

from app import models
from app.errors import BillingError, InvalidRequestError, UnavailableError
from app.main import create_app
from app.provider import stripe_client
from app.provider.breaker import CircuitBreaker
from app.provider.stripe import StripeProvider
from app.sandbox.resources import customers as sandbox_customers
from app.services.customers import Buyer
from app.services.identity import mint_development_token
from app.settings import Settings

REPLAYED = {"idempotent-replayed": "true"}
OOPS = {"error": {"type": "api_error", "message": "An unknown error occurred"}}


@pytest.fixture(autouse=True)
def _brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe_client, "FIRST_PAUSE", 0.01)


async def test_a_repeated_failure_is_told_as_such_and_neither_tried_again_nor_an_outage() -> None:
    stripe = ScriptedStripe(Reply(status=500, body=OOPS, headers=REPLAYED))
    breaker = CircuitBreaker(threshold=1, pause=60)
    async with stripe.provider(max_network_retries=2, breaker=breaker) as provider:
        for _ in range(2):
            with pytest.raises(UnavailableError) as raised:
                await provider.create_customer(email=None, name=None, metadata={}, idempotency_key="k-1")
    assert raised.value.replayed
    assert len(stripe.requests) == 2


async def test_a_failure_of_its_own_is_not_told_as_repeated() -> None:
    async with ScriptedStripe(refusal(400, message="No")).provider() as provider:
        with pytest.raises(BillingError) as raised:
            await provider.create_customer(email=None, name=None, metadata={}, idempotency_key="k-1")
    assert not raised.value.replayed


class Stumbling(httpx.AsyncBaseTransport):
    """The sandbox, which fails at the first customer it is to create, and keeps that answer for the key."""

    def __init__(self, app: Starlette) -> None:
        self._stripe = httpx.ASGITransport(app)
        self.keys: list[str] = []

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if (request.method, request.url.path) == ("POST", "/v1/customers"):
            self.keys.append(request.headers["idempotency-key"])
            if self.keys[-1] == self.keys[0]:
                headers = {} if len(self.keys) == 1 else REPLAYED
                return httpx.Response(500, json=OOPS, headers=headers, request=request)
        return await self._stripe.handle_async_request(request)


@pytest.fixture
def stumbling(sandbox_app: Starlette) -> Stumbling:
    return Stumbling(sandbox_app)


async def test_a_kept_500_costs_a_buyer_one_attempt_and_nobody_else_any(account: Account, stumbling: Stumbling) -> None:
    breaker = CircuitBreaker(threshold=2, pause=60)
    url = account.sandbox.base_url
    async with StripeProvider(
        "sk_test_billhook", base_url=url, transport=stumbling, max_network_retries=0, breaker=breaker
    ) as account.provider:
        with pytest.raises(UnavailableError):
            await account.open_checkout()
        assert (await account.open_checkout()).status == "open"
        assert (await account.open_checkout(Buyer(user_id="grace"))).status == "open"
    first, again, successor, graces = stumbling.keys
    assert first == again
    assert len({first, successor, graces}) == 3


async def test_with_retries_the_buyer_does_not_even_notice(account: Account, stumbling: Stumbling) -> None:
    url = account.sandbox.base_url
    async with StripeProvider("sk_test_billhook", base_url=url, transport=stumbling) as account.provider:
        assert (await account.open_checkout()).status == "open"
    assert len(account.sandbox.rows("customer")) == 1


async def crash_after_creating_the_customer(account: Account) -> str:
    """Stripe has the customer, we have nothing of them; the customer's id."""
    with pytest.raises(InvalidRequestError, match="promotion code"):
        await account.open_checkout(promotion_code="NOPE")
    assert await account.all(models.Customer) == []
    [customer] = account.sandbox.rows("customer")
    return str(customer["id"])


async def test_another_address_in_the_next_token_gets_the_same_customer(account: Account) -> None:
    made = await crash_after_creating_the_customer(account)
    await account.open_checkout(Buyer(user_id=ADA.user_id, email="ada@new.example.com", name="Ada L."))
    [customer] = account.sandbox.rows("customer")
    assert (customer["id"], customer["email"], customer["name"]) == (made, "ada@new.example.com", "Ada L.")
    assert [row.email for row in await account.all(models.Customer)] == ["ada@new.example.com"]


@pytest.mark.parametrize("heard_of_it", [False, True], ids=["unheard of", "heard of"])
async def test_a_customer_deleted_meanwhile_is_not_used(account: Account, heard_of_it: bool) -> None:  # noqa: FBT001
    made = await crash_after_creating_the_customer(account)
    with account.sandbox.changing():
        sandbox_customers.delete(account.sandbox, {}, made)
    if heard_of_it:
        await account.deliver_and_process(account.events())
    assert (await account.open_checkout()).status == "open"
    [living] = account.sandbox.rows("customer")
    assert living["id"] != made
    owners = {row.stripe_id: row.user_id for row in await account.all(models.Customer) if not row.deleted}
    assert owners == {living["id"]: ADA.user_id}


async def test_a_session_that_ran_out_meanwhile_is_not_handed_out(account: Account) -> None:
    """Stripe made it, our commit was lost, and it has expired without our hearing of it."""
    first = await account.open_checkout()
    async with account.sessions.begin() as session:
        await session.execute(text("DELETE FROM checkout_sessions"))
    await account.provider.expire_checkout_session(first.stripe_id)
    second = await account.open_checkout()
    assert second.stripe_id != first.stripe_id
    assert (second.status, second.url is None) == ("open", False)


@pytest.fixture
def withdrawn(account: Account) -> str:
    """The price of Pro, archived at Stripe by mistake: Stripe refuses to sell it, and keeps the refusal."""
    [price] = [row["id"] for row in account.sandbox.rows("price") if row["lookup_key"] == "billhook_pro"]
    account.sandbox.get("price", price)["active"] = False
    return str(price)


@pytest.mark.parametrize("refusals", [1, 12])
async def test_a_refusal_does_not_outlive_its_cause(account: Account, withdrawn: str, refusals: int) -> None:
    for _ in range(refusals):
        with pytest.raises(BillingError):
            await account.open_checkout()
    account.sandbox.get("price", withdrawn)["active"] = True
    assert (await account.open_checkout()).status == "open"


class Held(httpx.AsyncBaseTransport):
    """The sandbox, which keeps the first request for a checkout session waiting."""

    def __init__(self, app: Starlette) -> None:
        self._stripe = httpx.ASGITransport(app)
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if (request.method, request.url.path) == ("POST", "/v1/checkout/sessions"):
            self.asked.set()
            await self.go_on.wait()
        return await self._stripe.handle_async_request(request)


@pytest.fixture
def held(sandbox_app: Starlette) -> Held:
    return Held(sandbox_app)


@pytest.fixture
async def client(account: Account, settings: Settings, held: Held) -> AsyncIterator[httpx.AsyncClient]:
    alone = settings.model_copy(update={"worker_in_serve": False, "redis_url": SecretStr("unix:///nowhere")})
    async with (
        StripeProvider("sk_test_billhook", base_url=account.sandbox.base_url, transport=held) as provider,
        serving(create_app(alone, provider=provider)) as client,
    ):
        client.headers.update(bearer(mint_development_token(settings, ADA.user_id)))
        yield client


async def test_a_conflict_that_passes_is_not_kept_under_the_caller_s_key(
    account: Account, client: httpx.AsyncClient, held: Held
) -> None:
    async def ask() -> httpx.Response:
        key = {"Idempotency-Key": "click-1"}
        return await client.post(f"{API}/checkout/session", json={"plan": "pro", **URLS}, headers=key)

    first = asyncio.create_task(ask())
    await held.asked.wait()
    await account.open_checkout(plan="basic")  # another tab is faster
    held.go_on.set()
    refused = await first
    assert (refused.status_code, refused.json()["code"]) == (409, "checkout_in_progress")
    assert refused.json()["retryable"] is True

    again = await ask()
    assert again.status_code == 200, again.text
    assert "idempotent-replayed" not in again.headers


async def test_a_conflict_that_stays_is_kept(account: Account, client: httpx.AsyncClient, held: Held) -> None:
    held.go_on.set()
    await account.buy()
    await account.deliver_and_process(account.events())
    key = {"Idempotency-Key": "click-1"}
    answers = [
        await client.post(f"{API}/checkout/session", json={"plan": "pro", **URLS}, headers=key) for _ in range(2)
    ]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(409, "already_subscribed")}
    assert answers[1].headers["idempotent-replayed"] == "true"
