"""The audit log for operators: who changed what."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from app import models
from app.api.deps import OperatorDep, SessionDep
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.schemas import Output
from app.errors import InvalidRequestError
from app.services import audit

router = APIRouter(prefix="/audit", tags=["Operators"])

LARGEST_ID = 2**63 - 1


class AuditRead(Output):
    """One change, sealed by a hash over the one before."""

    id: int = Field(description="Grows with every change")
    at: int = Field(description="Unix seconds")
    actor: str = Field(description="`stripe`, `user:{id}`, `key:{id}`, `cli` or `system`")
    action: str = Field(description="`{object}.{what}`", examples=["subscription.updated"])
    subject: str = Field(description="The id of what changed", examples=["sub_1QxYz"])
    stripe_event_id: str | None = Field(description="The event that said so")
    before: dict[str, Any] | None = Field(description="What changed, as it was; null when it was made")
    after: dict[str, Any] | None = Field(description="As it is since; null when it is gone")
    hash: str = Field(description="SHA-256 over the row and the one before it, in hexadecimal")

    @classmethod
    def of(cls, row: models.AuditRow) -> "AuditRead":
        return cls(
            id=row.id,
            at=int(row.at.timestamp()),
            actor=row.actor,
            action=row.action,
            subject=row.subject,
            stripe_event_id=row.stripe_event_id,
            before=row.before,
            after=row.after,
            hash=row.hash.hex(),
        )


@router.get("")
async def list_audit_rows(
    session: SessionDep,
    _operator: OperatorDep,
    page: PageDep,
    customer: Annotated[
        str | None, Query(max_length=MAX_ID_LENGTH, description="Only this customer's: a user id or a Stripe id")
    ] = None,
) -> list[AuditRead]:
    """Newest first. Needs the scope `operator`."""
    rows = await audit.list_rows(
        session, customer=customer, limit=page.limit, starting_after=_row_id(page.starting_after)
    )
    return [AuditRead.of(row) for row in page.cut(rows, lambda row: str(row.id))]


def _row_id(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or int(text) > LARGEST_ID:
        raise InvalidRequestError("The id of an audit row is a number.", param="starting_after")
    return int(text)
