"""Payments that customers' banks question."""

from typing import Annotated, Self

from fastapi import APIRouter, Path, Query
from pydantic import Field

from app import models
from app.api.deps import OperatorDep, SessionDep
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.schemas import DecimalNumber, Output
from app.services import payments
from app.values import Money

router = APIRouter(prefix="/disputes", tags=["Payments"])


class DisputeRead(Output):
    """`…_minor` fields are in the currency's minor unit, times in unix seconds."""

    id: str = Field(description="Stripe's id", examples=["du_1QxYz"])
    status: str = Field(description="e.g. `needs_response`, `under_review`, `won`, `lost`, `warning_needs_response`")
    reason: str = Field(description="What the customer says, e.g. `fraudulent`, `product_not_received`")
    currency: str = Field(description="ISO 4217, lower case")
    amount: DecimalNumber = Field(description="In major units")
    amount_minor: int = Field(description="What is in dispute")
    charge: str = Field(description="The payment's charge")
    payment_intent: str | None = Field(description="The payment")
    evidence_due_by: int | None = Field(description="Until when evidence is taken; null where there is nothing to say")
    created: int = Field(description="When it was opened")

    @classmethod
    def of(cls, row: models.Dispute) -> Self:
        return cls(
            id=row.stripe_id,
            status=row.status,
            reason=row.reason,
            currency=row.currency,
            amount=Money(row.amount, row.currency).decimal,
            amount_minor=row.amount,
            charge=row.charge,
            payment_intent=row.payment_intent,
            evidence_due_by=row.evidence_due_by,
            created=row.created,
        )


@router.get("", responses={404: {"description": "`dispute_not_found`: as `starting_after`"}})
async def list_disputes(
    *,
    session: SessionDep,
    _operator: OperatorDep,
    page: PageDep,
    status: Annotated[
        str | None, Query(max_length=MAX_ID_LENGTH, description="Only these, in Stripe's words: `needs_response`, …")
    ] = None,
) -> list[DisputeRead]:
    """Newest first. Evidence is handed in at Stripe. Needs the scope `operator`."""
    rows = await payments.list_disputes(session, status=status, limit=page.limit, starting_after=page.starting_after)
    return [DisputeRead.of(row) for row in page.cut(rows, lambda row: row.stripe_id)]


@router.get("/{dispute_id}", responses={404: {"description": "`dispute_not_found`"}})
async def get_dispute(
    session: SessionDep,
    _operator: OperatorDep,
    dispute_id: Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the dispute")],
) -> DisputeRead:
    """One of them. Needs the scope `operator`."""
    return DisputeRead.of(await payments.get_dispute(session, dispute_id))
