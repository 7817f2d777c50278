"""Changing a subscription: the customer pays what was shown, or gets 409."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import Account
from serving import API, Bearer, CreateKey, serving
from sqlalchemy import update
from starlette.applications import Starlette
from subscribing import DAY, Caller, StripeClock, buy, invoices, mirrored, pay_with, tell

from app import models
from app.main import create_app
from app.sandbox.app import create_sandbox
from app.sandbox.resources import coupons, customers, payment_methods, promotion_codes, subscriptions
from app.sandbox.resources import invoices as sandbox_invoices
from app.settings import Settings
from app.values import utcnow

KEY, URL = "sk_test_billhook", "http://sandbox.test"
FOR_ADA = "/subscription/change/preview?user_id=ada"


@pytest.fixture
def clock() -> StripeClock:
    return StripeClock()


@pytest.fixture
async def sandbox_app(clock: StripeClock) -> AsyncIterator[Starlette]:
    app = create_sandbox(secret_key=KEY, base_url=URL, now=clock)
    yield app
    await app.state.sandbox.aclose()


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def buyer(client: httpx.AsyncClient, account: Account, ada: Bearer, clock: StripeClock) -> Caller:
    """Ada, who bought Pro ten days ago."""
    await buy(client, account, ada, "pro")
    clock.ahead += 10 * DAY
    return Caller(client, ada)


@pytest.fixture
async def backend(client: httpx.AsyncClient, create_key: CreateKey) -> Caller:
    return Caller(client, await create_key("billing:write"))


async def test_an_upgrade_costs_what_was_shown_to_the_cent(buyer: Caller, account: Account, clock: StripeClock) -> None:
    shown = await buyer.preview(plan="enterprise")
    assert (shown["current"]["plan"], shown["next"]["plan"]) == ("pro", "enterprise")
    assert shown["amount_due_minor"] == shown["invoice_total_minor"] == sum(x["amount_minor"] for x in shown["lines"])
    assert 0 < shown["amount_due_minor"] < 49900 - 9900
    assert shown["amount_due"] * 100 == pytest.approx(shown["amount_due_minor"])
    assert [line["amount_minor"] > 0 for line in shown["lines"]] == [False, True]

    clock.ahead += 1200  # the customer thinks it over: every second would cost less
    changed = await buyer.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert (changed["status"], changed["subscription"]["plan"]) == ("done", "enterprise")
    assert (changed["amount_due_minor"], changed["client_secret"]) == (shown["amount_due_minor"], None)
    *_, last = invoices(account.sandbox)
    assert (last["id"], last["status"], last["amount_paid"]) == (
        changed["invoice"],
        "paid",
        shown["amount_due_minor"],
    )
    assert (await buyer.get("/subscription"))["plan"] == "enterprise"
    assert (await buyer.get("/invoices"))[0]["amount_paid_minor"] == shown["amount_due_minor"]
    before = await mirrored(account)
    await tell(account)
    assert await mirrored(account) == before


async def test_a_confirmation_is_repeated_by_its_key_and_refused_by_another(buyer: Caller, account: Account) -> None:
    shown = await buyer.preview(plan="enterprise")
    body = {"preview_id": shown["preview_id"]}
    first = await buyer.done("/subscription/change", body, key="once")
    assert await buyer.done("/subscription/change", body, key="once") == first
    assert await buyer.refusal("/subscription/change", body, key="twice") == (409, "preview_confirmed")
    assert len(invoices(account.sandbox)) == 2


async def test_a_key_is_required_to_confirm(client: httpx.AsyncClient, ada: Bearer, buyer: Caller) -> None:
    shown = await buyer.preview(plan="enterprise")
    answer = await client.post(f"{API}/subscription/change", headers=ada, json={"preview_id": shown["preview_id"]})
    assert answer.status_code == 422


async def test_of_two_tabs_the_second_is_told_that_it_is_stale(buyer: Caller, account: Account) -> None:
    left, right = await buyer.preview(plan="enterprise"), await buyer.preview(quantity=3)
    await buyer.done("/subscription/change", {"preview_id": left["preview_id"]})
    assert await buyer.refusal("/subscription/change", {"preview_id": right["preview_id"]}) == (409, "preview_stale")
    assert len(invoices(account.sandbox)) == 2


async def test_two_tabs_at_the_same_moment_are_charged_once(buyer: Caller, account: Account) -> None:
    shown = [await buyer.preview(plan="enterprise"), await buyer.preview(quantity=3), await buyer.preview(quantity=5)]
    answers = await asyncio.gather(
        *(buyer.post("/subscription/change", {"preview_id": one["preview_id"]}) for one in shown)
    )
    done = [(one, answer.json()) for one, answer in zip(shown, answers, strict=True) if answer.status_code == 200]
    codes = {answer.json()["code"] for answer in answers if answer.status_code != 200}
    assert len(done) == 1
    assert codes <= {"change_in_progress", "preview_stale"}
    assert done[0][1]["amount_due_minor"] == done[0][0]["amount_due_minor"]
    assert len(invoices(account.sandbox)) == 2


async def test_a_change_made_elsewhere_makes_a_preview_stale_before_any_webhook(
    buyer: Caller, account: Account
) -> None:
    shown = await buyer.preview(plan="enterprise")
    [row] = account.sandbox.rows("subscription")
    item = row["items"]["data"][0]["id"]
    with account.sandbox.changing():
        subscriptions.update(account.sandbox, {"items": [{"id": item, "quantity": 2}]}, row["id"])
    assert await buyer.refusal("/subscription/change", {"preview_id": shown["preview_id"]}) == (409, "preview_stale")
    assert len(invoices(account.sandbox)) == 1


async def test_a_webhook_that_brings_nothing_new_leaves_a_preview_good(buyer: Caller, account: Account) -> None:
    shown = await buyer.preview(plan="enterprise")
    await tell(account)
    changed = await buyer.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert changed["amount_due_minor"] == shown["amount_due_minor"]


async def test_another_total_than_was_shown_is_refused(buyer: Caller, account: Account) -> None:
    """The subscription is as it was, but the customer's balance pays a part: another amount would be charged."""
    shown = await buyer.preview(plan="enterprise")
    [person] = account.sandbox.rows("customer")
    with account.sandbox.changing():
        customers.update(account.sandbox, {"balance": -1000}, person["id"])
    assert await buyer.refusal("/subscription/change", {"preview_id": shown["preview_id"]}) == (409, "preview_stale")
    assert len(invoices(account.sandbox)) == 1
    again = await buyer.preview(plan="enterprise")
    assert again["amount_due_minor"] == again["invoice_total_minor"] - 1000
    await buyer.done("/subscription/change", {"preview_id": again["preview_id"]})


