"""An account's books, opened under its lock: what may be spent, of which grant, and the transfers that come of it.

Everything here that moves uses goes through `Book._move`, which keeps balances, grants and ledger in step; `close`
writes them together. All quantities are uses, all times unix seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID, uuid4

from sqlalchemy import Table, bindparam, case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import InvalidRequestError
from app.models import CreditAccount, CreditCharge, CreditTopup, CreditTransfer, Customer
from app.services import outbox
from app.services.catalog import Credits
from app.services.credits.lots import GRANTS, Lot, Spendable, load, state, values
from app.services.outbox import Message

ACCOUNTS: Table = CreditAccount.__table__  # type: ignore[assignment]  # a mapped class says no more than FromClause
TRANSFERS: Table = CreditTransfer.__table__  # type: ignore[assignment]  # the same
TOPUPS: Table = CreditTopup.__table__  # type: ignore[assignment]  # the same

NO_NOTICE = -1


@dataclass(slots=True, eq=False)
class Account:
    """A row of credit_accounts, as it changes; see `models.CreditAccount`."""

    id: UUID
    user_id: str
    status: str
    free: int
    paid: int
    held: int
    owed: int
    used: int


@dataclass(slots=True, eq=False)
class Book:
    """One account's, while its row is locked. Call `close` once, at the end."""

    session: AsyncSession
    rules: Credits
    now: int
    account: Account
    topup_at: int | None
    """The threshold of its automatic top-up."""
    lots: dict[UUID, Lot]
    peak: int
    """The most that was available since it was opened."""
    hand_before: UUID | None
    """The grant that was in hand then."""
    entries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def available(self) -> int:
        return self.account.free + self.account.paid

    @property
    def lapsed(self) -> bool:
        """Whether something has expired that the rows don't say yet."""
        return any(lot.is_over(self.now) for lot in self.lots.values())

    def grant(
        self,
        uses: int,
        *,
        book: Spendable = "paid",
        expires_at: int | None = None,
        purchase_id: UUID | None = None,
        reason: str | None = None,
        key: str | None = None,
        kind: str = "grant",
    ) -> UUID:
        """Give uses that expire together. What is owed is settled from them first."""
        lot = self._new_lot(uses, book=book, expires_at=expires_at, purchase_id=purchase_id, reason=reason)
        self._move(kind, "issued", book, uses, lot=lot, purchase_id=purchase_id, key=key, reason=reason)
        self._free_up()
        return lot.id

    def spend(self, quantity: int, charge_id: UUID, *, hold: bool = False) -> None:
        """Spend or hold; no more than is available."""
        kind, to = ("hold", "held") if hold else ("charge", "consumed")
        for lot, part in self._burn(quantity):
            self._move(kind, lot.book, to, part, lot=lot, charge_id=charge_id)

    async def capture(self, charge: CreditCharge, quantity: int) -> None:
        """Spend `quantity` of what is held, and give the rest back."""
        left = quantity
        legs = await self._held(charge.id)
        for leg in legs:
            part = min(left, leg.amount)
            if part:
                self._move("capture", "held", "consumed", part, lot=self.lots[leg.grant_id], charge_id=charge.id)
            left -= part
            self._give_back(leg.grant_id, leg.amount - part, charge.id)
        self._free_up()
        await self._resolve(charge, "captured", captured=quantity)

    async def release(self, charge: CreditCharge, *, status: Literal["released", "expired"] = "released") -> None:
        """Give all of what is held back."""
        for leg in await self._held(charge.id):
            self._give_back(leg.grant_id, leg.amount, charge.id)
        self._free_up()
        await self._resolve(charge, status, captured=0)

    async def claw_back(self, uses: int, *, purchase_id: UUID) -> None:
        """Take back what a purchase brought: of its own grant, then of others; what has been spent becomes owed.

        What is held stays held: a capture can't fail. What expired unspent is nothing that anybody could owe.
        """
        own = await self._lot_of_purchase(purchase_id)
        if lapsed := min(uses, await self._written_off(own)):
            peak = self.peak
            self._move("expire", "expired", own.book, lapsed, lot=own, purchase_id=purchase_id)
            self.peak = peak  # it goes at once, and was never available
        first = min(uses, own.remaining)
        if first:
            self._move("claw_back", own.book, "revoked", first, lot=own, purchase_id=purchase_id)
        for lot, part in self._burn(min(uses - first, self.available)):
            self._move("claw_back", lot.book, "revoked", part, lot=lot, purchase_id=purchase_id)
            first += part
        if uses > first:
            self._move("claw_back", "owed", "revoked", uses - first, purchase_id=purchase_id)

    async def restore(self, uses: int, *, purchase_id: UUID) -> None:
        """Give back what `claw_back` took: debts first, then to the grants it came from, the rest as a new one."""
        own = await self._lot_of_purchase(purchase_id)
        left = uses
        if debt := min(left, self.account.owed):
            self._move("restore", "revoked", "owed", debt, purchase_id=purchase_id)
            left -= debt
        taken = await self._taken(purchase_id)
        await self._load(taken)
        for grant_id, amount in taken.items():
            lot = self.lots[grant_id]
            if part := min(left, amount):
                self._move("restore", "revoked", lot.book, part, lot=lot, purchase_id=purchase_id)
                left -= part
        if left:
            # A debt that something else has settled meanwhile: to no grant that is there, which what it holds comes
            # back to and has to fit in. It stands for uses of other grants, and must not be lost with this one's.
            lot = self._new_lot(left, book=own.book, expires_at=None, purchase_id=None, reason=None)
            self._move("restore", "revoked", own.book, left, lot=lot, purchase_id=purchase_id)
        self._free_up()

    def adjust(self, uses: int, *, reason: str, key: str) -> None:
        """Give uses that never expire, or take away. Raises InvalidRequestError for more than is available."""
        if uses > 0:
            self.grant(uses, reason=reason, key=key, kind="adjust")
            return
        if -uses > self.available:
            raise InvalidRequestError(
                f"No more than the {self.available} available uses can be taken away.",
                code="insufficient_credits",
                param="uses",
            )
        for lot, part in self._burn(-uses):
            self._move("adjust", lot.book, "revoked", part, lot=lot, reason=reason, key=key)
            key = None  # type: ignore[assignment]  # one of several legs says it for all

    async def close(self) -> None:
        """Write everything, and tell what the balance has fallen to."""
        await self._write_lots()
        await self._write_account()
        if self.entries:
            await self.session.execute(insert(TRANSFERS), self.entries)
        await self._tell()

    def _move(
        self,
        kind: str,
        source: str,
        destination: str,
        amount: int,
        *,
        lot: Lot | None = None,
        charge_id: UUID | None = None,
        purchase_id: UUID | None = None,
        key: str | None = None,
        reason: str | None = None,
    ) -> None:
        for book, delta in ((source, -amount), (destination, amount)):
            if book in {"free", "paid"} and lot is not None:
                lot.remaining += delta
                lot.touched = True
            if book == "owed":
                self.account.owed -= delta  # a debt: what goes out of it makes it larger
            elif book == "consumed":
                self.account.used += delta
            elif book in {"free", "paid", "held"}:
                setattr(self.account, book, getattr(self.account, book) + delta)
        self.peak = max(self.peak, self.available)
        self.entries.append(
            {
                "account_id": self.account.id,
                "kind": kind,
                "source": source,
                "destination": destination,
                "amount": amount,
                "grant_id": None if lot is None else lot.id,
                "charge_id": charge_id,
                "purchase_id": purchase_id,
                "key": key,
                "reason": reason,
                "balance_after": self.available,
                "created": self.now,
            }
        )

    def _new_lot(
        self, uses: int, *, book: Spendable, expires_at: int | None, purchase_id: UUID | None, reason: str | None
    ) -> Lot:
        lot = Lot(
            id=uuid4(),
            book=book,
            amount=uses,
            remaining=0,
            expires_at=expires_at,
            purchase_id=purchase_id,
            reason=reason,
            created=self.now,
            new=True,
        )
        self.lots[lot.id] = lot
        return lot

    def _in_turn(self) -> list[Lot]:
        return sorted((lot for lot in self.lots.values() if lot.remaining), key=lambda lot: lot.turn)

    def _burn(self, quantity: int) -> Iterable[tuple[Lot, int]]:
        """Which grants `quantity` comes of."""
        for lot in self._in_turn():
            if not quantity:
                return
            part = min(quantity, lot.remaining)
            quantity -= part
            yield lot, part
        if quantity:
            raise RuntimeError("More uses are to be moved than there are")

    def _give_back(self, grant_id: UUID, amount: int, charge_id: UUID) -> None:
        if amount:
            lot = self.lots[grant_id]
            self._move("release", "held", lot.book, amount, lot=lot, charge_id=charge_id)

    def _free_up(self) -> None:
        """What came back may have expired meanwhile, or be owed."""
        self._expire()
        self._settle()

    def _expire(self) -> None:
        for lot in self._in_turn():
            if lot.is_over(self.now):
                self._move("expire", lot.book, "expired", lot.remaining, lot=lot, purchase_id=lot.purchase_id)

    def _settle(self) -> None:
        for lot, part in self._burn(min(self.account.owed, self.available)):
            self._move("settle", lot.book, "owed", part, lot=lot)

    async def _held(self, charge_id: UUID) -> Sequence[Any]:
        """What a hold took of which grant."""
        legs = (
            await self.session.execute(
                select(TRANSFERS.c.grant_id, TRANSFERS.c.amount)
                .where(TRANSFERS.c.charge_id == charge_id, TRANSFERS.c.kind == "hold")
                .order_by(TRANSFERS.c.id)
            )
        ).all()
        await self._load(leg.grant_id for leg in legs)
        return legs

    async def _taken(self, purchase_id: UUID) -> Mapping[UUID, int]:
        """What claw-backs of a purchase took of each grant and did not give back yet."""
        net = func.sum(TRANSFERS.c.amount).filter(TRANSFERS.c.kind == "claw_back")
        returned = func.coalesce(func.sum(TRANSFERS.c.amount).filter(TRANSFERS.c.kind == "restore"), 0)
        found = await self.session.execute(
            select(TRANSFERS.c.grant_id, (net - returned).label("taken"))
            .where(
                TRANSFERS.c.purchase_id == purchase_id,
                TRANSFERS.c.kind.in_(("claw_back", "restore")),
                TRANSFERS.c.grant_id.is_not(None),
            )
            .group_by(TRANSFERS.c.grant_id)
            .order_by(TRANSFERS.c.grant_id)
        )
        return {row.grant_id: int(row.taken) for row in found if row.taken and row.taken > 0}

    async def _written_off(self, lot: Lot) -> int:
        """How much of a grant has expired, and was not taken back instead."""
        if not lot.is_over(self.now):
            return 0
        signed = case((TRANSFERS.c.destination == "expired", TRANSFERS.c.amount), else_=-TRANSFERS.c.amount)
        written = await self.session.scalar(
            # By its purchase: an account may have millions of transfers, and is locked.
            select(func.sum(signed)).where(TRANSFERS.c.purchase_id == lot.purchase_id, TRANSFERS.c.kind == "expire")
        )
        just_now = (
            entry["amount"] if entry["destination"] == "expired" else -entry["amount"]
            for entry in self.entries
            if entry["grant_id"] == lot.id and entry["kind"] == "expire"
        )
        lapsed: int = int(written or 0) + sum(just_now)
        return lapsed

    async def _lot_of_purchase(self, purchase_id: UUID) -> Lot:
        grant_id = next((lot.id for lot in self.lots.values() if lot.purchase_id == purchase_id), None)
        if grant_id is None:
            found = await self.session.execute(select(GRANTS.c.id).where(GRANTS.c.purchase_id == purchase_id))
            grant_id = found.scalar_one()
            await self._load([grant_id])
        return self.lots[grant_id]

    async def _load(self, grant_ids: Iterable[UUID]) -> None:
        """Have these grants at hand too, though nothing is left of them."""
        missing = [grant_id for grant_id in grant_ids if grant_id not in self.lots]
        if missing:
            self.lots |= await load(self.session, GRANTS.c.id.in_(missing))

    async def _resolve(self, charge: CreditCharge, status: str, *, captured: int) -> None:
        charge.status, charge.captured, charge.resolved_at = status, captured, self.now
        await self.session.flush()

    async def _write_lots(self) -> None:
        first = next(iter(self._in_turn()), None)
        new = [
            {"account_id": self.account.id, **values(lot, in_hand=lot is first)}
            for lot in self.lots.values()
            if lot.new
        ]
        if new:
            await self.session.execute(insert(GRANTS), new)
        changed = [
            {"grant": lot.id, **state(lot, in_hand=lot is first)}
            for lot in self.lots.values()
            if not lot.new and (lot.touched or lot is first or lot.id == self.hand_before)
        ]
        if changed:
            await self.session.execute(
                update(GRANTS)
                .where(GRANTS.c.id == bindparam("grant"))
                .values(remaining=bindparam("remaining"), open=bindparam("open")),
                changed,
            )

    async def _write_account(self) -> None:
        waiting = self._in_turn()
        first = waiting[0] if waiting else None
        account = self.account
        await self.session.execute(
            update(ACCOUNTS)
            .where(ACCOUNTS.c.id == account.id)
            .values(
                free=account.free,
                paid=account.paid,
                held=account.held,
                owed=account.owed,
                used=account.used,
                hand_grant=None if first is None else first.id,
                hand_book=None if first is None else first.book,
                hand=0 if first is None else first.remaining,
                expires_next=min((lot.expires_at for lot in waiting if lot.expires_at is not None), default=None),
                notice_at=max((at for at in self._thresholds if at < self.available), default=NO_NOTICE),
            )
        )

    @property
    def _thresholds(self) -> tuple[int, ...]:
        """Balances at which somebody wants to know."""
        return (self.rules.low_at,) if self.topup_at is None else (self.rules.low_at, self.topup_at)

    def _fell_to(self, threshold: int) -> bool:
        return self.available <= threshold < self.peak

    async def _tell(self) -> None:
        account = self.account
        if self._fell_to(self.rules.low_at):
            customer = select(Customer.id).where(Customer.user_id == account.user_id, ~Customer.deleted)
            low = Message(
                key=f"credits.low:{account.id}:{uuid4()}",  # each fall is one, and this transaction its only witness
                type="credits.low",
                subject=str(account.id),
                customer_id=await self.session.scalar(customer),
                stripe_event_id=None,
                data={"available": self.available, "free": account.free, "paid": account.paid, "owed": account.owed},
            )
            await outbox.append(self.session, [low])
        # Whose money went back is not to be charged again for that.
        taken_back = any(entry["kind"] == "claw_back" for entry in self.entries)
        if self.topup_at is not None and self._fell_to(self.topup_at) and not taken_back:
            await self.session.execute(
                update(TOPUPS)
                .where(TOPUPS.c.account_id == account.id, TOPUPS.c.due_at.is_(None))
                .values(due_at=self.now)
            )


