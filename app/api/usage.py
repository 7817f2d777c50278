"""Usage: recorded singly or in batches, held to the plan's limit, summed up per meter and period, and taken back."""

from collections import Counter
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field, field_validator, model_validator

from app.api.deps import (
    ActorDep,
    CatalogDep,
    IdempotencyKeyDep,
    OperatorDep,
    ReadUserDep,
    SessionDep,
    key_with,
    user_with,
)
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.schemas import Input, Output, storable
from app.errors import InvalidRequestError
from app.models import UsageEvent
from app.observability import usage_recorded
from app.services.identity import ServiceKey, User
from app.services.usage import corrections, items, ledger, reading
from app.services.usage.corrections import Way
from app.services.usage.ledger import MAX_ID_LENGTH as MAX_USAGE_ID_LENGTH
from app.services.usage.ledger import Given, Result
from app.services.usage.reading import Status, Summary
from app.values import unix_now

router = APIRouter(prefix="/usage", tags=["Usage"])

BATCH = 1000
MAX_BATCH_BYTES = 512 * 1024
_MOST = 2**53  # what JSON's readers can tell apart

UsageWriterDep = Annotated[ServiceKey, Depends(key_with("usage:write"))]
UsageUserDep = Annotated[User, Depends(user_with("usage:write"))]
UsageIdPath = Annotated[
    str, Path(min_length=1, max_length=MAX_USAGE_ID_LENGTH, description="The id its recorder chose")
]


class UsageRecordCreate(Input):
    """What Stripe's former usage records took."""

    quantity: int = Field(ge=0, le=_MOST, description="How much was used", examples=[12])
    timestamp: int | Literal["now"] = Field(
        default="now", description="When, unix seconds; up to 35 days ago", examples=[1795248000]
    )
    action: Literal["increment", "set"] = Field(
        default="increment", description="Only `increment`: Stripe's meters add up, nothing can be set"
    )


class UsageRecordRead(Output):
    """The usage as it was recorded."""

    id: str = Field(description="Its id; what was recorded can be taken back by it")
    object: Literal["usage_record"] = Field(default="usage_record", description="What this is")
    quantity: int = Field(description="How much was used")
    subscription_item: str = Field(description="The item it was recorded for")
    timestamp: int = Field(description="When, unix seconds")
    livemode: bool = Field(description="Whether real money is meant")


class UsageEventCreate(Input):
    """Usage of one user, or of one Stripe customer."""

    id: str = Field(
        min_length=1,
        max_length=MAX_USAGE_ID_LENGTH,
        pattern=r"^[\x21-\x7e]+$",
        description="Chosen by you, good for this event alone, for ever: sending it again counts nothing",
        examples=["req-8f14e45f"],
    )
    meter: str = Field(
        pattern=r"^[a-z0-9_]{1,40}$", description="The meter's key in plans.yaml", examples=["api_calls"]
    )
    quantity: int = Field(default=1, ge=0, le=_MOST, description="How much was used")
    timestamp: int | None = Field(default=None, ge=0, le=_MOST, description="When, unix seconds; without it, now")
    user_id: str | None = Field(default=None, min_length=1, max_length=255, description="Who used it")
    customer: str | None = Field(
        default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Instead of `user_id`: the Stripe customer"
    )

    # The patterns see to the others; a call for each field of a thousand events takes its time.
    _storable = field_validator("user_id", "customer", mode="before")(storable)

    @model_validator(mode="after")
    def _names_one_person(self) -> Self:
        if (self.user_id is None) == (self.customer is None):
            raise ValueError("Send exactly one of user_id and customer")
        return self


class UsageEventsCreate(Input):
    """A batch. Each event is judged by itself, in this order."""

    events: list[UsageEventCreate] = Field(min_length=1, max_length=BATCH, description="Up to 1000 events")


class UsageOutcomeRead(Output):
    """What became of one event."""

    id: str = Field(description="The event's id")
    result: Result = Field(description="`duplicate`: it had been recorded before, as it is")
    code: str | None = Field(
        description="Why it was refused: `limit_exceeded`, `timestamp_too_old`, `timestamp_in_future`, "
        "`unknown_meter`, `unknown_customer`, `id_reused` (the id belongs to another event), `busy` (try again)"
    )


