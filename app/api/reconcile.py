"""The comparison with Stripe, for operators: the latest one, and what it found."""

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from app import models
from app.api.deps import OperatorDep, SessionDep
from app.api.paging import PageDep
from app.api.schemas import Output
from app.errors import InvalidRequestError
from app.services.reconcile import runs

router = APIRouter(prefix="/reconcile", tags=["Operators"])

LARGEST_ID = 2**63 - 1


class DifferenceRead(Output):
    """One object that was otherwise here than at Stripe."""

    id: int = Field(description="Grows in the order they were found")
    object: str = Field(
        description="Stripe's word for it, e.g. `customer`, `subscription`, `event`; or `usage`, `credit_purchase`, "
        "`credit_account`"
    )
    stripe_id: str = Field(
        description="The object's id at Stripe; of a `credit_account` our own id, and what is wrong",
        examples=["sub_1QxYz"],
    )
    customer: str | None = Field(description="The Stripe customer it belongs to")
    cause: str = Field(
        description="`event_missing` (a webhook never came), `event_dead` (it could not be applied), `event_pending` "
        "(it still waits: no drift), `missing`, `stale`, `deleted`, `unknown` (this Stripe account never had it), "
        "`usage_differs` (Stripe counted other usage), `purchase_not_granted`, `purchase_unknown`, `claw_back_missing` "
        "(credits that were paid for, by nobody we know of, or paid back), `ledger_differs` (the books of credits), "
        "`unreadable` (of a shape Billhook does not know)"
    )
    fields: dict[str, Any] = Field(
        description="`{field: [ours, Stripe's]}`; of personal values only the field is named",
        examples=[{"status": ["active", "canceled"]}],
    )
    repaired: bool = Field(description="Whether our side was brought in line")
    found_at: int = Field(description="When it was found, unix seconds")

    @classmethod
    def of(cls, row: models.Difference) -> "DifferenceRead":
        return cls(
            id=row.id,
            object=row.object,
            stripe_id=row.stripe_id,
            customer=row.customer,
            cause=row.cause,
            fields=row.fields,
            repaired=row.repaired,
            found_at=int(row.found_at.timestamp()),
        )


class ReconcileReport(Output):
    """One comparison with Stripe. Times are unix seconds."""

    id: UUID = Field(description="Its id")
    actor: str = Field(description="Who began it: `reconcile` (the schedule) or `cli`")
    repair: bool = Field(description="Whether it was also to mend what it found")
    since: int | None = Field(description="Only what changed or was made since then; null for everything")
    status: str = Field(description="`running`, `done`, or `failed`: what was interrupted goes on with the next one")
    compared: int = Field(description="Objects compared so far")
    drifted: int = Field(description="Differences found, but for what still waits in the inbox")
    repaired: int = Field(description="How many of them were mended")
    error: str | None = Field(description="Why it could not go on")
    started_at: int = Field(description="When it began")
    finished_at: int | None = Field(description="When everything had been compared")
    differences: list[DifferenceRead] = Field(description="A page of what it found, in that order")

    @classmethod
    def of(cls, run: models.ReconcileRun, differences: list[DifferenceRead]) -> "ReconcileReport":
        return cls(
            id=run.id,
            actor=run.actor,
            repair=run.repair,
            since=run.since,
            status=run.status,
            compared=run.compared,
            drifted=run.drifted,
            repaired=run.repaired,
            error=run.error,
            started_at=int(run.started_at.timestamp()),
            finished_at=None if run.finished_at is None else int(run.finished_at.timestamp()),
            differences=differences,
        )


@router.get("/report", responses={404: {"description": "`reconcile_report_not_found`"}})
async def get_reconcile_report(session: SessionDep, _operator: OperatorDep, page: PageDep) -> ReconcileReport:
    """The latest comparison with Stripe and what it found. Needs the scope `operator`.

    `limit` and `starting_after` are about the differences; a page that starts after one is of the same comparison.
    """
    run, rows = await runs.report(session, limit=page.limit, starting_after=_difference_id(page.starting_after))
    return ReconcileReport.of(run, [DifferenceRead.of(row) for row in page.cut(rows, lambda row: str(row.id))])


def _difference_id(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or int(text) > LARGEST_ID:
        raise InvalidRequestError("The id of a difference is a number.", param="starting_after")
    return int(text)