async def test_a_price_replaced_since_makes_a_preview_stale(buyer: Caller, account: Account) -> None:
    shown = await buyer.preview(plan="enterprise")
    dearer = account.plans.plans["enterprise"].model_copy(update={"amount": 59900})
    account.plans = account.plans.model_copy(update={"plans": {**account.plans.plans, "enterprise": dearer}})
    await account.apply_plans()
    assert await buyer.refusal("/subscription/change", {"preview_id": shown["preview_id"]}) == (409, "preview_stale")
    assert len(invoices(account.sandbox)) == 1


async def test_a_preview_expires(buyer: Caller, account: Account) -> None:
    shown = await buyer.preview(plan="enterprise")
    async with account.sessions.begin() as session:
        await session.execute(update(models.SubscriptionPreview).values(expires_at=utcnow()))
    assert await buyer.refusal("/subscription/change", {"preview_id": shown["preview_id"]}) == (409, "preview_expired")
    assert len(invoices(account.sandbox)) == 1


async def test_another_user_s_preview_does_not_exist(
    buyer: Caller, client: httpx.AsyncClient, account: Account, grace: Bearer
) -> None:
    shown = await buyer.preview(plan="enterprise")
    await buy(client, account, grace, "pro")
    other = Caller(client, grace)
    body = {"preview_id": shown["preview_id"]}
    assert await other.refusal("/subscription/change", body) == (404, "preview_not_found")
    mine = (await buyer.get("/subscription"))["id"]
    for path, body in (
        ("/subscription/change/preview", {"plan": "enterprise", "subscription_id": mine}),
        ("/subscription/change", {"plan": "basic", "at": "period_end", "subscription_id": mine}),
        ("/subscription/change/withdraw", {"subscription_id": mine}),
        ("/subscription/cancel", {"subscription_id": mine}),
        ("/subscription/resume", {"subscription_id": mine}),
        ("/subscription/pause", {"subscription_id": mine}),
        ("/subscription/unpause", {"subscription_id": mine}),
    ):
        assert await other.refusal(path, body) == (404, "subscription_not_found"), path
    for path in (f"/subscription?subscription_id={mine}", f"/subscriptions/{mine}"):
        assert (await client.get(f"{API}{path}", headers=grace)).status_code == 404
    assert mine not in [row["id"] for row in await other.get("/subscriptions")]


