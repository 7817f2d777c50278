"""What is left of a customer who was erased: amounts, dates and Stripe's ids, but nothing that says who it was.

See docs/customers.md for what goes, what stays, and why.
"""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CompoundSelect,
    LargeBinary,
    Select,
    Text,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import (
    ApiCall,
    CreditAccount,
    CreditCharge,
    CreditTopup,
    CreditTransfer,
    Customer,
    IdempotencyKey,
    OutboxMessage,
    Replay,
    StripeEvent,
    UsageEvent,
    UsageLease,
    UsageTotal,
)
from app.models.mirror import Mirrored
from app.services import audit, outbox, usage_totals
from app.services.mirror import PERSONAL, impersonal, table_of

OWNED = tuple(table_of(model) for model in Mirrored.__subclasses__() if "customer_id" in table_of(model).columns)
"""What belongs to a customer at Stripe."""

_MANY = tuple(column.class_.__table__.columns[column.key] for column in (ApiCall.user_id, UsageEvent.subject))

NAMING = (*_MANY, *(column.class_.__table__.columns[column.key] for column in (UsageTotal.subject, UsageLease.subject)))
"""Columns that say by the host product's id whose a row is; by Stripe's of those who are no user's."""

SLICE = 5000  # rows renamed by one statement: a fraction of a second

ERASED = "erased_"


STAND_IN = func.concat(ERASED, func.replace(cast(Customer.id, Text), "-", ""))
"""`stand_in`, of a row of customers."""

ACCOUNT_STAND_IN = func.concat(ERASED, func.replace(cast(CreditAccount.id, Text), "-", ""))
"""The same of a row of credit_accounts, for users who are no customers."""


def stand_in(id: UUID) -> str:
    """What takes the user id's place: it says nothing, and is the same however often the erasing is begun.

    `id` is the customer's, or the credit account's of a user who is none.
    """
    return ERASED + id.hex


async def is_named(session: AsyncSession, names: Collection[str]) -> bool:
    """Whether any row that names a person so is there, but for what is their customers' or their account's."""
    return bool(await session.scalar(select(or_(*(exists().where(column.in_(names)) for column in NAMING)))))


async def rename_some(session: AsyncSession, user_id: str, to: str) -> bool:
    """Take what tells of the user out of a slice of the rows that may be many; False when there were none."""
    accounts = select(CreditAccount.id).where(CreditAccount.user_id == user_id)
    return await _rename_some(session, user_id, to) or await _empty_some_charges(session, accounts)


async def _rename_some(session: AsyncSession, user_id: str, to: str) -> bool:
    """Put `to` in the user id's place."""
    for column in _MANY:
        table = column.table
        key = table.primary_key.columns
        some = select(*key).where(column == user_id).limit(SLICE)
        renaming = update(table).where(tuple_(*key).in_(some)).values({column.name: to}).returning(literal(1))
        if (await session.execute(renaming)).first() is not None:
            return True
    return False


async def _empty_some_charges(session: AsyncSession, accounts: Select[Any]) -> bool:
    """What was said of them goes, and the fingerprint, which is one of that too; their keys are for ever."""
    # By their transfers: no index leads from an account to its charges.
    some = (
        select(CreditCharge.id)
        .join(CreditTransfer, CreditTransfer.charge_id == CreditCharge.id)
        .where(CreditTransfer.account_id.in_(accounts), CreditCharge.fingerprint != b"")
        .limit(SLICE)
    )
    emptying = (
        update(CreditCharge).where(CreditCharge.id.in_(some)).values(description=None, details=None, fingerprint=b"")
    )
    return (await session.execute(emptying.returning(literal(1)))).first() is not None


async def forget(session: AsyncSession, customer_id: UUID, *, actor: str) -> None:
    """Take everything personal out of what is here of the customer, whose lock is held. Twice is no error."""
    found = select(Customer.stripe_id, Customer.user_id).where(Customer.id == customer_id)
    stripe_id, user_id = (await session.execute(found)).one()
    name = stand_in(customer_id)
    if user_id == name:
        return
    await empty_events(session, select(Customer.id).where(Customer.id == customer_id))
    if user_id is not None:
        while await _rename_some(session, user_id, name):
            pass
        await _forget_user(session, user_id, name)
    await _empty_answers(session, stripe_id, user_id)
    for table in OWNED:
        if blank := {column: None for column in PERSONAL if column in table.columns}:
            values = {**impersonal(blank), "revision": table.c.revision + 1}
            await session.execute(update(table).where(table.c.customer_id == customer_id).values(values))
    await session.execute(update(OutboxMessage).where(OutboxMessage.customer_id == customer_id).values(data={}))
    person: dict[str, Any] = {
        "user_id": name,
        "email": None,
        "name": None,
        "stripe_metadata": {},
        "default_payment_method": None,
    }
    await session.execute(
        update(Customer).where(Customer.id == customer_id).values({**person, "revision": Customer.revision + 1})
    )
    message = outbox.Message(
        key=f"customer.erased:{stripe_id}",
        type="customer.erased",
        subject=stripe_id,
        customer_id=customer_id,
        stripe_event_id=None,
        data={},
    )
    await outbox.append(session, [message])
    await audit.record(session, actor=actor, action="customer.erased", subject=stripe_id, customer_id=customer_id)
    if user_id is not None:
        await _forget_account(session, user_id, name)


