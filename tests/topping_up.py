"""Automatic top-ups in tests: a customer with a card, charges until little is left, and the worker that buys."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from billing import ADA, Account
from sqlalchemy import select, update

from app import models
from app.db import transaction
from app.sandbox.resources import customers, payment_methods
from app.services import customers as ours
from app.services.credits import accounts
from app.services.credits.accounts import Identity
from app.services.credits.book import open_book
from app.services.customers import Buyer
from app.services.topups import setting
from app.values import unix_now
from app.worker.topups import TopupBuyer


class Crash(BaseException):
    """The worker ends where it stands: nothing that handles errors sees it."""


class Falling:
    """Stripe, as a worker asks it that falls over before or after a call of `operation`."""

    def __init__(self, provider: Any, operation: str, *, after: bool) -> None:
        self._provider, self._operation, self._after = provider, operation, after

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._provider, name)
        if name != self._operation:
            return call

        async def fall(*args: Any, **kwargs: Any) -> Any:
            try:
                if self._after:
                    await call(*args, **kwargs)
            finally:
                raise Crash

        return fall


class Changing:
    """Stripe, where something happens right after the first answer to `operation`."""

    def __init__(self, provider: Any, operation: str, happens: Callable[[], None]) -> None:
        self._provider, self._operation, self._happens = provider, operation, [happens]

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._provider, name)
        if name != self._operation:
            return call

        async def change(*args: Any, **kwargs: Any) -> Any:
            answer = await call(*args, **kwargs)
            if self._happens:
                self._happens.pop()()
            return answer

        return change


class TopUps:
    """The credit account of one user who is a customer at Stripe, and a worker."""

    def __init__(self, account: Account, user_id: str = ADA.user_id) -> None:
        self.account, self.sandbox, self.user_id = account, account.sandbox, user_id
        self.customer = ""

    async def open(self, card: str | None = "pm_card_visa") -> None:
        """Make the customer, pay by `card` from now on, and have an account with the free uses."""
        async with transaction(self.account.sessions) as session:
            buyer = Buyer(user_id=self.user_id)
            row, _ = await ours.ensure(session, self.account.provider, buyer, actor="test")
            self.customer = row.stripe_id
        if card is not None:
            await self.charge_to(card)
        async with transaction(self.account.sessions) as session:
            await accounts.ensure(session, self.account.plans.credits, Identity(user_id=self.user_id), unix_now())

    async def charge_to(self, card: str) -> str:
        """Have the customer add a card and make it the default one; gives its id."""
        with self.sandbox.changing():
            method: str = payment_methods.attach(self.sandbox, {"customer": self.customer}, card)["id"]
            settings = {"invoice_settings": {"default_payment_method": method}}
            customers.update(self.sandbox, settings, self.customer)
        await self.tell()
        return method

    async def tell(self) -> None:
        """Everything Stripe has to say is delivered (once more) and applied."""
        await self.account.deliver_and_process(self.account.events())

    def worker(self, provider: Any = None) -> TopupBuyer:
        plans = self.account.plans
        return TopupBuyer(sessions=self.account.sessions, provider=provider or self.account.provider, catalog=plans)

    async def run(self, provider: Any = None) -> None:
        """One round of a worker."""
        await self.worker(provider).buy_due()

    async def run_later(self, provider: Any = None) -> None:
        """One round after every pause and every lease is over."""
        async with transaction(self.account.sessions) as session:
            due = models.CreditTopup.due_at.is_not(None)
            await session.execute(update(models.CreditTopup).where(due).values(due_at=unix_now()))
        await self.run(provider)

    async def crash(self, operation: str, *, after: bool) -> bool:
        """A round that ends at a call of `operation`; False if it was never called."""
        try:
            await self.run(Falling(self.account.provider, operation, after=after))
        except Crash:
            return True
        return False

    async def put(self, pack: str = "starter", threshold: int = 1) -> models.CreditTopup:
        async with transaction(self.account.sessions) as session:
            whose = await accounts.get(session, user_id=self.user_id)
            return await setting.put(
                session, self.account.plans, whose, pack=pack, threshold=threshold, actor="test", now=unix_now()
            )

    async def remove(self) -> None:
        async with transaction(self.account.sessions) as session:
            whose = await accounts.get(session, user_id=self.user_id)
            await setting.remove(session, self.account.plans.credits, whose, actor="test", now=unix_now())

    async def spend(self, quantity: int) -> None:
        async with transaction(self.account.sessions) as session:
            book = await open_book(session, self.account.plans.credits, unix_now(), user_id=self.user_id)
            assert book is not None
            book.spend(quantity, uuid4())
            await book.close()

    async def found(self) -> models.CreditTopup | None:
        async with self.account.sessions() as session:
            mine = select(models.CreditAccount.id).where(models.CreditAccount.user_id == self.user_id)
            of_mine = models.CreditTopup.account_id.in_(mine)
            return await session.scalar(select(models.CreditTopup).where(of_mine))

    async def row(self) -> models.CreditTopup:
        row = await self.found()
        assert row is not None
        return row

    async def balance(self) -> int:
        async with self.account.sessions() as session:
            account = await accounts.get(session, user_id=self.user_id)
            return account.free + account.paid

    async def purchases(self) -> Sequence[tuple[str, str | None]]:
        """(status, failure_code) of this user's purchases, oldest first."""
        async with self.account.sessions() as session:
            account = await accounts.get(session, user_id=self.user_id)
            found = await session.scalars(
                select(models.CreditPurchase)
                .where(models.CreditPurchase.account_id == account.id)
                .order_by(models.CreditPurchase.created, models.CreditPurchase.id)
            )
            return [(row.status, row.failure_code) for row in found]

    def payments(self) -> list[str]:
        """What became of all payments at Stripe, oldest first."""
        mine = [row for row in self.sandbox.rows("payment_intent") if row["customer"] == self.customer]
        return [row["status"] for row in mine]

    async def news(self) -> list[tuple[int, str, bool]]:
        """(failures, failure_code, breaker_open) of every decline that was told."""
        told = [row.data for row in await self.account.all(models.OutboxMessage) if row.type == "credits.topup_failed"]
        return [(data["failures"], data["failure_code"], data["breaker_open"]) for data in told]
