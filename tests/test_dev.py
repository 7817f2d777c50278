"""`billhook dev`: starts anywhere, keeps its data, leaves nothing behind."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import ROOT, free_port, running_dev, start, wait_until


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    task = Path(f"/proc/{pid}/task/{pid}/children")
    direct = [int(child) for child in task.read_text().split()]
    return direct + [deeper for child in direct for deeper in children(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def buy(dev: dict[str, Any]) -> None:
    user = {"Authorization": f"Bearer {dev['demo_token']}"}
    body = {"plan": "pro", "success_url": "http://localhost:3000/done", "cancel_url": "http://localhost:3000/"}
    opened = httpx.post(f"{dev['api_url']}/checkout/session", headers=user, json=body).raise_for_status().json()
    paid = httpx.post(opened["url"], data={"number": "4242424242424242", "expiry": "12/34", "cvc": "123"})
    assert paid.status_code == 303
    wait_for(lambda: tier(dev) == "pro")


def tier(dev: dict[str, Any]) -> str:
    user = {"Authorization": f"Bearer {dev['demo_token']}"}
    answer = httpx.get(f"{dev['api_url']}/subscription/status", headers=user).raise_for_status().json()
    return str(answer["tier"])


def test_a_second_start_keeps_the_data_and_goes_on_with_it(tmp_path: Path) -> None:
    directory = tmp_path / "with a space"
    with running_dev(directory) as first:
        assert stat.S_IMODE((directory / "dev.json").stat().st_mode) == 0o600
        buy(first)
    with running_dev(directory) as second:
        assert tier(second) == "pro"
        assert second["service_key"] == first["service_key"]
        user = {"Authorization": f"Bearer {second['demo_token']}"}
        # Stripe knows the subscription still: the sandbox kept its state too.
        canceled = httpx.post(f"{second['api_url']}/subscription/cancel", headers=user, json={})
        assert canceled.status_code == 200, canceled.text


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_nothing_is_left_running(tmp_path: Path, sign: signal.Signals) -> None:
    log, description = tmp_path / "log.txt", tmp_path / "dev.json"
    process = start("dev", "--dir", str(tmp_path), log=log)
    try:
        wait_until(description.exists, process, log)
        family = children(process.pid)
        assert len(family) > 2  # Postgres with its helpers, and Valkey
        process.send_signal(sign)
        process.wait(20)
        wait_for(lambda: not any(alive(pid) for pid in family))
    finally:
        process.kill()
        process.wait()
    if sign == signal.SIGKILL:
        with running_dev(tmp_path) as again:
            assert tier(again) == "free"


def test_taken_ports_are_stepped_around_unless_insisted_upon(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start("dev", "--dir", str(tmp_path), "--port", str(port), log=tmp_path / "log.txt")
        assert process.wait(60) == 1
        assert f"port {port} can't be used" in (tmp_path / "log.txt").read_text()
    wanted = free_port()
    with (
        running_dev(tmp_path, "--port", str(wanted)) as dev,
        running_dev(tmp_path / "another") as other,
    ):
        assert dev["api_url"].startswith(f"http://localhost:{wanted}/")
        assert other["api_url"] != dev["api_url"]
        assert httpx.get(f"{other['api_url']}/plans").status_code == 200


def test_the_other_verbs_work_beside_it(tmp_path: Path) -> None:
    """From the folder it runs in, as a newcomer would."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        "PYTHONPATH": str(ROOT)
    }

    def told(*command: str) -> str:
        ran = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "app.cli", *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.stdout.strip() or ran.stderr

    with running_dev(tmp_path / ".dev") as dev:
        token = told("token", "--user", "somebody")
        status = httpx.get(f"{dev['api_url']}/subscription/status", headers={"Authorization": f"Bearer {token}"})
        assert status.json()["tier"] == "free"
        key = told("keys", "create", "--scope", "billing:read")
        asked = httpx.get(f"{dev['api_url']}/entitlements?user_id=somebody", headers={"Authorization": f"Bearer {key}"})
        assert asked.status_code == 200
        assert told("audit", "verify").endswith("The audit log is whole.")
    assert "DATABASE_URL: Field required" in told("keys", "list")
    assert not (tmp_path / ".dev" / "dev.json").exists()


def test_two_on_the_same_data_are_one_too_many(tmp_path: Path) -> None:
    with running_dev(tmp_path):
        second = start("dev", "--dir", str(tmp_path), log=tmp_path / "second.txt")
        assert second.wait(60) == 1
    assert "already running" in (tmp_path / "second.txt").read_text()


def test_servers_of_the_environment_are_used_instead(tmp_path: Path, database_url: str, settings: Any) -> None:
    log, description = tmp_path / "log.txt", tmp_path / "dev.json"
    env = {"DATABASE_URL": database_url, "REDIS_URL": settings.redis_url.get_secret_value()}
    process = start("dev", "--dir", str(tmp_path), log=log, env=env)
    try:
        wait_until(description.exists, process, log)
        assert children(process.pid) == []
        assert tier(json.loads(description.read_text())) == "free"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def test_with_a_stripe_key_stripe_is_used_and_nothing_of_the_sandbox_is_there(tmp_path: Path) -> None:
    log, description = tmp_path / "log.txt", tmp_path / "dev.json"
    process = start("dev", "--dir", str(tmp_path), log=log, env={"STRIPE_SECRET_KEY": "sk_test_of_somebody"})
    try:
        wait_until(description.exists, process, log)
        dev = json.loads(description.read_text())
        assert (dev["sandbox_url"], dev["storefront_url"]) == (None, None)
        assert httpx.get(dev["docs_url"]).status_code == 200
        assert httpx.get(dev["docs_url"].replace("/docs", "/demo")).status_code == 404
        assert f"stripe listen --forward-to {dev['webhook_url']}" in log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def test_a_live_key_is_refused(tmp_path: Path) -> None:
    env = {"STRIPE_SECRET_KEY": "sk_live_" + "1" * 4}
    process = start("dev", "--dir", str(tmp_path), log=tmp_path / "log.txt", env=env)
    assert process.wait(60) == 1
    said = (tmp_path / "log.txt").read_text()
    assert "a live Stripe key is refused outside ENVIRONMENT=production" in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_can_run_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.getbasetemp().parent.parent / f"billhook-nobody-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)
    code = (
        "import sys; from processes import running_dev; from pathlib import Path; import httpx\n"
        "with running_dev(Path(sys.argv[1]) / 'dev') as dev:\n"
        "    print(httpx.get(dev['api_url'] + '/plans').status_code)\n"
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TMPDIR": "/tmp"}  # noqa: S108 - a place everybody may write to
    try:
        try:
            ran = subprocess.run(  # noqa: S603 - our own command
                [sys.executable, "-c", code, str(home)],
                env=env,
                cwd=ROOT,
                user=65534,
                group=65534,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
            )
        except PermissionError:
            pytest.skip(f"other users may not run {sys.executable}")
        assert ran.stdout.strip() == "200", ran.stderr
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=True)  # noqa: S603, S607 - what the other user left