async def open_book(
    session: AsyncSession, rules: Credits, now: int, *, account_id: UUID | None = None, user_id: str | None = None
) -> Book | None:
    """The books of an account, locked until the transaction ends; None if there is no such account.

    Nothing that takes long may follow, and no lock of a customer's or an audit chain's (docs/decisions, 0012).
    """
    whose = ACCOUNTS.c.user_id == user_id if account_id is None else ACCOUNTS.c.id == account_id
    # Rows that only refer to the account may come meanwhile: who has written one may be waiting for this lock too.
    locked = select(ACCOUNTS).where(whose).with_for_update(key_share=True)
    row = (await session.execute(locked)).one_or_none()
    if row is None:
        return None
    # Only now, under the lock: what came before it may have been changed by whoever held the lock.
    lots = await load(session, (GRANTS.c.account_id == row.id) & GRANTS.c.open)
    if row.hand_grant is not None:
        lots[row.hand_grant].remaining += row.hand
    topup_at = await session.scalar(select(TOPUPS.c.threshold).where(TOPUPS.c.account_id == row.id))
    account = Account(
        id=row.id,
        user_id=row.user_id,
        status=row.status,
        free=row.free,
        paid=row.paid,
        held=row.held,
        owed=row.owed,
        used=row.used,
    )
    book = Book(
        session=session,
        rules=rules,
        now=now,
        account=account,
        topup_at=topup_at,
        lots=lots,
        peak=row.free + row.paid,
        hand_before=row.hand_grant,
    )
    book._expire()  # noqa: SLF001 - its own module
    return book
