"""What a customer may use now, and which rule says so. Answered from our own tables: no call to Stripe."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.errors import InvalidRequestError
from app.services import subscriptions
from app.services.catalog import Catalog, Plan

DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlements:
    """`status` is the subscription's, or "none"; `rule` what decided, e.g. "past_due:grace".

    `source` is the subscription's id when one decided; `grace_until` (unix seconds) is set while grace lasts.
    """

    plan: Plan
    status: str
    rule: str
    source: str | None
    current_period_end: int | None
    cancel_at_period_end: bool
    grace_until: int | None = None

    @property
    def features(self) -> tuple[str, ...]:
        return self.plan.features

    @property
    def limits(self) -> Mapping[str, int | None]:
        return self.plan.limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`limit` None is unlimited when `allowed`; `used` and `remaining` are None where nothing is counted."""

    allowed: bool
    reason: str
    rule: str
    plan: str
    limit: int | None = None
    used: int | None = None
    remaining: int | None = None
    resets_at: int | None = None
    source: str | None = None


async def entitlements(session: AsyncSession, catalog: Catalog, *, user_id: str, now: int) -> Entitlements:
    """The best plan any of the user's subscriptions grants; the default plan when none does."""
    alive = await subscriptions.live(session, user_id)
    judged = [await _judge(session, catalog, subscription, now=now) for subscription in alive]
    if granted := [verdict for verdict in judged if verdict.rule.endswith((":grant", ":grace"))]:
        return max(granted, key=lambda verdict: verdict.plan.amount)
    if judged:
        return judged[0]
    ended = await subscriptions.current(session, user_id)
    return Entitlements(
        plan=catalog.plan(catalog.default_plan),
        status="none" if ended is None else ended.status,
        rule="none:default" if ended is None else f"{ended.status}:deny",
        source=None if ended is None else ended.stripe_id,
        current_period_end=None,
        cancel_at_period_end=False,
    )


async def check(
    session: AsyncSession,
    catalog: Catalog,
    *,
    user_id: str,
    feature: str | None,
    meter: str | None,
    quantity: int,
    now: int,
) -> Decision:
    """Whether this user may use `feature`, or have `quantity` of `meter`.

    For a meter, `quantity` is the total wanted: it is compared with the plan's limit. A name that no plan of the
    catalogue knows is a mistake of the caller's, not a refusal: InvalidRequestError.
    """
    held = await entitlements(session, catalog, user_id=user_id, now=now)
    plans = catalog.plans.values()
    if feature is not None:
        if not any(feature in plan.features for plan in plans):
            raise InvalidRequestError("No plan has such a feature.", code="unknown_feature", param="feature")
        allowed = feature in held.features
        reason = "feature_included" if allowed else "feature_not_in_plan"
        return Decision(allowed=allowed, reason=reason, rule=held.rule, plan=held.plan.key, source=held.source)
    if meter is None or not any(meter in plan.limits for plan in plans):
        raise InvalidRequestError("No plan has such a limit.", code="unknown_meter", param="meter")
    limit = held.limits.get(meter, 0)
    allowed = limit is None or quantity <= limit
    return Decision(
        allowed=allowed,
        reason="unlimited" if limit is None else "within_limit" if allowed else "limit_exceeded",
        rule=held.rule,
        plan=held.plan.key,
        limit=limit,
        resets_at=held.current_period_end,
        source=held.source,
    )


async def _judge(
    session: AsyncSession, catalog: Catalog, subscription: models.Subscription, *, now: int
) -> Entitlements:
    status = subscription.status
    verdict: str = catalog.access.get(status, "deny")
    plan = catalog.plans.get(subscription.plan or "")
    grace_until = None
    if plan is None and verdict != "deny":
        verdict = "unknown_plan"
    if plan is not None and verdict == "grace":
        grace_until = await _grace_from(session, subscription) + plan.grace_days * DAY
        if now >= grace_until:
            verdict = "grace_over"
    if verdict in {"grant", "grace"} and await _awaits_payment(session, subscription):
        verdict = "payment_pending"
    granted = plan is not None and verdict in {"grant", "grace"}
    return Entitlements(
        plan=plan if granted and plan is not None else catalog.plan(catalog.default_plan),
        status=status,
        rule=f"{status}:{verdict}",
        source=subscription.stripe_id,
        current_period_end=subscription.current_period_end,
        cancel_at_period_end=subscription.ends_with_period,
        grace_until=grace_until if granted else None,
    )


async def _awaits_payment(session: AsyncSession, subscription: models.Subscription) -> bool:
    """Whether the first payment is by a slow method and still under way, or failed.

    Stripe makes such a subscription active at once, and says with checkout.session.async_payment_succeeded or _failed
    how it ended (docs.stripe.com/payments/checkout/fulfill-orders).
    """
    unpaid = exists().where(
        models.CheckoutSession.subscription == subscription.stripe_id,
        models.CheckoutSession.status == "complete",
        models.CheckoutSession.payment_status == "unpaid",
    )
    # The session stays unpaid when the bill is then paid in another way.
    paid = exists().where(
        models.Invoice.subscription == subscription.stripe_id,
        models.Invoice.status == "paid",
        models.Invoice.total > 0,
    )
    return bool(await session.scalar(select(unpaid & ~paid)))


async def _grace_from(session: AsyncSession, subscription: models.Subscription) -> int:
    """When the oldest unpaid period began, whatever order the news came in; later renewals don't begin it anew."""
    oldest = await session.scalar(
        select(func.min(models.Invoice.created)).where(
            models.Invoice.subscription == subscription.stripe_id,
            models.Invoice.status == "open",
            ~models.Invoice.deleted,
        )
    )
    return oldest or subscription.current_period_start or subscription.created
