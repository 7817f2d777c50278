"""The account's own money at Stripe, which only Stripe knows."""

from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import Field

from app.api.deps import OperatorDep, ProviderDep
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.problems import FROM_STRIPE
from app.api.schemas import DecimalNumber, Output
from app.provider.payment_objects import Amount, BalanceTransaction
from app.values import Money

router = APIRouter(prefix="/balance", tags=["Payments"])


class AmountRead(Output):
    currency: str = Field(description="ISO 4217, lower case")
    amount: DecimalNumber = Field(description="In major units; may be negative")
    amount_minor: int = Field(description="In the currency's minor unit")

    @classmethod
    def of(cls, found: Amount) -> Self:
        return cls(
            currency=found.currency, amount=Money(found.amount, found.currency).decimal, amount_minor=found.amount
        )


class BalanceRead(Output):
    """An amount per currency."""

    available: list[AmountRead] = Field(description="What can be paid out")
    pending: list[AmountRead] = Field(description="What has been collected and is on its way")


class BalanceTransactionRead(Output):
    """One movement of money. `…_minor` fields are in the currency's minor unit, times in unix seconds."""

    id: str = Field(description="Stripe's id", examples=["txn_3QxYz"])
    type: str = Field(description="e.g. `charge`, `refund`, `adjustment`, `payout`")
    reporting_category: str = Field(description="e.g. `charge`, `refund`, `dispute`, `dispute_reversal`, `fee`")
    status: str = Field(description="`pending` until `available_on`, then `available`")
    currency: str = Field(description="ISO 4217, lower case")
    amount: DecimalNumber = Field(description="In major units; negative for what went out")
    amount_minor: int = Field(description="Before the fee")
    fee_minor: int = Field(description="What Stripe kept")
    net_minor: int = Field(description="What the balance moved by")
    source: str | None = Field(description="The charge, refund, dispute or payout that caused it")
    description: str | None = Field(description="In Stripe's words")
    available_on: int = Field(description="When it can be paid out")
    created: int = Field(description="When it happened")

    @classmethod
    def of(cls, found: BalanceTransaction) -> Self:
        return cls(
            id=found.id,
            type=found.type,
            reporting_category=found.reporting_category,
            status=found.status,
            currency=found.currency,
            amount=Money(found.amount, found.currency).decimal,
            amount_minor=found.amount,
            fee_minor=found.fee,
            net_minor=found.net,
            source=found.source,
            description=found.description,
            available_on=found.available_on,
            created=found.created,
        )


@router.get("", responses=FROM_STRIPE)
async def get_balance(provider: ProviderDep, _operator: OperatorDep) -> BalanceRead:
    """What the account holds, asked of Stripe. Needs the scope `operator`."""
    found = await provider.retrieve_balance()
    return BalanceRead(
        available=[AmountRead.of(amount) for amount in found.available],
        pending=[AmountRead.of(amount) for amount in found.pending],
    )


@router.get(
    "/transactions", responses={**FROM_STRIPE, 404: {"description": "`not_found`: as `starting_after` or `source`"}}
)
async def list_balance_transactions(
    *,
    provider: ProviderDep,
    _operator: OperatorDep,
    page: PageDep,
    currency: Annotated[str | None, Query(pattern="^[a-z]{3}$", description="Only in this currency")] = None,
    source: Annotated[
        str | None,
        Query(max_length=MAX_ID_LENGTH, description="Only what this charge, refund or payout moved"),
    ] = None,
) -> list[BalanceTransactionRead]:
    """Newest first, asked of Stripe. Needs the scope `operator`."""
    found = await provider.list_balance_transactions(
        limit=page.limit, currency=currency, source=source, after=page.starting_after
    )
    if found.next is not None:
        page.link(found.next)
    return [BalanceTransactionRead.of(entry) for entry in found.objects]
