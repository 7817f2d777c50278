"""What a customer may use now, and which rule says so. Answered from our own tables: one query, no call to Stripe.

plans.yaml says what each status means (`access`), and a plan may say otherwise for itself. Each subscription is judged
by its own; of those that grant something the plan listed last in plans.yaml wins, and without any it is the default.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, literal_column, or_, select
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app import models
from app.errors import InvalidRequestError, NotFoundError
from app.services import usage_totals
from app.services.catalog import Catalog, Plan
from app.services.credits.coalescer import Coalescer
from app.services.subscriptions.reading import ENDED
from app.values import unix_now

DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one subscription gives, and why. `rule` is "{status}:{what decided}", `reason` the same as a sentence.

    `plan` is the plan it grants, None when it grants nothing. `access_ends_at` (unix seconds) is when it will stop
    granting as things stand; `grace_until` is set while that is because a payment failed.
    """

    subscription: models.Subscription
    plan: Plan | None
    rule: str
    reason: str
    access_ends_at: int | None = None
    grace_until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlements:
    """`status` is the subscription's, or "none"; `source` its id when one decided. See `Verdict` for the rest."""

    plan: Plan
    status: str
    rule: str
    reason: str
    source: str | None
    current_period_start: int | None = None
    current_period_end: int | None
    cancel_at_period_end: bool
    access_ends_at: int | None = None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that was considered for one customer, newest first, and what came of it."""

    user_id: str | None
    customers: Sequence[str]
    verdicts: Sequence[Verdict]
    held: Entitlements
    used: Mapping[str, int]
    """What each meter counted in the period that ends at `resets_at` (unix seconds)."""
    resets_at: int


async def entitlements(session: AsyncSession, catalog: Catalog, *, user_id: str, now: int) -> Entitlements:
    """The best plan any of the user's subscriptions grants; the default plan when none does."""
    mine = and_(models.Customer.user_id == user_id, ~models.Customer.deleted)
    return _best(catalog, await _judge_all(session, catalog, mine, now=now))


class PlanReader:
    """The plans of users who are asked about together, and nothing else of `entitlements`. One per process.

    For what is asked so often that the ORM would cost most of it.
    """

    def __init__(self, engine: AsyncEngine, *, catalog: Catalog, pgbouncer: bool = False) -> None:
        self._catalog = catalog
        self._queue: Coalescer[str, Plan] = Coalescer("plans", engine, self._read, pgbouncer=pgbouncer)

    async def plan_of(self, user_id: str) -> Plan:
        """Raises UnavailableError."""
        return await self._queue.ask(user_id)

    async def aclose(self) -> None:
        await self._queue.aclose()

    async def _read(self, driver: Any, users: Sequence[str]) -> Sequence[Plan]:
        verdicts: dict[str, list[Verdict]] = {user_id: [] for user_id in users}
        now = unix_now()
        for row in await driver.fetch(_subscriptions_sql(), list(verdicts)):
            subscription = models.Subscription(**{name: row[name] for name in _JUDGED})
            facts = {"awaits_payment": row["awaits_payment"], "oldest_debt": row["oldest_debt"], "now": now}
            verdicts[row["user_id"]].append(_judge(self._catalog, subscription, **facts))
        return [_best(self._catalog, verdicts[user_id]).plan for user_id in users]


async def entitlements_of(
    session: AsyncSession, catalog: Catalog, customers: Sequence[UUID], *, now: int
) -> dict[UUID, Entitlements]:
    """What each of these customers (ids of our rows) holds, by one query for all of them."""
    verdicts: dict[UUID, list[Verdict]] = {customer: [] for customer in customers}
    for verdict in await _judge_all(session, catalog, models.Customer.id.in_(customers), now=now):
        verdicts[verdict.subscription.customer_id].append(verdict)
    return {customer: _best(catalog, theirs) for customer, theirs in verdicts.items()}


