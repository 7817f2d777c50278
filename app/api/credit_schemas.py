"""Who a request about prepaid credits means, and how charges are shown."""

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import Path
from pydantic import Field, model_validator
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.api.deps import require_scope
from app.api.paging import MAX_ID_LENGTH
from app.api.schemas import Input, Output
from app.errors import InvalidRequestError, NotFoundError
from app.services import customers
from app.services.credits import accounts
from app.services.credits.accounts import Identity
from app.services.identity import Caller, Scope, User

Ignored = Annotated[
    str | None, Field(max_length=500, description="Accepted for clients of other credits services; not kept")
]


class Identified(Input):
    """Exactly one of `user_id`, `customer`, and `oauth_provider` with `external_id`; a user's own token needs none."""

    oauth_provider: str | None = Field(
        default=None,
        pattern=r"^(oauth:)?[a-z0-9_.-]{1,50}$",
        description="Who knows the user; `oauth:google` is the same as `google`",
        examples=["oauth:google"],
    )
    external_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="As whom, there", examples=["user@example.com"]
    )
    user_id: str | None = Field(
        default=None, min_length=1, max_length=255, description="Or the product's id of the user"
    )
    customer: str | None = Field(
        default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Or Stripe's id of the customer"
    )
    customer_email: str | None = Field(
        default=None, max_length=512, description="Kept with an account that is made by this"
    )
    wa_id: Ignored = None
    tenant_id: Ignored = None
    display_name: Ignored = None
    user_role: Ignored = None
    agent_id: Ignored = None
    marketing_opt_in: bool | None = Field(
        default=None, description="Accepted for clients of other credits services; not kept"
    )
    marketing_opt_in_source: Ignored = None
    context: dict[str, Any] | None = Field(
        default=None,
        max_length=50,
        description="Accepted for clients of other credits services; not kept",
        examples=[{"agent_id": "agent-1", "channel_id": "channel-1", "request_id": "req-1"}],
    )

    @model_validator(mode="after")
    def _names_at_most_one(self) -> Self:
        if (self.oauth_provider is None) != (self.external_id is None):
            raise ValueError("oauth_provider and external_id go together")
        if [self.user_id, self.customer, self.external_id].count(None) < 2:  # noqa: PLR2004 - two of the three
            raise ValueError("Send exactly one of user_id, customer, and oauth_provider with external_id")
        return self

    @property
    def named_user(self) -> str | None:
        """The user id this comes to; None where it names a Stripe customer, or nobody."""
        if self.oauth_provider is not None and self.external_id is not None:
            return customers.joined_user_id(self.oauth_provider.removeprefix("oauth:"), self.external_id)
        return self.user_id

    def identity(self, user_id: str, *, email: str | None = None) -> Identity:
        """`user_id` as their account will know them; `email` is where they are else said to be reached."""
        provider = None if self.oauth_provider is None else self.oauth_provider.removeprefix("oauth:")
        return Identity(
            user_id=user_id,
            oauth_provider=provider,
            external_id=self.external_id,
            email=self.customer_email or email,
        )


async def identify(session: AsyncSession, caller: Caller, body: Identified, *scopes: Scope) -> Identity:
    """Whom `body` means: with a user's own token nobody but them, with a service key (of one of `scopes`) anybody.

    Raises NotFoundError for others, and for a customer who is no user; InvalidRequestError where nobody is named.
    """
    named = body.named_user if body.customer is None else await _user_of(session, body.customer)
    return meant(caller, body, named, *scopes)


def meant(caller: Caller, body: Identified, named: str | None, *scopes: Scope) -> Identity:
    """The same where it is known which user `body` names, if any."""
    unknown = named is None and body.customer is not None
    if isinstance(caller, User):
        if unknown or named not in {None, caller.user_id}:
            raise NotFoundError("There is no such user.", code="user_not_found")
        return body.identity(caller.user_id, email=caller.email)
    require_scope(caller, *scopes)
    if unknown:
        raise NotFoundError("There is no user with this customer.", code="customer_not_found", param="customer")
    if named is None:
        raise nobody()
    return body.identity(named)


def nobody() -> InvalidRequestError:
    """What a service key is told that does not say whom it means."""
    return InvalidRequestError("A service key must say which user it means.", code="missing", param="user_id")


async def _user_of(session: AsyncSession, stripe_id: str) -> str | None:
    return await session.scalar(
        select(models.Customer.user_id).where(models.Customer.stripe_id == stripe_id, ~models.Customer.deleted)
    )


AccountIdPath = Annotated[str, Path(max_length=MAX_ID_LENGTH, description="The account's id, or its user's")]


async def get_account(session: AsyncSession, caller: Caller, id: str, *scopes: Scope) -> models.CreditAccount:
    """The account a path names: the user's own, or with a service key (of one of `scopes`) any.

    Raises NotFoundError, for somebody else's too.
    """
    if isinstance(caller, User):
        account = await accounts.get(session, user_id=caller.user_id)
        if id not in {str(account.id), account.user_id}:
            raise NotFoundError("There is no such account.", code="account_not_found")
        return account
    require_scope(caller, *scopes)
    return await accounts.named(session, id)


class ChargeRead(Output):
    """Uses spent or held. Times are unix seconds."""

    charge_id: UUID = Field(description="Its id")
    account_id: UUID = Field(description="Whose uses they are")
    quantity: int = Field(description="How many uses were spent, or held")
    status: str = Field(description="`captured` is spent; `held`, `released`, `expired`")
    captured: int = Field(description="How many of them were spent in the end")
    amount_minor: int | None = Field(description="What the use was worth, as you said; it decides nothing")
    currency: str | None = Field(description="Of `amount_minor`")
    balance_after: int = Field(description="How many uses were left when it was made")
    description: str | None = Field(description="The caller's own words")
    metadata: dict[str, str] | None = Field(description="The caller's own notes")
    expires_at: int | None = Field(description="When the hold ends by itself")
    created_at: int = Field(description="When it was made")

    @classmethod
    def of(cls, row: models.CreditCharge) -> Self:
        return cls(
            charge_id=row.id,
            account_id=row.account_id,
            quantity=row.quantity,
            status=row.status,
            captured=row.captured,
            amount_minor=row.amount_minor,
            currency=row.currency,
            balance_after=row.balance_after,
            description=row.description,
            metadata=row.details,
            expires_at=row.expires_at,
            created_at=row.created,
        )
