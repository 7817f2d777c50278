"""`billhook events …`: what Stripe sent, what became of it, and having it applied once more."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from sqlalchemy.ext.asyncio import AsyncSession

from app.cli.context import fail, in_transaction, load_settings, say
from app.cli.since import HELP, unix_seconds

if TYPE_CHECKING:
    from app.models import Replay, StripeEvent
    from app.services.inbox import EventFilter
    from app.settings import Settings

BUSY_SECONDS = 0.2

events = typer.Typer(no_args_is_help=True, help="What Stripe sent, and what became of it.")

StatusOption = Annotated[Literal["pending", "processed", "ignored", "dead"] | None, typer.Option(help="Only these.")]
TypeOption = Annotated[str | None, typer.Option(help="Only this type, e.g. invoice.paid.")]
CustomerOption = Annotated[str | None, typer.Option(help="Only this customer's: a user id or a Stripe id.")]
SinceOption = Annotated[str | None, typer.Option(help=HELP)]
AccountOption = Annotated[
    str | None, typer.Option(help="The connected account it came from, where two accounts' events share an id.")
]


@events.command("list")
def list_events(
    status: StatusOption = None,
    type: TypeOption = None,
    customer: CustomerOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 20,
) -> None:
    """Show events, newest first."""
    from app.services import inbox

    after = unix_seconds(since)

    async def work(session: AsyncSession) -> "list[StripeEvent]":
        return await inbox.list_events(session, status=status, type=type, customer=customer, since=after, limit=limit)

    table = Table(Column("id", no_wrap=True), "type", "received", "status", "tries", "key", "why")
    for row in in_transaction(load_settings(), work)[:limit]:
        received, why = f"{row.received_at:%Y-%m-%d %H:%M:%S}", row.last_error or row.reason or ""
        shown = (row.event_id, row.type, received, row.status, str(row.attempts), row.key, why)
        table.add_row(*map(escape, shown))
    Console().print(table)


@events.command("show")
def show_event(
    id: Annotated[str, typer.Argument(help="Stripe's id of the event.")], account: AccountOption = None
) -> None:
    """Print an event with its payload, what happened because of it and what it changed, as JSON."""
    from app.api.events import EventDetail
    from app.services import inbox

    async def work(session: AsyncSession) -> EventDetail:
        row = await inbox.get(session, id, account=account)
        return EventDetail.with_effects(row, await inbox.effects(session, id))

    say(in_transaction(load_settings(), work).model_dump_json(indent=2))


@events.command("replay")
def replay_events(
    *,
    id: Annotated[str | None, typer.Argument(help="Stripe's id of one event; or say which by options.")] = None,
    status: StatusOption = None,
    type: TypeOption = None,
    customer: CustomerOption = None,
    since: SinceOption = None,
    account: AccountOption = None,
) -> None:
    """Have events applied once more; what they did already is not done twice."""
    from app.services.inbox import EventFilter

    settings = load_settings()
    which = EventFilter(status=status, type=type, customer=customer, since=unix_seconds(since))
    if id is None:
        if account is not None:
            fail("--account goes with the id of one event")
        job = asyncio.run(_replay(settings, which))
        say(f"{job.replayed} events are pending again, {job.skipped} could not be.")
    elif which.given:
        fail("give the id of one event, or options that say which, but not both")
    else:
        _replay_one(settings, id, account)
        say("pending again")


def _replay_one(settings: "Settings", id: str, account: str | None) -> None:
    from app.services import inbox

    async def work(session: AsyncSession) -> None:
        await inbox.replay(session, id, account=account, livemode=settings.livemode, actor="cli")

    in_transaction(settings, work)


async def _replay(settings: "Settings", which: "EventFilter") -> "Replay":
    """Asks for a replay and carries it out here; should a worker be faster, it is only watched."""
    from app.db import transaction
    from app.services import replays
    from app.worker.replays import advance
    from app.worker.session import connected

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    async with connected(settings) as sessions:
        async with transaction(sessions) as session:
            job = await replays.start(session, which, actor="cli")
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("replaying", total=job.total)
            while job.status == "running":
                if await advance(sessions, livemode=settings.livemode, id=job.id) is None:
                    await asyncio.sleep(BUSY_SECONDS)
                async with transaction(sessions) as session:
                    job = await replays.get(session, job.id)
                progress.update(task, completed=job.replayed + job.skipped)
    return job