async def forget_account(session: AsyncSession, account_id: UUID, user_id: str, *, actor: str) -> None:
    """Take everything personal out of what is here of a user without a customer."""
    name = stand_in(account_id)
    while await _rename_some(session, user_id, name):
        pass
    await _forget_user(session, user_id, name)
    await _empty_answers(session, str(account_id), user_id)
    await audit.record(session, actor=actor, action="credit_account.erased", subject=str(account_id))
    await _forget_account(session, user_id, name)


async def close_accounts(session: AsyncSession, user_ids: Sequence[str]) -> None:
    """Nothing is charged to, or bought for, these users any more. After the audit log, as for all locks of accounts."""
    closing = update(CreditAccount).where(CreditAccount.user_id.in_(user_ids)).values(status="closed")
    closed = (await session.scalars(closing.returning(CreditAccount.id))).all()
    await session.execute(delete(CreditTopup).where(CreditTopup.account_id.in_(closed)))


async def _forget_account(session: AsyncSession, user_id: str, name: str) -> None:
    """Its ledger stays, and is nobody's."""
    await close_accounts(session, [user_id])
    person = {"user_id": name, "oauth_provider": None, "external_id": None, "email": None}
    await session.execute(update(CreditAccount).where(CreditAccount.user_id == user_id).values(person))
    while await _empty_some_charges(session, select(CreditAccount.id).where(CreditAccount.user_id == name)):
        pass


async def empty_events(session: AsyncSession, customers: Select[Any]) -> None:
    """Empty what was told of these customers, and of what belongs to them, but for what is still to be applied."""
    await session.execute(
        update(StripeEvent)
        .where(
            StripeEvent.key.in_(keys_of(customers)), StripeEvent.payload.is_not(None), StripeEvent.status != "pending"
        )
        .values(payload=None, last_error=None)
        .execution_options(synchronize_session=False)
    )


def keys_of(customers: Select[Any]) -> CompoundSelect[Any]:
    """What events are filed under that tell of these customers, or of what belongs to them."""
    owned = (select(table.c.stripe_id).where(table.c.customer_id.in_(customers)) for table in OWNED)
    return union_all(select(Customer.stripe_id).where(Customer.id.in_(customers)), *owned)


async def _forget_user(session: AsyncSession, user_id: str, name: str) -> None:
    """What else names the user, none of it much: who called, what was used in all, what was searched for."""
    actor = f"user:{user_id}"
    await usage_totals.move(session, user_id, name)  # whoever goes on using the product has totals come up again
    # Stripe takes no usage of a customer it has deleted.
    unsent = UsageEvent.status.in_(("held", "pending", "canceling"))
    await session.execute(
        update(UsageEvent)
        .where(UsageEvent.subject == name, unsent)
        .values(status="expired", error_code="customer_deleted")
    )
    await session.execute(
        update(ApiCall).where(ApiCall.user_id == name, ApiCall.actor == actor).values(actor=f"user:{name}")
    )
    searched = Replay.filter["customer"].astext
    renamed = Replay.filter.concat(literal({"customer": name}, JSONB))
    await session.execute(update(Replay).where(searched == user_id).values(filter=renamed))


async def _empty_answers(session: AsyncSession, id: str, user_id: str | None) -> None:
    """Empty the answers kept for repeated requests: to the user, about them, or that name the customer or account."""
    named = func.position(literal(f'"{id}"'.encode(), LargeBinary).op("IN")(IdempotencyKey.body)) > 0
    answers = or_(IdempotencyKey.user_id == id, named)
    if user_id is not None:
        answers = or_(answers, IdempotencyKey.user_id == user_id, IdempotencyKey.caller == f"user:{user_id}")
    await session.execute(
        update(IdempotencyKey)
        .where(answers, IdempotencyKey.body.is_not(None))
        .values(headers=None, body=None, user_id=None)
        .execution_options(synchronize_session=False)
    )
