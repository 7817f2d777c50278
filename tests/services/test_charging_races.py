"""Accounts to which two things happen at once: each moment at which one could miss the other, made to happen."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import Sessions, transaction
from app.errors import ConflictError
from app.services import audit
from app.services.catalog import Credits
from app.services.credits import accounts, charges, grants
from app.services.credits.accounts import AccountSuspendedError, Identity
from app.services.credits.charges import Charged, Charger, InsufficientCreditsError, Order
from app.values import unix_now

RULES = Credits(free_uses=3, low_at=-1, hold_seconds=60)
GATE = 4711  # an advisory lock


@pytest.fixture
async def chargers(engine: AsyncEngine, sessions: Sessions) -> AsyncIterator[tuple[Charger, Charger]]:
    """Of two processes."""
    two = Charger(engine, sessions=sessions, rules=RULES), Charger(engine, sessions=sessions, rules=RULES)
    yield two
    for charger in two:
        await charger.aclose()


def order(**said: object) -> Order:
    return Order(**{"identity": Identity(user_id="ada"), "key": uuid4().hex, **said})  # type: ignore[arg-type]


@pytest.fixture
def delayed(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Charger, Order, Awaitable[object]], Awaitable[Charged]]:
    """Charges by a statement that has begun, and has not come to the account, while `meanwhile` happens."""

    @asynccontextmanager
    async def gate() -> AsyncIterator[None]:
        async with sessions() as session:
            await session.execute(text(f"SELECT pg_advisory_lock({GATE})"))
            yield
            await session.execute(text(f"SELECT pg_advisory_unlock({GATE})"))

    async def charge(charger: Charger, wanted: Order, meanwhile: Awaitable[object]) -> Charged:
        place = "WHERE user_id = asked.user_id"
        assert charges.CHARGE.count(place) == 1
        slow = charges.CHARGE.replace(place, f"{place} AND pg_advisory_xact_lock_shared({GATE})::text IS NOT NULL")
        async with gate():
            with monkeypatch.context() as patched:
                patched.setattr(charges, "CHARGE", slow)
                answer = asyncio.create_task(charger.charge(wanted))
                await asyncio.wait_for(_somebody_waits(sessions), 10)
            await meanwhile
        return await answer

    return charge


Delayed = Callable[[Charger, Order, Awaitable[object]], Awaitable[Charged]]


async def test_who_repeats_what_another_process_has_just_charged_is_not_refused(
    chargers: tuple[Charger, Charger], delayed: Delayed
) -> None:
    """The last use went to the very same charge: it is not one more for which there is none left."""
    first, second = chargers
    await first.charge(order(quantity=2))
    last = order()
    again = await delayed(second, last, first.charge(last))
    assert (again.replayed, again.balance_after) == (True, 0)


async def test_who_repeats_a_charge_of_an_account_that_was_suspended_meanwhile_is_not_refused(
    chargers: tuple[Charger, Charger], delayed: Delayed, sessions: Sessions
) -> None:
    first, second = chargers
    await first.charge(order())
    same = order()

    async def charge_and_suspend() -> None:
        await first.charge(same)
        async with transaction(sessions) as session:
            await session.execute(text("UPDATE credit_accounts SET status = 'suspended'"))

    assert (await delayed(second, same, charge_and_suspend())).replayed
    with pytest.raises(AccountSuspendedError):
        await second.charge(order())


async def test_a_charge_sees_what_was_spent_since_its_statement_began(
    chargers: tuple[Charger, Charger], delayed: Delayed
) -> None:
    first, second = chargers
    await first.charge(order())
    with pytest.raises(InsufficientCreditsError) as refusal:
        await delayed(second, order(), first.charge(order(quantity=2)))
    assert (refusal.value.balance.available, refusal.value.balance.used) == (0, 3)


async def test_a_refusal_writes_off_what_has_expired_so_that_the_next_needs_no_open_books(
    chargers: tuple[Charger, Charger], sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    charger, _ = chargers
    await charger.charge(order(quantity=2))
    async with transaction(sessions) as session:
        past = {"past": unix_now() - 1}
        await session.execute(text("UPDATE credit_grants SET expires_at = :past"), past)
        await session.execute(text("UPDATE credit_accounts SET expires_next = :past"), past)
    with pytest.raises(InsufficientCreditsError):
        await charger.charge(order())
    monkeypatch.setattr(charges, "open_or_create", None)
    with pytest.raises(InsufficientCreditsError) as refusal:
        await charger.charge(order())
    assert refusal.value.balance.available == 0


@pytest.mark.parametrize("verb", ["reactivate", "grant", "adjust"])
async def test_an_account_that_was_closed_meanwhile_stays_as_it_is(
    chargers: tuple[Charger, Charger], sessions: Sessions, verb: str
) -> None:
    """Whoever is being erased spends nothing more, whatever an operator was about to do."""
    account_id = (await chargers[0].charge(order())).account_id
    async with transaction(sessions) as session:
        await session.execute(text("UPDATE credit_accounts SET status = 'suspended'"))

    async def operate() -> None:
        said = {"reason": "sorry", "key": "k", "actor": "key:1", "now": unix_now()}
        async with transaction(sessions) as session:
            if verb == "reactivate":
                await grants.set_status(session, account_id, "active", actor="key:1")
            elif verb == "grant":
                await grants.grant(session, RULES, account_id, uses=5, expires_at=None, **said)  # type: ignore[arg-type]
            else:
                await grants.adjust(session, RULES, account_id, uses=5, **said)  # type: ignore[arg-type]

    async with transaction(sessions) as erasing:
        await audit.lock(erasing, None)
        operating = asyncio.create_task(operate())
        await asyncio.wait_for(_somebody_waits(sessions), 10)
        await erasing.execute(text("UPDATE credit_accounts SET status = 'closed'"))
    with pytest.raises(ConflictError) as refusal:
        await operating
    assert refusal.value.code == "account_closed"
    async with sessions() as session:
        found = await accounts.get(session, account_id=account_id)
    assert (found.status, found.free + found.paid) == ("closed", 2)


async def _somebody_waits(sessions: Sessions) -> None:
    async with sessions() as session:
        waiting = text(
            """SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted"""
        )
        while not await session.scalar(waiting):  # noqa: ASYNC110 - what waits is another connection's, which tells nobody
            await asyncio.sleep(0.01)
