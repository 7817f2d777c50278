"""`billhook reconcile` and `billhook sync` as cron runs them: real processes, their output and their exit codes."""

import asyncio
import io
import re
import socket
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from billing import Account
from chaos.promises import differences
from comparing import dump, listed
from processes import start
from rich.console import Console
from sqlalchemy import func, update
from starlette.applications import Starlette
from starlette.responses import JSONResponse

from app import models
from app.cli.reconcile import _finished, _table
from app.models import Difference, ReconcileRun
from app.sandbox.app import create_sandbox
from app.sandbox.resources import customers, subscriptions
from app.services.reconcile.runs import LEASE
from app.settings import Settings

KEY = "sk_test_billhook"


class Stripe:
    """The sandbox behind a socket; its clock is an hour slow, so that no event counts as being on its way."""

    def __init__(self) -> None:
        self.app = create_sandbox(secret_key=KEY, base_url="http://sandbox.test", now=lambda: time.time() - 3600)
        self.broken: str | None = None  # the path that answers 500
        self.pause = 0.0  # seconds before each answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(self.pause)
            if scope["path"] == self.broken:
                await JSONResponse({"error": {"type": "api_error"}}, 500)(scope, receive, send)
                return
        await self.app(scope, receive, send)


@pytest.fixture
def stripe() -> Stripe:
    return Stripe()


@pytest.fixture
async def sandbox_app(stripe: Stripe) -> AsyncIterator[Starlette]:
    yield stripe.app
    await stripe.app.state.sandbox.aclose()


@pytest.fixture
async def environment(stripe: Stripe, settings: Settings) -> AsyncIterator[dict[str, str]]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(stripe, lifespan="off", log_config=None, access_log=False, date_header=False)
    )
    task = asyncio.create_task(server.serve(sockets=[sock]))
    yield {
        "ENVIRONMENT": "test",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "STRIPE_SECRET_KEY": KEY,
        "STRIPE_API_BASE": f"http://127.0.0.1:{sock.getsockname()[1]}",
    }
    server.should_exit = True
    await task