async def test_a_subscription_that_ends_shows_that_nothing_more_is_billed(
    buyer: Caller, backend: Caller, account: Account
) -> None:
    await buyer.done("/subscription/cancel")
    shown = await backend.done(FOR_ADA, {"quantity": 2, "proration": "none"})
    assert (shown["amount_due_minor"], shown["invoice_total_minor"], shown["lines"]) == (0, 0, [])
    changed = await buyer.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert (changed["subscription"]["quantity"], changed["subscription"]["cancel_at_period_end"]) == (2, True)
    assert len(invoices(account.sandbox)) == 1


async def test_seats_are_changed_the_same_way(buyer: Caller) -> None:
    shown = await buyer.preview(quantity=4)
    assert (shown["current"]["quantity"], shown["next"]["quantity"]) == (1, 4)
    assert shown["current"]["price_id"] == shown["next"]["price_id"]
    changed = await buyer.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert (changed["subscription"]["quantity"], changed["amount_due_minor"]) == (4, shown["amount_due_minor"])


async def test_a_downgrade_waits_for_the_period_s_end(buyer: Caller, account: Account, clock: StripeClock) -> None:
    end = (await buyer.get("/subscription"))["current_period_end"]
    shown = await buyer.preview(plan="basic", at="period_end")
    assert (shown["amount_due_minor"], shown["invoice_at"], shown["invoice_total_minor"]) == (0, end, 2900)
    changed = await buyer.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert (changed["status"], changed["subscription"]["plan"]) == ("scheduled", "pro")
    coming = (await buyer.get("/subscription"))["scheduled_change"]
    assert (coming["at"], coming["plan"], coming["quantity"]) == (end, "basic", 1)
    await tell(account)
    assert (await buyer.get("/subscription"))["scheduled_change"] == coming
    clock.ahead += 25 * DAY
    account.sandbox.tick()
    await tell(account)
    held = await buyer.get("/subscription")
    assert (held["plan"], held["status"], held["scheduled_change"]) == ("basic", "active", None)
    *_, renewal = invoices(account.sandbox)
    assert renewal["total"] == 2900
    [schedule] = await account.all(models.SubscriptionSchedule)
    assert (schedule.status, schedule.subscription) == ("released", None)


async def test_what_is_scheduled_can_be_withdrawn(buyer: Caller, account: Account) -> None:
    assert await buyer.refusal("/subscription/change/withdraw") == (409, "no_scheduled_change")
    for path in ("/subscription/change/withdraw", "/subscription/resume"):
        scheduled = await buyer.done("/subscription/change", {"plan": "basic", "at": "period_end"})
        assert scheduled["subscription"]["scheduled_change"]["plan"] == "basic"
        await buyer.done(path)
        assert (await buyer.get("/subscription"))["scheduled_change"] is None
        [row] = account.sandbox.rows("subscription")
        assert row["schedule"] is None
    before = await mirrored(account)
    await tell(account)
    assert await mirrored(account) == before


async def test_a_later_wish_takes_the_place_of_what_was_scheduled(buyer: Caller, account: Account) -> None:
    await buyer.done("/subscription/change", {"plan": "basic", "at": "period_end"})
    again = await buyer.done("/subscription/change", {"plan": "enterprise", "at": "period_end"})
    assert again["subscription"]["scheduled_change"]["plan"] == "enterprise"
    shown = await buyer.preview(quantity=2)
    changed = await buyer.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert (changed["subscription"]["quantity"], changed["subscription"]["scheduled_change"]) == (2, None)
    assert changed["amount_due_minor"] == shown["amount_due_minor"]
    states = sorted(row["status"] for row in account.sandbox.rows("subscription_schedule"))
    assert states == ["released", "released"]


