"""Comparisons with Stripe in tests: run at once, and what they found; and a Stripe that fails or interferes."""

from collections.abc import Awaitable, Callable
from typing import Any

from billing import Account
from sqlalchemy import text

from app import models
from app.errors import UnavailableError
from app.models import Difference, ReconcileRun
from app.provider.stripe import StripeProvider
from app.services.reconcile.lists import LISTS
from app.worker.reconcile import reconcile

OWN_TABLES = {"reconcile_runs", "reconcile_differences"}


async def compare(account: Account, *, repair: bool = False, provider: Any = None, **more: Any) -> ReconcileRun:
    """A comparison that waits for nothing."""
    asked = {"actor": "cli", "since": None, "patience": 0, **more}
    return await reconcile(account.sessions, provider or account.provider, repair=repair, **asked)


def listed(account: Account) -> int:
    """How many objects Stripe's lists show, the customers' payment methods among them."""
    rows = [row for name in LISTS for row in account.sandbox.rows(name) if not row.get("_hidden")]
    return len(rows) + sum(1 for row in account.sandbox.rows("payment_method") if row["customer"])


async def found(account: Account, run: ReconcileRun) -> list[Difference]:
    return [row for row in await account.all(Difference) if row.run_id == run.id]


async def causes(account: Account, run: ReconcileRun) -> set[tuple[str, str]]:
    """(object, cause) of all that a run found."""
    return {(row.object, row.cause) for row in await found(account, run)}


async def dump(account: Account) -> dict[str, list[str]]:
    """Every row of every table but the comparisons' own, as text."""
    async with account.sessions() as session:
        return {
            name: sorted((await session.scalars(text(f'SELECT t::text FROM "{name}" AS t'))).all())  # noqa: S608 - our own names
            for name in models.Base.metadata.tables
            if name not in OWN_TABLES
        }


class Interfered:
    """Stripe, as somebody meddles with it: `before` is called with each operation's name and its number, from 1."""

    def __init__(self, provider: StripeProvider, before: Callable[[str, int], Awaitable[None]]) -> None:
        self._provider = provider
        self._before = before
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._provider, name)
        if not name.startswith(("list_", "retrieve_")):
            return operation

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            await self._before(name, self.calls.count(name))
            return await operation(*args, **kwargs)

        return call


def away_at(operation: str, number: int) -> Callable[[str, int], Awaitable[None]]:
    """Stripe falls silent from the `number`th call of an operation on."""

    async def before(name: str, count: int) -> None:
        if name == operation and count >= number:
            raise UnavailableError("Stripe is not reachable.")

    return before