class UsageBatchRead(Output):
    """What became of a batch."""

    accepted: int = Field(description="How many were recorded now")
    duplicates: int = Field(description="How many had been recorded before")
    refused: int = Field(description="How many were not recorded")
    results: list[UsageOutcomeRead] = Field(description="Event by event, in the order they were sent")


class UsageSummaryRead(Output):
    """Usage of one meter in one period."""

    meter: str = Field(description="The meter's key", examples=["api_calls"])
    period_start: int = Field(description="When the period began, unix seconds")
    resets_at: int = Field(description="When it ends and counting begins anew, unix seconds")
    used: int = Field(description="How much was used")
    limit: int | None = Field(description="How much the plan allows; null is without limit")
    remaining: int | None = Field(description="How much is left; null without a limit")

    @classmethod
    def of(cls, summary: Summary) -> Self:
        return cls(
            meter=summary.meter,
            period_start=summary.period_start,
            resets_at=summary.period_end,
            used=summary.used,
            limit=summary.limit,
            remaining=summary.remaining,
        )


class UsageEventRead(Output):
    """One event and how far it has come. Times are unix seconds."""

    id: str = Field(description="The id its recorder chose, or we for a correction")
    customer: str = Field(description="Whose usage it is: the user's id, or else the Stripe customer")
    meter: str = Field(description="The meter's key")
    quantity: int = Field(description="How much; negative in a correction")
    timestamp: int = Field(description="When it was used")
    status: Status = Field(
        description="`held` until Stripe knows the customer, `pending` until Stripe took it, `sent`, `failed` if "
        "Stripe refused it (or `outcome_unknown`), `expired` if it grew too old to be sent, `canceling`, `canceled`"
    )
    error_code: str | None = Field(description="Why it failed, or was put off last", examples=["no_meter"])
    corrects: str | None = Field(description="The event that this one evens out")
    attempts: int = Field(description="How often Stripe was told")
    recorded_at: int = Field(description="When it was recorded")
    sent_at: int | None = Field(description="When Stripe took it")

    @classmethod
    def of(cls, event: UsageEvent) -> Self:
        return cls(
            id=event.id,
            customer=event.subject,
            meter=event.meter,
            quantity=event.quantity,
            timestamp=event.timestamp,
            status=event.status,
            error_code=event.error_code,
            corrects=event.corrects,
            attempts=event.attempts,
            recorded_at=int(event.recorded_at.timestamp()),
            sent_at=None if event.sent_at is None else int(event.sent_at.timestamp()),
        )


class UsageCorrectionRead(Output):
    """How an event was taken back."""

    way: Way = Field(
        description="`withdrawn`: Stripe never had it; `cancellation`: Stripe is told to cancel it; `negative_event`: "
        "too late for that, so an event of the opposite quantity is sent"
    )
    correction: str | None = Field(description="The id of that event")
    event: UsageEventRead = Field(description="The event as it is now")


@router.post("/record")
async def record_usage(
    *,
    session: SessionDep,
    catalog: CatalogDep,
    user: UsageUserDep,
    key: IdempotencyKeyDep,
    body: UsageRecordCreate,
    subscription_item_id: Annotated[
        str, Query(min_length=1, max_length=MAX_ID_LENGTH, description="One of the user's subscription items")
    ],
    meter: Annotated[
        str | None, Query(max_length=40, description="The meter's key; needless where the catalogue has but one")
    ] = None,
) -> UsageRecordRead:
    """Record usage of a subscription item. With an Idempotency-Key, repeating it counts nothing, ever.

    409 `limit_exceeded` where the plan's limit leaves no room; 404 `subscription_item_not_found` for another's item.
    """
    if body.action == "set":
        raise InvalidRequestError(
            "Stripe's meters add up what they are told; a total can't be set. Send the increment, and take back what "
            "was recorded wrongly.",
            code="usage_set_unsupported",
            param="action",
        )
    id = f"record-{key}"
    recorded = await items.record_for_item(
        session,
        catalog,
        user_id=user.user_id,
        item=subscription_item_id,
        meter=meter,
        quantity=body.quantity,
        timestamp=None if body.timestamp == "now" else body.timestamp,
        id=id,
        now=unix_now(),
    )
    usage_recorded.labels(recorded.meter, recorded.outcome.result).inc()
    return UsageRecordRead(
        id=id,
        quantity=body.quantity,
        subscription_item=subscription_item_id,
        timestamp=recorded.timestamp,
        livemode=recorded.livemode,
    )


