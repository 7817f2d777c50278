"""Charging uses: the fast statement, the open books, and that the two never disagree."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import Sessions, transaction
from app.errors import BillingError, ConflictError, InvalidRequestError
from app.models import CreditAccount, CreditCharge, CreditTransfer
from app.services.catalog import Credits
from app.services.credits import accounts, expiry, holds, verify
from app.services.credits.accounts import AccountSuspendedError, Identity
from app.services.credits.book import open_book
from app.services.credits.charges import Charged, Charger, InsufficientCreditsError, Order
from app.values import unix_now

RULES = Credits(free_uses=3, low_at=-1, hold_seconds=60)


@pytest.fixture
async def charger(engine: AsyncEngine, sessions: Sessions) -> AsyncIterator[Charger]:
    charger = Charger(engine, sessions=sessions, rules=RULES)
    yield charger
    await charger.aclose()


def order(user_id: str = "ada", **said: object) -> Order:
    return Order(**{"identity": Identity(user_id=user_id), "key": uuid4().hex, **said})  # type: ignore[arg-type]


async def grant(sessions: Sessions, uses: int, *, user_id: str = "ada", expires_at: int | None = None) -> None:
    async with transaction(sessions) as session:
        book, _ = await accounts.open_or_create(session, RULES, Identity(user_id=user_id), unix_now())
        book.grant(uses, expires_at=expires_at)
        await book.close()


async def account(sessions: Sessions, user_id: str = "ada") -> CreditAccount:
    async with sessions() as session:
        return await accounts.get(session, user_id=user_id)


async def available(sessions: Sessions, user_id: str = "ada") -> int:
    found = await account(sessions, user_id)
    return found.free + found.paid


async def test_a_new_user_has_three_uses_and_then_none(charger: Charger) -> None:
    left = [(await charger.charge(order())).balance_after for _ in range(3)]
    assert left == [2, 1, 0]
    with pytest.raises(InsufficientCreditsError) as refusal:
        await charger.charge(order())
    assert (refusal.value.balance.available, refusal.value.balance.used) == (0, 3)
    assert refusal.value.retryable


async def test_a_refused_key_works_after_a_purchase(charger: Charger, sessions: Sessions) -> None:
    wanted = order(quantity=4)
    with pytest.raises(InsufficientCreditsError):
        await charger.charge(wanted)
    await grant(sessions, 20)
    assert (await charger.charge(wanted)).balance_after == 19


async def test_500_at_once_on_20_uses_are_20(charger: Charger, sessions: Sessions) -> None:
    await grant(sessions, 17)  # and the three free ones
    outcomes = await asyncio.gather(*(charger.charge(order()) for _ in range(500)), return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, Charged)]
    assert len(made) == 20
    assert all(isinstance(outcome, Charged | InsufficientCreditsError) for outcome in outcomes)
    assert sorted(charge.balance_after for charge in made) == list(range(20))
    assert await available(sessions) == 0


async def test_a_large_order_that_is_refused_blocks_no_small_one(charger: Charger, sessions: Sessions) -> None:
    await grant(sessions, 10)
    await charger.charge(order(quantity=3))
    orders = [order(quantity=50), *(order() for _ in range(10))]
    outcomes = await asyncio.gather(*map(charger.charge, orders), return_exceptions=True)
    assert isinstance(outcomes[0], InsufficientCreditsError)
    assert all(isinstance(outcome, Charged) for outcome in outcomes[1:])


async def test_one_key_is_one_charge_however_many_ask(charger: Charger, sessions: Sessions) -> None:
    await grant(sessions, 20)
    same = order(description="a reply", metadata={"message": "7"}, amount_minor=100, currency="usd")
    answers = await asyncio.gather(*(charger.charge(same) for _ in range(20)))
    assert len({answer.id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert {answer.balance_after for answer in answers} == {22}
    assert await available(sessions) == 22


@pytest.mark.parametrize("other", [{"quantity": 2}, {"amount_minor": 5}, {"user_id": "bob"}, {"hold": True}])
async def test_a_key_with_other_input_is_refused(
    charger: Charger, sessions: Sessions, other: dict[str, object]
) -> None:
    await charger.charge(order(key="k"))
    with pytest.raises(InvalidRequestError) as refusal:
        await charger.charge(order(**{"key": "k", **other}))  # type: ignore[arg-type]
    assert refusal.value.code == "idempotency_key_reused"
    async with sessions() as session:
        assert len((await session.scalars(select(CreditCharge))).all()) == 1


async def test_free_uses_burn_first_then_what_expires_first_then_the_oldest(
    charger: Charger, sessions: Sessions
) -> None:
    soon, later = unix_now() + 100, unix_now() + 1000
    await grant(sessions, 2)
    await grant(sessions, 2, expires_at=later)
    await grant(sessions, 2, expires_at=soon)
    await charger.charge(order(quantity=4))
    await charger.charge(order(quantity=2))
    async with sessions() as session:
        legs = await session.execute(
            text("""SELECT t.source, t.amount, g.expires_at FROM credit_transfers t
                      JOIN credit_grants g ON g.id = t.grant_id WHERE t.kind = 'charge' ORDER BY t.id""")
        )
        assert [tuple(leg) for leg in legs] == [
            ("free", 3, None),
            ("paid", 1, soon),
            ("paid", 1, soon),
            ("paid", 1, later),
        ]


async def test_what_has_expired_cannot_be_spent_though_nobody_wrote_it_off(
    charger: Charger, sessions: Sessions
) -> None:
    await grant(sessions, 5, expires_at=unix_now() + 100)
    await charger.charge(order(quantity=3))
    async with transaction(sessions) as session:
        past = {"past": unix_now() - 1}
        await session.execute(text("UPDATE credit_grants SET expires_at = :past WHERE expires_at IS NOT NULL"), past)
        await session.execute(text("UPDATE credit_accounts SET expires_next = :past"), past)
    with pytest.raises(InsufficientCreditsError):
        await charger.charge(order())


async def test_a_suspended_account_is_charged_nothing(charger: Charger, sessions: Sessions) -> None:
    await grant(sessions, 5)
    async with transaction(sessions) as session:
        await session.execute(text("UPDATE credit_accounts SET status = 'suspended'"))
    with pytest.raises(AccountSuspendedError):
        await charger.charge(order())
    assert await available(sessions) == 8


async def test_a_hold_counts_and_its_capture_gives_the_rest_back(charger: Charger, sessions: Sessions) -> None:
    await grant(sessions, 7)
    held = await charger.charge(order(quantity=8, hold=True))
    assert (held.status, held.captured, held.balance_after) == ("held", 0, 2)
    with pytest.raises(InsufficientCreditsError):
        await charger.charge(order(quantity=3))
    async with transaction(sessions) as session:
        done = await holds.capture(session, RULES, charge_id=held.id, quantity=5, now=unix_now())
        assert (done.status, done.captured) == ("captured", 5)
    found = await account(sessions)
    assert (found.free, found.paid, found.held, found.used) == (0, 5, 0, 5)
    async with transaction(sessions) as session:  # the same again
        await holds.capture(session, RULES, charge_id=held.id, quantity=5, now=unix_now())
    with pytest.raises(ConflictError):
        async with transaction(sessions) as session:
            await holds.release(session, RULES, charge_id=held.id, now=unix_now())
    assert (await account(sessions)).used == 5


async def test_a_hold_is_released_or_lapses_once(charger: Charger, sessions: Sessions) -> None:
    held = await charger.charge(order(quantity=2, hold=True, expires_in=10))
    now = unix_now() + 10
    async with transaction(sessions) as session:
        assert await holds.lapsed(session, now, limit=10) == [held.id]
        with pytest.raises(ConflictError) as refusal:
            await holds.capture(session, RULES, charge_id=held.id, quantity=None, now=now)
        assert (refusal.value.code, refusal.value.message) == ("hold_expired", "This hold is expired already.")
    async with transaction(sessions) as session:
        assert await holds.expire(session, RULES, charge_id=held.id, now=now)
    async with transaction(sessions) as session:
        assert not await holds.expire(session, RULES, charge_id=held.id, now=now)
        assert (await holds.release(session, RULES, charge_id=held.id, now=now)).status == "expired"
    assert await available(sessions) == 3


async def test_two_processes_charge_one_account_at_once(sessions: Sessions, engine: AsyncEngine) -> None:
    await grant(sessions, 47)
    chargers = [Charger(engine, sessions=sessions, rules=RULES) for _ in range(2)]
    try:
        calls = [chargers[n % 2].charge(order()) for n in range(100)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        for charger in chargers:
            await charger.aclose()
    assert sum(isinstance(outcome, Charged) for outcome in outcomes) == 50
    assert all(isinstance(outcome, Charged | InsufficientCreditsError) for outcome in outcomes)
    assert await available(sessions) == 0


@pytest.mark.parametrize("pgbouncer", [False, True])
async def test_one_key_in_two_processes_is_one_charge(
    sessions: Sessions, engine: AsyncEngine, *, pgbouncer: bool
) -> None:
    chargers = [Charger(engine, sessions=sessions, rules=RULES, pgbouncer=pgbouncer) for _ in range(2)]
    try:
        for n in range(20):
            same, other = order("ada", key=f"k{n}"), order("bob", key=f"k{n}")
            calls = [chargers[0].charge(same), chargers[1].charge(same), chargers[1].charge(other)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(outcome, Charged | BillingError) for outcome in outcomes), outcomes
    finally:
        for charger in chargers:
            await charger.aclose()
    async with sessions() as session:
        keys = (await session.scalars(select(CreditCharge.key))).all()
    assert len(keys) == len(set(keys))


async def test_the_ledger_refuses_to_be_changed(charger: Charger, sessions: Sessions) -> None:
    await charger.charge(order())
    for verb in ("UPDATE credit_transfers SET amount = 9", "DELETE FROM credit_transfers"):
        with pytest.raises(Exception, match="only grows"):
            async with transaction(sessions) as session:
                await session.execute(text(verb))


async def test_a_use_that_is_told_low_is_told_once(engine: AsyncEngine, sessions: Sessions) -> None:
    charger = Charger(engine, sessions=sessions, rules=Credits(free_uses=6, low_at=2))
    try:
        for _ in range(6):
            await charger.charge(order())
    finally:
        await charger.aclose()
    async with sessions() as session:
        told = (await session.execute(text("SELECT type, data FROM outbox"))).all()
    assert [(row.type, row.data["available"]) for row in told] == [("credits.low", 2)]


async def test_a_debt_blocks_and_the_next_uses_settle_it(charger: Charger, sessions: Sessions) -> None:
    purchase_id = await buy(sessions, 20)
    await charger.charge(order(quantity=8))  # three free, five of the pack
    async with transaction(sessions) as session:
        book = await open_book(session, RULES, unix_now(), user_id="ada")
        assert book is not None
        await book.claw_back(20, purchase_id=purchase_id)
        await book.close()
    found = await account(sessions)
    assert (found.free, found.paid, found.owed) == (0, 0, 5)
    with pytest.raises(InsufficientCreditsError):
        await charger.charge(order())
    await grant(sessions, 6)
    found = await account(sessions)
    assert (found.paid, found.owed) == (1, 0)
    async with transaction(sessions) as session:
        book = await open_book(session, RULES, unix_now(), user_id="ada")
        assert book is not None
        await book.restore(20, purchase_id=purchase_id)
        await book.close()
    assert await available(sessions) == 21
    async with sessions() as session:
        kinds = (await session.scalars(select(CreditTransfer.kind).order_by(CreditTransfer.id))).all()
    assert kinds == [
        *("grant", "grant", "charge", "charge", "claw_back", "claw_back", "grant", "settle", "restore", "restore")
    ]


async def test_what_is_restored_leaves_room_for_what_is_held(charger: Charger, sessions: Sessions) -> None:
    """A capture can't fail, also where a debt was settled by another grant before the dispute was won."""
    purchase_id = await buy(sessions, 20)
    held = await charger.charge(order(quantity=13, hold=True))  # three free, ten of the pack
    async with transaction(sessions) as session:
        book = await open_book(session, RULES, unix_now(), user_id="ada")
        assert book is not None
        await book.claw_back(20, purchase_id=purchase_id)
        await book.close()
    assert (await account(sessions)).owed == 10
    await grant(sessions, 10)
    async with transaction(sessions) as session:
        book = await open_book(session, RULES, unix_now(), user_id="ada")
        assert book is not None
        await book.restore(20, purchase_id=purchase_id)
        await book.close()
    assert await available(sessions) == 20
    await grant(sessions, 1, expires_at=unix_now() + 1000)  # whose turn is before the pack's
    async with transaction(sessions) as session:
        await holds.capture(session, RULES, charge_id=held.id, quantity=5, now=unix_now())
    found = await account(sessions)
    assert (found.paid, found.held, found.used) == (29, 0, 5)


