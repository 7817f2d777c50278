"""`billhook plans …`: plans.yaml held against Stripe, and Stripe brought in line with it."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from app.cli.context import fail, in_transaction, load_settings, say

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.provider.stripe import StripeProvider
    from app.services.catalog import Catalog
    from app.services.plans_apply import Change
    from app.settings import Settings

DIFFERENT = 2

plans = typer.Typer(no_args_is_help=True, help="The catalogue: plans.yaml and Stripe.")

JsonOption = Annotated[bool, typer.Option("--json", help="As a JSON array.")]


@plans.command("apply")
def apply_plans(
    archive: Annotated[
        bool, typer.Option("--archive", help="Also take off sale what plans.yaml no longer sells, and old prices.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create and update meters, products and prices at Stripe so that they match plans.yaml. Again changes nothing.

    A new amount makes a new price; who has subscribed keeps the old one.
    """
    settings = load_settings()
    catalog = read_catalog(settings)
    if dry_run:
        _show([c for c in asyncio.run(_diff(settings, catalog)) if archive or c.action != "archive"], as_json=as_json)
        return

    async def work(session: "AsyncSession") -> "list[Change]":
        from app.services import plans_apply

        async with _provider(settings) as provider:
            return await plans_apply.apply(session, provider, catalog, archive=archive)

    _show(in_transaction(settings, work), as_json=as_json)


@plans.command("diff")
def diff_plans(as_json: JsonOption = False) -> None:
    """Show how Stripe differs from plans.yaml. Changes nothing.

    Exit code 0: not at all. 2: it does. What is marked `archive` only `plans apply --archive` does.
    """
    settings = load_settings()
    changes = [change for change in asyncio.run(_diff(settings, read_catalog(settings))) if change.action != "keep"]
    _show(changes, as_json=as_json)
    if changes:
        raise SystemExit(DIFFERENT)


@plans.command("schema")
def plans_schema() -> None:
    """Print the JSON schema of plans.yaml, for editors."""
    from app.services.plans_file import schema

    say(json.dumps(schema(), indent=2))


def read_catalog(settings: "Settings") -> "Catalog":
    """plans.yaml; with a mistake in it, the end."""
    from app.services.plans_file import CatalogError, load

    try:
        return load(settings.plans_file)
    except CatalogError as error:
        fail(str(error))


def _provider(settings: "Settings") -> "StripeProvider":
    from app.provider.stripe import StripeProvider

    return StripeProvider(settings.stripe_secret_key.get_secret_value(), base_url=settings.stripe_api_base)


async def _diff(settings: "Settings", catalog: "Catalog") -> "list[Change]":
    from app.services import plans_apply

    async with _provider(settings) as provider:
        return await plans_apply.diff(provider, catalog)


def _show(changes: "Sequence[Change]", *, as_json: bool) -> None:
    if as_json:
        say(json.dumps([asdict(change) for change in changes], indent=2))
        return
    if not changes:
        say("Stripe says what plans.yaml says.")
        return
    table = Table("", "what", Column("id", no_wrap=True), "at Stripe → in plans.yaml")
    for change in changes:
        fields = "\n".join(f"{name}: {_text(old)} → {_text(new)}" for name, (old, new) in change.fields.items())
        table.add_row(change.action, change.what, change.id, fields)
    Console().print(table, markup=False)


def _text(value: object) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