@router.post("/events", responses={413: {"description": "The body is larger than 512 KiB"}})
async def record_usage_events(
    session: SessionDep, catalog: CatalogDep, _key: UsageWriterDep, body: UsageEventsCreate
) -> UsageBatchRead:
    """Record up to 1000 events. Each is counted once for ever: if an answer is lost, send them again.

    Needs a service key with the scope `usage:write`.
    """
    given = [
        Given(
            id=event.id,
            meter=event.meter,
            quantity=event.quantity,
            timestamp=event.timestamp,
            user_id=event.user_id,
            customer=event.customer,
        )
        for event in body.events
    ]
    outcomes = await ledger.record(session, catalog, given, now=unix_now())
    counts = Counter(outcome.result for outcome in outcomes)
    for (name, result), number in Counter(
        (event.meter if event.meter in catalog.meters else "unknown", outcome.result)
        for event, outcome in zip(given, outcomes, strict=True)
    ).items():
        usage_recorded.labels(name, result).inc(number)
    return UsageBatchRead.model_validate(
        {
            "accepted": counts["accepted"],
            "duplicates": counts["duplicate"],
            "refused": counts["refused"],
            "results": outcomes,
        }
    )


@router.get("")
async def get_usage(
    session: SessionDep,
    catalog: CatalogDep,
    user: ReadUserDep,
    earlier: Annotated[int, Query(ge=0, le=100, description="How many summaries of periods that are over")] = 0,
) -> list[UsageSummaryRead]:
    """What was used of each meter in the current period, and what is left; then of periods before, newest first."""
    found = await reading.summarize(session, catalog, user_id=user.user_id, earlier=earlier, now=unix_now())
    return [UsageSummaryRead.of(summary) for summary in found]


@router.get("/events")
async def list_usage_events(
    session: SessionDep,
    page: PageDep,
    _operator: OperatorDep,
    status: Annotated[Status | None, Query(description="Only those that have come so far")] = None,
    customer: Annotated[
        str | None, Query(min_length=1, max_length=MAX_ID_LENGTH, description="Only of this user, or Stripe customer")
    ] = None,
    meter: Annotated[str | None, Query(max_length=40, description="Only of this meter")] = None,
) -> list[UsageEventRead]:
    """Single events, newest first: `status=failed` shows what Stripe refused."""
    rows = await reading.list_events(
        session,
        status=status,
        subject=customer,
        meter=meter,
        limit=page.limit,
        starting_after=page.starting_after,
    )
    return [UsageEventRead.of(row) for row in page.cut(rows, lambda row: row.id)]


@router.post("/events/{id}/cancel")
async def cancel_usage_event(
    session: SessionDep, catalog: CatalogDep, _key: UsageWriterDep, actor: ActorDep, id: UsageIdPath
) -> UsageCorrectionRead:
    """Take an event back, here at once and at Stripe as soon as may be; what was invoiced already stays invoiced.

    Needs a service key with the scope `usage:write`. Twice is no error.
    """
    done = await corrections.cancel(session, catalog, id, actor=actor, now=unix_now())
    return UsageCorrectionRead(way=done.way, correction=done.by, event=UsageEventRead.of(done.event))


@router.post("/events/{id}/retry")
async def retry_usage_event(
    session: SessionDep, _operator: OperatorDep, actor: ActorDep, id: UsageIdPath
) -> UsageEventRead:
    """Send a `failed` event again, after what kept Stripe from counting it was mended.

    409 for an event that did not fail, was taken back, or is too old for Stripe. One with the code `outcome_unknown`
    may be counted twice by this: look first whether Stripe has it.
    """
    return UsageEventRead.of(await corrections.retry(session, id, actor=actor, now=unix_now()))
