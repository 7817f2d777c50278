"""The inbox: every event of Stripe's, what became of it, and how it is applied once more."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import BindParameter, ColumnElement, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, NotFoundError
from app.models import AuditRow, Customer, OutboxMessage, StripeEvent
from app.services import audit
from app.services.event_types import kind_of
from app.services.receiver import WAKE_CHANNEL

T = TypeVar("T")

EventStatus = Literal["pending", "processed", "ignored", "dead"]

LATEST_SECOND = 253_402_300_799
"""The last one (unix seconds) that a date can be made of."""

_EFFECTS_SHOWN = 100  # a purchase causes some five; nothing causes a hundred


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events are meant: those for which all holds that is given.

    `customer` is a user id or a Stripe id, `since` the unix second from which on they arrived.
    """

    status: EventStatus | None = None
    type: str | None = None
    customer: str | None = None
    since: int | None = None

    @property
    def given(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    async def conditions(self, session: AsyncSession) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if self.status is not None:
            found.append(StripeEvent.status == _written(self.status))
        if self.type is not None:
            found.append(StripeEvent.type == self.type)
        if self.customer is not None:
            found.append(StripeEvent.key.in_(await _keys(session, self.customer)))
        if self.since is not None:
            found.append(StripeEvent.received_at >= _written(datetime.fromtimestamp(self.since, UTC)))
        return found


def _written(value: T) -> BindParameter[T]:
    """`value` as a part of the statement: for a parameter Postgres plans without knowing how few rows it leaves."""
    return bindparam(None, value, literal_execute=True)


async def _keys(session: AsyncSession, customer: str) -> list[str]:
    """The keys of a customer's events, as a list: only that lets Postgres go straight to them in its index."""
    known = select(Customer.stripe_id).where((Customer.user_id == customer) | (Customer.stripe_id == customer))
    return list((await session.scalars(known)).all()) or [customer]


async def list_events(
    session: AsyncSession,
    *,
    status: EventStatus | None = None,
    type: str | None = None,
    customer: str | None = None,
    since: int | None = None,
    limit: int,
    starting_after: str | None = None,
) -> list[StripeEvent]:
    """Newest first, up to `limit` + 1 rows to tell if there is more; see `EventFilter`.

    `starting_after` is an event id. Raises NotFoundError for one that isn't known.
    """
    which = EventFilter(status=status, type=type, customer=customer, since=since)
    query = (
        select(StripeEvent)
        .where(*await which.conditions(session))
        .order_by(StripeEvent.id.desc())
        .limit(_written(limit + 1))
    )
    if starting_after is not None:
        last = await session.scalar(select(func.min(StripeEvent.id)).where(StripeEvent.event_id == starting_after))
        if last is None:
            raise NotFoundError("There is no such event.", code="event_not_found", param="starting_after")
        query = query.where(StripeEvent.id < last)
    return list((await session.scalars(query)).all())


async def get(session: AsyncSession, event_id: str, *, account: str | None, lock: bool = False) -> StripeEvent:
    """`account` is the connected account it came from; without one, ours goes first. Raises NotFoundError."""
    query = select(StripeEvent).where(StripeEvent.event_id == event_id).order_by(StripeEvent.account).limit(1)
    if account is not None:
        query = query.where(StripeEvent.account == account)
    if (row := await session.scalar(query.with_for_update() if lock else query)) is None:
        raise NotFoundError("There is no such event.", code="event_not_found")
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What an event caused, oldest first: what the outbox told of it, and what it changed."""

    messages: list[OutboxMessage]
    changes: list[AuditRow]


async def effects(session: AsyncSession, event_id: str) -> Effects:
    messages = select(OutboxMessage).where(OutboxMessage.stripe_event_id == event_id).order_by(OutboxMessage.id)
    changes = select(AuditRow).where(AuditRow.stripe_event_id == event_id).order_by(AuditRow.id)
    return Effects(
        messages=list((await session.scalars(messages.limit(_EFFECTS_SHOWN))).all()),
        changes=list((await session.scalars(changes.limit(_EFFECTS_SHOWN))).all()),
    )


class Replayable(Protocol):
    """What decides whether an event can be applied: a row, or as much of one."""

    @property
    def account(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def livemode(self) -> bool: ...


def refusal(event: Replayable, *, kept: bool, livemode: bool) -> ConflictError | None:
    """Why an event can't be applied as things are today; None when it can. `kept` says if its payload still is."""
    if event.livemode != livemode:
        reason = "it belongs to Stripe's other mode (test or live)"
    elif event.account:
        reason = "it came from a connected account"
    elif kind_of(event.type) is None:
        reason = f"nothing is done on {event.type}"
    elif not kept:
        return ConflictError("The event's payload is no longer kept: reconcile instead.", code="payload_not_kept")
    else:
        return None
    return ConflictError(f"The event would only be ignored again: {reason}.", code="event_not_replayable")


async def replay(
    session: AsyncSession, event_id: str, *, account: str | None, livemode: bool, actor: str
) -> StripeEvent:
    """Have an event applied once more, soon and as if it had just come; what it did already stays done once.

    Raises NotFoundError, or ConflictError for an event that would be ignored or whose payload is gone.
    """
    row = await get(session, event_id, account=account, lock=True)
    if (error := refusal(row, kept=row.payload is not None, livemode=livemode)) is not None:
        raise error
    before = {"status": row.status, "attempts": row.attempts}
    await make_due(session, [row.id])
    await session.refresh(row)
    await audit.record(
        session,
        actor=actor,
        action="event.replayed",
        subject=event_id,
        customer_id=await session.scalar(select(Customer.id).where(Customer.stripe_id == row.key)),
        before=before,
        after={"status": row.status, "attempts": row.attempts},
    )
    return row


async def make_due(session: AsyncSession, ids: Sequence[int]) -> None:
    """Make the events with these row ids pending again, as if they had just come, and wake the worker at the commit."""
    await session.execute(
        update(StripeEvent)
        .where(StripeEvent.id.in_(ids))
        .values(status="pending", reason=None, attempts=0, next_attempt_at=func.now(), last_error=None)
        .execution_options(synchronize_session=False)
    )
    await session.execute(select(func.pg_notify(WAKE_CHANNEL, "")))
