"""Connected accounts: their objects, what each sees of the others, and what the platform hears of them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from sandbox.driving import GOOD, SECRET, AsyncTransport, ManualClock, Receiver
from starlette.applications import Starlette

from app.sandbox import checkout
from app.sandbox.app import create_sandbox
from app.sandbox.sandbox import Sandbox


@pytest.fixture
def v1(client: stripe.StripeClient) -> Any:
    return client.v1


@pytest.fixture
async def account(v1: Any) -> str:
    made = await v1.accounts.create_async(
        {"type": "express", "email": "shop@example.com", "capabilities": {"card_payments": {"requested": True}}}
    )
    return str(made.id)


@pytest.fixture
async def browser(sandbox_app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(sandbox_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox.test") as client:
        yield client


def within(account: str) -> Any:
    return {"stripe_account": account}


async def onboard(v1: Any, browser: httpx.AsyncClient, account: str, outcome: str = "finish") -> httpx.Response:
    link = await v1.account_links.create_async(
        {
            "account": account,
            "type": "account_onboarding",
            "refresh_url": "http://app.test/again",
            "return_url": "http://app.test/done",
        }
    )
    assert (await browser.get(link.url)).status_code == 200
    return await browser.post(link.url, data={"outcome": outcome})


async def test_an_account_is_made_changed_listed_and_deleted(v1: Any) -> None:
    made = await v1.accounts.create_async(
        {"type": "custom", "country": "DE", "email": "a@example.com", "metadata": {"shop": "1"}}
    )
    assert made.id.startswith("acct_1")
    assert (made.country, made.default_currency, made.type) == ("DE", "eur", "custom")
    assert (made.charges_enabled, made.payouts_enabled, made.details_submitted) == (False, False, False)
    assert made.requirements.disabled_reason == "requirements.past_due"
    assert made.controller.stripe_dashboard.type == "none"
    changed = await v1.accounts.update_async(
        made.id, {"business_profile": {"name": "Shop", "support_address": {"city": "Kiel"}}, "metadata": {"b": "2"}}
    )
    assert changed.business_profile.name == "Shop"
    assert changed.metadata.to_dict() == {"shop": "1", "b": "2"}
    other = await v1.accounts.create_async({"controller": {"stripe_dashboard": {"type": "express"}}})
    assert (other.type, other.controller.stripe_dashboard.type, other.controller.fees.payer) == (
        "none",
        "express",
        "account",
    )
    assert [found.id for found in await v1.accounts.list_async()] == [other.id, made.id]
    assert (await v1.accounts.delete_async(made.id)).deleted
    assert [found.id for found in await v1.accounts.list_async()] == [other.id]


async def test_what_an_account_can_not_be_is_refused(v1: Any, http: httpx.AsyncClient) -> None:
    for form, param in (
        ({"type": "gold"}, "type"),
        ({"country": "XX"}, "country"),
        ({"type": "custom", "controller[requirement_collection]": "stripe"}, "type"),
        ({"company[name]": "Shop"}, "company[name]"),
    ):
        answer = await http.post("/v1/accounts", data=form)
        assert answer.status_code == 400, form
        assert answer.json()["error"]["param"] == param
    assert (await v1.accounts.list_async()).data == []


async def test_the_platform_has_an_account_of_its_own(v1: Any) -> None:
    own = await v1.accounts.retrieve_current_async()
    assert own.charges_enabled
    assert (await v1.accounts.retrieve_async(own.id)).id == own.id
    customer = await v1.customers.create_async({}, within(own.id))
    assert (await v1.customers.retrieve_async(customer.id)).id == customer.id


async def test_each_account_has_a_world_of_its_own(v1: Any, account: str) -> None:
    other = (await v1.accounts.create_async({"type": "standard"})).id
    ours = await v1.customers.create_async({"name": "ours"})
    theirs = await v1.customers.create_async({"name": "theirs"}, within(account))
    assert [c.id for c in await v1.customers.list_async()] == [ours.id]
    assert [c.id for c in await v1.customers.list_async({}, within(account))] == [theirs.id]
    assert (await v1.customers.list_async({}, within(other))).data == []
    for id, options in ((theirs.id, {}), (ours.id, within(account)), (theirs.id, within(other))):
        with pytest.raises(stripe.InvalidRequestError, match=f"No such customer: '{id}'"):
            await v1.customers.retrieve_async(id, {}, options)
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        await v1.payment_methods.attach_async("pm_card_visa", {"customer": ours.id}, within(account))
    seen = await v1.accounts.retrieve_current_async({}, within(account))
    assert seen.id == account


async def test_an_unknown_account_is_no_account_of_this_platform(http: httpx.AsyncClient) -> None:
    answers = [
        await http.get("/v1/customers", headers={"Stripe-Account": "acct_nobodys"}),
        await http.get("/v1/accounts/acct_nobodys"),
    ]
    for answer in answers:
        assert answer.status_code == 403
        error = answer.json()["error"]
        assert (error["code"], error["type"]) == ("account_invalid", "invalid_request_error")
        assert error["message"].endswith(
            "does not have access to account 'acct_nobodys' (or that account does not exist). Application access may "
            "have been revoked."
        )


async def test_a_deleted_account_is_out_of_reach(v1: Any, account: str) -> None:
    await v1.accounts.delete_async(account)
    with pytest.raises(stripe.PermissionError):
        await v1.customers.list_async({}, within(account))
    with pytest.raises(stripe.PermissionError):
        await v1.accounts.retrieve_async(account)


async def test_a_connected_account_has_no_accounts(v1: Any, account: str) -> None:
    other = (await v1.accounts.create_async({"type": "standard"})).id
    for call in (
        v1.accounts.create_async({}, within(account)),
        v1.accounts.list_async({}, within(account)),
        v1.accounts.retrieve_async(other, {}, within(account)),
    ):
        with pytest.raises(stripe.PermissionError):
            await call


async def test_idempotency_keys_are_each_accounts_own(v1: Any, account: str) -> None:
    key = {"idempotency_key": "k1"}
    ours = await v1.customers.create_async({"name": "A"}, key)
    theirs = await v1.customers.create_async({"name": "B"}, {**key, **within(account)})
    assert ours.id != theirs.id
    assert (await v1.customers.create_async({"name": "B"}, {**key, **within(account)})).id == theirs.id


async def test_events_of_accounts_go_to_connect_endpoints_alone(
    v1: Any, sandbox: Sandbox, receiver: Receiver, account: str
) -> None:
    """The receiver's own endpoint listens to the platform; a second one, of the same address, to its accounts."""
    connect = await v1.webhook_endpoints.create_async(
        {"url": "http://app.test/hook", "enabled_events": ["*"], "connect": True}
    )
    sandbox.get("webhook_endpoint", connect.id)["_secret"] = SECRET
    own = await v1.webhook_endpoints.create_async(
        {"url": "http://app.test/hook", "enabled_events": ["customer.created"]}, within(account)
    )
    sandbox.world(account).get("webhook_endpoint", own.id)["_secret"] = SECRET
    receiver.events.clear()
    await v1.customers.create_async({"name": "ours"})
    await v1.customers.create_async({"name": "theirs"}, within(account))
    await sandbox.drain()
    got = sorted((event["data"]["object"]["name"], event.get("account")) for event in receiver.events)
    assert got == [("ours", None), ("theirs", account), ("theirs", account)]
    (event,) = (await v1.events.list_async({"type": "customer.created"}, within(account))).data
    assert event.account == account
    assert event.pending_webhooks == 0
    assert [e.data.object.name for e in await v1.events.list_async({"type": "customer.created"})] == ["ours"]


