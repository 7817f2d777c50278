"""What each subscription status means for access, and that the answer says which rule decided."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app import models
from app.db import Sessions
from app.errors import InvalidRequestError, NotFoundError
from app.services import access
from app.services.catalog import Catalog
from app.services.subscriptions import reading

NOW = 1_800_000_000
DAY = 86_400


async def subscribe(
    sessions: Sessions, status: str, *, plan: str | None = "pro", user: str | None = None, **fields: object
) -> str:
    """Give a user, else a new one, a subscription of the given status; returns the user's id."""
    async with sessions.begin() as session:
        common = {"livemode": False, "created": NOW - 40 * DAY, "synced_at": NOW, "stripe_metadata": {}}
        customer = await session.scalar(select(models.Customer).where(models.Customer.user_id == user))
        if customer is None:
            user = f"user-{uuid4()}"
            customer = models.Customer(user_id=user, stripe_id=f"cus_{uuid4().hex[:14]}", **common)
            session.add(customer)
            await session.flush()  # the subscription needs its id
        session.add(
            models.Subscription(
                customer_id=customer.id,
                stripe_id=f"sub_{uuid4().hex}",
                status=status,
                plan=plan,
                items=[],
                **{
                    "cancel_at_period_end": False,
                    "current_period_start": NOW - DAY,
                    "current_period_end": NOW + 29 * DAY,
                }
                | common
                | fields,
            )
        )
    return str(user)


async def held_by(sessions: Sessions, catalog: Catalog, user: str, *, now: int = NOW) -> access.Entitlements:
    async with sessions() as session:
        return await access.entitlements(session, catalog, user_id=user, now=now)


@pytest.mark.parametrize(
    ("status", "plan", "rule"),
    [
        ("trialing", "pro", "trialing:grant"),
        ("active", "pro", "active:grant"),
        ("past_due", "pro", "past_due:grace"),
        ("unpaid", "free", "unpaid:deny"),
        ("paused", "free", "paused:deny"),
        ("incomplete", "free", "incomplete:deny"),
        ("incomplete_expired", "free", "incomplete_expired:deny"),
        ("canceled", "free", "canceled:deny"),
        ("a_status_of_the_future", "free", "a_status_of_the_future:deny"),
    ],
)
async def test_every_status_has_its_rule(
    sessions: Sessions, catalog: Catalog, status: str, plan: str, rule: str
) -> None:
    user = await subscribe(sessions, status)
    async with sessions() as session:
        held = await access.entitlements(session, catalog, user_id=user, now=NOW)
    assert (held.plan.key, held.status, held.rule) == (plan, status, rule)


async def test_grace_ends_after_the_plan_s_days(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "past_due", current_period_start=NOW)
    days = catalog.plans["pro"].grace_days
    async with sessions() as session:
        last = await access.entitlements(session, catalog, user_id=user, now=NOW + days * DAY - 1)
        over = await access.entitlements(session, catalog, user_id=user, now=NOW + days * DAY)
    assert (last.plan.key, last.rule, last.grace_until) == ("pro", "past_due:grace", NOW + days * DAY)
    assert (over.plan.key, over.rule, over.grace_until) == ("free", "past_due:grace_over", None)


async def owe(sessions: Sessions, user: str, **fields: object) -> None:
    """Let the user's newest subscription have an open invoice."""
    amounts = dict.fromkeys(("subtotal", "total", "amount_due", "amount_paid", "amount_remaining"), 9900)
    async with sessions.begin() as session:
        bought, *_ = await reading.live(session, user)
        session.add(
            models.Invoice(
                **amounts,
                **fields,
                stripe_id=f"in_{uuid4().hex}",
                customer_id=bought.customer_id,
                subscription=bought.stripe_id,
                status="open",
                currency="usd",
                attempt_count=1,
                livemode=False,
                synced_at=NOW,
            )
        )


async def test_grace_counts_from_the_oldest_unpaid_invoice(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "past_due", current_period_start=NOW - 20 * DAY)
    for created in (NOW - 2 * DAY, NOW - DAY):
        await owe(sessions, user, created=created)
    held = await held_by(sessions, catalog, user)
    assert held.rule == "past_due:grace"
    assert held.grace_until == NOW - 2 * DAY + catalog.plans["pro"].grace_days * DAY


