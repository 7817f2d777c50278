"""Random histories of credits, many things at once: the books are those of some order in which all of it happened."""

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from copy import deepcopy
from itertools import groupby
from uuid import UUID, uuid4

import pytest
from chaos.credit_model import Leg, Model
from chaos.credit_operations import (
    Adjust,
    Buy,
    Capture,
    Charge,
    Give,
    Grant,
    Lapse,
    Operation,
    Release,
    TakeBack,
    again,
    refused,
)
from chaos.credit_world import RULES, START, Processes, open_world
from crediting import audit
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from sqlalchemy import text

from app.db import transaction
from app.services.credits import holds
from app.services.credits.book import Spendable

EXAMPLES = int(os.environ.get("BILLHOOK_EXAMPLES", "20"))
TOPUP_AT = 5
NAMES = ("ada", "bob", "zoe")
"""Bob has an automatic top-up; Zoe comes without an account."""

ACCOUNT = text(
    """SELECT a.*, (SELECT count(*) FROM outbox WHERE type = 'credits.low' AND subject = a.id::text) AS told,
              EXISTS (SELECT FROM credit_topups WHERE account_id = a.id AND due_at IS NOT NULL) AS due
         FROM credit_accounts a WHERE user_id = :user"""
)
LOTS = text("SELECT id, remaining, expires_at FROM credit_grants WHERE account_id = :id")
CHARGES = text("SELECT id, status, quantity, captured, expires_at FROM credit_charges WHERE account_id = :id")

users = st.sampled_from(NAMES)
quantities = st.integers(1, 6) | st.integers(1, 25)
lifetimes = st.sampled_from([None, 30, 60, 100, 1000])
which = st.integers(0, 30)
alone = st.booleans()