async def test_the_page_of_events_shows_whose_they_are(v1: Any, browser: httpx.AsyncClient, account: str) -> None:
    ours = await v1.customers.create_async()
    theirs = await v1.customers.create_async({}, within(account))
    page = (await browser.get("/events")).text
    assert f"{theirs.id} of {account}" in page
    assert ours.id in page


async def test_onboarding_opens_the_account(
    v1: Any, sandbox: Sandbox, receiver: Receiver, browser: httpx.AsyncClient, account: str
) -> None:
    connect = await v1.webhook_endpoints.create_async(
        {"url": "http://app.test/hook", "enabled_events": ["*"], "connect": True}
    )
    sandbox.get("webhook_endpoint", connect.id)["_secret"] = SECRET
    before = await v1.accounts.retrieve_async(account)
    assert before.capabilities.to_dict() == {"card_payments": "inactive"}
    answer = await onboard(v1, browser, account)
    assert (answer.status_code, answer.headers["Location"]) == (303, "http://app.test/done")
    after = await v1.accounts.retrieve_async(account)
    assert (after.charges_enabled, after.payouts_enabled, after.details_submitted) == (True, True, True)
    assert after.capabilities.to_dict() == {"card_payments": "active"}
    assert after.requirements.currently_due == []
    await sandbox.drain()
    assert [event["account"] for event in receiver.events] == [account] * len(receiver.events)
    assert receiver.last("capability.updated")["data"]["previous_attributes"]["status"] == "inactive"
    assert receiver.last("account.updated")["data"]["previous_attributes"]["charges_enabled"] is False


async def test_onboarding_may_be_left_for_later(v1: Any, browser: httpx.AsyncClient, account: str) -> None:
    answer = await onboard(v1, browser, account, outcome="later")
    assert answer.headers["Location"] == "http://app.test/done"
    assert not (await v1.accounts.retrieve_async(account)).details_submitted


