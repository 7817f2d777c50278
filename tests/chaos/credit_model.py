"""What the books of one account must say: the rules of prepaid credits in plain Python, to hold the real ones to."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from app.services.catalog import Credits

NewId = Callable[[], UUID]
"""What the next grant is to be called: ids are the database's to choose."""


class Leg(NamedTuple):
    """A transfer."""

    kind: str
    source: str
    destination: str
    amount: int
    grant: UUID | None
    charge: UUID | None
    purchase: UUID | None
    balance_after: int


@dataclass
class Lot:
    """A grant, and what is left of it."""

    id: UUID
    book: str
    expires_at: int | None
    created: int
    left: int = 0
    lapsed: int = 0

    @property
    def turn(self) -> tuple[bool, float, int, UUID]:
        """Free first, then what expires first, then the oldest."""
        expiry = float("inf") if self.expires_at is None else self.expires_at
        return self.book == "paid", expiry, self.created, self.id


@dataclass
class Charge:
    """`legs`: what a hold took of which grant."""

    status: str
    quantity: int
    captured: int
    expires_at: int | None
    legs: list[tuple[UUID, int]]


@dataclass
class Purchase:
    """`taken`: what claw-backs took of which grant, and didn't give back."""

    uses: int
    lot: UUID
    clawed: int = 0
    taken: Counter[UUID] = field(default_factory=Counter)


