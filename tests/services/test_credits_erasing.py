"""Erasing somebody with a credit account: their books stay right and say nothing of them; and what is exported."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from billing import ADA, Account
from sqlalchemy import select, text

from app.db import transaction
from app.errors import NotFoundError
from app.models import CreditAccount, CreditCharge, CreditTopup, CreditTransfer
from app.services import customers, erasing, exports, forgetting
from app.services.catalog import Credits
from app.services.credits import accounts, holds, verify
from app.services.credits.accounts import AccountSuspendedError, Identity
from app.services.credits.charges import Charged, Charger, Order
from app.values import unix_now
from app.worker import erasing as worker

RULES = Credits(free_uses=3, low_at=1, hold_seconds=60)
HER = Identity(user_id=ADA.user_id, oauth_provider="google", external_id="ada@example.com", email="ada@example.com")
PERSONAL = ("ada@example.com", "Ada", ADA.user_id)


@pytest.fixture
async def charger(account: Account) -> AsyncIterator[Charger]:
    charger = Charger(account.sessions.kw["bind"], sessions=account.sessions, rules=RULES)
    yield charger
    await charger.aclose()


async def charge(charger: Charger, **said: Any) -> Charged:
    about = {"description": "to Ada", "metadata": {"to": "ada@example.com"}}
    return await charger.charge(Order(**{"identity": HER, "key": uuid4().hex, **about, **said}))  # type: ignore[arg-type]


@pytest.fixture
async def customer(account: Account, charger: Charger) -> str:
    """Ada, a customer with nothing but an account; her customer's id."""
    async with transaction(account.sessions) as session:
        row, _ = await customers.ensure(session, account.provider, ADA, actor="key:operator")
    await account.deliver_and_process(account.events())
    await charge(charger)
    async with transaction(account.sessions) as session:
        hers = await accounts.get(session, user_id=ADA.user_id)
        session.add(CreditTopup(account_id=hers.id, pack="starter", threshold=1))
    return row.stripe_id


async def begin(account: Account, id: str) -> None:
    async with transaction(account.sessions) as session:
        await erasing.begin(session, id, cancel_subscriptions=True, actor="key:operator")


async def erase(account: Account, id: str) -> str:
    """Gives what stands in the user id's place."""
    left = await worker.erase(account.sessions, account.provider, id, cancel_subscriptions=True, actor="key:operator")
    return forgetting.stand_in(left.id)


async def rows(account: Account, model: type[Any]) -> list[Any]:
    async with account.sessions() as session:
        return list((await session.scalars(select(model))).all())


async def told_in_credits(account: Account) -> str:
    """All that the tables of credits say."""
    names = ("accounts", "charges", "grants", "purchases", "topups", "transfers")
    async with account.sessions() as session:
        found = [await session.scalars(text(f"SELECT t::text FROM credit_{name} AS t")) for name in names]  # noqa: S608 - our own
        return "\n".join(line for lines in found for line in lines)


async def is_right(account: Account) -> bool:
    async with account.sessions() as session:
        return not [one async for found in verify.slices(session) for one in found.violations]


async def test_the_ledger_stays_and_says_nothing_of_her(account: Account, customer: str) -> None:
    before = [(row.id, row.amount, row.kind) for row in await rows(account, CreditTransfer)]
    told = await told_in_credits(account)
    assert all(what in told for what in PERSONAL)
    name = await erase(account, customer)
    [left] = await rows(account, CreditAccount)
    assert (left.user_id, left.status, left.free, left.used) == (name, "closed", 2, 1)
    told = await told_in_credits(account)
    assert not [what for what in PERSONAL if what in told]
    assert [(row.id, row.amount, row.kind) for row in await rows(account, CreditTransfer)] == before
    assert await rows(account, CreditTopup) == []
    assert await is_right(account)


async def test_charges_are_emptied_slice_by_slice(
    account: Account, charger: Charger, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "SLICE", 2)
    await charge(charger)
    await charge(charger)
    await charge(charger, identity=Identity(user_id="bob"))
    assert await begin(account, customer) is None
    slices = 0
    renaming = True
    while renaming:
        async with transaction(account.sessions) as session:
            renaming = await erasing.rename_some(session, customer)
        slices += renaming
    assert slices == 2
    await erase(account, customer)
    kept = [(row.description, row.details) for row in await rows(account, CreditCharge) if row.fingerprint]
    assert kept == [("to Ada", {"to": "ada@example.com"})]  # which is Bob's


