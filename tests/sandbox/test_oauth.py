"""Stripe Connect's OAuth: what a person confirms or denies, what the code is worth, and how access ends."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import stripe
from sandbox.driving import SECRET, AsyncTransport, ManualClock, Receiver
from starlette.applications import Starlette

from app.sandbox.sandbox import Sandbox

CLIENT = "ca_test_of_our_platform"
ASKED = {
    "response_type": "code",
    "client_id": CLIENT,
    "scope": "read_write",
    "state": "s1",
    "redirect_uri": "http://app.test/callback?from=stripe",
}


@pytest.fixture
async def browser(sandbox_app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(sandbox_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox.test") as client:
        yield client


@pytest.fixture
async def oauth(sandbox_app: Starlette) -> AsyncIterator[Any]:
    """The SDK, as a service calls Connect's host with it: `token` and `deauthorize`."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox_app)) as http:
        client = sdk(http)

        class Calls:
            @staticmethod
            async def token(**params: str) -> dict[str, Any]:
                return dict((await client.raw_request_async("post", "/oauth/token", base="connect", **params)).data)

            @staticmethod
            async def deauthorize(**params: str) -> dict[str, Any]:
                answer = await client.raw_request_async("post", "/oauth/deauthorize", base="connect", **params)
                return dict(answer.data)

        yield Calls


def sdk(http: httpx.AsyncClient, key: str = "sk_test_billhook") -> stripe.StripeClient:
    return stripe.StripeClient(
        key,
        base_addresses={"api": "http://sandbox.test", "connect": "http://sandbox.test"},
        http_client=AsyncTransport(http),
    )


async def came_back(browser: httpx.AsyncClient, outcome: str = "connect", **changed: str) -> dict[str, list[str]]:
    """Answer the page, and give the query of the place it leads back to."""
    form = {"outcome": outcome, "account": changed.pop("account", "")}
    answer = await browser.post("/oauth/authorize", params={**ASKED, **changed}, data=form)
    assert answer.status_code == 303, answer.text
    place = urlsplit(answer.headers["Location"])
    assert (place.netloc, place.path) == ("app.test", "/callback")
    return parse_qs(place.query)


async def connect(browser: httpx.AsyncClient, oauth: Any, **changed: str) -> dict[str, Any]:
    (code,) = (await came_back(browser, **changed))["code"]
    granted: dict[str, Any] = await oauth.token(grant_type="authorization_code", code=code)
    return granted


async def test_a_person_connects_an_account(browser: httpx.AsyncClient, oauth: Any) -> None:
    shown = await browser.get("/oauth/authorize", params=ASKED)
    assert shown.status_code == 200
    assert "see and change" in shown.text
    back = await came_back(browser)
    assert (back["state"], back["scope"], back["from"]) == (["s1"], ["read_write"], ["stripe"])
    granted = await oauth.token(grant_type="authorization_code", code=back["code"][0])
    assert granted["stripe_user_id"].startswith("acct_1")
    assert granted["access_token"].startswith("sk_test_")
    assert granted["stripe_publishable_key"].startswith("pk_test_")
    assert (granted["token_type"], granted["scope"], granted["livemode"]) == ("bearer", "read_write", False)


async def test_a_person_denies(browser: httpx.AsyncClient, client: stripe.StripeClient) -> None:
    back = await came_back(browser, outcome="deny")
    assert back == {
        "from": ["stripe"],
        "error": ["access_denied"],
        "error_description": ["The user denied your request"],
        "state": ["s1"],
    }
    assert (await client.v1.accounts.list_async()).data == []


@pytest.mark.parametrize(
    ("changed", "status", "error"),
    [
        ({"client_id": "nonsense"}, 401, "invalid_client"),
        ({"redirect_uri": ""}, 400, "invalid_redirect_uri"),
        ({"redirect_uri": "javascript:alert(1)"}, 400, "invalid_redirect_uri"),
        ({"response_type": "token"}, 400, "unsupported_response_type"),
        ({"scope": "everything"}, 400, "invalid_scope"),
    ],
)
async def test_what_asks_wrongly_is_sent_nowhere(
    browser: httpx.AsyncClient, changed: dict[str, str], status: int, error: str
) -> None:
    for answer in (
        await browser.get("/oauth/authorize", params={**ASKED, **changed}),
        await browser.post("/oauth/authorize", params={**ASKED, **changed}, data={"outcome": "connect"}),
    ):
        assert (answer.status_code, answer.json()["error"]) == (status, error)


