"""The inbox for operators: what Stripe sent, what became of it, and how to have it applied once more."""

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import Field

from app import models
from app.api.audit import AuditRead
from app.api.deps import OperatorDep, SessionDep, SettingsDep
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.schemas import Input, Output
from app.errors import InvalidRequestError
from app.observability import REDACTED
from app.services import inbox, replays
from app.services.inbox import LATEST_SECOND, Effects, EventFilter, EventStatus

router = APIRouter(prefix="/events", tags=["Operators"])

EventIdPath = Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the event")]
ReplayIdPath = Annotated[UUID, Path(description="The replay's id")]
AccountQuery = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=MAX_ID_LENGTH,
        description="The connected account it came from; needed only where two accounts' events share an id",
    ),
]


class EventRead(Output):
    """One event. Times are unix seconds."""

    id: str = Field(description="Stripe's id", examples=["evt_1QxYz"])
    type: str = Field(description="Stripe's type", examples=["invoice.paid"])
    account: str | None = Field(description="The connected account it came from; null for our own")
    key: str = Field(description="Events of one key are applied one after another: the customer's id, mostly")
    created: int = Field(description="When it happened, by Stripe's clock")
    livemode: bool = Field(description="Whether real money is meant")
    api_version: str | None = Field(description="The API version it was written in")
    status: str = Field(description="`pending`, `processed`, `ignored`, or `dead` after too many tries")
    reason: str | None = Field(description="Why it was ignored")
    attempts: int = Field(description="How often it has been tried")
    next_attempt_at: int | None = Field(description="When it is tried next; null unless pending")
    last_error: str | None = Field(description="Why the last try failed")
    received_at: int = Field(description="When it arrived first")
    processed_at: int | None = Field(description="When it was applied last")

    @classmethod
    def of(cls, row: models.StripeEvent) -> "EventRead":
        return cls(
            id=row.event_id,
            type=row.type,
            account=row.account or None,
            key=row.key,
            created=row.created,
            livemode=row.livemode,
            api_version=row.api_version,
            status=row.status,
            reason=row.reason,
            attempts=row.attempts,
            next_attempt_at=int(row.next_attempt_at.timestamp()) if row.status == "pending" else None,
            last_error=row.last_error,
            received_at=int(row.received_at.timestamp()),
            processed_at=None if row.processed_at is None else int(row.processed_at.timestamp()),
        )


class EffectRead(Output):
    """Something that happened because of the event, in our own words."""

    id: int = Field(description="Its number in the outbox")
    type: str = Field(description="What happened", examples=["payment.received"])
    subject: str = Field(description="The id of the Stripe object it is about", examples=["in_1QxYz"])
    data: dict[str, Any] = Field(description="What is told of it; times in unix seconds, amounts in minor units")
    created_at: int = Field(description="When it was written down, unix seconds")

    @classmethod
    def of(cls, row: models.OutboxMessage) -> "EffectRead":
        created_at = int(row.created_at.timestamp())
        return cls(id=row.id, type=row.type, subject=row.subject, data=row.data, created_at=created_at)


class EventDetail(EventRead):
    """One event with what it says and what it did. Times are unix seconds."""

    payload: dict[str, Any] | None = Field(
        description="The event as Stripe sent it, less any client secret; null once it is not kept"
    )
    effects: list[EffectRead] = Field(description="What happened because of it, oldest first")
    audit: list[AuditRead] = Field(description="What it changed, oldest first")

    @classmethod
    def with_effects(cls, row: models.StripeEvent, found: Effects) -> "EventDetail":
        return cls(
            **EventRead.of(row).model_dump(),
            payload=None if row.payload is None else _payload(row.payload),
            effects=[EffectRead.of(message) for message in found.messages],
            audit=[AuditRead.of(change) for change in found.changes],
        )


