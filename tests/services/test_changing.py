"""Confirming a change while others write, answers get lost and processes die: nobody pays what they weren't shown."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from billing import ADA, Account
from redis.asyncio import Redis
from sqlalchemy import update
from starlette.applications import Starlette
from subscribing import DAY, pay_with
from typing_extensions import override

from app import models
from app.db import transaction
from app.errors import BillingError, ConflictError, UnavailableError
from app.provider.stripe import StripeProvider
from app.provider.subscription_protocol import ProrationBehavior
from app.sandbox.resources import coupons, customers, payment_methods, promotion_codes, subscriptions, test_clocks
from app.sandbox.sandbox import Sandbox
from app.services.catalog import Plan
from app.services.subscriptions import changing, previews, reading
from app.services.subscriptions.bills import Outcome
from app.services.subscriptions.changing import Shown
from app.services.subscriptions.wishes import Wish
from app.values import utcnow

Hook = Callable[[], Awaitable[None]]


class Wire(httpx.AsyncBaseTransport):
    """The way to Stripe: something may happen before a change arrives there, or after, and answers may get lost."""

    def __init__(self, app: Starlette) -> None:
        self._stripe = httpx.ASGITransport(app)
        self.before: Hook | None = None
        self.after: Hook | None = None
        self.changes = 0

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        changing_it = request.method == "POST" and request.url.path.startswith("/v1/subscriptions/")
        if changing_it and self.before is not None:
            hook, self.before = self.before, None
            await hook()
        response = await self._stripe.handle_async_request(request)
        if changing_it:
            self.changes += 1
            await response.aread()
            if self.after is not None:
                hook, self.after = self.after, None
                await hook()
        return response


@pytest.fixture
def wire(sandbox_app: Starlette) -> Wire:
    return Wire(sandbox_app)


@pytest.fixture
def far(wire: Wire) -> StripeProvider:
    return StripeProvider("sk_test_billhook", base_url="http://sandbox.test", transport=wire, max_network_retries=0)


@pytest.fixture
async def bought(account: Account) -> Account:
    await account.buy(plan="pro")
    await account.deliver_and_process(account.events())
    return account


async def show(account: Account, *, proration: ProrationBehavior = "always_invoice", **wish: Any) -> Shown:
    asked = Wish(**(wish or {"plan": "enterprise"}))
    async with transaction(account.sessions) as session:
        mine = await reading.own_live(session, ADA.user_id, None)
        return await changing.preview(
            session, account.provider, account.plans, mine, asked, proration=proration, at="now"
        )


async def schedule(account: Account, **wish: Any) -> None:
    async with transaction(account.sessions) as session:
        mine = await reading.own_live(session, ADA.user_id, None)
        await changing.at_period_end(
            session, account.provider, account.plans, mine, Wish(**wish), idempotency_key="later", actor="user:demo-1"
        )


async def confirm(
    account: Account, preview: UUID, *, key: str, provider: StripeProvider | None = None, **more: Any
) -> Outcome:
    async with transaction(account.sessions) as session:
        return await changing.confirm(
            session,
            account.sessions,
            provider or account.provider,
            account.plans,
            preview_id=preview,
            user_id=ADA.user_id,
            idempotency_key=key,
            actor="user:demo-1",
            **more,
        )


async def refusal(account: Account, preview: UUID, *, key: str, provider: StripeProvider | None = None) -> str:
    with pytest.raises(BillingError) as refused:
        await confirm(account, preview, key=key, provider=provider)
    return refused.value.code


def quantity(sandbox: Sandbox, quantity: int) -> None:
    [row] = sandbox.rows("subscription")
    items = [{"id": row["items"]["data"][0]["id"], "quantity": quantity}]
    with sandbox.changing():
        subscriptions.update(sandbox, {"items": items, "proration_behavior": "none"}, row["id"])


async def lost() -> None:
    raise httpx.ReadTimeout("the answer never came")


async def test_an_answer_that_got_lost_is_found_by_the_same_request(
    bought: Account, far: StripeProvider, wire: Wire
) -> None:
    shown = (await show(bought)).preview
    other = (await show(bought, quantity=3)).preview
    wire.after = lost
    with pytest.raises(UnavailableError):
        await confirm(bought, shown.id, key="once", provider=far)
    # Nobody can know yet what came of it.
    assert await refusal(bought, other.id, key="other") == "change_in_progress"
    assert await refusal(bought, shown.id, key="twice") == "preview_confirmed"
    done = await confirm(bought, shown.id, key="once", provider=far)
    assert (done.subscription.plan, done.invoice and done.invoice.amount_due) == ("enterprise", shown.amount_due)
    assert await refusal(bought, other.id, key="other") == "preview_stale"
    assert len(bought.sandbox.rows("invoice")) == 2
    assert wire.changes == 1


async def test_a_request_that_died_before_stripe_heard_of_it_goes_on_only_if_nothing_changed(
    bought: Account, far: StripeProvider, wire: Wire
) -> None:
    shown = (await show(bought)).preview
    wire.before = lost
    with pytest.raises(UnavailableError):
        await confirm(bought, shown.id, key="once", provider=far)
    quantity(bought.sandbox, 7)
    assert await refusal(bought, shown.id, key="once", provider=far) == "preview_stale"
    assert len(bought.sandbox.rows("invoice")) == 1

    again = (await show(bought)).preview
    wire.before = lost
    with pytest.raises(UnavailableError):
        await confirm(bought, again.id, key="again", provider=far)
    done = await confirm(bought, again.id, key="again", provider=far)
    assert done.invoice is not None
    assert done.invoice.amount_due == again.amount_due


async def test_whoever_never_came_back_holds_up_nobody_for_long(
    bought: Account, far: StripeProvider, wire: Wire
) -> None:
    shown, other = (await show(bought)).preview, (await show(bought, quantity=3)).preview
    wire.before = lost
    with pytest.raises(UnavailableError):
        await confirm(bought, shown.id, key="once", provider=far)
    assert await refusal(bought, other.id, key="other") == "change_in_progress"
    async with bought.sessions.begin() as session:
        long_ago = utcnow() - previews.DEAD_AFTER - timedelta(seconds=1)
        await session.execute(
            update(models.SubscriptionPreview)
            .where(models.SubscriptionPreview.id == shown.id)
            .values(confirmed_at=long_ago)
        )
    done = await confirm(bought, other.id, key="other")
    assert (done.subscription.quantity, done.invoice and done.invoice.amount_due) == (3, other.amount_due)
    # The first one comes back after all, and finds that it is too late.
    assert await refusal(bought, shown.id, key="once") == "preview_stale"


async def test_a_request_that_died_between_letting_go_of_a_downgrade_and_the_upgrade_goes_on(
    bought: Account, far: StripeProvider, wire: Wire
) -> None:
    await schedule(bought, plan="basic")
    shown = (await show(bought)).preview
    wire.before = lost
    with pytest.raises(UnavailableError):
        await confirm(bought, shown.id, key="once", provider=far)
    await bought.deliver_and_process(bought.events())
    [row] = await bought.all(models.Subscription)
    assert (row.plan, row.schedule) == ("pro", None)
    done = await confirm(bought, shown.id, key="once", provider=far)
    assert (done.subscription.plan, done.invoice and done.invoice.amount_due) == ("enterprise", shown.amount_due)
    assert len(bought.sandbox.rows("invoice")) == 2


async def test_somebody_else_s_change_that_waits_is_not_taken_for_this_one(
    bought: Account, far: StripeProvider, wire: Wire
) -> None:
    shown = (await show(bought)).preview
    wire.before = lost
    with pytest.raises(UnavailableError):
        await confirm(bought, shown.id, key="once", provider=far)
    pay_with(bought.sandbox, "pm_card_chargeCustomerFail")
    [row] = bought.sandbox.rows("subscription")
    items = [{"id": row["items"]["data"][0]["id"], "quantity": 7}]
    wish = {"proration_behavior": "always_invoice", "payment_behavior": "pending_if_incomplete"}
    with bought.sandbox.changing():
        subscriptions.update(bought.sandbox, {"items": items, **wish}, row["id"])
    assert row["pending_update"] is not None
    assert await refusal(bought, shown.id, key="once", provider=far) == "preview_stale"


async def test_one_s_own_change_that_waits_is_found_by_the_same_request(
    bought: Account, far: StripeProvider, wire: Wire
) -> None:
    pay_with(bought.sandbox, "pm_card_chargeCustomerFail")
    shown = (await show(bought)).preview
    wire.after = lost
    with pytest.raises(UnavailableError):
        await confirm(bought, shown.id, key="once", provider=far)
    done = await confirm(bought, shown.id, key="once", provider=far)
    assert (done.subscription.plan, done.subscription.pending_update_expires_at is None) == ("pro", False)
    assert (done.invoice and done.invoice.amount_due, done.client_secret is None) == (shown.amount_due, False)
    assert wire.changes == 1


async def test_a_discount_alone_is_made_only_where_it_is_there(
    bought: Account, far: StripeProvider, wire: Wire
) -> None:
    with bought.sandbox.changing():
        coupon = coupons.create(bought.sandbox, {"percent_off": 50, "duration": "forever"})
        code = {"promotion": {"type": "coupon", "coupon": coupon["id"]}, "code": "HALF"}
        promotion_codes.create(bought.sandbox, code)
    shown = (await show(bought, promotion_code="HALF")).preview
    wire.before = lost
    with pytest.raises(UnavailableError):
        await confirm(bought, shown.id, key="once", provider=far)
    [row] = bought.sandbox.rows("subscription")
    with bought.sandbox.changing():
        subscriptions.update(bought.sandbox, {"cancel_at_period_end": True}, row["id"])
    assert await refusal(bought, shown.id, key="once", provider=far) == "preview_stale"
    assert row["discounts"] == []

    again = (await show(bought, promotion_code="HALF")).preview
    wire.after = lost
    with pytest.raises(UnavailableError):
        await confirm(bought, again.id, key="again", provider=far)
    done = await confirm(bought, again.id, key="again", provider=far)
    assert done.subscription.plan == "pro"
    assert len(row["discounts"]) == 1


async def test_webhooks_that_overtake_the_answer_change_nothing(
    bought: Account, far: StripeProvider, wire: Wire
) -> None:
    shown = (await show(bought)).preview

    async def told() -> None:
        await bought.deliver_and_process(bought.events())

    wire.after = told
    done = await confirm(bought, shown.id, key="once", provider=far)
    assert (done.subscription.plan, done.invoice and done.invoice.status) == ("enterprise", "paid")
    before = (await bought.state())["Subscription"]
    await told()
    assert (await bought.state())["Subscription"] == before


async def test_without_redis_two_tabs_are_still_charged_once(bought: Account, redis: Redis) -> None:
    await redis.aclose()
    shown = [(await show(bought)).preview, (await show(bought, quantity=3)).preview]
    answers = await asyncio.gather(*(confirm(bought, one.id, key=str(one.id)) for one in shown), return_exceptions=True)
    [done] = [answer for answer in answers if isinstance(answer, Outcome)]
    [refused] = [answer for answer in answers if not isinstance(answer, Outcome)]
    assert isinstance(refused, ConflictError)
    assert len(bought.sandbox.rows("invoice")) == 2
    assert done.invoice is not None
    assert done.invoice.amount_due in {one.amount_due for one in shown}


async def test_a_preview_is_of_one_subscription(bought: Account) -> None:
    shown = (await show(bought)).preview
    with pytest.raises(BillingError) as refused:
        await confirm(bought, shown.id, key="once", subscription_id="sub_another")
    assert refused.value.code == "preview_not_found"


@pytest.mark.parametrize("proration", ["always_invoice", "create_prorations", "none"])
async def test_another_interval_begins_a_new_period_and_is_charged_at_once(
    account: Account, proration: ProrationBehavior
) -> None:
    yearly = account.plans.plans["pro"].model_copy(update={"other_prices": {"year": 99000}})
    account.plans = account.plans.model_copy(update={"plans": {**account.plans.plans, "pro": yearly}})
    await account.apply_plans()
    await account.buy(plan="pro")
    await account.deliver_and_process(account.events())
    shown = await show(account, proration=proration, interval="year")
    assert (shown.current.interval, shown.next.interval) == ("month", "year")
    assert shown.preview.amount_due == shown.invoice.total == sum(line.amount for line in shown.invoice.lines)
    assert (shown.preview.amount_due == 99000) == (proration == "none")
    done = await confirm(account, shown.preview.id, key="once")
    assert (done.subscription.interval, done.invoice and done.invoice.amount_paid) == (
        "year",
        shown.preview.amount_due,
    )


@pytest.mark.parametrize(("currency", "amounts"), [("jpy", (1000, 3001)), ("kwd", (1000, 33330))])
async def test_currencies_without_cents_or_with_three_decimals_are_exact(
    account: Account, currency: str, amounts: tuple[int, int]
) -> None:
    held = account.plans.plans

    def priced(key: str, amount: int) -> Plan:
        fields = {"amount": amount, "currency": currency, "other_prices": {}, "trial_days": 0}
        return held[key].model_copy(update=fields)

    plans = {
        "free": held["free"],
        "pro": priced("pro", amounts[0]),
        "enterprise": priced("enterprise", amounts[1]),
    }
    account.plans = account.plans.model_copy(update={"currency": currency, "plans": plans, "packs": {}, "meters": {}})
    await account.apply_plans()
    await account.buy(plan="pro")
    await account.deliver_and_process(account.events())
    shown = await show(account)
    assert shown.preview.currency == currency
    assert shown.preview.amount_due == sum(line.amount for line in shown.invoice.lines)
    done = await confirm(account, shown.preview.id, key="once")
    assert done.invoice is not None
    assert (done.invoice.amount_due, done.invoice.currency) == (shown.preview.amount_due, currency)


async def test_on_a_test_clock_an_upgrade_is_prorated_by_stripe_s_time(account: Account) -> None:
    """From trial to renewal to an upgrade in mid-period, invoiced as previewed, months from now."""
    sandbox, start = account.sandbox, 1_900_000_000
    with sandbox.changing():
        clock = test_clocks.create(sandbox, {"frozen_time": start})
        person = customers.create(sandbox, {"test_clock": clock["id"], "metadata": {"user_id": ADA.user_id}})
        method = payment_methods.attach(sandbox, {"customer": person["id"]}, "pm_card_visa")
        defaults = {"default_payment_method": method["id"]}
        customers.update(sandbox, {"invoice_settings": defaults}, person["id"])
    [price] = [row for row in sandbox.rows("price") if row["lookup_key"] == "billhook_pro"]
    with sandbox.changing():
        wanted = {"customer": person["id"], "items": [{"price": price["id"]}], "trial_period_days": 14}
        subscriptions.create(sandbox, wanted)
    await account.deliver_and_process(account.events())

    async def advance(moment: int) -> None:
        with sandbox.changing():
            test_clocks.advance(sandbox, {"frozen_time": moment}, clock["id"])
        sandbox.tick()
        await account.deliver_and_process(account.events())

    await advance(start + 15 * DAY)
    [row] = await account.all(models.Subscription)
    assert (row.status, row.plan) == ("active", "pro")
    await advance(start + 24 * DAY)
    shown = await show(account)
    assert shown.preview.proration_date == start + 24 * DAY
    assert shown.preview.amount_due == sum(line.amount for line in shown.invoice.lines) > 0
    done = await confirm(account, shown.preview.id, key="once")
    assert (done.subscription.plan, done.invoice and done.invoice.amount_paid) == (
        "enterprise",
        shown.preview.amount_due,
    )
