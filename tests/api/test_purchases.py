"""A customer's way through the API: buy, read, cancel, resume, portal; everything seen through HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import Account, card
from serving import API, PROBLEM, Bearer, CreateKey, serving
from signing import body, sign

from app.main import create_app
from app.sandbox import checkout as hosted
from app.sandbox.errors import CardError
from app.settings import Settings

SECRET = "whsec_dGVzdHMgc2lnbiB3aXRoIHRoaXMgc2VjcmV0"
URLS = {
    "success_url": "https://app.example.com/done?session_id={CHECKOUT_SESSION_ID}",
    "cancel_url": "https://app.example.com/",
}


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


async def get(client: httpx.AsyncClient, path: str, who: Bearer) -> Any:
    answer = await client.get(f"{API}{path}", headers=who)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def open_checkout(client: httpx.AsyncClient, who: Bearer, plan: str = "pro") -> dict[str, str]:
    answer = await client.post(f"{API}/checkout/session", headers=who, json={"plan": plan, **URLS})
    assert answer.status_code == 200, answer.text
    opened: dict[str, str] = answer.json()
    return opened


async def buy(client: httpx.AsyncClient, account: Account, who: Bearer, plan: str = "pro") -> str:
    opened = await open_checkout(client, who, plan)
    hosted.pay(account.sandbox, opened["session_id"], card())
    return opened["session_id"]


async def deliver(client: httpx.AsyncClient, account: Account) -> None:
    """All of Stripe's events, over HTTP, then applied."""
    for event in account.events():
        payload = body(event)
        answer = await client.post(
            f"{API}/webhook", content=payload, headers={"Stripe-Signature": sign(payload, SECRET)}
        )
        assert answer.status_code == 200, answer.text
    await account.process()


async def test_the_landing_page_is_right_before_any_webhook(
    client: httpx.AsyncClient, account: Account, ada: Bearer
) -> None:
    session = await buy(client, account, ada)
    landed = await get(client, f"/checkout/session/{session}", ada)
    assert (landed["status"], landed["payment_status"]) == ("complete", "paid")
    assert (landed["subscription"]["status"], landed["subscription"]["plan"]) == ("active", "pro")

    assert (await get(client, "/subscription", ada))["plan_amount_minor"] == 9900
    assert (await get(client, "/subscription/status", ada))["tier"] == "pro"
    [invoice] = await get(client, "/invoices", ada)
    assert (invoice["status"], invoice["amount_paid"], invoice["amount_paid_minor"]) == ("paid", 99.0, 9900)
    assert invoice["invoice_pdf"].startswith("http://sandbox.test/pdf/")
    [method] = await get(client, "/payment-methods", ada)
    assert (method["brand"], method["last4"], method["is_default"]) == ("visa", "4242", True)


def without_payments(state: dict[str, Any]) -> dict[str, Any]:
    """Payments follow the webhooks alone: nothing that a customer waits for hangs on them."""
    return {name: rows for name, rows in state.items() if name not in {"PaymentIntent", "Charge"}}


async def test_webhooks_alone_lead_to_the_same_answers(
    client: httpx.AsyncClient, account: Account, ada: Bearer
) -> None:
    session = await buy(client, account, ada)
    paths = ("/subscription", "/invoices", "/payment-methods", "/entitlements")
    await deliver(client, account)
    by_webhook = {path: await get(client, path, ada) for path in paths}
    await get(client, f"/checkout/session/{session}", ada)
    assert {path: await get(client, path, ada) for path in paths} == by_webhook
    assert by_webhook["/entitlements"]["plan"] == "pro"


async def test_a_webhook_after_the_landing_page_changes_nothing(
    client: httpx.AsyncClient, account: Account, ada: Bearer
) -> None:
    session = await buy(client, account, ada)
    await get(client, f"/checkout/session/{session}", ada)
    before = without_payments(await account.state())
    await deliver(client, account)
    assert without_payments(await account.state()) == before