def without_subscription(catalog: Catalog) -> Entitlements:
    """What everybody holds."""
    return _best(catalog, [])


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

    `quantity` is what is wanted beside what the meter counted in this period; of a limit that nothing counts, such as
    seats, it is the total. A name that the catalogue doesn't know is a mistake of the caller's, not a refusal:
    InvalidRequestError.
    """
    held = await entitlements(session, catalog, user_id=user_id, now=now)
    plans = catalog.plans.values()
    if feature is not None:
        if not any(feature in plan.features for plan in plans):
            raise InvalidRequestError("No plan has such a feature.", code="unknown_feature", param="feature")
        allowed = feature in held.features
        reason = "feature_included" if allowed else "feature_not_in_plan"
        return Decision(allowed=allowed, reason=reason, rule=held.rule, plan=held.plan.key, source=held.source)
    limited = meter is not None and any(meter in plan.limits for plan in plans)
    if meter is None or not (limited or meter in catalog.meters):
        raise InvalidRequestError("No plan has such a limit.", code="unknown_meter", param="meter")
    # A meter that no plan limits is paid by use.
    limit = held.limits.get(meter, 0) if limited else None
    used, resets_at = None, held.current_period_end
    if meter in catalog.meters:
        period = usage_totals.period_at(now, start=held.current_period_start, end=held.current_period_end)
        used, resets_at = await usage_totals.used(session, user_id, meter, period), period.end
    allowed = limit is None or (used or 0) + quantity <= limit
    return Decision(
        allowed=allowed,
        reason="unlimited" if limit is None else "within_limit" if allowed else "limit_exceeded",
        rule=held.rule,
        plan=held.plan.key,
        limit=limit,
        used=used,
        remaining=None if limit is None or used is None else max(limit - used, 0),
        resets_at=resets_at,
        source=held.source,
    )


async def verdicts(
    session: AsyncSession, catalog: Catalog, subscriptions: Collection[str], *, now: int
) -> dict[str, Verdict]:
    """What each of these subscriptions gives by itself, by Stripe's ids."""
    judged = await _judge_all(session, catalog, models.Subscription.stripe_id.in_(subscriptions), now=now)
    return {verdict.subscription.stripe_id: verdict for verdict in judged}


async def explain(session: AsyncSession, catalog: Catalog, id: str, *, now: int) -> Explanation:
    """How access is decided for a customer; `id` is a Stripe customer's, else a user's. Raises NotFoundError."""
    either = or_(models.Customer.user_id == id, models.Customer.stripe_id == id)
    found = (await session.scalars(select(models.Customer).where(either, ~models.Customer.deleted))).all()
    # Whoever chooses their own user id must not be taken for another's customer.
    people = [person for person in found if person.stripe_id == id] or found
    if not people:
        raise NotFoundError("There is no such customer.", code="customer_not_found")
    row_ids = [person.id for person in people]
    judged = await _judge_all(session, catalog, models.Customer.id.in_(row_ids), now=now)
    held = _best(catalog, judged)
    user_id = next((person.user_id for person in people if person.user_id), None)
    period = usage_totals.period_at(now, start=held.current_period_start, end=held.current_period_end)
    subject = user_id or people[0].stripe_id
    return Explanation(
        user_id=user_id,
        customers=[person.stripe_id for person in people],
        verdicts=judged,
        held=held,
        used={meter: await usage_totals.used(session, subject, meter, period) for meter in catalog.meters},
        resets_at=period.end,
    )


def _best(catalog: Catalog, verdicts: Sequence[Verdict]) -> Entitlements:
    """What the verdicts (newest first) come to."""
    ranks = {key: rank for rank, key in enumerate(catalog.plans)}
    granted = [(ranks[verdict.plan.key], verdict) for verdict in verdicts if verdict.plan is not None]
    # Of several that grant the same for as long, the newest: `max` keeps the first it meets.
    best = max(granted, key=_worth)[1] if granted else _most_telling(verdicts)
    if best is None:
        return Entitlements(
            plan=catalog.plan(catalog.default_plan),
            status="none",
            rule="none:default",
            reason="There is no subscription, so the default plan applies.",
            source=None,
            current_period_end=None,
            cancel_at_period_end=False,
        )
    subscription = best.subscription
    over = subscription.status in ENDED
    return Entitlements(
        plan=best.plan or catalog.plan(catalog.default_plan),
        status=subscription.status,
        rule=best.rule,
        reason=best.reason,
        source=subscription.stripe_id,
        current_period_start=None if over else subscription.current_period_start,
        current_period_end=None if over else subscription.current_period_end,
        cancel_at_period_end=not over and subscription.ends_with_period,
        access_ends_at=best.access_ends_at,
        grace_until=best.grace_until,
    )


def _worth(ranked: tuple[int, Verdict]) -> tuple[int, bool, int]:
    rank, verdict = ranked
    return rank, verdict.access_ends_at is None, verdict.access_ends_at or 0


