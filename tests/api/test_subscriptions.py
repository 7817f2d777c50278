"""Several subscriptions, those that operators make, ending them with the money back, and what is owed."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import Account
from serving import API, Bearer, CreateKey, serving
from starlette.applications import Starlette
from subscribing import DAY, Caller, StripeClock, buy, mirrored, pay_with, tell

from app import models
from app.main import create_app
from app.sandbox.app import create_sandbox
from app.sandbox.resources import coupons, payment_methods, promotion_codes
from app.sandbox.resources import customers as sandbox_customers
from app.sandbox.sandbox import Sandbox
from app.settings import Settings


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
    return Caller(client, await create_key("operator"))


@pytest.fixture
async def user(client: httpx.AsyncClient, account: Account, ada: Bearer) -> Caller:
    """Ada, who has bought Pro."""
    await buy(client, account, ada, "pro")
    return Caller(client, ada)


def paying_customer(sandbox: Sandbox, method: str = "pm_card_visa") -> str:
    """A customer at Stripe whose default is this test card."""
    with sandbox.changing():
        person = sandbox_customers.create(sandbox, {"metadata": {"user_id": "bob"}})
        card = payment_methods.attach(sandbox, {"customer": person["id"]}, method)
        settings = {"default_payment_method": card["id"]}
        sandbox_customers.update(sandbox, {"invoice_settings": settings}, person["id"])
    return str(person["id"])


async def known_customer(account: Account, method: str = "pm_card_visa") -> str:
    person = paying_customer(account.sandbox, method)
    await tell(account)
    return person


async def test_an_operator_subscribes_a_customer(operator: Caller, account: Account) -> None:
    person = await known_customer(account)
    wish = {"customer": person, "items": [{"plan": "pro", "quantity": 3}], "metadata": {"deal": "42"}}
    made = await operator.done("/subscriptions", wish, key="once")
    assert (made["status"], made["subscription"]["status"], made["subscription"]["plan"]) == ("done", "active", "pro")
    assert (made["subscription"]["quantity"], made["amount_due_minor"]) == (3, 3 * 9900)
    assert (made["subscription"]["customer"], made["subscription"]["user_id"]) == (person, "bob")
    assert await operator.done("/subscriptions", wish, key="once") == made
    [row] = account.sandbox.rows("subscription")
    assert row["metadata"]["deal"] == "42"
    before = await mirrored(account)
    await tell(account)
    assert await mirrored(account) == before


async def test_a_user_who_is_no_customer_yet_becomes_one(operator: Caller, account: Account) -> None:
    wish = {"user_id": "carol", "items": [{"plan": "basic"}], "trial_days": 7}
    made = await operator.done("/subscriptions", wish)
    assert (made["subscription"]["status"], made["subscription"]["user_id"]) == ("trialing", "carol")
    assert made["client_secret"] is None
    assert await operator.refusal("/subscriptions", wish) == (409, "trial_used")
    [person] = account.sandbox.rows("customer")
    assert person["metadata"] == {"user_id": "carol"}


async def test_a_first_payment_that_needs_the_customer_hands_back_a_secret(operator: Caller, account: Account) -> None:
    person = await known_customer(account, "pm_card_authenticationRequired")
    made = await operator.done("/subscriptions", {"customer": person, "items": [{"plan": "pro"}]})
    assert (made["status"], made["subscription"]["status"]) == ("requires_action", "incomplete")
    assert "_secret_" in made["client_secret"]
    payment = made["subscription"]["payment"]
    assert (payment["amount_due_minor"], payment["hosted_invoice_url"]) == (9900, made["hosted_invoice_url"])
    strict = {"customer": person, "items": [{"plan": "pro"}], "payment_behavior": "error_if_incomplete"}
    assert (await operator.refusal("/subscriptions", strict))[0] == 402
    assert len(await operator.get("/subscriptions")) == 1


async def test_discounts_of_operators(operator: Caller, account: Account) -> None:
    person = await known_customer(account)
    with account.sandbox.changing():
        coupon = coupons.create(account.sandbox, {"percent_off": 50, "duration": "once"})
        promotion = {"type": "coupon", "coupon": coupon["id"]}
        promotion_codes.create(account.sandbox, {"promotion": promotion, "code": "HALF"})
    for discount in ({"coupon": coupon["id"]}, {"promotion_code": "HALF"}):
        made = await operator.done("/subscriptions", {"customer": person, "items": [{"plan": "pro"}], **discount})
        assert made["amount_due_minor"] == 4950, discount
    unknown = {"customer": person, "items": [{"plan": "pro"}], "coupon": "FREEBEER"}
    assert (await operator.refusal("/subscriptions", unknown))[0] in {404, 422}


async def test_an_invoice_may_be_sent_instead(operator: Caller, account: Account) -> None:
    person = await known_customer(account)
    wish = {"customer": person, "items": [{"plan": "pro"}], "collection_method": "send_invoice", "days_until_due": 14}
    made = await operator.done("/subscriptions", wish)
    assert (made["status"], made["subscription"]["status"]) == ("done", "active")
    assert made["subscription"]["collection_method"] == "send_invoice"
    assert made["hosted_invoice_url"] is not None
    payment = made["subscription"]["payment"]
    assert (payment["amount_due_minor"], payment["hosted_invoice_url"]) == (9900, made["hosted_invoice_url"])


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"items": []}, 422),
        ({"items": [{"plan": "pro", "price_id": "price_1"}]}, 422),
        ({"items": [{"plan": "platinum"}]}, 404),
        ({"items": [{"plan": "free"}]}, 422),
        ({"user_id": "bob"}, 422),
        ({"customer": "cus_unknown"}, 404),
        ({"coupon": "a", "promotion_code": "b"}, 422),
        ({"collection_method": "send_invoice"}, 422),
        ({"payment_behavior": "pending_if_incomplete"}, 422),
        ({"trial_days": 0}, 422),
    ],
)
async def test_a_subscription_that_makes_no_sense_is_refused(
    operator: Caller, account: Account, wrong: dict[str, Any], status: int
) -> None:
    person = await known_customer(account)
    answer = await operator.post("/subscriptions", {"customer": person, "items": [{"plan": "pro"}], **wrong})
    assert answer.status_code == status, answer.text
    assert account.sandbox.rows("subscription") == []


async def test_only_operators_make_and_see_everybody_s(
    user: Caller, operator: Caller, client: httpx.AsyncClient, create_key: CreateKey
) -> None:
    wish = {"user_id": "ada", "items": [{"plan": "basic"}]}
    assert (await user.refusal("/subscriptions", wish))[0] == 403
    backend = Caller(client, await create_key("billing:read"))
    assert (await backend.refusal("/subscriptions", wish))[0] == 403
    [mine] = await user.get("/subscriptions")
    assert await backend.get("/subscriptions?user_id=ada") == [mine]
    assert await backend.get("/subscriptions?user_id=grace") == []
    assert await backend.get(f"/subscriptions/{mine['id']}?user_id=ada") == mine
    assert await operator.get(f"/subscriptions/{mine['id']}") == mine
    unnamed = await client.get(f"{API}/subscriptions", headers=backend.who)
    assert (unnamed.status_code, unnamed.json()["errors"][0]["param"]) == (422, "user_id")
    assert (await client.get(f"{API}/subscriptions/sub_unknown", headers=operator.who)).status_code == 404


async def test_the_list_is_filtered_and_paged(operator: Caller, account: Account, clock: StripeClock) -> None:
    person = await known_customer(account)
    for plan in ("basic", "pro", "enterprise"):
        clock.ahead += 1
        await operator.done("/subscriptions", {"customer": person, "items": [{"plan": plan}]})
    everything = [row["plan"] for row in await operator.get("/subscriptions")]
    assert everything == ["enterprise", "pro", "basic"]
    assert [row["plan"] for row in await operator.get(f"/subscriptions?plan=pro&customer={person}")] == ["pro"]
    assert await operator.get("/subscriptions?status=canceled") == []
    assert len(await operator.get("/subscriptions?customer=bob&status=active")) == 3
    seen, url = [], f"{API}/subscriptions?limit=2"
    while url:
        page = await operator.client.get(url, headers=operator.who)
        seen += [row["plan"] for row in page.json()]
        url = page.links.get("next", {}).get("url", "")
    assert seen == everything


async def test_each_of_several_subscriptions_can_be_meant(user: Caller, operator: Caller, clock: StripeClock) -> None:
    clock.ahead += 10
    [first] = await user.get("/subscriptions")
    wish = {"user_id": "ada", "items": [{"plan": "enterprise"}]}
    # Checkout saves the card on the subscription, not for others.
    assert await operator.refusal("/subscriptions", wish) == (409, "payment_method_missing")
    wish["default_payment_method"] = first["default_payment_method"]
    second = (await operator.done("/subscriptions", wish))["subscription"]
    assert [row["id"] for row in await user.get("/subscriptions")] == [second["id"], first["id"]]
    assert (await user.get("/subscription"))["id"] == second["id"]
    assert (await user.get(f"/subscription?subscription_id={first['id']}"))["plan"] == "pro"
    shown = await user.preview(quantity=2, subscription_id=first["id"])
    assert shown["subscription_id"] == first["id"]
    assert (await user.get("/entitlements"))["plan"] == "enterprise"
    await user.done("/subscription/cancel", {"subscription_id": second["id"], "at_period_end": False})
    assert (await user.get("/subscription"))["id"] == first["id"]
    assert (await user.get("/entitlements"))["plan"] == "pro"


async def test_one_of_several_items_is_changed(operator: Caller, account: Account) -> None:
    person = await known_customer(account)
    wish = {"customer": person, "items": [{"plan": "pro", "quantity": 2}, {"plan": "basic"}]}
    made = (await operator.done("/subscriptions", wish))["subscription"]
    assert [(item["plan"], item["quantity"]) for item in made["items"]] == [("pro", 2), ("basic", 1)]
    path, item = f"/subscriptions/{made['id']}/change", made["items"][1]["id"]
    shown = await operator.done(f"{path}/preview", {"item": item, "quantity": 5})
    assert shown["current"]["plan"] == "basic"
    changed = await operator.done(path, {"preview_id": shown["preview_id"]})
    assert [(item["plan"], item["quantity"]) for item in changed["subscription"]["items"]] == [("pro", 2), ("basic", 5)]


async def test_metadata_and_card_are_set(operator: Caller, account: Account) -> None:
    person = await known_customer(account)
    made = (await operator.done("/subscriptions", {"customer": person, "items": [{"plan": "pro"}]}))["subscription"]
    with account.sandbox.changing():
        card = payment_methods.attach(account.sandbox, {"customer": person}, "pm_card_mastercard")

    async def patch(body: dict[str, Any]) -> httpx.Response:
        return await operator.client.patch(f"{API}/subscriptions/{made['id']}", json=body, headers=operator.who)

    assert (await patch({"metadata": {"a": "1", "b": "2"}})).status_code == 200
    answer = await patch({"metadata": {"a": None}, "default_payment_method": card["id"]})
    assert answer.json()["default_payment_method"] == card["id"]
    [row] = account.sandbox.rows("subscription")
    assert {name: value for name, value in row["metadata"].items() if name != "user_id"} == {"b": "2"}
    foreign = await patch({"default_payment_method": "pm_somebody_s"})
    assert foreign.status_code in {404, 422}


async def test_an_operator_cancels_with_what_is_unused_given_back(
    user: Caller, operator: Caller, account: Account, clock: StripeClock
) -> None:
    held = await user.get("/subscription")
    length = held["current_period_end"] - held["current_period_start"]
    clock.ahead = held["current_period_start"] + length // 4 - clock() + clock.ahead
    path = f"/subscriptions/{held['id']}/cancel"
    body = {"at_period_end": False, "refund": "prorated", "feedback": "too_expensive", "reason": "too dear"}
    ended = await operator.done(path, body, key="once")
    left = held["current_period_end"] - int(clock())
    assert abs(ended["refunded_minor"] - 9900 * left // length) <= 1
    assert ended["refunded"] * 100 == pytest.approx(ended["refunded_minor"])
    assert await operator.done(path, body, key="once") == ended
    [refund] = account.sandbox.rows("refund")
    assert refund["amount"] == ended["refunded_minor"]
    [row] = account.sandbox.rows("subscription")
    assert (row["status"], row["cancellation_details"]["feedback"]) == ("canceled", "too_expensive")
    assert await operator.refusal(path, body) == (404, "subscription_not_found")
    assert (await user.get("/entitlements"))["plan"] == "free"


async def test_a_refund_of_everything_is_made_once_however_often_it_is_tried(
    user: Caller, operator: Caller, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await user.get("/subscription")
    path, body = f"/subscriptions/{held['id']}/cancel", {"at_period_end": False, "refund": "full"}
    with monkeypatch.context() as broken:

        async def fails(*_args: object, **_more: object) -> None:
            raise ConnectionError("the process dies between the refund and the cancellation")

        broken.setattr(account.provider, "cancel_subscription", fails)
        assert (await operator.post(path, body)).status_code in {500, 503}
    assert (await user.get("/subscription"))["status"] == "active"
    ended = await operator.done(path, body)
    assert (ended["message"], ended["refunded_minor"]) == ("The subscription has ended.", 9900)
    [refund] = account.sandbox.rows("refund")
    assert refund["amount"] == 9900


async def test_refunds_go_with_ending_at_once_and_with_a_payment(
    user: Caller, operator: Caller, account: Account, clock: StripeClock
) -> None:
    held = await user.get("/subscription")
    late = {"at_period_end": True, "refund": "full"}
    assert (await operator.refusal(f"/subscriptions/{held['id']}/cancel", late))[0] == 422
    assert (await user.post("/subscription/cancel", {"at_period_end": False, "refund": "full"})).status_code == 422
    trial = await operator.done("/subscriptions", {"user_id": "carol", "items": [{"plan": "basic"}], "trial_days": 7})
    now = {"at_period_end": False, "refund": "prorated"}
    path = f"/subscriptions/{trial['subscription']['id']}/cancel"
    assert await operator.refusal(path, now) == (409, "nothing_to_refund")
    assert account.sandbox.rows("refund") == []
    clock.ahead += DAY


async def test_an_operator_cancels_at_the_period_s_end_and_takes_it_back(user: Caller, operator: Caller) -> None:
    held = await user.get("/subscription")
    told = await operator.done(f"/subscriptions/{held['id']}/cancel")
    assert (told["cancel_at"], told["refunded_minor"]) == (held["current_period_end"], 0)
    assert (await operator.done(f"/subscriptions/{held['id']}/resume"))["cancel_at_period_end"] is False
    calls = [entry["type"] for entry in await operator.get("/customers/ada/timeline") if entry["kind"] == "call"]
    assert calls[:2] == [f"POST {API}/subscriptions/{{id}}/{verb}" for verb in ("resume", "cancel")]


async def test_a_failed_renewal_shows_what_is_owed_and_until_when_access_lasts(
    user: Caller, operator: Caller, account: Account, clock: StripeClock
) -> None:
    assert (await user.get("/subscription"))["payment"] is None
    pay_with(account.sandbox, "pm_card_chargeCustomerFail")
    clock.ahead += 32 * DAY
    account.sandbox.tick()
    await tell(account)
    held = await user.get("/subscription")
    payment = held["payment"]
    assert held["status"] == "past_due"
    assert (payment["amount_due_minor"], payment["amount_due"], payment["currency"]) == (9900, 99.0, "usd")
    assert payment["attempt_count"] >= 1
    assert payment["next_payment_attempt"] > held["current_period_start"]
    assert payment["hosted_invoice_url"].startswith("http://sandbox.test/")
    [bill] = [row for row in await account.all(models.Invoice) if row.status == "open"]
    assert payment["grace_ends_at"] == bill.created + 7 * DAY
    entitled = await user.get("/entitlements")
    assert (entitled["plan"], entitled["rule"], entitled["grace_until"]) == (
        "pro",
        "past_due:grace",
        payment["grace_ends_at"],
    )
    told = await operator.get("/customers/ada/access/explain")
    assert (told["plan"], told["rule"], told["access_ends_at"]) == ("pro", "past_due:grace", payment["grace_ends_at"])
    [considered] = told["subscriptions"]
    assert (considered["decides"], considered["grants"]) == (True, "pro")
    assert considered["subscription"]["payment"] == payment
    assert told["limits"]["api_calls"] == {"limit": 100000, "used": 0}


async def test_access_is_explained_to_service_keys_alone(
    user: Caller, client: httpx.AsyncClient, create_key: CreateKey
) -> None:
    reader = Caller(client, await create_key("billing:read"))
    told = await reader.get("/customers/ada/access/explain")
    assert (told["user_id"], told["plan"], told["rule"]) == ("ada", "pro", "active:grant")
    assert await reader.get(f"/customers/{told['customers'][0]}/access/explain") == told
    for who, status in ((user.who, 403), (await create_key("usage:write"), 403)):
        answer = await client.get(f"{API}/customers/ada/access/explain", headers=who)
        assert answer.status_code == status
    unknown = await client.get(f"{API}/customers/nobody/access/explain", headers=reader.who)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "customer_not_found")


async def test_the_end_of_a_trial_is_announced_once(
    client: httpx.AsyncClient, account: Account, ada: Bearer, clock: StripeClock
) -> None:
    await buy(client, account, ada, "basic")
    clock.ahead += 11.5 * DAY
    account.sandbox.tick()
    for _ in range(2):
        await tell(account)
    await account.process_alone()
    told = [row for row in await account.all(models.OutboxMessage) if row.type == "subscription.trial_will_end"]
    [subscription] = account.sandbox.rows("subscription")
    assert [row.data["trial_end"] for row in told] == [subscription["trial_end"]]
    assert [row.subject for row in told] == [subscription["id"]]
