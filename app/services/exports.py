"""Everything we hold about a person, as one JSON document, piece by piece: it may be long.

Which tables these are is read from the tables themselves, so that a new one can't be forgotten.
"""

import json
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from sqlalchemy import ColumnElement, LargeBinary, Table, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import Base, Sessions
from app.errors import NotFoundError
from app.models import CreditAccount, CreditCharge, CreditTransfer, Customer, StripeEvent
from app.services import customers, erasing, forgetting
from app.services.mirror import table_of
from app.values import unix_now

PAGE = 200  # rows read at once

_CUSTOMERS = table_of(Customer)
_EVENTS, _ACCOUNTS, _CHARGES, _TRANSFERS = (
    Base.metadata.tables[model.__tablename__] for model in (StripeEvent, CreditAccount, CreditCharge, CreditTransfer)
)


@dataclass(frozen=True, slots=True)
class Person:
    """By what their rows are found: what names somebody so is theirs, and so are the accounts of `users`."""

    customers: Sequence[Customer]
    users: Collection[str]
    names: Collection[str]

    @classmethod
    def of(cls, customers: Sequence[Customer], *known_as: str) -> Self:
        users = {*known_as, *(customer.user_id for customer in customers if customer.user_id)}
        return cls(customers, users, users | {customer.stripe_id for customer in customers})

    def sections(self) -> Iterator[tuple[str, Table, ColumnElement[bool]]]:
        """Name, table, and which of its rows."""
        ids = [customer.id for customer in self.customers]
        yield "customers", _CUSTOMERS, _CUSTOMERS.c.id.in_(ids)
        for table in Base.metadata.sorted_tables:
            if "customer_id" in table.columns:
                yield table.name, table, table.c.customer_id.in_(ids)
        for column in forgetting.NAMING:
            yield column.table.name, column.table, column.in_(self.names)
        whose = _ACCOUNTS.c.user_id.in_(self.users)
        yield _ACCOUNTS.name, _ACCOUNTS, whose
        accounts = select(_ACCOUNTS.c.id).where(whose)
        for table in Base.metadata.sorted_tables:
            if "account_id" in table.columns and table is not _CHARGES:
                yield table.name, table, table.c.account_id.in_(accounts)
        # No index leads from an account to its charges, but one to its transfers.
        charges = select(_TRANSFERS.c.charge_id).where(_TRANSFERS.c.account_id.in_(accounts))
        yield _CHARGES.name, _CHARGES, _CHARGES.c.id.in_(charges)
        keys = forgetting.keys_of(select(_CUSTOMERS.c.id).where(_CUSTOMERS.c.id.in_(ids)))
        yield "stripe_events", _EVENTS, _EVENTS.c.key.in_(keys)


async def find(session: AsyncSession, id: str) -> Person:
    """`id` is as for `customers.get`, or a user's who has only credits or usage. Raises NotFoundError."""
    try:
        return Person.of(await erasing.of_person(session, await customers.get(session, id)))
    except NotFoundError:
        if await _is_known(session, person := Person.of([], id)):
            return person
        raise


async def find_own(session: AsyncSession, user_id: str) -> Person:
    """By nothing but the user id, which may look like anything, also like a customer's. Raises NotFoundError."""
    person = Person.of(await erasing.of_user(session, user_id), user_id)
    others = Customer.stripe_id == user_id, Customer.id.not_in([customer.id for customer in person.customers])
    if await session.scalar(select(Customer.id).where(*others)) is not None:  # then rows that say so are theirs
        person = replace(person, names=[name for name in person.names if name != user_id])
    if not person.customers and not await _is_known(session, person):
        raise NotFoundError("There is no billing customer for this user yet.", code="customer_not_found")
    return person


async def _is_known(session: AsyncSession, person: Person) -> bool:
    account = select(CreditAccount.id).where(CreditAccount.user_id.in_(person.users))
    return await session.scalar(account) is not None or await forgetting.is_named(session, person.names)


async def pieces(sessions: Sessions, person: Person) -> AsyncIterator[str]:
    """The document. No transaction lasts longer than a page, however slowly somebody reads."""
    yield f'{{"exported_at": {unix_now()}'
    for name, table, condition in person.sections():
        yield f', "{name}": ['
        between = ""
        async for page in _pages(sessions, table, condition):
            yield between + ", ".join(page)
            between = ", "
        yield "]"
    yield "}"


async def _pages(sessions: Sessions, table: Table, condition: ColumnElement[bool]) -> AsyncIterator[list[str]]:
    key = list(table.primary_key.columns)
    shown = [column for column in table.columns if not isinstance(column.type, LargeBinary)]
    query = select(*shown).where(condition).order_by(*key).limit(PAGE)
    after: tuple[Any, ...] | None = None
    while True:
        async with sessions() as session:
            rows = (await session.execute(query if after is None else query.where(tuple_(*key) > after))).all()
        if rows:
            yield [json.dumps(dict(row._mapping), default=_plain) for row in rows]  # noqa: SLF001 - its public name
        if len(rows) < PAGE:
            return
        after = tuple(rows[-1]._mapping[column.name] for column in key)  # noqa: SLF001 - the same


def _plain(value: object) -> object:
    """Moments as unix seconds, as everywhere in the API; ids as text."""
    return int(value.timestamp()) if isinstance(value, datetime) else str(value)