async def test_who_is_refused_gets_no_account(charger: Charger, sessions: Sessions) -> None:
    with pytest.raises(InsufficientCreditsError) as refusal:
        await charger.charge(order(quantity=4))
    assert refusal.value.balance.account_id is None
    assert refusal.value.balance.available == 3
    async with sessions() as session:
        assert await accounts.find(session, user_id="ada") is None


async def test_two_who_sell_to_one_account_at_once_wait_for_each_other_and_no_longer(sessions: Sessions) -> None:
    """A row that refers to the account holds up nobody who opens its books: or two of these would be a deadlock."""
    await grant(sessions, 1)
    account_id = (await account(sessions)).id
    both = asyncio.Barrier(2)

    async def sell() -> None:
        async with transaction(sessions) as session:
            await session.execute(
                text("""INSERT INTO credit_purchases (id, account_id, mode, status, pack, uses, amount, currency,
                                                      created)
                        VALUES (:id, :account, 'checkout', 'pending', 'starter', 20, 500, 'usd', 0)"""),
                {"id": uuid4(), "account": account_id},
            )
            await both.wait()
            book = await open_book(session, RULES, unix_now(), account_id=account_id)
            assert book is not None
            book.grant(20)
            await book.close()

    await asyncio.gather(sell(), sell())
    assert await available(sessions) == 44