async def test_grace_for_an_invoice_that_was_sent_counts_from_when_it_was_due(
    sessions: Sessions, catalog: Catalog
) -> None:
    user = await subscribe(sessions, "past_due", current_period_start=NOW - 30 * DAY)
    await owe(sessions, user, created=NOW - 30 * DAY, due_date=NOW - DAY)
    held = await held_by(sessions, catalog, user)
    assert (held.rule, held.grace_until) == ("past_due:grace", NOW - DAY + catalog.plans["pro"].grace_days * DAY)


@pytest.mark.parametrize("status", ["trialing", "active", "past_due"])
async def test_what_was_set_to_end_has_ended_though_its_webhook_is_late(
    sessions: Sessions, catalog: Catalog, status: str
) -> None:
    for fields in ({"cancel_at": NOW}, {"cancel_at_period_end": True, "current_period_end": NOW}):
        user = await subscribe(sessions, status, **fields)
        before = await held_by(sessions, catalog, user, now=NOW - 1)
        assert (before.plan.key, before.access_ends_at) == ("pro", NOW)
        after = await held_by(sessions, catalog, user)
        assert (after.plan.key, after.rule, after.access_ends_at) == ("free", f"{status}:ended", None)


async def test_a_trial_or_a_period_that_is_over_grants_until_stripe_says_otherwise(
    sessions: Sessions, catalog: Catalog
) -> None:
    over = {"current_period_end": NOW - DAY}
    for status, fields in (("trialing", {"trial_end": NOW - DAY}), ("active", {})):
        held = await held_by(sessions, catalog, await subscribe(sessions, status, **over, **fields))
        assert (held.plan.key, held.rule) == ("pro", f"{status}:grant")


async def test_of_several_that_grant_the_same_the_one_that_lasts_decides(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "active", created=NOW - 90 * DAY)
    await subscribe(sessions, "active", user=user, cancel_at=NOW + DAY, created=NOW - 80 * DAY)
    await subscribe(sessions, "past_due", user=user)
    held = await held_by(sessions, catalog, user)
    assert (held.plan.key, held.rule, held.access_ends_at, held.grace_until) == ("pro", "active:grant", None, None)


async def test_a_price_that_is_no_plan_of_ours_grants_nothing(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "active", plan=None)
    async with sessions() as session:
        held = await access.entitlements(session, catalog, user_id=user, now=NOW)
    assert (held.plan.key, held.rule) == ("free", "active:unknown_plan")


async def test_somebody_without_a_subscription_has_the_default_plan(sessions: Sessions, catalog: Catalog) -> None:
    async with sessions() as session:
        held = await access.entitlements(session, catalog, user_id="nobody", now=NOW)
    assert (held.plan.key, held.status, held.rule, held.source) == ("free", "none", "none:default", None)


async def test_a_check_answers_for_features_and_limits(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "active")

    async def check(feature: str | None = None, meter: str | None = None, quantity: int = 1) -> access.Decision:
        async with sessions() as session:
            return await access.check(
                session, catalog, user_id=user, feature=feature, meter=meter, quantity=quantity, now=NOW
            )

    assert (await check("priority_support")).allowed
    assert (await check("sso")).reason == "feature_not_in_plan"
    within, beyond = await check(meter="projects", quantity=50), await check(meter="projects", quantity=51)
    assert (within.allowed, within.reason, within.limit) == (True, "within_limit", 50)
    assert (beyond.allowed, beyond.reason, beyond.resets_at) == (False, "limit_exceeded", NOW + 29 * DAY)
    with pytest.raises(InvalidRequestError, match="No plan has such a feature"):
        await check("teleport")
    with pytest.raises(InvalidRequestError, match="No plan has such a limit"):
        await check(meter="teleports")


async def test_unlimited_allows_any_number(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "active", plan="enterprise")
    async with sessions() as session:
        verdict = await access.check(
            session, catalog, user_id=user, feature=None, meter="seats", quantity=10**9, now=NOW
        )
    assert (verdict.allowed, verdict.reason, verdict.limit) == (True, "unlimited", None)


async def test_of_several_subscriptions_the_plan_listed_last_wins(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "active", plan="enterprise", created=NOW - 90 * DAY)
    await subscribe(sessions, "active", plan="basic", user=user)
    await subscribe(sessions, "active", plan="pro", user=user)
    assert (await held_by(sessions, catalog, user)).plan.key == "enterprise"
    cheaper = catalog.plans["enterprise"].model_copy(update={"amount": 1})
    repriced = catalog.model_copy(update={"plans": {**catalog.plans, "enterprise": cheaper}})
    assert (await held_by(sessions, repriced, user)).plan.key == "enterprise"  # the order counts, not the price