async def test_cancelling_and_resuming(client: httpx.AsyncClient, account: Account, ada: Bearer) -> None:
    session = await buy(client, account, ada)
    await get(client, f"/checkout/session/{session}", ada)
    held = await get(client, "/subscription", ada)

    canceled = await client.post(f"{API}/subscription/cancel", headers=ada, json={"reason": "too much"})
    assert canceled.json()["cancel_at"] == held["current_period_end"]
    assert (await get(client, "/subscription/status", ada))["cancel_at_period_end"] is True
    [truth] = account.sandbox.rows("subscription")
    assert truth["cancellation_details"]["comment"] == "too much"
    again = await client.post(f"{API}/subscription/cancel", headers=ada, json={})
    assert again.json() == canceled.json()

    resumed = await client.post(f"{API}/subscription/resume", headers=ada)
    assert resumed.status_code == 200
    assert (await get(client, "/subscription/status", ada))["cancel_at_period_end"] is False
    refused = await client.post(f"{API}/subscription/resume", headers=ada)
    assert (refused.status_code, refused.json()["code"]) == (409, "subscription_not_canceling")

    ended = await client.post(f"{API}/subscription/cancel", headers=ada, json={"at_period_end": False})
    assert ended.status_code == 200
    assert (await get(client, "/subscription/status", ada))["tier"] == "free"
    before = without_payments(await account.state())
    await deliver(client, account)
    assert without_payments(await account.state()) == before


async def test_a_declined_card_leaves_the_session_to_be_paid_with_another(
    client: httpx.AsyncClient, account: Account, ada: Bearer
) -> None:
    opened = await open_checkout(client, ada)
    with pytest.raises(CardError, match=r"Your card was declined\."):
        hosted.pay(account.sandbox, opened["session_id"], card("4000000000000002"))
    landed = await get(client, f"/checkout/session/{opened['session_id']}", ada)
    assert (landed["status"], landed["subscription"]) == ("open", None)
    assert (await open_checkout(client, ada)) == opened
    hosted.pay(account.sandbox, opened["session_id"], card())
    assert (await get(client, f"/checkout/session/{opened['session_id']}", ada))["status"] == "complete"


async def test_another_plan_closes_the_open_session(client: httpx.AsyncClient, account: Account, ada: Bearer) -> None:
    first = await open_checkout(client, ada, "pro")
    second = await open_checkout(client, ada, "basic")
    assert first["session_id"] != second["session_id"]
    states = {row["id"]: row["status"] for row in account.sandbox.rows("checkout.session")}
    assert states == {first["session_id"]: "expired", second["session_id"]: "open"}


async def test_who_has_paid_a_moment_ago_is_not_sold_another(
    client: httpx.AsyncClient, account: Account, ada: Bearer
) -> None:
    await buy(client, account, ada)  # no webhook has arrived, no landing page was opened
    answer = await client.post(f"{API}/checkout/session", headers=ada, json={"plan": "enterprise", **URLS})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_subscribed")


async def test_a_trial_is_given_once(client: httpx.AsyncClient, account: Account, ada: Bearer) -> None:
    session = await buy(client, account, ada, "basic")
    assert (await get(client, f"/checkout/session/{session}", ada))["subscription"]["status"] == "trialing"
    await client.post(f"{API}/subscription/cancel", headers=ada, json={"at_period_end": False})
    session = await buy(client, account, ada, "basic")
    landed = await get(client, f"/checkout/session/{session}", ada)
    assert (landed["subscription"]["status"], landed["subscription"]["trial_end"]) == ("active", None)


