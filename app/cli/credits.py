"""`billhook credits …`: prepaid credits, as far as the command line has to do with them."""

import sys
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from sqlalchemy.ext.asyncio import AsyncSession

from app.cli.context import in_transaction, load_settings, say

if TYPE_CHECKING:
    from app.services.credits.verify import Violation

prepaid = typer.Typer(no_args_is_help=True, help="Prepaid credits.")

WRONG = 1
SECONDS = 3600  # for one account's whole history, however long


@prepaid.command("verify")
def verify_credits() -> None:
    """Hold every balance, grant, charge and purchase against the ledger of transfers. Exit code 1 if any is wrong.

    Changes nothing, and charges go on meanwhile. On a terminal it prints a table; elsewhere a line for each, separated
    by tabs: account, what, which of the account's, what it should be, what it is.
    """

    async def work(session: AsyncSession) -> "tuple[int, int, list[Violation]]":
        from app.services.credits import verify

        accounts, transfers = 0, 0
        violations: list[Violation] = []
        async for found in verify.slices(session):
            accounts += found.accounts
            transfers += found.transfers
            violations += found.violations
        return accounts, transfers, violations

    accounts, transfers, violations = in_transaction(load_settings(), work, statement_seconds=SECONDS)
    told = f"{accounts} accounts, {transfers} transfers"
    if violations:
        if sys.stdout.isatty():
            Console().print(_table(violations))
        else:
            for row in violations:
                say("\t".join(_cells(row)))
        say(f"{told}: {len(violations)} wrong.")
        raise SystemExit(WRONG)
    say(f"{told}: all right.")


def _table(violations: "list[Violation]") -> Table:
    table = Table(Column("account", no_wrap=True), "what", "of", "expected", "found")
    for row in violations:
        table.add_row(*map(escape, _cells(row)))
    return table


def _cells(row: "Violation") -> tuple[str, ...]:
    return tuple("" if value is None else str(value) for value in row)
