"""`billhook credits verify` as cron runs it: a real process, what it prints and its exit code."""

import asyncio
import io
import re
from pathlib import Path
from uuid import UUID

import pytest
from processes import start
from rich.console import Console
from sqlalchemy import text

from app.cli.credits import _table
from app.db import Sessions, transaction
from app.services.catalog import Credits
from app.services.credits import accounts
from app.services.credits.accounts import Identity
from app.services.credits.verify import Violation
from app.settings import Settings
from app.values import unix_now


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {
        "ENVIRONMENT": "test",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "STRIPE_SECRET_KEY": "sk_test_1",
    }


def told(environment: dict[str, str], log: Path) -> tuple[int, list[str]]:
    log.unlink(missing_ok=True)
    code = start("credits", "verify", log=log, env=environment).wait(60)
    return code, log.read_text().splitlines()


async def test_cron_learns_of_wrong_books_by_the_exit_code(
    environment: dict[str, str], sessions: Sessions, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    assert await asyncio.to_thread(told, environment, log) == (0, ["0 accounts, 0 transfers: all right."])
    async with transaction(sessions) as session:
        account, _ = await accounts.ensure(session, Credits(free_uses=3), Identity(user_id="ada"), unix_now())
    assert await asyncio.to_thread(told, environment, log) == (0, ["1 accounts, 1 transfers: all right."])
    async with transaction(sessions) as session:
        await session.execute(text("UPDATE credit_accounts SET used = 4"))
    code, [wrong, summary] = await asyncio.to_thread(told, environment, log)
    assert (code, summary) == (1, "1 accounts, 1 transfers: 1 wrong.")
    assert wrong.split("\t") == [str(account.id), "consumed", "", "0", "4"]


def test_eyes_are_shown_a_table() -> None:
    shown = io.StringIO()
    row = Violation(UUID(int=1), "charge_unknown", "[c]", "charge 1, hold 0, capture 0, release 0", None)
    Console(file=shown, width=200).print(_table([row]))
    assert re.search(r"-000000000001 .* charge_unknown .* \[c\] .* charge 1, hold 0", shown.getvalue())
