"""The command line: each verb does its one thing, and says clearly when it can't."""

import json
import re
from pathlib import Path

import httpx
import jwt
import pytest
from billing import Account
from processes import free_port, start, wait_until
from sqlalchemy import text
from typer.testing import CliRunner, Result

from app.cli.main import app
from app.settings import Settings

LONG_ENOUGH = "a secret of thirty-two bytes or more"


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {
        "ENVIRONMENT": "development",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "STRIPE_SECRET_KEY": "sk_test_1",
        "JWT_SECRET": LONG_ENOUGH,
        "JWT_ISSUER": "https://id.example.com",
        "JWT_AUDIENCE": "billhook",
        "COLUMNS": "200",
    }


def run(environment: dict[str, str], *command: str) -> Result:
    return CliRunner().invoke(app, list(command), env=environment)


def test_a_development_token_is_the_user_s(environment: dict[str, str]) -> None:
    told = run(environment, "token", "--user", "demo-1", "--email", "ada@example.com")
    claims = jwt.decode(told.stdout.strip(), LONG_ENOUGH, algorithms=["HS256"], audience="billhook")
    assert (claims["sub"], claims["email"], claims["iss"]) == ("demo-1", "ada@example.com", "https://id.example.com")


def test_production_mints_no_tokens(environment: dict[str, str], tmp_path: Path) -> None:
    env = environment | {"ENVIRONMENT": "production", "STRIPE_WEBHOOK_SECRETS": "whsec_1"}
    log = tmp_path / "log"
    assert start("token", "--user", "demo-1", log=log, env=env).wait(30) == 1
    assert log.read_text() == "billhook: Development tokens are refused in production.\n"


def test_settings_that_do_not_hold_are_named(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert start("serve", log=log, env={"DATABASE_URL": "postgresql://x", "JWT_SECRET": "short"}).wait(30) == 1
    assert "REDIS_URL: Field required" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert "short" not in log.read_text()


async def test_keys_are_made_listed_and_revoked(environment: dict[str, str], account: Account, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def told(*command: str) -> str:
        log.unlink(missing_ok=True)
        assert start(*command, log=log, env=environment).wait(30) == 0, log.read_text()
        return log.read_text()

    key = told("keys", "create", "--scope", "billing:read", "--scope", "operator", "--name", "reports").strip()
    assert key.startswith("bk_")
    listed = told("keys", "list")
    assert "reports" in listed
    assert key not in listed
    assert key[-4:] in listed
    found = re.search(r"[0-9a-f-]{36}", listed)
    assert found is not None
    assert told("keys", "revoke", found[0]) == "revoked\n"
    assert told("audit", "verify").endswith("\nThe audit log is whole.\n")

    async with account.sessions.begin() as session:
        await session.execute(text("ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only"))
        await session.execute(text("UPDATE audit_log SET actor = 'nobody' WHERE action = 'key.created'"))
    assert start("audit", "verify", log=log, env=environment).wait(30) == 1
    assert "the audit log is broken" in log.read_text()

    assert start("keys", "create", "--scope", "everything", log=log, env=environment).wait(30) == 1
    assert "Traceback" not in log.read_text()


def test_migrating_twice_is_no_error(environment: dict[str, str], tmp_path: Path) -> None:
    for _ in range(2):
        assert start("migrate", log=tmp_path / "log", env=environment).wait(30) == 0


def test_the_sandbox_runs_alone_and_refuses_live_keys(tmp_path: Path) -> None:
    log, port = tmp_path / "log", free_port()
    live = "sk_live_" + "1" * 4
    assert start("sandbox", "--key", live, log=log).wait(30) == 1
    assert live not in log.read_text().replace(live[:8], "")
    process = start("sandbox", "--port", str(port), "--state", str(tmp_path / "state.json"), log=log)
    try:
        url = f"http://127.0.0.1:{port}/v1/customers"

        def answers() -> bool:
            try:
                return httpx.get(url).status_code == 401
            except httpx.TransportError:
                return False

        wait_until(answers, process, log)
        made = httpx.post(url, data={"email": "ada@example.com"}, auth=("sk_test_billhook", ""))
        assert made.json()["email"] == "ada@example.com"
        assert len(made.headers.get_list("date")) == 1
    finally:
        process.terminate()
        process.wait(20)


def test_plans_are_shown_before_they_are_applied(environment: dict[str, str], tmp_path: Path) -> None:
    log, port = tmp_path / "log", free_port()
    sandbox = start("sandbox", "--port", str(port), "--key", "sk_test_1", log=tmp_path / "sandbox")
    try:
        base = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(base).is_success
            except httpx.TransportError:
                return False

        wait_until(answers, sandbox, tmp_path / "sandbox")
        env = environment | {"STRIPE_API_BASE": base}

        def prices() -> int:
            return len(httpx.get(f"{base}/v1/prices", auth=("sk_test_1", "")).json()["data"])

        assert start("plans", "apply", "--dry-run", log=log, env=env).wait(30) == 0, log.read_text()
        assert prices() == 0
        assert start("plans", "apply", log=log, env=env).wait(30) == 0, log.read_text()
        assert prices() == 5  # three paid plans and two packs
        (tmp_path / "bad.yaml").write_text("plans: 7")
        assert start("plans", "apply", log=log, env=env | {"PLANS_FILE": str(tmp_path / "bad.yaml")}).wait(30) == 1
        assert "bad.yaml:1:8: plans: " in log.read_text()
    finally:
        sandbox.terminate()
        sandbox.wait(20)


def test_the_openapi_document_is_printed_without_any_settings() -> None:
    assert json.loads(run({}, "openapi").stdout)["openapi"].startswith("3.1")