async def test_the_token_is_a_key_to_the_accounts_own_world(
    browser: httpx.AsyncClient, oauth: Any, client: Any, sandbox_app: Starlette
) -> None:
    granted = await connect(browser, oauth)
    account = granted["stripe_user_id"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox_app)) as http:
        theirs: Any = sdk(http, granted["access_token"])
        made = await theirs.v1.customers.create_async({"name": "theirs"})
        assert (await theirs.v1.accounts.retrieve_current_async()).id == account
        other = (await connect(browser, oauth))["stripe_user_id"]
        with pytest.raises(stripe.PermissionError):
            await theirs.v1.customers.list_async({}, {"stripe_account": other})
    seen = await client.v1.customers.list_async({}, {"stripe_account": account})
    assert [c.id for c in seen] == [made.id]
    assert (await client.v1.customers.list_async()).data == []
    with pytest.raises(stripe.PermissionError, match="required permissions"):
        await client.v1.accounts.update_async(account, {"metadata": {"a": "1"}})
    with pytest.raises(stripe.PermissionError, match="not authorized to delete"):
        await client.v1.accounts.delete_async(account)


async def test_who_may_only_read_changes_nothing(
    browser: httpx.AsyncClient, oauth: Any, client: Any, sandbox_app: Starlette
) -> None:
    granted = await connect(browser, oauth, scope="read_only")
    there = {"stripe_account": granted["stripe_user_id"]}
    with pytest.raises(stripe.PermissionError, match="'read_write' scope"):
        await client.v1.customers.create_async({}, there)
    assert (await client.v1.customers.list_async({}, there)).data == []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox_app)) as http:
        theirs: Any = sdk(http, granted["access_token"])
        with pytest.raises(stripe.PermissionError, match="'read_write' scope"):
            await theirs.v1.customers.create_async()
        assert (await theirs.v1.customers.list_async()).data == []


async def test_a_code_serves_once_and_its_tokens_die_with_a_second_use(
    browser: httpx.AsyncClient, oauth: Any, sandbox_app: Starlette
) -> None:
    (code,) = (await came_back(browser))["code"]
    granted = await oauth.token(grant_type="authorization_code", code=code)
    with pytest.raises(stripe.oauth_error.InvalidGrantError, match="already been used"):
        await oauth.token(grant_type="authorization_code", code=code)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox_app)) as http:
        with pytest.raises(stripe.AuthenticationError, match="Expired API Key"):
            await sdk(http, granted["access_token"]).v1.customers.list_async()
    with pytest.raises(stripe.oauth_error.InvalidGrantError, match="does not exist"):
        await oauth.token(grant_type="refresh_token", refresh_token=granted["refresh_token"])


async def test_a_code_is_worth_nothing_after_five_minutes(
    browser: httpx.AsyncClient, oauth: Any, client: Any, clock: ManualClock
) -> None:
    (code,) = (await came_back(browser))["code"]
    assert (await client.v1.accounts.list_async()).data == [], "the code alone opens nothing"
    clock.advance(seconds=301)
    with pytest.raises(stripe.oauth_error.InvalidGrantError, match=f"Authorization code expired: {code}"):
        await oauth.token(grant_type="authorization_code", code=code)


async def test_what_is_asked_wrongly_of_the_token_endpoint_is_refused(oauth: Any, browser: httpx.AsyncClient) -> None:
    for error, params in (
        (stripe.oauth_error.InvalidGrantError, {"grant_type": "authorization_code", "code": "ac_nope"}),
        (stripe.oauth_error.InvalidGrantError, {"grant_type": "refresh_token", "refresh_token": "rt_nope"}),
        (stripe.oauth_error.InvalidRequestError, {"code": "ac_nope"}),
        (stripe.oauth_error.UnsupportedGrantTypeError, {"grant_type": "password"}),
    ):
        with pytest.raises(error):
            await oauth.token(**params)
    form = {"grant_type": "authorization_code", "code": "ac_nope"}
    wrong = await browser.post("/oauth/token", data={**form, "client_secret": "sk_test_wrong"})
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    assert (await browser.post("/oauth/token", data=form)).status_code == 401
    right = await browser.post("/oauth/token", data={**form, "client_secret": "sk_test_billhook"})
    assert (right.status_code, right.json()["error"]) == (400, "invalid_grant")


