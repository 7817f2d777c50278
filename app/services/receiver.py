"""Receiving Stripe's events: stored for good before they are acknowledged."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import structlog
from redis.asyncio import Redis
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import Sessions
from app.errors import BillingError, UnavailableError
from app.models import StripeEvent
from app.observability import events_received
from app.provider.protocol import Event, WebhookVerifier
from app.redis import is_seen, mark_seen
from app.services.event_effects import HANDLED
from app.values import unix_now

log = structlog.get_logger(__name__)

WAKE_CHANNEL = "billhook_events"


class BadWebhookError(BillingError):
    """Not from Stripe, or not an event: nothing is stored, and sending it again won't help."""

    status = 400
    code = "webhook_refused"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a delivery. Whatever it is, the sender need not send it again."""

    event_id: str
    outcome: Literal["stored", "duplicate", "ignored"]


async def receive(
    payload: bytes,
    signature: str | None,
    *,
    sessions: Sessions,
    redis: Redis,
    verifier: WebhookVerifier,
    secrets: Sequence[str],
    livemode: bool,
) -> Receipt:
    """Verify a delivery and make it durable; when this returns, the event can't be lost.

    Raises BadWebhookError for what isn't Stripe's, UnavailableError when it can't be stored (Stripe will retry).
    """
    try:
        event = _verify(payload, signature, verifier=verifier, secrets=secrets)
    except BadWebhookError:
        events_received.labels("refused").inc()
        raise
    seen_key = f"{event.account or ''}:{event.id}"
    if await is_seen(redis, seen_key):
        return _received(event, "duplicate")
    ignored = _why_ignored(event, livemode=livemode)
    try:
        async with sessions.begin() as session:
            is_new = await _store(session, event, payload.decode(), ignored)
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        events_received.labels("unavailable").inc()
        raise UnavailableError("The event can't be stored now.", retry_after=5) from error
    await mark_seen(redis, [seen_key])
    return _received(event, "duplicate" if not is_new else "ignored" if ignored else "stored")


def _verify(payload: bytes, signature: str | None, *, verifier: WebhookVerifier, secrets: Sequence[str]) -> Event:
    if not signature or not verifier.verify_signature(payload, signature, secrets=secrets, now=unix_now()):
        raise BadWebhookError("The signature doesn't match, or is too old.", code="invalid_signature")
    try:
        return verifier.parse_event(json.loads(payload))
    except (ValueError, RecursionError) as error:
        raise BadWebhookError("The body is not an event.", code="invalid_event") from error


def _why_ignored(event: Event, *, livemode: bool) -> str | None:
    if event.livemode != livemode:
        return "wrong_mode"
    if event.account:
        return "connected_account"
    return None if event.type in HANDLED else "unhandled_type"


async def _store(session: AsyncSession, event: Event, payload: str, ignored: str | None) -> bool:
    """Whether the event is new to us."""
    stored = await session.scalar(
        insert(StripeEvent)
        .values(
            account=event.account or "",
            event_id=event.id,
            type=event.type,
            key=event.customer or event.object_id or event.id,
            created=event.created,
            livemode=event.livemode,
            api_version=event.api_version,
            payload=payload,
            status="ignored" if ignored else "pending",
            reason=ignored,
        )
        .on_conflict_do_nothing(index_elements=["account", "event_id"])
        .returning(StripeEvent.id)
    )
    if stored is not None and not ignored:
        await session.execute(select(func.pg_notify(WAKE_CHANNEL, "")))
    return stored is not None


def _received(event: Event, outcome: Literal["stored", "duplicate", "ignored"]) -> Receipt:
    events_received.labels(outcome).inc()
    log.info("stripe_webhook_received", event_id=event.id, event_type=event.type, outcome=outcome)
    return Receipt(event.id, outcome)
