"""`billhook …`: every verb calls a service; nothing is decided here."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.cli.context import fail, in_transaction, load_settings, say, wrong_settings
from app.cli.credits import prepaid
from app.cli.events import events
from app.cli.plans import plans, read_catalog
from app.cli.reconcile import reconcile, sync
from app.errors import BillingError

# The servers' modules are imported inside the verbs: `billhook token` must not wait for FastAPI and Stripe to load.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The billing service between your SaaS and Stripe.",
)
keys = typer.Typer(no_args_is_help=True, help="Service keys of your backends.")
audit = typer.Typer(no_args_is_help=True, help="The audit log.")
app.add_typer(plans, name="plans")
app.add_typer(keys, name="keys")
app.add_typer(audit, name="audit")
app.add_typer(events, name="events")
app.add_typer(prepaid, name="credits")
app.command("reconcile")(reconcile)
app.command("sync")(sync)

HostOption = Annotated[str, typer.Option(help="Address to listen on.")]


def main() -> None:
    """The console script: errors that are the user's to mend are one line, not a traceback."""
    try:
        app()
    except BillingError as error:
        fail(error.message)
    except (SQLAlchemyError, OSError) as error:
        fail(f"a server does not answer, or not as expected: {type(error).__name__}: {str(error).splitlines()[0]}")


@app.command()
def dev(
    port: Annotated[int | None, typer.Option(help="The API's port; by default 8000 or any free one.")] = None,
    directory: Annotated[Path, typer.Option("--dir", help="Where data and dev.json live.")] = Path(".dev"),
) -> None:
    """Run everything on this machine, with Postgres, Valkey and the Stripe sandbox built in."""
    from app.dev import DevError, dev
    from app.embedded_binaries import EmbeddedServerError
    from app.services.plans_file import CatalogError

    try:
        dev(directory.absolute(), port=port)
    except (DevError, EmbeddedServerError, CatalogError) as error:
        fail(str(error))
    except ValidationError as error:
        fail(wrong_settings(error))


@app.command()
def serve(
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    worker: Annotated[bool | None, typer.Option(help="Process events here too; default: WORKER_IN_SERVE.")] = None,
) -> None:
    """Serve the API."""
    import gc

    import uvicorn

    from app.main import create_app
    from app.observability import configure_logging

    settings = load_settings()
    read_catalog(settings)  # a mistake in it is better told here than from within the server
    configure_logging(level=settings.log_level, fmt=settings.log_format)
    if worker is not None:
        settings = settings.model_copy(update={"worker_in_serve": worker})
    uvicorn.run(
        # What start-up made stays: collecting around it would only cost pauses.
        create_app(settings, ready=gc.freeze),
        forwarded_allow_ips=list(settings.trusted_proxies),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
    )


@app.command()
def worker() -> None:
    """Process stored events, without the API."""
    from uvicorn.loops.auto import auto_loop_factory

    from app.worker.process import work

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:  # uvloop, as in `serve`
        runner.run(work(load_settings()))


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date."""
    from app.migrate import upgrade

    upgrade(load_settings().database_url.get_secret_value())
    say("The schema is up to date.")


@app.command()
def sandbox(
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 12111,
    key: Annotated[str, typer.Option(help="The secret key it accepts; never a live one.")] = "sk_test_billhook",
    state: Annotated[Path | None, typer.Option(help="File that keeps its state between runs.")] = None,
    public_url: Annotated[
        str | None, typer.Option(help="Where browsers reach its pages; by default http://localhost and the port.")
    ] = None,
    *,
    seed: Annotated[int | None, typer.Option(help="Number that makes the ids the same in every run.")] = None,
) -> None:
    """Run the Stripe sandbox alone, for any Stripe SDK in any language."""
    import uvicorn

    from app.sandbox.app import create_sandbox

    try:
        stand_in = create_sandbox(
            secret_key=key, base_url=public_url or f"http://localhost:{port}", state_file=state, seed=seed
        )
    except ValueError as error:
        fail(str(error))
    say(f"The Stripe sandbox listens on http://{host}:{port} with the key {key}")
    uvicorn.run(
        stand_in,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,  # a request that hangs by a fault must not keep it from stopping
    )


@app.command()
def token(
    user: Annotated[str, typer.Option(help="The user's id: the token's `sub`, 1 to 255 printable characters.")],
    email: Annotated[str | None, typer.Option(help="The user's e-mail address.")] = None,
    name: Annotated[str | None, typer.Option(help="The user's name.")] = None,
) -> None:
    """Print a development token for a user. Refused in production."""
    from app.services.identity import mint_development_token

    say(mint_development_token(load_settings(), user, email=email, name=name))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from app.main import openapi_document

    say(json.dumps(openapi_document(), indent=2))


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Print every setting, as a template for `.env`."""
    from app.settings_reference import env_example, markdown_table

    print(markdown_table() if markdown else env_example(), end="")


@keys.command("create")
def create_key(
    scope: Annotated[list[str], typer.Option(help="What the key may do; give it several times.")],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; never by default.")] = None,
) -> None:
    """Create a service key and print it, this once."""
    from app.services import identity
    from app.values import utcnow

    expires_at = None if days is None else utcnow() + timedelta(days=days)

    async def work(session: AsyncSession) -> str:
        _, text = await identity.create_key(session, name=name, scopes=scope, expires_at=expires_at, actor="cli")
        return text

    say(in_transaction(load_settings(), work))


@keys.command("list")
def list_keys() -> None:
    """Show all service keys, newest first; never their text."""
    from app.services import identity

    table = Table(Column("id", no_wrap=True), "name", "ends in", "scopes", "created", "expires", "revoked")
    for key in in_transaction(load_settings(), identity.list_keys):
        times = [
            f"{moment:%Y-%m-%d %H:%M}" if moment else "" for moment in (key.created_at, key.expires_at, key.revoked_at)
        ]
        table.add_row(str(key.id), key.name, key.last4, " ".join(key.scopes), *times)
    Console().print(table)


@keys.command("revoke")
def revoke_key(id: Annotated[UUID, typer.Argument(help="The key's id, as `keys list` shows it.")]) -> None:
    """Revoke a service key, at once."""
    from app.services import identity

    async def work(session: AsyncSession) -> None:
        await identity.revoke_key(session, id, actor="cli")

    in_transaction(load_settings(), work)
    say("revoked")


@audit.command("verify")
def verify_audit(
    head: Annotated[
        list[str] | None, typer.Option(help="A head seen earlier, as it is printed here; give it several times.")
    ] = None,
) -> None:
    """Check that no row of the audit log was changed, dropped or slipped in. Exit code 1 if one was.

    Prints where each chain stands. That rows were cut off at a chain's end shows only against heads kept elsewhere.
    """
    from app.services.audit import Head, first_broken, heads, is_kept

    try:
        earlier = [Head.parse(text) for text in head or ()]
    except ValueError:
        fail("a head is written chain:seq:hash")

    async def work(session: AsyncSession) -> list[Head]:
        found = await heads(session)  # before the rows are checked, so that every row told of has been
        if (broken := await first_broken(session)) is not None:
            fail(f"the audit log is broken at chain {broken[0]}, row {broken[1]}")
        for one in earlier:
            if not await is_kept(session, one):
                fail(f"the audit log no longer has row {one.seq} of chain {one.chain} as it was")
        return found

    for one in in_transaction(load_settings(), work):
        say(str(one))
    say("The audit log is whole.")
