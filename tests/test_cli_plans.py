"""`billhook plans` as people and their CI run it: real processes, their output and their exit codes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
import yaml
from printed_samples import samples
from processes import start
from sqlalchemy import select
from starlette.applications import Starlette

from app import models
from app.api.checkout import CheckoutSessionCreate
from app.db import Sessions
from app.sandbox.sandbox import Sandbox
from app.settings import Settings

ROOT = Path(__file__).parent.parent


class Verbs:
    """Runs `billhook plans …` over a plans.yaml of its own; gives the exit code and what was printed."""

    def __init__(self, env: dict[str, str], directory: Path) -> None:
        self.file = directory / "plans.yaml"
        self.file.write_text((ROOT / "plans.yaml").read_text())
        self._env = {**env, "PLANS_FILE": str(self.file), "COLUMNS": "160"}
        self._log = directory / "log"

    async def __call__(self, *command: str) -> tuple[int, str]:
        return await self.run("plans", *command)

    async def run(self, *command: str) -> tuple[int, str]:
        self._log.unlink(missing_ok=True)
        process = start(*command, log=self._log, env=self._env)
        code = await asyncio.to_thread(process.wait, 60)
        return code, self._log.read_text()

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.write(text.replace(old, new))


@pytest.fixture
async def plans(sandbox_app: Starlette, settings: Settings, tmp_path: Path) -> AsyncIterator[Verbs]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(sandbox_app, lifespan="off", log_config=None, access_log=False, date_header=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    environment = {
        "ENVIRONMENT": "test",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "STRIPE_SECRET_KEY": settings.stripe_secret_key.get_secret_value(),
        "STRIPE_API_BASE": f"http://127.0.0.1:{sock.getsockname()[1]}",
    }
    yield Verbs(environment, tmp_path)
    server.should_exit = True
    await task


async def test_diff_apply_and_archive_tell_what_they_do(plans: Verbs, sandbox: Sandbox, sessions: Sessions) -> None:
    code, told = await plans("diff", "--json")
    assert code == 2, told
    assert {change["action"] for change in json.loads(told)} == {"create"}
    assert sandbox.rows("product") == []

    code, told = await plans("apply", "--dry-run")
    assert (code, sandbox.rows("product")) == (0, [])
    code, told = await plans("apply")
    assert code == 0, told
    assert "create" in told
    assert "billhook_api_calls" in told
    assert await plans("diff") == (0, "Stripe says what plans.yaml says.\n")
    code, told = await plans("apply", "--json")
    assert (code, {change["action"] for change in json.loads(told)}) == (0, {"keep"})

    plans.edit("amount: 9900", "amount: 12900\n    other_prices: {year: 129000}")
    code, told = await plans("diff")
    assert code == 2
    assert "replace" in told
    assert "amount: 9900 → 12900" in told
    assert "billhook_pro.year" in told
    assert (await plans("apply"))[0] == 0
    [old] = [price for price in sandbox.rows("price") if price["lookup_key"] is None]
    code, told = await plans("diff", "--json")
    assert (code, [(c["action"], c["id"]) for c in json.loads(told)]) == (2, [("archive", old["id"])])
    assert json.loads((await plans("apply", "--dry-run", "--archive", "--json"))[1])[-1]["action"] == "archive"
    assert (await plans("apply", "--archive"))[0] == 0
    assert (await plans("diff"))[0] == 0
    async with sessions() as session:
        row = await session.scalar(select(models.Price).where(models.Price.stripe_id == old["id"]))
    assert row is not None
    assert (row.active, row.plan, row.lookup_key) == (False, "pro", None)


async def test_mistakes_in_the_file_are_told_one_by_one(plans: Verbs, sandbox: Sandbox) -> None:
    plans.edit("amount: 9900", "amuont: 9900")
    plans.edit("uses: 20", "uses: many")
    for verb in (("plans", "apply"), ("plans", "diff"), ("serve",)):
        code, told = await plans.run(*verb)
        assert code == 1
        assert "plans.pro.amuont: unknown key; did you mean `amount`?" in told
        assert "packs.starter.uses: Input should be a valid integer" in told
        assert "Traceback" not in told
    assert sandbox.rows("product") == []


async def test_what_stripe_never_changes_is_said_by_both_verbs(plans: Verbs) -> None:
    assert (await plans("apply"))[0] == 0
    plans.edit("event_name: billhook_api_calls", "event_name: calls")
    for verb in ("apply", "diff"):
        code, told = await plans(verb)
        assert (code, "Keep `event_name: billhook_api_calls`" in told) == (1, True), told


async def test_the_schema_is_printed(plans: Verbs) -> None:
    code, told = await plans("schema")
    assert code == 0
    assert set(json.loads(told)["properties"]) >= set(yaml.safe_load(plans.file.read_text()))


async def test_the_page_about_the_catalogue_prints_what_is_so(plans: Verbs, sandbox: Sandbox) -> None:
    file, mistakes, commands, wish = (sample.text for sample in samples(ROOT / "docs" / "catalog.md"))
    plans.write(file.replace("    amount: 9900", "    amuont: 9900").replace("uses: 20", "uses: many"))
    told = (await plans("diff"))[1]
    assert told.replace(f"{plans.file}", "plans.yaml") == mistakes

    plans.write(file)
    verbs = [line.partition("#")[0].split()[2:] for line in commands.splitlines()]
    assert [(await plans(*verb))[0] for verb in verbs] == [2, 0, 0]
    assert sorted(price["lookup_key"] for price in sandbox.rows("price")) == [
        "billhook_pro",
        "billhook_pro.year",
        "billhook_starter",
        "billhook_tokyo",
    ]
    assert (await plans("diff"))[0] == 0
    assert CheckoutSessionCreate.model_validate(json.loads(wish)).interval == "year"