class ReplayCreate(Input):
    """Which events: those for which all holds that is given, and something must be."""

    status: EventStatus | None = Field(default=None, description="Only these; `dead` is the usual")
    type: str | None = Field(default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Only this type")
    customer: str | None = Field(
        default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Only this customer's: a user id or Stripe id"
    )
    since: int | None = Field(
        default=None, ge=0, le=LATEST_SECOND, description="Only what arrived then or later, unix seconds"
    )


class ReplayRead(Output):
    """A replay of many events, and how far it has come. Times are unix seconds."""

    id: UUID = Field(description="Its id")
    filter: dict[str, Any] = Field(description="Which events", examples=[{"status": "dead"}])
    actor: str = Field(description="Who asked for it")
    status: str = Field(description="`running` or `done`")
    total: int = Field(description="How many events matched when it was asked for")
    replayed: int = Field(description="How many have been made pending again so far")
    skipped: int = Field(description="How many could not be: they would be ignored, or their payload is gone")
    created_at: int = Field(description="When it was asked for")
    finished_at: int | None = Field(description="When all of them had been made pending again")

    @classmethod
    def of(cls, row: models.Replay) -> "ReplayRead":
        return cls(
            id=row.id,
            filter=row.filter,
            actor=row.actor,
            status=row.status,
            total=row.total,
            replayed=row.replayed,
            skipped=row.skipped,
            created_at=int(row.created_at.timestamp()),
            finished_at=None if row.finished_at is None else int(row.finished_at.timestamp()),
        )


@router.get("")
async def list_events(
    *,
    session: SessionDep,
    _operator: OperatorDep,
    page: PageDep,
    status: Annotated[EventStatus | None, Query(description="Only these")] = None,
    type: Annotated[str | None, Query(max_length=MAX_ID_LENGTH, description="Only this type")] = None,
    customer: Annotated[
        str | None, Query(max_length=MAX_ID_LENGTH, description="Only this customer's: a user id or a Stripe id")
    ] = None,
    since: Annotated[
        int | None, Query(ge=0, le=LATEST_SECOND, description="Only what arrived then or later, unix seconds")
    ] = None,
) -> list[EventRead]:
    """Newest first. Needs the scope `operator`."""
    rows = await inbox.list_events(
        session,
        status=status,
        type=type,
        customer=customer,
        since=since,
        limit=page.limit,
        starting_after=page.starting_after,
    )
    return [EventRead.of(row) for row in page.cut(rows, lambda row: row.event_id)]


@router.post("/replay", status_code=202)
async def replay_events(session: SessionDep, operator: OperatorDep, body: ReplayCreate) -> ReplayRead:
    """Have all events applied once more that match now. The worker does it; ask for the replay to see how far it is.

    Needs the scope `operator`. What the events did already is not done twice.
    """
    return ReplayRead.of(await replays.start(session, EventFilter(**body.model_dump()), actor=operator.actor))


@router.get("/replays")
async def list_replays(session: SessionDep, _operator: OperatorDep, page: PageDep) -> list[ReplayRead]:
    """Newest first. Needs the scope `operator`."""
    rows = await replays.list_jobs(session, limit=page.limit, starting_after=_replay_id(page.starting_after))
    return [ReplayRead.of(row) for row in page.cut(rows, lambda row: str(row.id))]


@router.get("/replays/{replay_id}", responses={404: {"description": "`replay_not_found`"}})
async def get_replay(session: SessionDep, _operator: OperatorDep, replay_id: ReplayIdPath) -> ReplayRead:
    """How far it has come. Needs the scope `operator`."""
    return ReplayRead.of(await replays.get(session, replay_id))


@router.get("/{event_id}", responses={404: {"description": "`event_not_found`"}})
async def get_event(
    session: SessionDep, _operator: OperatorDep, event_id: EventIdPath, account: AccountQuery = None
) -> EventDetail:
    """What it says, what became of it, and what it did. Needs the scope `operator`."""
    row = await inbox.get(session, event_id, account=account)
    return EventDetail.with_effects(row, await inbox.effects(session, event_id))


@router.post(
    "/{event_id}/replay",
    responses={
        404: {"description": "`event_not_found`"},
        409: {"description": "`event_not_replayable`: it would be ignored; `payload_not_kept`: it is too old"},
    },
)
async def replay_event(
    session: SessionDep,
    settings: SettingsDep,
    operator: OperatorDep,
    event_id: EventIdPath,
    account: AccountQuery = None,
) -> EventRead:
    """Have it applied once more, at once. Needs the scope `operator`. What it did already is not done twice."""
    row = await inbox.replay(session, event_id, account=account, livemode=settings.livemode, actor=operator.actor)
    return EventRead.of(row)


def _payload(text: str) -> dict[str, Any]:
    """JSON may say half of a surrogate pair, as an escape; an answer in UTF-8 can't."""
    said = json.loads(text, object_hook=_without_secret)
    shown: dict[str, Any] = json.loads(json.dumps(said, ensure_ascii=False).encode(errors="replace"))
    return shown


def _without_secret(shown: dict[str, Any]) -> dict[str, Any]:
    """Whoever looks at an event must not be able to go on with the payment it tells of."""
    return {**shown, "client_secret": REDACTED} if shown.get("client_secret") else shown


def _replay_id(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise InvalidRequestError("The id of a replay is a UUID.", param="starting_after") from None