async def test_a_subscription_that_grants_beats_a_better_plan_that_does_not(
    sessions: Sessions, catalog: Catalog
) -> None:
    user = await subscribe(sessions, "unpaid", plan="enterprise")
    await subscribe(sessions, "active", plan="basic", user=user, created=NOW - 90 * DAY)
    held = await held_by(sessions, catalog, user)
    assert (held.plan.key, held.rule) == ("basic", "active:grant")


async def test_where_nothing_is_granted_the_living_subscription_says_why(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "unpaid", created=NOW - 90 * DAY)
    await subscribe(sessions, "canceled", user=user)
    held = await held_by(sessions, catalog, user)
    assert (held.plan.key, held.status, held.rule) == ("free", "unpaid", "unpaid:deny")
    assert held.reason == "A subscription that is unpaid grants nothing."


async def test_paused_collection_keeps_access(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "active", pause_collection="void")
    held = await held_by(sessions, catalog, user)
    assert (held.plan.key, held.rule, held.access_ends_at) == ("pro", "active:grant", None)


async def test_a_plan_may_have_its_own_policy(sessions: Sessions, catalog: Catalog) -> None:
    lenient = catalog.plans["pro"].model_copy(update={"access": {"unpaid": "grant", "past_due": "deny"}})
    catalog = catalog.model_copy(update={"plans": {**catalog.plans, "pro": lenient}})
    for status, plan, rule in (
        ("unpaid", "pro", "unpaid:grant"),
        ("past_due", "free", "past_due:deny"),
        ("active", "pro", "active:grant"),
    ):
        held = await held_by(sessions, catalog, await subscribe(sessions, status))
        assert (held.plan.key, held.rule) == (plan, rule)
    other = await held_by(sessions, catalog, await subscribe(sessions, "unpaid", plan="enterprise"))
    assert (other.plan.key, other.rule) == ("free", "unpaid:deny")


async def test_the_answer_says_when_access_ends(sessions: Sessions, catalog: Catalog) -> None:
    end, grace = NOW + 2 * DAY, NOW - DAY + catalog.plans["pro"].grace_days * DAY
    for status, fields, expected in (
        ("active", {}, None),
        ("active", {"cancel_at": end}, end),
        ("active", {"cancel_at_period_end": True, "current_period_end": end}, end),
        ("past_due", {}, grace),
        ("past_due", {"cancel_at": end}, end),
    ):
        held = await held_by(sessions, catalog, await subscribe(sessions, status, **fields))
        assert (held.plan.key, held.access_ends_at) == ("pro", expected), (status, fields)


async def test_an_explanation_shows_everything_that_was_considered(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "past_due", plan="basic", current_period_start=NOW)
    await subscribe(sessions, "incomplete", plan="pro", user=user, created=NOW)
    async with sessions() as session:
        by_user = await access.explain(session, catalog, user, now=NOW)
        by_customer = await access.explain(session, catalog, by_user.customers[0], now=NOW)
        with pytest.raises(NotFoundError):
            await access.explain(session, catalog, "nobody", now=NOW)
    assert by_user == by_customer
    assert [(v.rule, v.plan and v.plan.key) for v in by_user.verdicts] == [
        ("incomplete:deny", None),
        ("past_due:grace", "basic"),
    ]
    assert (by_user.held.plan.key, by_user.held.source) == ("basic", by_user.verdicts[1].subscription.stripe_id)


async def test_a_user_who_is_named_like_a_customer_is_not_taken_for_it(sessions: Sessions, catalog: Catalog) -> None:
    victim = await subscribe(sessions, "active", plan="basic")
    async with sessions.begin() as session:
        shown = await access.explain(session, catalog, victim, now=NOW)
        [customer] = shown.customers
        common = {"livemode": False, "created": NOW, "synced_at": NOW, "stripe_metadata": {}}
        session.add(models.Customer(user_id=customer, stripe_id=f"cus_{uuid4().hex[:14]}", **common))
    await subscribe(sessions, "active", plan="enterprise", user=customer)
    async with sessions() as session:
        told = await access.explain(session, catalog, customer, now=NOW)
    assert (told.user_id, told.customers, told.held.plan.key) == (victim, [customer], "basic")


async def test_access_takes_one_query(engine: AsyncEngine, sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "past_due")
    await subscribe(sessions, "active", user=user)
    statements: list[str] = []

    def note(*told: Any) -> None:
        statements.append(told[2])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await held_by(sessions, catalog, user)
    assert len(statements) == 1