async def test_the_portal_opens_after_the_first_purchase(
    client: httpx.AsyncClient, account: Account, ada: Bearer
) -> None:
    back = {"return_url": "https://app.example.com/billing"}
    early = await client.post(f"{API}/portal", headers=ada, json=back)
    assert (early.status_code, early.json()["code"]) == (404, "customer_not_found")
    await buy(client, account, ada)
    await deliver(client, account)
    for answer in (
        await client.get(f"{API}/portal", headers=ada, params=back),
        await client.post(f"{API}/portal", headers=ada, json=back),
        await client.post(f"{API}/portal", headers=ada, json=back | {"flow": "payment_method_update"}),
        await client.post(f"{API}/portal", headers=ada, json=back | {"flow": "subscription_cancel"}),
    ):
        assert answer.status_code == 200, answer.text
        assert answer.json()["url"].startswith("http://sandbox.test/p/session/")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.com/",
        "https://app.example.com.evil.com/",
        "https://app.example.com@evil.com/",
        "https://app.example.com:444/",
        "http://app.example.com/",
        "//app.example.com/",
        "https:\\\\app.example.com\\",
        "javascript:alert(1)",
        "https://app.example.com/\n",
        "",
    ],
)
async def test_a_redirect_to_elsewhere_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, account: Account, ada: Bearer, url: str
) -> None:
    for wrong in ("success_url", "cancel_url"):
        answer = await client.post(f"{API}/checkout/session", headers=ada, json={"plan": "pro", **URLS, wrong: url})
        assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    answer = await client.post(f"{API}/portal", headers=ada, json={"return_url": url})
    assert answer.status_code == 422
    assert account.sandbox.rows("customer") == []
    assert (await account.state())["CheckoutSession"] == []


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"plan": "free"}, 422),
        ({"plan": "platinum"}, 404),
        ({"plan": "pro", "price_id": "price_1"}, 422),
        ({}, 422),
        ({"price_id": "price_unknown"}, 404),
        ({"plan": "pro", "quantity": 0}, 422),
        ({"plan": "pro", "quantity": 10**30}, 422),
        ({"plan": "pro", "customer": "cus_somebody"}, 422),
        ({"plan": "pro\0"}, 422),
    ],
)
async def test_a_purchase_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, account: Account, ada: Bearer, wrong: dict[str, Any], status: int
) -> None:
    answer = await client.post(f"{API}/checkout/session", headers=ada, json={**URLS, **wrong})
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert account.sandbox.rows("customer") == []


async def test_a_backend_reads_for_its_users(
    client: httpx.AsyncClient, account: Account, ada: Bearer, create_key: CreateKey
) -> None:
    session = await buy(client, account, ada)
    await get(client, f"/checkout/session/{session}", ada)
    key = await create_key("billing:read")
    assert (await get(client, "/subscription/status?user_id=ada", key))["tier"] == "pro"
    check = await client.post(
        f"{API}/entitlements/check?user_id=ada", headers=key, json={"feature": "priority_support"}
    )
    assert check.json()["allowed"] is True
    refused = await client.post(f"{API}/subscription/cancel?user_id=ada", headers=key, json={})
    assert refused.status_code == 403


async def test_invoices_are_paged_with_links(client: httpx.AsyncClient, account: Account, ada: Bearer) -> None:
    for _ in range(3):
        session = await buy(client, account, ada)
        await get(client, f"/checkout/session/{session}", ada)
        await client.post(f"{API}/subscription/cancel", headers=ada, json={"at_period_end": False})
    everything = [invoice["id"] for invoice in await get(client, "/invoices", ada)]
    assert len(everything) == 3
    seen, url = [], f"{API}/invoices?limit=2"
    while url:
        page = await client.get(url, headers=ada)
        seen += [invoice["id"] for invoice in page.json()]
        url = page.links.get("next", {}).get("url", "")
    assert seen == everything
    assert await get(client, "/invoices?status=open", ada) == []


@pytest.mark.parametrize("path", ["/plans?colour=red", "/subscription?plan=pro", "/invoices?limt=1"])
async def test_an_unknown_query_parameter_is_refused(client: httpx.AsyncClient, ada: Bearer, path: str) -> None:
    answer = await client.get(f"{API}{path}", headers=ada)
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_parameter")


async def test_a_promotion_code_that_does_not_exist_is_the_buyer_s_mistake(
    client: httpx.AsyncClient, account: Account, ada: Bearer
) -> None:
    body = {"plan": "pro", "promotion_code": "FREEBEER", **URLS}
    answer = await client.post(f"{API}/checkout/session", headers=ada, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["param"] == "promotion_code"
    assert account.sandbox.rows("checkout.session") == []
