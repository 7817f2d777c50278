"""Usage of a subscription's item, as clients of Stripe's former usage records send it."""

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.services.catalog import Catalog, Meter
from app.services.subscriptions.reading import live
from app.services.usage import ledger
from app.services.usage.ledger import Given, Outcome

_REFUSALS = {
    "limit_exceeded": "The plan's limit for this period does not leave room for so much.",
    "timestamp_too_old": "Usage can be recorded for 35 days.",
    "timestamp_in_future": "Usage can't be recorded ahead of time.",
    "id_reused": "This idempotency key has recorded other usage.",
    "busy": "This customer's usage is being recorded by too many at once; try again.",
}
_BY_STATE = frozenset({"limit_exceeded", "id_reused", "busy"})


class Recorded(NamedTuple):
    """`outcome` is accepted or duplicate, `timestamp` the stored event's; `livemode`: whether real money is meant."""

    outcome: Outcome
    meter: str
    timestamp: int
    livemode: bool


async def record_for_item(
    session: AsyncSession,
    catalog: Catalog,
    *,
    user_id: str,
    item: str,
    meter: str | None,
    quantity: int,
    timestamp: int | None,
    id: str,
    now: int,
) -> Recorded:
    """Record usage of one of the user's subscription items, by this meter; needless where the catalogue has but one.

    Raises NotFoundError for an item that isn't the user's, InvalidRequestError or ConflictError where the usage is
    refused.
    """
    subscription = await _subscription_of(session, user_id=user_id, item=item)
    chosen = _meter(catalog, meter)
    given = Given(id=id, meter=chosen.key, quantity=quantity, timestamp=timestamp, user_id=user_id)
    [outcome] = await ledger.record(session, catalog, [given], now=now)
    if outcome.result == "refused":
        code = outcome.code or ""
        kind = ConflictError if code in _BY_STATE else InvalidRequestError
        refusal = kind(_REFUSALS[code], code=code, param=None if code in _BY_STATE else "timestamp")
        refusal.retryable = code == "busy"
        raise refusal
    if timestamp is None:
        timestamp = await session.scalar(select(models.UsageEvent.timestamp).where(models.UsageEvent.id == id))
    return Recorded(outcome, chosen.key, now if timestamp is None else timestamp, subscription.livemode)


async def _subscription_of(session: AsyncSession, *, user_id: str, item: str) -> models.Subscription:
    for subscription in await live(session, user_id):
        if any(entry["id"] == item for entry in subscription.items):
            return subscription
    raise NotFoundError("There is no such subscription item.", code="subscription_item_not_found")


def _meter(catalog: Catalog, key: str | None) -> Meter:
    if key is None and len(catalog.meters) == 1:
        return next(iter(catalog.meters.values()))
    if key is None:
        raise InvalidRequestError("Say which meter is meant.", code="meter_required", param="meter")
    if key not in catalog.meters:
        raise InvalidRequestError("The catalogue has no such meter.", code="unknown_meter", param="meter")
    return catalog.meters[key]
