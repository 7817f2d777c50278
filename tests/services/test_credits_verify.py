"""The invariants of the books: they hold after whatever may happen, and whatever breaks them is found and named."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import Sessions, transaction
from app.errors import BillingError
from app.models import CreditPurchase
from app.services.catalog import Credits
from app.services.credits import accounts, holds, verify
from app.services.credits.accounts import Identity
from app.services.credits.book import Book, open_book
from app.services.credits.charges import Charged, Charger, Order
from app.services.credits.verify import Place, Violation
from app.values import unix_now

RULES = Credits(free_uses=3, low_at=-1, hold_seconds=60)
DAY = 86_400


@pytest.fixture
async def charger(engine: AsyncEngine, sessions: Sessions) -> AsyncIterator[Charger]:
    charger = Charger(engine, sessions=sessions, rules=RULES)
    yield charger
    await charger.aclose()


class History:
    """What happens to accounts, at moments of its own."""

    def __init__(self, sessions: Sessions, charger: Charger) -> None:
        self.sessions = sessions
        self.charger = charger

    async def charge(self, user: str, quantity: int = 1, **said: Any) -> Charged:
        order = Order(identity=Identity(user_id=user), key=uuid4().hex, quantity=quantity, **said)
        return await self.charger.charge(order)

    async def open(self, session: Any, user: str, now: int) -> Book:
        book = await open_book(session, RULES, now, user_id=user)
        assert book is not None
        return book

    async def buy(self, user: str, *, uses: int = 20, amount: int = 700, expires_at: int | None = None) -> UUID:
        now = unix_now()
        async with transaction(self.sessions) as session:
            account, _ = await accounts.ensure(session, RULES, Identity(user_id=user), now)
            purchase = CreditPurchase(
                id=uuid4(),
                account_id=account.id,
                mode="checkout",
                status="succeeded",
                pack="starter",
                currency="usd",
                uses=uses,
                amount=amount,
                created=now,
                granted_at=now,
            )
            session.add(purchase)
            await session.flush()
            book = await self.open(session, user, now)
            book.grant(uses, expires_at=expires_at, purchase_id=purchase.id, key=f"grant:{purchase.id}")
            await book.close()
        return purchase.id

    async def lose(self, user: str, purchase_id: UUID, *, refunded: int = 0, disputed: int = 0) -> None:
        """So much of its price has gone back in all."""
        async with transaction(self.sessions) as session:
            purchase = await session.get_one(CreditPurchase, purchase_id)
            target = purchase.uses * min(purchase.amount, refunded + disputed) // purchase.amount
            delta = target - purchase.clawed
            purchase.amount_refunded, purchase.amount_disputed, purchase.clawed = refunded, disputed, target
            await session.flush()
            book = await self.open(session, user, unix_now())
            if delta > 0:
                await book.claw_back(delta, purchase_id=purchase_id)
            elif delta < 0:
                await book.restore(-delta, purchase_id=purchase_id)
            await book.close()

    async def adjust(self, user: str, uses: int, *, now: int | None = None) -> None:
        async with transaction(self.sessions) as session:
            book = await self.open(session, user, now or unix_now())
            if uses:
                book.adjust(uses, reason="correction", key=f"adjust:{uuid4()}")
            await book.close()

    async def capture(self, charged: Charged, quantity: int) -> None:
        async with transaction(self.sessions) as session:
            await holds.capture(session, RULES, charge_id=charged.id, quantity=quantity, now=unix_now())

    async def release(self, charged: Charged) -> None:
        async with transaction(self.sessions) as session:
            await holds.release(session, RULES, charge_id=charged.id, now=unix_now())


@pytest.fixture
async def history(sessions: Sessions, charger: Charger) -> History:
    """Of Ada, to whom everything has happened, and of Bob, who has charged, and spent what was in hand."""
    history = History(sessions, charger)
    await history.charge("ada", 2)
    bought = await history.buy("ada", expires_at=unix_now() + DAY)
    second = await history.buy("ada")
    await history.charge("ada", 4)
    await history.capture(await history.charge("ada", 10, hold=True), 6)
    await history.release(await history.charge("ada", 2, hold=True))
    await history.charge("ada", 3, hold=True)
    await history.lose("ada", bought, refunded=333)
    await history.lose("ada", second, disputed=700)
    await history.lose("ada", second)
    await history.lose("ada", bought, refunded=700, disputed=700)
    await history.adjust("ada", -3)
    await history.adjust("ada", 5)
    await history.buy("ada", uses=4, expires_at=unix_now() + DAY)
    await history.adjust("ada", 0, now=unix_now() + 2 * DAY)  # which expires
    for _ in range(3):
        await history.charge("bob")
    return history


async def wrong(sessions: Sessions) -> list[Violation]:
    async with sessions() as session:
        return [one async for found in verify.slices(session) for one in found.violations]


async def test_books_that_nobody_meddled_with_are_right(history: History, sessions: Sessions) -> None:
    assert await wrong(sessions) == []
    async with sessions() as session:
        found = [one async for one in verify.slices(session)]
        transfers = (await session.execute(text("SELECT count(*), count(DISTINCT kind) FROM credit_transfers"))).one()
    assert (sum(one.accounts for one in found), sum(one.transfers for one in found)) == (2, transfers[0])
    assert transfers[1] == 9, "all kinds but settle"
    bought = await history.buy("cid")
    await history.charge("cid", 8)
    await history.lose("cid", bought, refunded=700)
    async with sessions() as session:
        assert (await accounts.get(session, user_id="cid")).owed == 5
    assert await wrong(sessions) == []
    await history.buy("cid", uses=7)
    await history.lose("cid", bought)
    assert await wrong(sessions) == []


NAMES = {
    "ada": "(SELECT id FROM credit_accounts WHERE user_id = 'ada')",
    "bob": "(SELECT id FROM credit_accounts WHERE user_id = 'bob')",
    "held": "(SELECT id FROM credit_charges WHERE status = 'held')",
    "a_purchase": "(SELECT id FROM credit_purchases WHERE amount_refunded > 0)",
    "transfer": "INSERT INTO credit_transfers (account_id, kind, source, destination, amount, balance_after, created",
    "charge": "INSERT INTO credit_charges"
    " (id, account_id, key, fingerprint, status, quantity, captured, balance_after, created)",
}

# What somebody does to the tables, and what is found of it.
DAMAGE: Mapping[str, tuple[str, set[str]]] = {
    "a balance is raised": (
        "UPDATE credit_accounts SET paid = paid + 1 WHERE id = {ada}",
        {"paid", "paid_grants"},
    ),
    "something held is forgotten": ("UPDATE credit_accounts SET held = 0 WHERE id = {ada}", {"held"}),
    "uses are forgotten": ("UPDATE credit_accounts SET used = used - 1 WHERE id = {bob}", {"consumed"}),
    "a debt is made up": ("UPDATE credit_accounts SET owed = 1 WHERE id = {bob}", {"owed"}),
    "a grant grows": (
        "UPDATE credit_grants SET remaining = remaining + 1 WHERE NOT open AND remaining < amount AND book = 'paid'",
        {"grant", "paid_grants", "open"},
    ),
    "what is in hand is less": (
        "UPDATE credit_accounts SET hand = hand - 1 WHERE id = {ada}",
        {"grant", "paid_grants"},
    ),
    "a grant is closed": (
        "UPDATE credit_grants SET open = false WHERE open AND account_id = {ada}",
        {"open", "hand"},
    ),
    "an empty grant is opened": (
        "UPDATE credit_grants SET open = true WHERE book = 'free' AND account_id = {ada}",
        {"open", "hand"},
    ),
    "nothing is in hand": (
        "UPDATE credit_accounts SET hand_grant = NULL, hand_book = NULL, hand = 0 WHERE id = {bob}",
        {"hand", "open"},
    ),
    "an expiry is lost": ("UPDATE credit_accounts SET expires_next = 5 WHERE id = {ada}", {"expires_next"}),
    "a hold is resolved though nothing moved": (
        "UPDATE credit_charges SET status = 'released' WHERE status = 'held'",
        {"charge"},
    ),
    "a charge says more than was spent": (
        "UPDATE credit_charges SET quantity = 2, captured = 2 WHERE account_id = {bob}",
        {"charge"},
    ),
    "a hold is captured twice": (
        (
            "{transfer}, charge_id) VALUES ({ada}, 'capture', 'held', 'consumed', 3, 0, 0, {held}),"
            " ({ada}, 'capture', 'held', 'consumed', 3, 0, 0, {held})"
        ),
        {"charge", "held", "consumed", "balance_after"},
    ),
    "a charge is gone": ("DELETE FROM credit_charges WHERE account_id = {bob}", {"charge_unknown"}),
    "a charge is another's": (
        "UPDATE credit_charges SET account_id = {bob} WHERE status = 'held'",
        {"charge_unknown", "charge_unmoved"},
    ),
    "a charge moved nothing": (
        "{charge} VALUES (gen_random_uuid(), {bob}, 'k', '', 'captured', 1, 1, 0, 0)",
        {"charge_unmoved"},
    ),
    "a charge is nobody's": (
        "{charge} VALUES (gen_random_uuid(), gen_random_uuid(), 'k', '', 'captured', 1, 1, 0, 0)",
        {"account_unknown", "charge_unmoved"},
    ),
    "a transfer is nobody's": (
        "{transfer}) VALUES (gen_random_uuid(), 'adjust', 'issued', 'held', 1, 0, 0)",
        {"account_unknown"},
    ),
    "a transfer is of no grant": (
        "{transfer}) VALUES ({bob}, 'adjust', 'issued', 'paid', 1, 1, 0)",
        {"paid", "grant_unknown"},
    ),
    "a transfer is lost": (
        "DELETE FROM credit_transfers WHERE kind = 'grant' AND account_id = {bob}",
        {"free", "grant", "balance_after"},
    ),
    "a transfer is changed": (
        "UPDATE credit_transfers SET balance_after = 77 WHERE kind = 'grant' AND account_id = {bob}",
        {"balance_after"},
    ),
    "a purchase was never granted": (
        (
            "INSERT INTO credit_purchases"
            " (id, account_id, mode, status, pack, uses, amount, currency, created, granted_at)"
            " VALUES (gen_random_uuid(), {bob}, 'checkout', 'succeeded', 'starter', 5, 100, 'usd', 0, 0)"
        ),
        {"purchase_grant", "purchase_granted"},
    ),
    "a grant was never paid": (
        "UPDATE credit_purchases SET status = 'failed' WHERE id = {a_purchase}",
        {"purchase_granted_at", "purchase_grant", "purchase_granted", "purchase_lost"},
    ),
    "a grant is another purchase's": (
        "UPDATE credit_purchases SET uses = uses + 1 WHERE id = {a_purchase}",
        {"purchase_grant", "purchase_granted", "purchase_lost"},
    ),
    "a refund took nothing back": (
        "UPDATE credit_purchases SET amount_refunded = 36 WHERE amount_refunded = 0 AND uses = 20",
        {"purchase_lost"},
    ),
    "a claw-back is forgotten": (
        "UPDATE credit_purchases SET clawed = 0 WHERE id = {a_purchase}",
        {"purchase_clawed", "purchase_lost"},
    ),
    "a transfer is of no purchase": (
        "UPDATE credit_transfers SET purchase_id = gen_random_uuid() WHERE kind = 'expire'",
        {"purchase_unknown"},
    ),
}


async def test_whatever_is_wrong_is_found_and_named(history: History, sessions: Sessions) -> None:
    found = {}
    for what, (damage, _) in DAMAGE.items():
        async with sessions() as session:  # which ends without a commit
            await session.execute(text("ALTER TABLE credit_transfers DISABLE TRIGGER credit_transfers_append_only"))
            await session.execute(text(damage.format_map(NAMES)))
            found[what] = {one.what async for piece in verify.slices(session) for one in piece.violations}
    assert found == {what: expected for what, (_, expected) in DAMAGE.items()}
    assert await wrong(history.sessions) == []


async def test_a_violation_says_whose_it_is_what_and_how_it_should_be(history: History, sessions: Sessions) -> None:
    async with transaction(history.sessions) as session:
        released = text("UPDATE credit_charges SET status = 'released' WHERE status = 'held' RETURNING id")
        charge_id = await session.scalar(released)
        ada = await accounts.get(session, user_id="ada")
    assert await wrong(sessions) == [
        Violation(ada.id, "charge", str(charge_id), "charge 0, hold 3, capture 0, release 0", "released, 0 of 3")
    ]


async def test_slices_leave_nothing_out(history: History, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(10):
        await history.charge(f"user-{n}", 2)
    async with transaction(sessions) as session:
        await session.execute(text("UPDATE credit_accounts SET used = used + 1"))
        await session.execute(text("UPDATE credit_charges SET id = gen_random_uuid() WHERE status = 'captured'"))
    whole = Counter(row.what for row in await wrong(sessions))
    assert (whole["consumed"], whole["charge_unmoved"] > 10) == (12, True)
    monkeypatch.setattr(verify, "CHARGES", 3)
    place: Place | None = Place()
    pieces: list[Violation] = []
    seen = []
    async with sessions() as session:
        while place is not None:
            found = await verify.look(session, Place.parse(str(place)), most=4)
            seen.append(found.accounts)
            pieces += found.violations
            place = found.next
    assert seen[:3] == [4, 4, 4]
    assert Counter(row.what for row in pieces) == whole


async def test_charges_under_way_look_right_at_every_moment(history: History, sessions: Sessions) -> None:
    await history.buy("ada", uses=300)

    async def spend() -> None:
        for n in range(40):
            try:
                charged = await history.charge("ada", 1 + n % 3, hold=n % 2 == 0)
                if n % 4 == 0:
                    await history.capture(charged, 1)
            except BillingError:
                return

    spending = [asyncio.create_task(spend()) for _ in range(4)]
    looks = 0
    while not all(task.done() for task in spending):
        assert await wrong(sessions) == []
        looks += 1
    await asyncio.gather(*spending)
    assert looks > 1
    assert await wrong(sessions) == []
