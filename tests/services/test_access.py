"""What each subscription status means for access, and that the answer says which rule decided."""

from uuid import uuid4

import pytest

from app import models
from app.db import Sessions
from app.errors import InvalidRequestError
from app.services import access
from app.services.catalog import Catalog

NOW = 1_800_000_000
DAY = 86_400


async def subscribe(sessions: Sessions, status: str, *, plan: str | None = "pro", **fields: object) -> str:
    """A user with one subscription of the given status; returns the user's id."""
    user = f"user-{uuid4()}"
    async with sessions.begin() as session:
        common = {"livemode": False, "created": NOW - 40 * DAY, "synced_at": NOW, "stripe_metadata": {}}
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
                cancel_at_period_end=False,
                **{"current_period_start": NOW - DAY, "current_period_end": NOW + 29 * DAY} | common | fields,
            )
        )
    return user


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


async def test_grace_counts_from_the_unpaid_invoice(sessions: Sessions, catalog: Catalog) -> None:
    user = await subscribe(sessions, "past_due", current_period_start=NOW - 20 * DAY, latest_invoice="in_open")
    async with sessions.begin() as session:
        [bought] = await access.subscriptions.live(session, user)
        zero = dict.fromkeys(("subtotal", "total", "amount_due", "amount_paid", "amount_remaining"), 9900)
        session.add(
            models.Invoice(
                **zero,
                stripe_id="in_open",
                customer_id=bought.customer_id,
                subscription=bought.stripe_id,
                status="open",
                currency="usd",
                attempt_count=1,
                livemode=False,
                created=NOW - DAY,
                synced_at=NOW,
            )
        )
    async with sessions() as session:
        held = await access.entitlements(session, catalog, user_id=user, now=NOW)
    assert held.rule == "past_due:grace"
    assert held.grace_until == NOW - DAY + catalog.plans["pro"].grace_days * DAY


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
