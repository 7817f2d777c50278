"""The inbox for operators: what Stripe sent, and what became of it."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from app import models
from app.api.deps import OperatorDep, SessionDep
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.schemas import Output
from app.services import inbox

router = APIRouter(prefix="/events", tags=["Operators"])

EventStatus = Literal["pending", "processed", "ignored", "dead"]


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
    processed_at: int | None = Field(description="When it was applied")

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


@router.get("")
async def list_events(
    session: SessionDep,
    _operator: OperatorDep,
    page: PageDep,
    status: Annotated[EventStatus | None, Query(description="Only these")] = None,
    type: Annotated[str | None, Query(max_length=MAX_ID_LENGTH, description="Only this type")] = None,
    customer: Annotated[
        str | None, Query(max_length=MAX_ID_LENGTH, description="Only this customer's: a user id or a Stripe id")
    ] = None,
) -> list[EventRead]:
    """Newest first. Needs the scope `operator`."""
    rows = await inbox.list_events(
        session, status=status, type=type, customer=customer, limit=page.limit, starting_after=page.starting_after
    )
    return [EventRead.of(row) for row in page.cut(rows, lambda row: row.event_id)]
