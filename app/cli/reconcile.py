"""`billhook reconcile` and `billhook sync`: our rows held against Stripe, and an account's past taken over."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, TypeVar

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from sqlalchemy.exc import SQLAlchemyError

from app.cli.context import load_settings, say
from app.cli.since import HELP, unix_seconds
from app.errors import BillingError

if TYPE_CHECKING:
    from app.db import Sessions
    from app.models import Difference, ReconcileRun
    from app.provider.protocol import BillingProvider
    from app.settings import Settings

T = TypeVar("T")

DRIFT, UNFINISHED = 1, 2
SHOWN = 1000

SinceOption = Annotated[str | None, typer.Option(help=HELP)]


def reconcile(
    repair: Annotated[bool, typer.Option("--repair", help="Also mend what is found; else nothing is changed.")] = False,
    since: SinceOption = None,
) -> None:
    """Compare with Stripe what is stored here, and show every difference with its cause.

    Exit code 0: no difference, or all mended. 1: there are differences. 2: it could not finish; again goes on.
    """

    async def work(settings: "Settings") -> "tuple[ReconcileRun, list[Difference]]":
        return await _reconcile(settings, repair=repair, since=unix_seconds(since))

    run, differences = _finished(work)
    if sys.stdout.isatty() and differences:
        Console().print(_table(differences))
    else:
        for row in differences:
            fields = json.dumps(row.fields, separators=(",", ":"))
            say("\t".join((row.object, row.stripe_id, row.customer or "", row.cause, fields, _state(row))))
    if len(differences) == SHOWN:
        say_aside(f"These are the first {SHOWN}; GET /reconcile/report has all.")
    say_aside(f"{run.compared} compared, {run.drifted} different, {run.repaired} mended.")
    if run.drifted > run.repaired:
        raise SystemExit(DRIFT)


def sync(since: SinceOption = None) -> None:
    """Take over from Stripe what an account has: customers, products, subscriptions, invoices, payments and the rest.

    Run it once, after `plans apply`, where Stripe was in use before Billhook. Again goes on, or changes nothing.
    Exit code 2: not all could be taken over.
    """

    async def work(settings: "Settings") -> Counter[str]:
        return await _sync(settings, since=unix_seconds(since))

    counts = _finished(work)
    say_aside(f"{counts['seen']} seen, {counts['written']} written.")
    if counts["left"]:
        say_aside(f"{counts['left']} could not be taken over; `billhook reconcile` names them.")
        raise SystemExit(UNFINISHED)


def say_aside(message: str) -> None:
    """What is for eyes, and not part of the result that comes before it."""
    sys.stdout.flush()
    print(message, file=sys.stderr)


def _finished(work: "Callable[[Settings], Awaitable[T]]") -> T:
    """Whatever keeps it from finishing is told in one line, by an exit code that can't be taken for a difference."""

    async def run() -> T:
        return await work(load_settings())

    try:
        return asyncio.run(run())
    except BillingError as error:
        say_aside(f"billhook: {error.message}")
    except (SQLAlchemyError, OSError) as error:
        say_aside(f"billhook: a server does not answer, or not as expected: {type(error).__name__}")
    except SystemExit:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no difference
        say_aside(f"billhook: {type(error).__name__}: {error}".splitlines()[0])
    raise SystemExit(UNFINISHED)


@asynccontextmanager
async def _connected(settings: "Settings") -> "AsyncIterator[tuple[Sessions, BillingProvider]]":
    from app.redis import create_redis
    from app.worker.provider import background_provider
    from app.worker.session import connected

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for what is found
    async with (
        connected(settings) as sessions,
        create_redis(settings.redis_url.get_secret_value()) as redis,
        background_provider(settings, redis) as provider,
    ):
        yield sessions, provider


async def _reconcile(
    settings: "Settings", *, repair: bool, since: int | None
) -> "tuple[ReconcileRun, list[Difference]]":
    from app.db import transaction
    from app.services.plans_file import load
    from app.services.reconcile import runs
    from app.worker.reconcile import reconcile

    async with _connected(settings) as (sessions, provider):
        expected = 0
        if sys.stderr.isatty():
            async with transaction(sessions) as session:
                expected = await runs.expected(session)
        with _progress() as progress:
            task = progress.add_task("comparing", total=expected)

            def watch(run: "ReconcileRun") -> None:
                total = max(expected, run.compared)
                progress.update(task, description=runs.Progress.of(run).phase, completed=run.compared, total=total)

            meters = load(settings.plans_file).meters
            run = await reconcile(
                sessions, provider, actor="cli", repair=repair, since=since, meters=meters, watch=watch
            )
        async with transaction(sessions) as session:
            return run, await runs.differences(session, run.id, limit=SHOWN)


async def _sync(settings: "Settings", *, since: int | None) -> Counter[str]:
    from app.worker.backfill import Page, sync

    counts = Counter[str]()
    async with _connected(settings) as (sessions, provider):
        with _progress() as progress:
            task = progress.add_task("taking over", total=None)

            def watch(page: Page) -> None:
                counts.update(seen=page.seen, written=page.written, left=page.left)
                progress.update(task, description=page.name, advance=page.seen)

            await sync(sessions, provider, actor="cli", since=since, watch=watch)
    return counts


def _progress() -> Progress:
    """A bar for eyes; nothing where nobody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def _table(differences: "list[Difference]") -> Table:
    table = Table("object", Column("id", no_wrap=True), "customer", "cause", "ours → Stripe's", "")
    for row in differences:
        changes = (f"{field}: {ours} → {theirs}" for field, (ours, theirs) in row.fields.items())
        told = (row.object, row.stripe_id, row.customer or "", row.cause, "\n".join(changes), _state(row))
        table.add_row(*map(escape, told))
    return table


def _state(row: "Difference") -> str:
    if row.repaired:
        return "mended"
    return "waits" if row.cause == "event_pending" else ""