@pytest.mark.parametrize("written_off", [True, False])
async def test_what_has_expired_unspent_is_owed_by_nobody(
    charger: Charger, sessions: Sessions, *, written_off: bool
) -> None:
    """A refund of an expired pack must not take from the next one what nobody ever had."""
    expires_at = unix_now() + 100
    purchase_id = await buy(sessions, 20, expires_at=expires_at)
    await charger.charge(order(quantity=11))  # three free, eight of the pack

    async def change(verb: str, uses: int) -> CreditAccount:
        async with transaction(sessions) as session:
            book = await open_book(session, RULES, expires_at, user_id="ada")
            assert book is not None
            await getattr(book, verb)(uses, purchase_id=purchase_id)
            await book.close()
        return await account(sessions)

    if written_off:
        async with transaction(sessions) as session:
            account_id = (await accounts.get(session, user_id="ada")).id
            assert await expiry.expire(session, RULES, account_id=account_id, now=expires_at) == 12
    assert (await change("claw_back", 5)).owed == 0
    found = await change("claw_back", 15)
    assert (found.free, found.paid, found.owed, found.used) == (0, 0, 8, 11)
    found = await change("restore", 20)
    assert (found.free, found.paid, found.owed, found.used) == (0, 0, 0, 11)
    found = await change("claw_back", 20)
    assert (found.free, found.paid, found.owed, found.used) == (0, 0, 8, 11)
    async with sessions() as session:
        wrong = await verify.sample(session, most=10)
    assert {one.what for one in wrong} <= {"purchase_clawed", "purchase_granted_at"}  # this test's own doing