async def test_canceling_and_pausing_let_go_of_what_was_scheduled(buyer: Caller, account: Account) -> None:
    await buyer.done("/subscription/change", {"plan": "basic", "at": "period_end"})
    await buyer.done("/subscription/cancel")
    held = await buyer.get("/subscription")
    assert (held["scheduled_change"], held["cancel_at_period_end"]) == (None, True)
    refusal = await buyer.refusal("/subscription/change", {"plan": "basic", "at": "period_end"})
    assert refusal == (409, "subscription_canceling")
    await buyer.done("/subscription/resume")
    await buyer.done("/subscription/change", {"plan": "basic", "at": "period_end"})
    assert (await buyer.done("/subscription/pause"))["status"] == "paused"
    assert {row["status"] for row in account.sandbox.rows("subscription_schedule")} == {"released"}


async def test_a_change_that_needs_3d_secure_waits_for_it(buyer: Caller, account: Account) -> None:
    pay_with(account.sandbox, "pm_card_authenticationRequired")
    caller = buyer
    shown = await caller.preview(plan="enterprise")
    changed = await caller.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert changed["status"] == "requires_action"
    assert "_secret_" in changed["client_secret"]
    assert changed["hosted_invoice_url"].startswith(URL)
    assert changed["amount_due_minor"] == shown["amount_due_minor"]
    held = await caller.get("/subscription")
    assert (held["plan"], held["status"]) == ("pro", "active")
    assert held["pending_change_expires_at"] is not None
    assert held["payment"]["amount_due_minor"] == shown["amount_due_minor"]
    assert (await caller.get("/entitlements"))["plan"] == "pro"


async def test_a_declined_upgrade_waits_and_comes_about_when_the_invoice_is_paid(
    buyer: Caller, account: Account
) -> None:
    pay_with(account.sandbox, "pm_card_chargeCustomerFail")
    shown = await buyer.preview(plan="enterprise")
    changed = await buyer.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert (changed["status"], changed["subscription"]["plan"]) == ("requires_action", "pro")
    with account.sandbox.changing():
        method = payment_methods.attach(
            account.sandbox, {"customer": changed["subscription"]["customer"]}, "pm_card_visa"
        )
        sandbox_invoices.pay(account.sandbox, {"payment_method": method["id"]}, changed["invoice"])
    await tell(account)
    held = await buyer.get("/subscription")
    assert (held["plan"], held["pending_change_expires_at"], held["payment"]) == ("enterprise", None, None)


async def test_a_declined_upgrade_with_a_promotion_code_is_not_made_and_can_be_tried_again(
    buyer: Caller, account: Account
) -> None:
    with account.sandbox.changing():
        coupon = coupons.create(account.sandbox, {"percent_off": 50, "duration": "forever"})
        promotion_codes.create(
            account.sandbox, {"promotion": {"type": "coupon", "coupon": coupon["id"]}, "code": "HALF"}
        )
    pay_with(account.sandbox, "pm_card_chargeCustomerFail")
    shown = await buyer.preview(plan="enterprise", promotion_code="HALF")
    body = {"preview_id": shown["preview_id"]}
    assert await buyer.refusal("/subscription/change", body) == (402, "payment_failed")
    assert (await buyer.get("/subscription"))["plan"] == "pro"
    pay_with(account.sandbox, "pm_card_visa")
    changed = await buyer.done("/subscription/change", body)
    assert (changed["subscription"]["plan"], changed["amount_due_minor"]) == (
        "enterprise",
        shown["amount_due_minor"],
    )


async def test_a_declined_upgrade_leaves_the_downgrade_that_was_scheduled(buyer: Caller, account: Account) -> None:
    with account.sandbox.changing():
        coupon = coupons.create(account.sandbox, {"percent_off": 50, "duration": "forever"})
        promotion_codes.create(
            account.sandbox, {"promotion": {"type": "coupon", "coupon": coupon["id"]}, "code": "HALF"}
        )
    await buyer.done("/subscription/change", {"plan": "basic", "at": "period_end"})
    coming = (await buyer.get("/subscription"))["scheduled_change"]
    pay_with(account.sandbox, "pm_card_chargeCustomerFail")
    shown = await buyer.preview(plan="enterprise", promotion_code="HALF")
    body = {"preview_id": shown["preview_id"]}
    assert await buyer.refusal("/subscription/change", body) == (402, "payment_failed")
    await tell(account)
    held = await buyer.get("/subscription")
    assert (held["plan"], held["scheduled_change"]) == ("pro", coming)


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ({"plan": "pro"}, 409, "nothing_to_change"),
        ({"plan": "free"}, 422, "plan_is_free"),
        ({"plan": "platinum"}, 404, "plan_not_found"),
        ({"price_id": "price_unknown"}, 404, "price_not_found"),
        ({"plan": "enterprise", "item": "si_unknown"}, 404, "item_not_found"),
        ({"plan": "enterprise", "promotion_code": "FREEBEER"}, 422, "invalid_request"),
        ({"plan": "enterprise", "price_id": "price_1"}, 422, "invalid_request"),
        ({"quantity": 0}, 422, "invalid_request"),
        ({}, 409, "nothing_to_change"),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(
    buyer: Caller, wish: dict[str, Any], status: int, code: str
) -> None:
    assert await buyer.refusal("/subscription/change/preview", wish) == (status, code)


