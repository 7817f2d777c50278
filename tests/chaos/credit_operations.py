"""What can be done with credits, each as it is really done and as the model does it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from chaos.credit_model import Model
from chaos.credit_world import World
from crediting import opened, sell, take_back
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import transaction
from app.errors import BillingError
from app.services.catalog import Credits
from app.services.credits import grants, holds
from app.services.credits.accounts import Identity
from app.services.credits.book import Spendable
from app.services.credits.charges import InsufficientCreditsError, Order

Outcome = tuple[Any, ...]
"""What was answered, in few words."""


@dataclass(eq=False, kw_only=True)
class Operation(ABC):
    """`outcome` and `xid` (of its transaction, where it has one of its own) are known once it has run."""

    user_id: str
    outcome: Outcome = ()
    xid: str | None = None

    async def go(self, world: World) -> None:
        try:
            self.outcome = await self.run(world)
        except InsufficientCreditsError as error:
            self.outcome = refused(error.code, error.balance.available)
        except BillingError as error:
            self.outcome = refused(error.code)

    @abstractmethod
    async def run(self, world: World) -> Outcome:
        """Do it. Refusals are raised."""

    def imitate(self, model: Model) -> Outcome:
        """Do it to the model, whose `begin` has been called; if that changes it, `end` is called."""
        outcome = self.decide(model)
        if outcome[0] not in {"refused", "nothing"}:
            model.end()
        return outcome

    @abstractmethod
    def decide(self, model: Model) -> Outcome:
        """`refused`, or `nothing` if there is nothing to do, or what was done."""

    @asynccontextmanager
    async def transaction(self, world: World) -> AsyncIterator[AsyncSession]:
        async with transaction(world.sessions) as session:
            self.xid = await session.scalar(text("SELECT pg_current_xact_id()::text"))
            yield session


def refused(*why: Any) -> Outcome:
    return "refused", *why


@dataclass(eq=False, kw_only=True)
class Charge(Operation):
    """A charge, or a hold; by one of the two processes."""

    key: str
    quantity: int
    hold: bool = False
    expires_in: int | None = None
    process: int = 0
    id: UUID | None = None
    """Of the charge, if it was this that made it."""

    @property
    def order(self) -> Order:
        named: dict[str, Any] = {
            "key": self.key,
            "quantity": self.quantity,
            "hold": self.hold,
            "expires_in": self.expires_in,
        }
        return Order(identity=Identity(user_id=self.user_id), **named)

    async def run(self, world: World) -> Outcome:
        charged = await world.chargers[self.process].charge(self.order)
        said = (charged.quantity, charged.status, charged.captured)
        assert said == ((self.quantity, "held", 0) if self.hold else (self.quantity, "captured", self.quantity))
        if charged.replayed:
            return "again", charged.id, charged.balance_after
        assert charged.expires_at == self._until(world.now, world.rules)
        self.id = charged.id
        return "charged", charged.id, charged.balance_after

    def decide(self, model: Model) -> Outcome:
        if self.quantity > model.available:
            return refused("insufficient_credits", model.available)
        id = self.id or uuid4()
        model.spend(self.quantity, id, hold_until=self._until(model.now, model.rules))
        return "charged", id, model.available

    def _until(self, now: int, rules: Credits) -> int | None:
        return now + (rules.hold_seconds if self.expires_in is None else self.expires_in) if self.hold else None


@dataclass(eq=False, kw_only=True)
class Capture(Operation):
    """`quantity`: None for all."""

    charge_id: UUID
    quantity: int | None

    async def run(self, world: World) -> Outcome:
        async with self.transaction(world) as session:
            charge = await holds.capture(
                session, world.rules, charge_id=self.charge_id, quantity=self.quantity, now=world.now
            )
            return "captured", charge.status, charge.captured

    def decide(self, model: Model) -> Outcome:
        charge = model.charges[self.charge_id]
        wanted = charge.quantity if self.quantity is None else self.quantity
        if wanted > charge.quantity:
            return refused("more_than_held")
        if charge.status == "captured" and charge.captured == wanted:
            return "nothing", "captured", wanted
        if charge.status != "held":
            return refused("charge_not_held" if charge.expires_at is None else f"hold_{charge.status}")
        assert charge.expires_at is not None
        if charge.expires_at <= model.now:
            return refused("hold_expired")
        model.resolve(self.charge_id, "captured", wanted)
        return "captured", "captured", wanted


@dataclass(eq=False, kw_only=True)
class Release(Operation):
    """By its owner."""

    charge_id: UUID

    async def run(self, world: World) -> Outcome:
        async with self.transaction(world) as session:
            charge = await holds.release(session, world.rules, charge_id=self.charge_id, now=world.now)
            return "released", charge.status, charge.captured

    def decide(self, model: Model) -> Outcome:
        charge = model.charges[self.charge_id]
        if charge.status in {"released", "expired"}:
            return "nothing", charge.status, 0
        if charge.status != "held":
            return refused("charge_not_held" if charge.expires_at is None else f"hold_{charge.status}")
        model.resolve(self.charge_id, "released", 0)
        return "released", "released", 0


@dataclass(eq=False, kw_only=True)
class Lapse(Operation):
    """A hold that nobody has ended in time, or not quite."""

    charge_id: UUID

    async def run(self, world: World) -> Outcome:
        async with self.transaction(world) as session:
            done = await holds.expire(session, world.rules, charge_id=self.charge_id, now=world.now)
            return "lapsed" if done else "nothing", done

    def decide(self, model: Model) -> Outcome:
        charge = model.charges[self.charge_id]
        if charge.status != "held" or charge.expires_at is None or charge.expires_at > model.now:
            return "nothing", False
        model.resolve(self.charge_id, "expired", 0)
        return "lapsed", True


@dataclass(eq=False, kw_only=True)
class Give(Operation):
    """Uses for nothing, without an operator; also to somebody new. With none it only opens the books."""

    uses: int
    book: Spendable
    lifetime: int | None

    async def run(self, world: World) -> Outcome:
        async with self.transaction(world) as session:
            books = await opened(session, self.user_id, rules=world.rules, now=world.now)
            if self.uses:
                books.grant(self.uses, book=self.book, expires_at=_until(world.now, self.lifetime))
            await books.close()
            return "given", books.available

    def decide(self, model: Model) -> Outcome:
        if self.uses:
            model.give(self.uses, book=self.book, expires_at=_until(model.now, self.lifetime))
        return "given", model.available


@dataclass(eq=False, kw_only=True)
class Grant(Operation):
    """By an operator, who may ask again with the same key."""

    key: str
    uses: int
    expires_at: int | None

    async def run(self, world: World) -> Outcome:
        more: dict[str, Any] = {"reason": "so", "key": self.key, "actor": "operator:o", "now": world.now}
        account_id, expires_at = world.accounts[self.user_id], self.expires_at
        async with self.transaction(world) as session:
            state = await grants.grant(session, world.rules, account_id, uses=self.uses, expires_at=expires_at, **more)
            return "granted", state.grant.id

    def decide(self, model: Model) -> Outcome:
        if known := model.keys.get(f"grant:{self.key}"):
            same = known[1:] == (self.uses, self.expires_at)
            return ("nothing", known[0]) if same else refused("idempotency_key_reused")
        if self.expires_at is not None and self.expires_at <= model.now:
            return refused("expires_in_past")
        id = model.give(self.uses, book="paid", expires_at=self.expires_at)
        model.keys[f"grant:{self.key}"] = id, self.uses, self.expires_at
        return "granted", id


@dataclass(eq=False, kw_only=True)
class Adjust(Operation):
    """By an operator, who may ask again with the same key."""

    key: str
    uses: int

    async def run(self, world: World) -> Outcome:
        more: dict[str, Any] = {"reason": "so", "key": self.key, "actor": "operator:o", "now": world.now}
        async with self.transaction(world) as session:
            await grants.adjust(session, world.rules, world.accounts[self.user_id], uses=self.uses, **more)
            return "adjusted", self.uses

    def decide(self, model: Model) -> Outcome:
        if known := model.keys.get(f"adjust:{self.key}"):
            return ("nothing", self.uses) if known == (self.uses,) else refused("idempotency_key_reused")
        if -self.uses > model.available:
            return refused("insufficient_credits")
        if self.uses > 0:
            model.give(self.uses, book="paid", expires_at=None, kind="adjust")
        else:
            model.take(-self.uses)
        model.keys[f"adjust:{self.key}"] = (self.uses,)
        return "adjusted", self.uses


@dataclass(eq=False, kw_only=True)
class Buy(Operation):
    """A purchase that is paid at once."""

    purchase_id: UUID
    uses: int
    lifetime: int | None

    async def run(self, world: World) -> Outcome:
        async with self.transaction(world) as session:
            books = await opened(session, self.user_id, rules=world.rules, now=world.now)
            until = _until(world.now, self.lifetime)
            await sell(session, books, self.uses, expires_at=until, id=self.purchase_id)
            await books.close()
            return "bought", books.available

    def decide(self, model: Model) -> Outcome:
        model.give(self.uses, book="paid", expires_at=_until(model.now, self.lifetime), purchase=self.purchase_id)
        return "bought", model.available


@dataclass(eq=False, kw_only=True)
class TakeBack(Operation):
    """Refunds and disputes, won or lost: so many of a purchase's uses shall be taken back in all."""

    purchase_id: UUID
    uses: int

    async def run(self, world: World) -> Outcome:
        async with self.transaction(world) as session:
            more = await take_back(session, self.purchase_id, self.uses, rules=world.rules, now=world.now)
            return "taken" if more else "nothing", more

    def decide(self, model: Model) -> Outcome:
        more = self.uses - model.purchases[self.purchase_id].clawed
        if more > 0:
            model.take_back(self.purchase_id, more)
        elif more < 0:
            model.restore(self.purchase_id, -more)
        return "taken" if more else "nothing", more


def _until(now: int, lifetime: int | None) -> int | None:
    return None if lifetime is None else now + lifetime


def again(first: Any, **other: Any) -> Any:
    """The same operation, or nearly."""
    fresh = {"outcome": (), "xid": None, **({"id": None} if isinstance(first, Charge) else {})}
    if not isinstance(first, Charge):
        other.pop("process", None)
    return type(first)(**vars(first) | fresh | other)