async def test_what_settled_a_debt_comes_back_though_the_disputed_pack_has_expired_by_then(
    charger: Charger, sessions: Sessions
) -> None:
    expires_at = unix_now() + 100
    purchase_id = await buy(sessions, 20, expires_at=expires_at)
    await charger.charge(order(quantity=23))  # all of it
    for now, verb in ((unix_now(), "claw_back"), (expires_at, "restore")):
        async with transaction(sessions) as session:
            book = await open_book(session, RULES, now, user_id="ada")
            assert book is not None
            await getattr(book, verb)(20, purchase_id=purchase_id)
            await book.close()
        if verb == "claw_back":
            await grant(sessions, 30)  # another pack
            assert await available(sessions) == 10
    assert await available(sessions) == 30


async def buy(sessions: Sessions, uses: int, *, expires_at: int | None = None) -> UUID:
    async with transaction(sessions) as session:
        book, _ = await accounts.open_or_create(session, RULES, Identity(user_id="ada"), unix_now())
        purchase_id = uuid4()
        await session.execute(
            text("""INSERT INTO credit_purchases (id, account_id, mode, status, pack, uses, amount, currency, created)
                    VALUES (:id, :account, 'checkout', 'succeeded', 'starter', :uses, 500, 'usd', 0)"""),
            {"id": purchase_id, "account": book.account.id, "uses": uses},
        )
        book.grant(uses, expires_at=expires_at, purchase_id=purchase_id, key=f"grant:{purchase_id}")
        await book.close()
    return purchase_id