async def test_a_refresh_token_gives_another_access_token_of_no_more_scope(
    browser: httpx.AsyncClient, oauth: Any
) -> None:
    granted = await connect(browser, oauth)
    narrow = await oauth.token(grant_type="refresh_token", refresh_token=granted["refresh_token"], scope="read_only")
    assert narrow["access_token"] != granted["access_token"]
    assert (narrow["scope"], narrow["stripe_user_id"]) == ("read_only", granted["stripe_user_id"])
    reader = await connect(browser, oauth, scope="read_only")
    with pytest.raises(stripe.oauth_error.InvalidScopeError):
        await oauth.token(grant_type="refresh_token", refresh_token=reader["refresh_token"], scope="read_write")


async def test_access_ends_with_deauthorization_and_may_be_given_again(
    browser: httpx.AsyncClient, oauth: Any, client: Any, sandbox: Sandbox, receiver: Receiver
) -> None:
    hook = {"url": "http://app.test/hook", "enabled_events": ["*"], "connect": True}
    endpoint = await client.v1.webhook_endpoints.create_async(hook)
    sandbox.get("webhook_endpoint", endpoint.id)["_secret"] = SECRET
    granted = await connect(browser, oauth)
    account = granted["stripe_user_id"]
    kept = await client.v1.customers.create_async({"name": "kept"}, {"stripe_account": account})
    assert await oauth.deauthorize(client_id=CLIENT, stripe_user_id=account) == {"stripe_user_id": account}
    headers = {"Authorization": f"Bearer {granted['access_token']}"}
    assert (await browser.get("/v1/customers", headers=headers)).status_code == 401
    with pytest.raises(stripe.PermissionError, match="Application access may have been revoked"):
        await client.v1.customers.list_async({}, {"stripe_account": account})
    with pytest.raises(stripe.oauth_error.InvalidClientError, match="is not connected to stripe account"):
        await oauth.deauthorize(client_id=CLIENT, stripe_user_id=account)
    await sandbox.drain()
    for type in ("account.application.authorized", "account.application.deauthorized"):
        event = receiver.last(type)
        assert event["account"] == account
        assert (event["data"]["object"]["id"], event["data"]["object"]["object"]) == (CLIENT, "application")
    receiver.events.clear()
    with sandbox.world(account).changing():
        sandbox.world(account).emit("customer.updated", sandbox.world(account).get("customer", kept.id), {"name": "x"})
    await sandbox.drain()
    assert receiver.events == [], "what happens in an account that was lost is no business of the platform's"
    again = await connect(browser, oauth, account=account)
    assert again["stripe_user_id"] == account
    seen = await client.v1.customers.list_async({}, {"stripe_account": account})
    assert [c.id for c in seen] == [kept.id]


async def test_another_application_can_not_end_our_access(browser: httpx.AsyncClient, oauth: Any) -> None:
    account = (await connect(browser, oauth))["stripe_user_id"]
    for client_id in ("ca_of_somebody_else", "nonsense"):
        with pytest.raises(stripe.oauth_error.InvalidClientError):
            await oauth.deauthorize(client_id=client_id, stripe_user_id=account)
    assert await oauth.deauthorize(client_id=CLIENT, stripe_user_id=account)


async def test_only_accounts_of_their_owners_are_offered(browser: httpx.AsyncClient, oauth: Any, client: Any) -> None:
    owned = (await connect(browser, oauth))["stripe_user_id"]
    ours = (await client.v1.accounts.create_async({"type": "express"})).id
    page = (await browser.get("/oauth/authorize", params=ASKED)).text
    assert owned in page
    assert ours not in page
    answer = await browser.post("/oauth/authorize", params=ASKED, data={"outcome": "connect", "account": ours})
    assert answer.status_code == 404


async def test_the_token_endpoint_has_faults_too(browser: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.faults.add("rate_limit", path="/oauth/token")
    form = {"grant_type": "authorization_code", "code": "ac_nope", "client_secret": "sk_test_billhook"}
    answer = await browser.post("/oauth/token", data=form)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert (await browser.post("/oauth/token", data=form)).status_code == 400