class Told:
    """Runs a verb to its end and gives its exit code and what it printed."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        self._env = env
        self._log = log

    async def __call__(self, *command: str) -> tuple[int, list[str]]:
        self._log.unlink(missing_ok=True)
        process = start(*command, log=self._log, env=self._env)
        code = await asyncio.to_thread(process.wait, 60)
        return code, self._log.read_text().splitlines()


@pytest.fixture
def told(environment: dict[str, str], tmp_path: Path) -> Told:
    return Told(environment, tmp_path / "log")


async def test_cron_learns_of_drift_by_the_exit_code(told: Told, account: Account) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    [row] = account.sandbox.rows("subscription")
    with account.sandbox.changing():
        subscriptions.cancel(account.sandbox, {}, row["id"])
    before = await dump(account)

    code, lines = await told("reconcile")
    assert code == 1
    *found, summary = lines
    assert summary == f"{listed(account)} compared, 2 different, 0 mended."
    [event, subscription] = [line.split("\t") for line in found]
    assert (event[0], event[3]) == ("event", "event_missing")
    assert subscription[:4] == ["subscription", row["id"], row["customer"], "event_missing"]
    assert '"status":["active","canceled"]' in subscription[4]
    assert await dump(account) == before

    code, lines = await told("reconcile", "--repair")
    assert (code, lines[-1]) == (0, f"{listed(account)} compared, 2 different, 2 mended.")
    assert [line.split("\t")[-1] for line in lines[:-1]] == ["mended", "mended"]
    assert await differences(account, account.events()) == []
    assert await told("reconcile", "--since", "7d") == (0, [f"{listed(account) + 1} compared, 0 different, 0 mended."])


async def test_what_keeps_it_from_finishing_is_no_drift(told: Told, stripe: Stripe, account: Account) -> None:
    with account.sandbox.transaction():
        customers.create(account.sandbox, {})
    stripe.broken = "/v1/invoices"
    assert await told("reconcile", "--repair") == (2, ["billhook: Stripe is not reachable."])
    stripe.broken = None
    code, lines = await told("reconcile", "--repair")
    assert (code, lines[-1]) == (0, f"{listed(account)} compared, 1 different, 1 mended.")
    [run] = await account.all(ReconcileRun)
    assert (run.status, run.error) == ("done", None)
    code, lines = await told("reconcile", "--since", "yesterday")
    assert (code, "is no moment" in lines[0]) == (2, True)


async def test_without_redis_it_takes_longer_but_finds_the_same(
    account: Account, environment: dict[str, str], tmp_path: Path
) -> None:
    with account.sandbox.transaction():
        customers.create(account.sandbox, {})
    told = Told(environment | {"REDIS_URL": "unix:///nowhere"}, tmp_path / "log")
    code, lines = await told("reconcile")
    assert (code, lines[-1]) == (1, f"{listed(account)} compared, 1 different, 0 mended.")


async def test_settings_that_do_not_hold_are_no_drift(tmp_path: Path) -> None:
    code, lines = await Told({"DATABASE_URL": "postgresql://x"}, tmp_path / "log")("reconcile")
    assert (code, "REDIS_URL: Field required" in "".join(lines)) == (2, True)


async def test_what_kill_9_interrupted_goes_on(
    told: Told, stripe: Stripe, account: Account, environment: dict[str, str], tmp_path: Path
) -> None:
    with account.sandbox.transaction():
        for number in range(130):
            customers.create(account.sandbox, {"name": f"number {number}"})
    stripe.pause = 0.01
    process = start("reconcile", "--repair", log=tmp_path / "killed", env=environment)
    deadline = time.monotonic() + 60
    while not (runs := await account.all(ReconcileRun)) or runs[0].compared < 100 or runs[0].repaired < 105:
        assert process.poll() is None
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    process.kill()
    await asyncio.to_thread(process.wait, 20)
    stripe.pause = 0.0

    await touch(account, ago=-LEASE)  # a slow test must not take as long as it is waited for
    code, lines = await told("reconcile", "--repair")
    assert (code, lines) == (2, ["billhook: Another comparison with Stripe is under way."])
    await touch(account, ago=LEASE)
    code, lines = await told("reconcile", "--repair")
    assert (code, lines[-1]) == (0, f"{listed(account)} compared, 130 different, 130 mended.")
    assert len(await account.all(ReconcileRun)) == 1
    assert len(await account.all(Difference)) == 130
    assert len(await account.all(models.Customer)) == 130


async def touch(account: Account, *, ago: timedelta) -> None:
    """As if the run had been worked on at that time."""
    async with account.sessions.begin() as session:
        await session.execute(update(ReconcileRun).values(updated_at=func.now() - ago))


async def test_an_account_s_past_is_taken_over_once(told: Told, account: Account) -> None:
    with account.sandbox.transaction():
        for number in range(3):
            customers.create(account.sandbox, {"metadata": {"user_id": f"user-{number}"}})
    assert await told("sync") == (0, [f"{listed(account)} seen, 3 written."])
    assert await told("sync") == (0, [f"{listed(account)} seen, 0 written."])
    assert {row.user_id for row in await account.all(models.Customer)} == {"user-0", "user-1", "user-2"}


async def test_a_past_that_stripe_will_not_tell_is_an_error(told: Told, stripe: Stripe, account: Account) -> None:
    with account.sandbox.transaction():
        customers.create(account.sandbox, {})
    stripe.broken = "/v1/subscriptions"
    assert await told("sync") == (2, ["billhook: Stripe is not reachable."])
    stripe.broken = None
    assert await told("sync") == (0, ["0 seen, 0 written."])
    assert len(await account.all(models.Customer)) == 1


async def test_what_could_not_be_taken_over_is_counted(told: Told, account: Account) -> None:
    with account.sandbox.transaction():
        customers.create(account.sandbox, {"name": "Ada"})
        customers.create(account.sandbox, {"name": "a\0b"})
    code, lines = await told("sync")
    assert code == 2
    assert lines[-2:] == [
        f"{listed(account)} seen, 1 written.",
        "1 could not be taken over; `billhook reconcile` names them.",
    ]


def test_what_nobody_thought_of_is_no_drift(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(_settings: Settings) -> None:
        raise LookupError("what\never")

    monkeypatch.setattr("app.cli.reconcile.load_settings", lambda: None)
    with pytest.raises(SystemExit) as ended:
        _finished(work)
    assert (ended.value.code, capsys.readouterr().err) == (2, "billhook: LookupError: what\n")


def test_eyes_are_shown_a_table() -> None:
    row = Difference(
        object="customer",
        stripe_id="cus_1",
        customer="cus_1",
        cause="stale",
        fields={"name": [None, None], "default_payment_method": ["pm_[1]", None]},
        repaired=True,
    )
    shown = io.StringIO()
    Console(file=shown, width=200).print(_table([row]))
    assert re.search(r"customer .* cus_1 .* stale .* name: .* mended", shown.getvalue())
    assert "default_payment_method: pm_[1] → None" in shown.getvalue()