class CreditHistory(RuleBasedStateMachine):
    """Operations are collected and then done all at once; some alone."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes
        self.world = processes.world
        self.world.now = START
        self.names = {name: f"{name}-{uuid4()}" for name in NAMES}
        self.models = {user_id: Model(RULES) for user_id in self.names.values()}
        self.batch: list[Operation] = []
        self.made: dict[str, Charge] = {}  # by key
        self.asked: list[Charge | Grant | Adjust] = []  # to be asked again
        self.held: list[Charge] = []
        self.bought: list[Buy] = []
        self.seen = 0  # the last transfer that was compared
        self.processes.run(self._begin())

    async def _begin(self) -> None:
        known = [self.names["ada"], self.names["bob"]]
        await self._run([Give(user_id=user_id, uses=0, book="free", lifetime=None) for user_id in known])
        async with transaction(self.world.sessions) as session:
            await session.execute(
                text("INSERT INTO credit_topups (account_id, pack, threshold) VALUES (:id, 'starter', :at)"),
                {"id": self.world.accounts[known[1]], "at": TOPUP_AT},
            )
        self.models[known[1]].topup_at = TOPUP_AT
        await self._run([Give(user_id=known[1], uses=0, book="free", lifetime=None)])  # which takes note of it

    # What happens

    @rule(
        name=users,
        quantity=quantities,
        hold=st.booleans(),
        expires_in=st.sampled_from([None, 30]),
        process=st.integers(0, 1),
        times=st.sampled_from([1, 1, 1, 2, 5]),
        alone=alone,
    )
    def charge(
        self, *, name: str, quantity: int, hold: bool, expires_in: int | None, process: int, times: int, alone: bool
    ) -> None:
        for _ in range(times):
            wanted = {"key": uuid4().hex, "quantity": quantity, "hold": hold, "expires_in": expires_in}
            self._do(Charge(user_id=self.names[name], process=process, **wanted), alone=alone)

    @precondition(lambda self: self.asked)
    @rule(which=which, process=st.integers(0, 1), alone=alone)
    def ask_again(self, *, which: int, process: int, alone: bool) -> None:
        first = self.asked[which % len(self.asked)]
        self._do(again(first, process=process), alone=alone)

    @precondition(lambda self: self.asked)
    @rule(which=which, name=users, quantity=quantities, alone=alone)
    def ask_for_something_else_with_the_same_key(self, *, which: int, name: str, quantity: int, alone: bool) -> None:
        first = self.asked[which % len(self.asked)]
        if isinstance(first, Charge):
            self._do(again(first, user_id=self.names[name], quantity=quantity), alone=alone)
        else:
            self._do(again(first, uses=quantity), alone=alone)

    # No preconditions on holds: of some that are asked for at once chance decides which there are, and Hypothesis wants
    # to draw the same whenever it draws again.

    @rule(which=which, quantity=st.none() | quantities, alone=alone)
    def capture(self, *, which: int, quantity: int | None, alone: bool) -> None:
        if self.held:
            hold = self.held[which % len(self.held)]
            self._do(Capture(user_id=hold.user_id, charge_id=is_id(hold.id), quantity=quantity), alone=alone)

    @rule(which=which, alone=alone)
    def release(self, *, which: int, alone: bool) -> None:
        if self.held:
            hold = self.held[which % len(self.held)]
            self._do(Release(user_id=hold.user_id, charge_id=is_id(hold.id)), alone=alone)

    @rule(name=users, uses=st.integers(0, 20), book=st.sampled_from(["free", "paid"]), lifetime=lifetimes, alone=alone)
    def give(self, *, name: str, uses: int, book: Spendable, lifetime: int | None, alone: bool) -> None:
        self._do(Give(user_id=self.names[name], uses=uses, book=book, lifetime=lifetime), alone=alone)

    @rule(name=st.sampled_from(["ada", "bob"]), uses=st.integers(1, 20), lifetime=lifetimes, alone=alone)
    def grant(self, *, name: str, uses: int, lifetime: int | None, alone: bool) -> None:
        until = None if lifetime is None else self.world.now + lifetime
        self._do(Grant(user_id=self.names[name], key=uuid4().hex, uses=uses, expires_at=until), alone=alone)

    @rule(name=st.sampled_from(["ada", "bob"]), uses=st.integers(-20, 20).filter(bool), alone=alone)
    def adjust(self, *, name: str, uses: int, alone: bool) -> None:
        self._do(Adjust(user_id=self.names[name], key=uuid4().hex, uses=uses), alone=alone)

    @rule(name=users, uses=st.integers(1, 20), lifetime=lifetimes, alone=alone)
    def buy(self, *, name: str, uses: int, lifetime: int | None, alone: bool) -> None:
        self._do(Buy(user_id=self.names[name], purchase_id=uuid4(), uses=uses, lifetime=lifetime), alone=alone)

    @precondition(lambda self: self.bought)
    @rule(which=which, part=st.sampled_from([0, 0, 1, 2, 3, 3]), alone=alone)
    def take_back(self, *, which: int, part: int, alone: bool) -> None:
        """Thirds of it; none when disputes are won."""
        bought = self.bought[which % len(self.bought)]
        uses = bought.uses * part // 3
        self._do(TakeBack(user_id=bought.user_id, purchase_id=bought.purchase_id, uses=uses), alone=alone)

    @precondition(lambda self: self.bought)
    @rule(which=which)
    def a_dispute_that_is_won_changes_nothing(self, which: int) -> None:
        self._settle()
        bought = self.bought[which % len(self.bought)]
        model = self.models[bought.user_id]
        before, clawed = model.spendable, model.purchases[bought.purchase_id].clawed
        for uses in (bought.uses, clawed):
            taking = TakeBack(user_id=bought.user_id, purchase_id=bought.purchase_id, uses=uses)
            self._do(taking, alone=True)
        assert self.models[bought.user_id].spendable == before

    @rule(uses=st.integers(2, 20), data=st.data(), end=st.sampled_from([Capture, Release]))
    def a_debt_is_settled_by_other_uses_before_the_dispute_is_won(
        self, uses: int, data: st.DataObject, end: type[Operation]
    ) -> None:
        user_id, purchase_id = f"debtor-{uuid4()}", uuid4()
        self.models[user_id] = Model(RULES)
        held = data.draw(st.integers(1, uses))
        hold = Charge(user_id=user_id, key=uuid4().hex, quantity=RULES.free_uses + held, hold=True)
        self._do(Buy(user_id=user_id, purchase_id=purchase_id, uses=uses, lifetime=None), alone=True)
        self._do(hold, alone=True)
        self._do(TakeBack(user_id=user_id, purchase_id=purchase_id, uses=uses), alone=True)
        self._do(Give(user_id=user_id, uses=held, book="paid", lifetime=None), alone=True)
        self._do(TakeBack(user_id=user_id, purchase_id=purchase_id, uses=0), alone=True)
        self._do(Give(user_id=user_id, uses=1, book="paid", lifetime=1000), alone=True)
        more = {"quantity": RULES.free_uses} if end is Capture else {}
        self._do(end(user_id=user_id, charge_id=is_id(hold.id), **more), alone=True)

    @rule(name=users, uses=st.integers(2, 9), process=st.integers(0, 1))
    def a_grant_in_hand_expires(self, name: str, uses: int, process: int) -> None:
        user_id = self.names[name]
        self._do(Give(user_id=user_id, uses=uses, book="free", lifetime=1), alone=True)
        self.time_passes(seconds=1)
        for _ in range(2):
            self._do(Charge(user_id=user_id, key=uuid4().hex, quantity=1, process=process), alone=True)

    @rule(seconds=st.sampled_from([1, 30, 60, 100, 1000]))
    def time_passes(self, seconds: int) -> None:
        self._settle()
        self.world.now += seconds
        for model in self.models.values():
            model.now = self.world.now

    @rule(alone=alone)
    def lapsed_holds_are_ended(self, *, alone: bool) -> None:
        for id in self.processes.run(self._lapsed()):
            for hold in self.held:
                if hold.id == id:
                    self._do(Lapse(user_id=hold.user_id, charge_id=id), alone=alone)

    async def _lapsed(self) -> Sequence[UUID]:
        async with self.world.sessions() as session:
            return await holds.lapsed(session, self.world.now, limit=100)

    @rule()
    def all_of_it(self) -> None:
        self._settle()

    def teardown(self) -> None:
        self._settle()
        assert self.processes.run(audit(self.world.sessions, users=self.models)) == []

    # How it is done

    def _do(self, operation: Operation, *, alone: bool) -> None:
        if alone:
            self._settle()
        self.batch.append(operation)
        if alone:
            self._settle()

    def _settle(self) -> None:
        batch, self.batch = self.batch, []
        if batch:
            self.processes.run(self._run(batch))

    async def _run(self, batch: list[Operation]) -> None:
        await asyncio.gather(*(operation.go(self.world) for operation in batch))
        await self._compare_history(batch)
        await self._compare_state({operation.user_id for operation in batch})
        for operation in batch:
            if isinstance(operation, Charge | Grant | Adjust):
                self.asked.append(operation)
            if isinstance(operation, Charge) and operation.id is not None and operation.hold:
                self.held.append(operation)
            if isinstance(operation, Buy):
                self.bought.append(operation)

    # What is to come of it

    async def _compare_history(self, batch: list[Operation]) -> None:
        """The transfers tell in what order all of it happened; in that order the model does the same."""
        done = set[Operation]()
        rows = await self._new_transfers()
        keys_before = set(self.made)
        several = len(batch) > 1
        moments = {user_id: [deepcopy(model) if several else model] for user_id, model in self.models.items()}
        for user_id, model in self.models.items():
            for operation, legs in effects(batch, rows[user_id]):
                new = [leg.grant for leg in legs if leg.grant is not None and leg.grant not in model.lots]
                model.begin(self.world.now, iter(dict.fromkeys(new)).__next__)
                if operation is None:
                    model.end()
                else:
                    assert operation.user_id == user_id
                    assert operation not in done, "done twice"
                    done.add(operation)
                    assert operation.imitate(model) == operation.outcome, operation
                assert model.kept
                assert model.legs == legs, operation
                if several:
                    moments[user_id].append(deepcopy(model))
        for operation in batch:
            if isinstance(operation, Charge) and operation in done:
                assert operation.key not in self.made, "one key, two charges"
                self.made[operation.key] = operation
        for operation in batch:
            if operation not in done:
                self._check_without_effect(operation, moments[operation.user_id], keys_before)

    def _check_without_effect(self, operation: Operation, moments: list[Model], keys_before: set[str]) -> None:
        """A refusal, or nothing left to do: at some moment of the batch this was right."""
        if isinstance(operation, Charge):
            first = self.made.get(operation.key)
            same = first is not None and first.order.fingerprint == operation.order.fingerprint
            if operation.outcome[0] == "again":
                assert same
                assert first is not None
                assert operation.outcome[1:] == first.outcome[1:]
                return
            if operation.outcome == refused("idempotency_key_reused"):
                assert first is not None
                assert not same
                return
            assert operation.key not in keys_before, "the first answer was due"
        assert any(would_be(operation, moment, self.world.now) for moment in moments), operation

    async def _new_transfers(self) -> dict[str, list[tuple[str, Leg]]]:
        """Each with the transaction it is of, by user, oldest first."""
        found = defaultdict[str, list[tuple[str, Leg]]](list)
        async with self.world.sessions() as session:
            rows = await session.execute(
                text("""SELECT t.id, a.user_id, t.xmin::text, t.kind, t.source, t.destination, t.amount, t.grant_id,
                               t.charge_id, t.purchase_id, t.balance_after
                          FROM credit_transfers t JOIN credit_accounts a ON a.id = t.account_id
                         WHERE a.user_id = ANY(:users) AND t.id > :seen ORDER BY t.id"""),
                {"users": list(self.models), "seen": self.seen},
            )
            for id, user_id, xid, *leg in rows:
                self.seen = max(self.seen, id)
                found[user_id].append((xid, Leg(*leg)))
        return found

    async def _compare_state(self, users: Iterable[str]) -> None:
        for user_id in users:
            model = self.models[user_id]
            balance = (await self.processes.reader.look(user_id=user_id)).balance
            assert balance is not None
            assert balance.available == model.spendable
            if model.exists:
                await self._compare_rows(user_id, model)

    async def _compare_rows(self, user_id: str, model: Model) -> None:
        async with self.world.sessions() as session:
            account = (await session.execute(ACCOUNT, {"user": user_id})).one()
            id = {"id": account.id}
            lots = (await session.execute(LOTS, id)).all()
            charges = (await session.execute(CHARGES, id)).all()
        self.world.accounts[user_id] = account.id
        balances = (account.free, account.paid, account.held, account.owed, account.used)
        assert balances == (model.sum("free"), model.sum("paid"), model.held, model.owed, model.used)
        assert (account.told, account.due) == (model.told, model.topup_due)
        left = {lot.id: (lot.remaining + account.hand * (lot.id == account.hand_grant), lot.expires_at) for lot in lots}
        assert left == {lot.id: (lot.left, lot.expires_at) for lot in model.lots.values()}
        assert {id: tuple(said) for id, *said in charges} == {
            id: (it.status, it.quantity, it.captured, it.expires_at) for id, it in model.charges.items()
        }


def effects(
    batch: Iterable[Operation], rows: Iterable[tuple[str, Leg]]
) -> Iterator[tuple[Operation | None, list[Leg]]]:
    """Whose doing these transfers are, in order; charges share a transaction, and nothing else does.

    None for a charge that was refused, whichever it was: it writes off what has expired.
    """
    batch = list(batch)
    by_xid = {operation.xid: operation for operation in batch if operation.xid is not None}
    by_charge = {operation.id: operation for operation in batch if isinstance(operation, Charge)}
    for xid, together in groupby(rows, key=lambda row: row[0]):
        legs = [leg for _, leg in together]
        if xid in by_xid:
            yield by_xid[xid], legs
            continue
        before: list[Leg] = []  # what opening the books did
        for charge_id, mine in groupby(legs, key=lambda leg: leg.charge):
            before += mine
            if charge_id is not None:
                yield by_charge[charge_id], before
                before = []
        if before:
            assert any(isinstance(operation, Charge) and operation.outcome[0] == "refused" for operation in batch)
            yield None, before


def would_be(operation: Operation, moment: Model, now: int) -> bool:
    model = deepcopy(moment)
    model.begin(now, uuid4)
    outcome = operation.imitate(model)
    if outcome[0] == "nothing" and operation.outcome[0] != "refused":
        return operation.outcome[1:] == outcome[1:]
    return operation.outcome == outcome and not (model.kept and model.legs)


def is_id(id: UUID | None) -> UUID:
    assert id is not None
    return id


def test_whatever_happens_at_once_the_books_are_those_of_one_thing_after_another(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        stack = AsyncExitStack()
        world, reader = runner.run(open_world(stack, database_url))
        for module in ("charges", "reader"):
            monkeypatch.setattr(f"app.services.credits.{module}.unix_now", lambda: world.now)
        try:
            run_state_machine_as_test(
                lambda: CreditHistory(Processes(runner, world, reader)),
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.reuse, Phase.generate],  # to shrink takes longer than a test may
                ),
            )
            assert runner.run(audit(world.sessions)) == []
        finally:
            runner.run(stack.aclose())
