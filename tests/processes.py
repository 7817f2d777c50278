"""Billhook as its users run it: real processes, waited for and ended by pid."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 20.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def start(*command: str, log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """`billhook <command>` with nothing of this process's environment but where programs are."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "app.cli", *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=kept | dict(env or {}),
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask, and insist when that does not help; a process that would not go fails the test."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextmanager
def running_dev(directory: Path, *options: str) -> Iterator[dict[str, Any]]:
    """What `dev.json` says of a `billhook dev` that runs on `directory`."""
    directory.mkdir(exist_ok=True)
    description, log = directory / "dev.json", directory / "log.txt"
    description.unlink(missing_ok=True)
    process = start("dev", "--dir", str(directory), *options, log=log)
    try:
        wait_until(description.exists, process, log)
        described: dict[str, Any] = json.loads(description.read_text())
        yield described
    finally:
        stop(process)


@contextmanager
def running_server(
    env: Mapping[str, str], directory: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A `billhook serve` that answers, and its URL."""
    port, log = free_port(), directory / "serve.log"
    process = start("serve", "--port", str(port), *options, log=log, env=env)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/healthz").is_success
        return False

    try:
        wait_until(answers, process, log)
        yield process, url
    finally:
        stop(process)


def wait_until(ready: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"it did not start:\n{log.read_text()}")
        time.sleep(0.05)