async def test_what_was_held_is_still_captured_and_the_key_charges_nothing_again(
    account: Account, charger: Charger, customer: str
) -> None:
    held = await charge(charger, quantity=2, hold=True, key="k")
    await erase(account, customer)
    async with transaction(account.sessions) as session:
        await holds.capture(session, RULES, charge_id=held.id, quantity=1, now=unix_now())
    with pytest.raises(Exception, match="came with another charge"):
        await charge(charger, quantity=2, hold=True, key="k")
    assert await is_right(account)


async def test_while_she_is_being_erased_nothing_is_charged(account: Account, charger: Charger, customer: str) -> None:
    await begin(account, customer)
    with pytest.raises(AccountSuspendedError) as refused:
        await charge(charger)
    assert refused.value.code == "account_closed"
    assert await rows(account, CreditTopup) == []
    assert len(await rows(account, CreditAccount)) == 1


async def test_while_somebody_is_being_erased_no_account_is_made_for_them(account: Account, charger: Charger) -> None:
    async with transaction(account.sessions) as session:
        row, _ = await customers.ensure(session, account.provider, ADA, actor="key:operator")
    await begin(account, row.stripe_id)
    with pytest.raises(NotFoundError) as refused:
        await charge(charger)
    assert refused.value.code == "account_not_found"
    assert await rows(account, CreditAccount) == []
    await erase(account, row.stripe_id)
    assert (await charge(charger)).balance_after == 2  # whoever comes back is somebody new


async def test_charges_that_come_meanwhile_are_in_the_ledger_or_refused(
    account: Account, charger: Charger, customer: str
) -> None:
    async with transaction(account.sessions) as session:
        book, _ = await accounts.open_or_create(session, RULES, HER, unix_now())
        book.grant(5000)
        await book.close()
    made, enough = 0, asyncio.Event()

    async def spend() -> None:
        nonlocal made
        while True:
            held = await charge(charger, hold=True)
            made += 1
            if made == 20:
                enough.set()
            async with transaction(account.sessions) as session:
                await holds.capture(session, RULES, charge_id=held.id, quantity=1, now=unix_now())

    spending = [asyncio.create_task(spend()) for _ in range(4)]
    await enough.wait()
    await begin(account, customer)
    ended = await asyncio.gather(*spending, return_exceptions=True)
    assert {getattr(error, "code", repr(error)) for error in ended} == {"account_closed"}
    await erase(account, customer)
    told = await told_in_credits(account)
    assert not [what for what in PERSONAL if what in told]
    assert [row.used for row in await rows(account, CreditAccount)] == [made + 1]
    assert await is_right(account)


async def test_stripe_s_own_event_ends_what_was_begun(account: Account, customer: str) -> None:
    await begin(account, customer)
    await account.provider.delete_customer(customer)
    await account.deliver_and_process(account.events())
    told = await told_in_credits(account)
    assert not [what for what in PERSONAL if what in told]
    assert [row.status for row in await rows(account, CreditAccount)] == ["closed"]


async def test_all_of_her_credits_is_exported_and_nobody_else_s(
    account: Account, charger: Charger, customer: str
) -> None:
    await charge(charger, identity=Identity(user_id="bob"))
    await charge(charger, identity=Identity(user_id=customer))  # who calls himself by her customer's id
    async with account.sessions() as session:
        person = await exports.find(session, customer)
    told = json.loads("".join([piece async for piece in exports.pieces(account.sessions, person)]))
    [hers] = told["credit_accounts"]
    assert (hers["user_id"], hers["email"]) == (ADA.user_id, "ada@example.com")
    counts = {name: len(found) for name, found in told.items() if name.startswith("credit_") and name != "credit_notes"}
    assert counts == {
        "credit_accounts": 1,
        "credit_charges": 1,
        "credit_grants": 1,
        "credit_purchases": 0,
        "credit_topups": 1,
        "credit_transfers": 2,
    }
    assert [row["metadata"] for row in told["credit_charges"]] == [{"to": "ada@example.com"}]
    assert {row["account_id"] for name in counts if name != "credit_accounts" for row in told[name]} == {hers["id"]}
