"""The command line's view of events: found, shown and replayed, as over HTTP."""

import json
import re
import time
from pathlib import Path

import pytest
from billing import Account
from processes import start
from sqlalchemy import update

from app.cli.since import unix_seconds
from app.models import AuditRow, OutboxMessage, Replay, StripeEvent
from app.settings import Settings


class Told:
    """Runs `billhook events …` and gives what it printed."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._log = log
        self._env = {
            "ENVIRONMENT": "development",
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": settings.redis_url.get_secret_value(),
            "STRIPE_SECRET_KEY": "sk_test_1",
            "COLUMNS": "200",
        }

    def __call__(self, *command: str, fails: bool = False) -> str:
        self._log.unlink(missing_ok=True)
        code = start("events", *command, log=self._log, env=self._env).wait(30)
        printed = self._log.read_text()
        assert (code != 0) == fails, printed
        assert "Traceback" not in printed
        return printed


@pytest.fixture
def told(settings: Settings, tmp_path: Path) -> Told:
    return Told(settings, tmp_path / "log")


async def bury_all(account: Account) -> None:
    async with account.sessions.begin() as session:
        await session.execute(
            update(StripeEvent)
            .where(StripeEvent.status != "ignored")
            .values(status="dead", attempts=12, last_error="KeyError: [/bold]")
        )


async def test_events_are_listed_shown_and_replayed_one_by_one(told: Told, account: Account) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    await bury_all(account)
    [paid] = account.events("invoice.paid")
    listed = told("list", "--status", "dead", "--customer", "demo-1", "--type", "invoice.paid", "--since", "1h")
    assert paid["id"] in listed
    assert "KeyError: [/bold]" in listed  # as it is, not as a mark-up of the terminal's
    assert listed.count("evt_") == 1
    message, *_ = await account.all(OutboxMessage)
    shown = json.loads(told("show", message.stripe_event_id))
    assert (shown["payload"]["id"], shown["attempts"]) == (message.stripe_event_id, 12)
    assert [effect["type"] for effect in shown["effects"]] == [message.type]

    assert told("replay", paid["id"]) == "pending again\n"
    assert "no such event" in told("replay", "evt_never", fails=True)
    pending = [row.event_id for row in await account.all(StripeEvent) if row.status == "pending"]
    assert pending == [paid["id"]]
    [replayed] = [row for row in await account.all(AuditRow) if row.action == "event.replayed"]
    assert (replayed.actor, replayed.subject) == ("cli", paid["id"])


async def test_many_events_are_replayed_at_once(told: Told, account: Account) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    await bury_all(account)
    dead = [row.event_id for row in await account.all(StripeEvent) if row.status == "dead"]
    printed = told("replay", "--status", "dead")
    assert f"{len(dead)} events are pending again, 0 could not be." in printed
    assert f"{len(dead)}/{len(dead)}" in printed
    assert [row.event_id for row in await account.all(StripeEvent) if row.status == "pending"] == dead
    [job] = await account.all(Replay)
    assert (job.status, job.actor, job.replayed) == ("done", "cli", len(dead))

    assert "Say which events" in told("replay", fails=True)
    assert "but not both" in told("replay", "evt_1", "--status", "dead", fails=True)
    assert "is no moment" in told("list", "--since", "yesterday", fails=True)
    assert re.search("lost.*is not one of", told("list", "--status", "lost", fails=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1795219200", 1_795_219_200),
        ("2026-11-21", 1_795_219_200),
        ("2026-11-21T01:00:00", 1_795_222_800),
        ("2026-11-21T01:00:00+01:00", 1_795_219_200),
    ],
)
def test_a_moment_is_typed_as_people_write_it(text: str, expected: int) -> None:
    assert unix_seconds(text) == expected


def test_a_moment_may_be_so_long_ago() -> None:
    ago = unix_seconds("2d")
    assert ago is not None
    assert 0 <= time.time() - 2 * 86_400 - ago < 60
    assert unix_seconds(None) is None