@dataclass
class Model:
    """One account. Each of its verbs follows `begin` and is followed by `end`."""

    rules: Credits
    topup_at: int | None = None
    exists: bool = False
    lots: dict[UUID, Lot] = field(default_factory=dict)
    charges: dict[UUID, Charge] = field(default_factory=dict)
    purchases: dict[UUID, Purchase] = field(default_factory=dict)
    keys: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """What operators did with each of their keys."""
    owed: int = 0
    used: int = 0
    told: int = 0
    """How often it was said that little is left."""
    topup_due: bool = False
    now: int = 0
    legs: list[Leg] = field(default_factory=list)
    """Of what is being done."""
    kept: bool = False
    """Whether it was done: or else nothing of it stays."""
    peak: int = 0
    new_id: NewId = uuid4

    def sum(self, book: str) -> int:
        return sum(lot.left for lot in self.lots.values() if lot.book == book)

    @property
    def available(self) -> int:
        return self.sum("free") + self.sum("paid")

    @property
    def held(self) -> int:
        return sum(charge.quantity for charge in self.charges.values() if charge.status == "held")

    @property
    def spendable(self) -> int:
        """What is available but for what has expired, or what whoever has no account yet would have."""
        if not self.exists:
            return self.rules.free_uses
        return sum(lot.left for lot in self.lots.values() if lot.expires_at is None or lot.expires_at > self.now)

    def begin(self, now: int, new_id: NewId) -> None:
        self.now, self.new_id, self.legs, self.kept, self.peak = now, new_id, [], False, self.available
        if not self.exists:
            self.exists = True
            self.give(self.rules.free_uses, book="free", expires_at=None)
        self.expire()

    def end(self) -> None:
        self.kept = True
        self.told += self.available <= self.rules.low_at < self.peak
        if self.topup_at is not None and all(leg.kind != "claw_back" for leg in self.legs):
            self.topup_due |= self.available <= self.topup_at < self.peak

    def give(
        self, uses: int, *, book: str, expires_at: int | None, kind: str = "grant", purchase: UUID | None = None
    ) -> UUID:
        lot = self.lot(book, expires_at)
        self.move(kind, "issued", book, uses, lot, purchase=purchase)
        if purchase is not None:
            self.purchases[purchase] = Purchase(uses, lot.id)
        self.expire()
        self.settle()
        return lot.id

    def spend(self, quantity: int, charge: UUID, *, hold_until: int | None) -> None:
        held = hold_until is not None
        legs = [(lot.id, part) for lot, part in self.burn(quantity)]
        for grant, part in legs:
            lot = self.lots[grant]
            self.move("hold" if held else "charge", lot.book, "held" if held else "consumed", part, lot, charge=charge)
        status, captured = ("held", 0) if held else ("captured", quantity)
        self.charges[charge] = Charge(status, quantity, captured, hold_until, legs)

    def resolve(self, charge: UUID, status: str, captured: int) -> None:
        """End a hold: so many are spent, in the order they were taken, and the rest is given back."""
        ended, left = self.charges[charge], captured
        for grant, amount in ended.legs:
            lot, part = self.lots[grant], min(left, amount)
            left -= part
            if part:
                self.move("capture", "held", "consumed", part, lot, charge=charge)
            if amount > part:
                self.move("release", "held", lot.book, amount - part, lot, charge=charge)
        ended.status, ended.captured = status, captured
        self.expire()
        self.settle()

    def take_back(self, purchase: UUID, uses: int) -> None:
        """Of what it brought, expired or not, then of anything, then as a debt."""
        sold, left = self.purchases[purchase], uses
        own = self.lots[sold.lot]
        if part := min(left, own.lapsed):
            peak = self.peak
            self.move("expire", "expired", own.book, part, own, purchase=purchase)
            self.peak = peak
        for lot in [own, *(lot for lot in self.in_turn() if lot is not own)]:
            if part := min(left, lot.left):
                self.move("claw_back", lot.book, "revoked", part, lot, purchase=purchase)
                sold.taken[lot.id] += part
                left -= part
        if left:
            self.move("claw_back", "owed", "revoked", left, None, purchase=purchase)
        sold.clawed += uses

    def restore(self, purchase: UUID, uses: int) -> None:
        """Debts, then the grants it was taken from; a debt that was settled otherwise comes back as uses."""
        sold, left = self.purchases[purchase], uses
        if part := min(left, self.owed):
            self.move("restore", "revoked", "owed", part, None, purchase=purchase)
            left -= part
        for id in sorted(sold.taken):
            if part := min(left, max(sold.taken[id], 0)):
                self.move("restore", "revoked", self.lots[id].book, part, self.lots[id], purchase=purchase)
                sold.taken[id] -= part
                left -= part
        if left:
            own = self.lots[sold.lot]
            lot = self.lot(own.book, None)
            self.move("restore", "revoked", lot.book, left, lot, purchase=purchase)
            sold.taken[lot.id] -= left
        sold.clawed -= uses
        self.expire()
        self.settle()

    def take(self, uses: int) -> None:
        for lot, part in list(self.burn(uses)):
            self.move("adjust", lot.book, "revoked", part, lot)

    def lot(self, book: str, expires_at: int | None) -> Lot:
        lot = Lot(self.new_id(), book, expires_at, self.now)
        self.lots[lot.id] = lot
        return lot

    def in_turn(self) -> list[Lot]:
        return sorted((lot for lot in self.lots.values() if lot.left), key=lambda lot: lot.turn)

    def burn(self, quantity: int) -> list[tuple[Lot, int]]:
        parts = []
        for lot in self.in_turn():
            if part := min(quantity, lot.left):
                parts.append((lot, part))
                quantity -= part
        assert not quantity
        return parts

    def expire(self) -> None:
        for lot in self.in_turn():
            if lot.expires_at is not None and lot.expires_at <= self.now:
                self.move("expire", lot.book, "expired", lot.left, lot, purchase=self.purchase_of(lot.id))

    def settle(self) -> None:
        for lot, part in self.burn(min(self.owed, self.available)):
            self.move("settle", lot.book, "owed", part, lot)

    def purchase_of(self, lot: UUID) -> UUID | None:
        return next((id for id, sold in self.purchases.items() if sold.lot == lot), None)

    def move(
        self,
        kind: str,
        source: str,
        destination: str,
        amount: int,
        lot: Lot | None,
        *,
        charge: UUID | None = None,
        purchase: UUID | None = None,
    ) -> None:
        if lot is not None:
            lot.left += amount * ((destination == lot.book) - (source == lot.book))
            lot.lapsed += amount * ((destination == "expired") - (source == "expired"))
        self.owed += amount * ((source == "owed") - (destination == "owed"))
        self.used += amount * (destination == "consumed")
        self.peak = max(self.peak, self.available)
        grant = None if lot is None else lot.id
        self.legs.append(Leg(kind, source, destination, amount, grant, charge, purchase, self.available))