async def test_an_account_link_serves_once_and_for_five_minutes(
    v1: Any, browser: httpx.AsyncClient, clock: ManualClock, account: str
) -> None:
    form = {"account": account, "type": "account_onboarding"}
    urls = {"refresh_url": "http://app.test/again", "return_url": "http://app.test/done"}
    used, late = [await v1.account_links.create_async({**form, **urls}) for _ in range(2)]
    assert used.expires_at - used.created == 300
    await browser.post(used.url, data={"outcome": "later"})
    clock.advance(seconds=301)
    for link in (used, late):
        assert (await browser.get(link.url)).headers["Location"] == "http://app.test/again"
        assert (await browser.post(link.url, data={"outcome": "finish"})).headers["Location"] == "http://app.test/again"
    assert not (await v1.accounts.retrieve_async(account)).details_submitted
    assert (await browser.get(f"/setup/s/{account}/nonsense")).status_code == 404
    with pytest.raises(stripe.InvalidRequestError, match="Missing required param: refresh_url"):
        await v1.account_links.create_async(form)
    with pytest.raises(stripe.InvalidRequestError, match="account_update"):
        await v1.account_links.create_async({**form, **urls, "type": "account_update"})


async def test_a_login_link_leads_to_the_express_dashboard_once(
    v1: Any, browser: httpx.AsyncClient, account: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="has not completed onboarding"):
        await v1.accounts.login_links.create_async(account)
    await onboard(v1, browser, account)
    link = await v1.accounts.login_links.create_async(account)
    assert (await browser.get(link.url)).status_code == 200
    assert (await browser.get(link.url)).status_code == 404
    standard = await v1.accounts.create_async({"type": "standard"})
    with pytest.raises(stripe.InvalidRequestError, match="Express Dashboard"):
        await v1.accounts.login_links.create_async(standard.id)


async def test_capabilities_are_requested_and_given_up(v1: Any, browser: httpx.AsyncClient, account: str) -> None:
    await onboard(v1, browser, account)
    asked = await v1.accounts.capabilities.update_async(account, "transfers", {"requested": True})
    assert (asked.status, asked.requested) == ("active", True)
    found = await v1.accounts.capabilities.list_async(account)
    assert sorted(capability.id for capability in found) == ["card_payments", "transfers"]
    await v1.accounts.capabilities.update_async(account, "transfers", {"requested": False})
    assert (await v1.accounts.capabilities.retrieve_async(account, "transfers")).status == "unrequested"
    assert (await v1.accounts.retrieve_async(account)).capabilities.to_dict() == {"card_payments": "active"}
    with pytest.raises(stripe.InvalidRequestError, match="No such capability"):
        await v1.accounts.capabilities.retrieve_async(account, "sepa_debit_payments")


async def test_an_account_sells_in_its_own_checkout(
    v1: Any, sandbox: Sandbox, browser: httpx.AsyncClient, clock: ManualClock, account: str
) -> None:
    there = within(account)
    price = await v1.prices.create_async(
        {"currency": "usd", "unit_amount": 500, "product_data": {"name": "Tea"}, "recurring": {"interval": "month"}},
        there,
    )
    form = {
        "mode": "subscription",
        "line_items": [{"price": price.id, "quantity": 1}],
        "success_url": "http://app.test/ok",
        "customer_email": "b@example.com",
    }
    session = await v1.checkout.sessions.create_async(form, there)
    assert (await browser.get(session.url)).status_code == 200
    world = sandbox.world(account)
    with world.changing():
        checkout.pay(world, session.id, GOOD)
    clock.advance(days=32)
    (subscription,) = (await v1.subscriptions.list_async({}, there)).data
    assert subscription.status == "active"
    assert len((await v1.invoices.list_async({"subscription": subscription.id}, there)).data) == 2
    assert (await v1.invoices.list_async()).data == []


async def test_a_restart_keeps_accounts_their_worlds_and_what_was_not_delivered(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.jsonl"

    def sdk(app: Starlette) -> Any:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        return stripe.StripeClient(
            "sk_test_billhook", base_addresses={"api": "http://s"}, http_client=AsyncTransport(client)
        ).v1

    first = create_sandbox(state_file=file)
    first.state.sandbox.hold_deliveries()
    v1 = sdk(first)
    account = (await v1.accounts.create_async({"type": "standard"})).id
    await v1.webhook_endpoints.create_async(
        {"url": "http://app.test/hook", "enabled_events": ["customer.created"], "connect": True}
    )
    theirs = await v1.customers.create_async({"name": "theirs"}, within(account))
    again = create_sandbox(state_file=file)
    again.state.sandbox.hold_deliveries()
    assert [c.id for c in await sdk(again).customers.list_async({}, within(account))] == [theirs.id]
    assert (await sdk(again).customers.list_async()).data == []
    (delivery,) = again.state.sandbox.pending_deliveries()
    assert delivery["account"] == account


async def test_a_reset_takes_the_accounts_along(v1: Any, sandbox: Sandbox, account: str) -> None:
    await v1.customers.create_async({}, within(account))
    sandbox.reset()
    assert sandbox.world(account).rows("customer") == []
    with pytest.raises(stripe.PermissionError):
        await v1.customers.list_async({}, within(account))
    assert (await v1.accounts.list_async()).data == []