async def test_what_is_charged_now_needs_its_preview(buyer: Caller) -> None:
    for body in ({"plan": "enterprise"}, {}, {"preview_id": "7f1c4c7e-0000-4000-8000-000000000000", "quantity": 2}):
        assert (await buyer.post("/subscription/change", body)).status_code == 422
    unknown = {"preview_id": "7f1c4c7e-0000-4000-8000-000000000000"}
    assert await buyer.refusal("/subscription/change", unknown) == (404, "preview_not_found")


async def test_a_promotion_code_lowers_what_is_shown_and_charged(buyer: Caller, account: Account) -> None:
    with account.sandbox.changing():
        coupon = coupons.create(account.sandbox, {"percent_off": 50, "duration": "forever"})
        promotion = {"type": "coupon", "coupon": coupon["id"]}
        promotion_codes.create(account.sandbox, {"promotion": promotion, "code": "HALF"})
    full = await buyer.preview(plan="enterprise")
    shown = await buyer.preview(plan="enterprise", promotion_code="HALF")
    assert 0 < shown["amount_due_minor"] < full["amount_due_minor"]
    changed = await buyer.done("/subscription/change", {"preview_id": shown["preview_id"]})
    assert changed["amount_due_minor"] == shown["amount_due_minor"]


async def test_an_operator_changes_anybody_s(
    buyer: Caller, account: Account, client: httpx.AsyncClient, create_key: CreateKey
) -> None:
    operator = Caller(client, await create_key("operator"))
    id = (await buyer.get("/subscription"))["id"]
    shown = await operator.done(f"/subscriptions/{id}/change/preview", {"plan": "enterprise"})
    changed = await operator.done(f"/subscriptions/{id}/change", {"preview_id": shown["preview_id"]})
    assert (changed["subscription"]["plan"], changed["amount_due_minor"]) == ("enterprise", shown["amount_due_minor"])
    with account.sandbox.changing():
        coupon = coupons.create(account.sandbox, {"percent_off": 10, "duration": "forever"})["id"]
    seats = {"quantity": 2, "coupon": coupon}
    shown = await operator.done(f"/subscriptions/{id}/change/preview", seats)
    changed = await operator.done(f"/subscriptions/{id}/change", {"preview_id": shown["preview_id"]})
    assert changed["amount_due_minor"] == shown["amount_due_minor"]
    [row] = account.sandbox.rows("subscription")
    assert len(row["discounts"]) == 1
    assert (await buyer.refusal("/subscription/change/preview", seats))[0] == 422
    await operator.done(f"/subscriptions/{id}/change", {"plan": "basic", "at": "period_end"})
    assert (await operator.done(f"/subscriptions/{id}/change/withdraw"))["status"] == "done"
    reader = Caller(client, await create_key("billing:write"))
    assert (await reader.refusal(f"/subscriptions/{id}/change/preview", {"plan": "basic"}))[0] == 403
    assert (await buyer.refusal(f"/subscriptions/{id}/change/preview", {"plan": "basic"}))[0] == 403


async def test_a_backend_changes_its_user_s(buyer: Caller, backend: Caller) -> None:
    shown = await backend.done(FOR_ADA, {"quantity": 3})
    body = {"preview_id": shown["preview_id"]}
    assert await backend.refusal("/subscription/change?user_id=grace", body) == (404, "preview_not_found")
    changed = await backend.done("/subscription/change?user_id=ada", body)
    assert changed["subscription"]["quantity"] == (await buyer.get("/subscription"))["quantity"] == 3