def _most_telling(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Where nothing is granted: the newest that lives says why, else the newest that ended."""
    living = [verdict for verdict in verdicts if verdict.subscription.status not in ENDED]
    return next(iter(living or verdicts), None)


async def _judge_all(session: AsyncSession, catalog: Catalog, whose: ColumnElement[bool], *, now: int) -> list[Verdict]:
    """A verdict for each subscription of these customers, newest first."""
    found = await session.execute(
        select(models.Subscription, _awaits_payment(), _oldest_debt())
        .join(models.Customer, models.Customer.id == models.Subscription.customer_id)
        .where(whose, ~models.Subscription.deleted)
        .order_by(models.Subscription.created.desc(), models.Subscription.stripe_id)
    )
    return [
        _judge(catalog, subscription, awaits_payment=awaits, oldest_debt=debt, now=now)
        for subscription, awaits, debt in found
    ]


_JUDGED = (
    *("stripe_id", "status", "plan", "created", "current_period_start", "current_period_end"),
    *("cancel_at", "cancel_at_period_end"),
)
"""What a verdict depends on, besides payments."""


@cache
def _subscriptions_sql() -> str:
    """What `_judge_all` asks, about users ($1), as text."""
    columns = [models.Customer.user_id, *(getattr(models.Subscription, name) for name in _JUDGED)]
    query = (
        select(*columns, _awaits_payment().label("awaits_payment"), _oldest_debt().label("oldest_debt"))
        .join(models.Customer, models.Customer.id == models.Subscription.customer_id)
        .where(
            models.Customer.user_id == func.any(literal_column("$1::text[]")),
            ~models.Customer.deleted,
            ~models.Subscription.deleted,
        )
        .order_by(models.Subscription.created.desc(), models.Subscription.stripe_id)
    )
    spoken = asyncpg.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's, as it is
    return str(query.compile(dialect=spoken, compile_kwargs={"literal_binds": True}))


def _judge(
    catalog: Catalog, subscription: models.Subscription, *, awaits_payment: bool, oldest_debt: int | None, now: int
) -> Verdict:
    status, plan = subscription.status, catalog.plans.get(subscription.plan or "")

    def verdict(what: str, reason: str, *, ends: int | None = None, grace: int | None = None) -> Verdict:
        grants = what in {"grant", "grace"}
        return Verdict(
            subscription=subscription,
            plan=plan if grants else None,
            rule=f"{status}:{what}",
            reason=reason,
            access_ends_at=ends,
            grace_until=grace,
        )

    policy = catalog.access_for(plan, status)
    if policy == "deny":
        return verdict("deny", f"A subscription that is {status} grants nothing.")
    if plan is None:
        return verdict("unknown_plan", "Its price belongs to no plan in plans.yaml.")
    if awaits_payment:
        return verdict("payment_pending", "Its first payment has not arrived.")
    end = subscription.cancel_at or (subscription.current_period_end if subscription.cancel_at_period_end else None)
    if end is not None and now >= end and status not in ENDED:  # its webhook may be late; what was announced holds
        return verdict("ended", "It was set to end, and that moment is over.")
    if policy == "grant":
        return verdict("grant", f"A subscription that is {status} grants its plan.", ends=end)
    # From the oldest debt on, whatever order the news came in; later renewals don't begin it anew.
    since = oldest_debt or subscription.current_period_start or subscription.created
    until = since + plan.grace_days * DAY
    over = f"The {plan.grace_days} days of grace after the failed payment are over."
    sentence = f"A payment failed; the plan stays for {plan.grace_days} days of grace."
    ends = until if end is None else min(until, end)
    return verdict("grace_over", over) if now >= until else verdict("grace", sentence, ends=ends, grace=until)


def _awaits_payment() -> ColumnElement[bool]:
    """Whether the first payment is by a slow method and still under way, or failed.

    Stripe makes such a subscription active at once, and says with checkout.session.async_payment_succeeded or _failed
    how it ended (docs.stripe.com/payments/checkout/fulfill-orders).
    """
    unpaid = exists().where(
        models.CheckoutSession.subscription == models.Subscription.stripe_id,
        models.CheckoutSession.status == "complete",
        models.CheckoutSession.payment_status == "unpaid",
    )
    # The session stays unpaid when the bill is then paid in another way.
    paid = exists().where(
        models.Invoice.subscription == models.Subscription.stripe_id,
        models.Invoice.status == "paid",
        models.Invoice.total > 0,
    )
    return unpaid & ~paid


def _oldest_debt() -> ColumnElement[int | None]:
    """When the oldest invoice that is still to be paid was made; one that was sent, when it was due."""
    return (
        select(func.min(func.coalesce(models.Invoice.due_date, models.Invoice.created)))
        .where(
            models.Invoice.subscription == models.Subscription.stripe_id,
            models.Invoice.status == "open",
            ~models.Invoice.deleted,
        )
        .correlate(models.Subscription)
        .scalar_subquery()
    )
