"""A customer's timeline for operators: everything that happened to them, in one list."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import Field

from app import models
from app.api.deps import OperatorDep, SessionDep
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.schemas import Output
from app.services import timeline
from app.services.timeline import Entry

router = APIRouter(prefix="/customers", tags=["Operators"])


class TimelineEntry(Output):
    """One thing that happened."""

    id: str = Field(description="`{kind}:{number}`; a page starts after what `Link` says, not after this")
    at: int = Field(description="When we learned of it or did it, unix seconds")
    kind: Literal["event", "call", "change", "message"] = Field(
        description="`event` of Stripe's, `call` of our API that wanted a change, `change` in the audit log, "
        "`message` of the outbox"
    )
    type: str = Field(
        description="Stripe's type, the call's method and route, the audit log's action, or the outbox's own name",
        examples=["invoice.paid", "POST /api/v1/billing/subscription/cancel", "subscription.updated"],
    )
    actor: str = Field(description="`stripe`, `user:{id}`, `key:{id}`, `cli`, or `system` for what Billhook announced")
    subject: str = Field(description="The id of what it is about: a Stripe object, the event itself, or the user")
    stripe_event_id: str | None = Field(description="The event that told us, or that this is")
    detail: dict[str, Any] = Field(
        description="An event's `status`, `reason`, `created`, `attempts`, `last_error`; a call's `status`, "
        "`request_id`; a change's `before`, `after`; what a message tells. Times are unix seconds, amounts minor units"
    )

    @classmethod
    def of(cls, entry: Entry) -> "TimelineEntry":
        shown = _shown(entry.row)
        return cls(id=f"{shown['kind']}:{entry.row.id}", at=int(entry.at.timestamp()), **shown)


@router.get(
    "/{id}/timeline",
    responses={404: {"description": "`customer_not_found`"}},
)
async def get_timeline(
    session: SessionDep,
    _operator: OperatorDep,
    page: PageDep,
    id: Annotated[str, Path(max_length=MAX_ID_LENGTH, description="A user id, or the id of a Stripe customer")],
) -> list[TimelineEntry]:
    """Newest first: Stripe's events, calls of the API, changes and announcements. Needs the scope `operator`.

    `starting_after` is taken from the `Link` of the page before.
    """
    entries = await timeline.list_entries(session, id, limit=page.limit, starting_after=page.starting_after)
    return [TimelineEntry.of(entry) for entry in page.cut(entries, lambda entry: entry.place)]


def _shown(row: timeline.Row) -> dict[str, Any]:
    match row:
        case models.StripeEvent():
            return {
                "kind": "event",
                "type": row.type,
                "actor": "stripe",
                "subject": row.event_id,
                "stripe_event_id": row.event_id,
                "detail": {
                    name: getattr(row, name) for name in ("status", "reason", "created", "attempts", "last_error")
                },
            }
        case models.ApiCall():
            return {
                "kind": "call",
                "type": f"{row.method} {row.route}",
                "actor": row.actor,
                "subject": row.user_id,
                "stripe_event_id": None,
                "detail": {"status": row.status, "request_id": row.request_id},
            }
        case models.AuditRow():
            return {
                "kind": "change",
                "type": row.action,
                "actor": row.actor,
                "subject": row.subject,
                "stripe_event_id": row.stripe_event_id,
                "detail": {"before": row.before, "after": row.after},
            }
        case models.OutboxMessage():
            return {
                "kind": "message",
                "type": row.type,
                "actor": "system",
                "subject": row.subject,
                "stripe_event_id": row.stripe_event_id,
                "detail": row.data,
            }
