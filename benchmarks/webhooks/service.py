"""The measured process: Billhook as its users run it, or a ceiling; pinned, waited for and ended by its pid."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deliveries import SECRET

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
START_SECONDS = 60.0
STOP_SECONDS = 60.0  # to answer and to write what it has accepted, also under a profiler

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "verify": (str(HERE / "ceiling.py"), "verify", "{port}"),
    "each": (str(HERE / "ceiling.py"), "each", "{port}"),
    "receive-ceiling": (str(HERE / "ceiling.py"), "receive-ceiling", "{port}"),
    "receive": ("-m", "app.cli", "serve", "--port", "{port}", "--no-worker"),
    "apply-ceiling": (str(HERE / "ceiling.py"), "apply-ceiling", "{port}"),
    "apply": ("-m", "app.cli", "serve", "--port", "{port}", "--worker"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the service runs: its environment, its log, and its cores (None for any)."""

    env: Mapping[str, str]
    log: Path
    cores: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Service:
    pid: int
    port: int


def environment(*, database_url: str, redis_url: str) -> dict[str, str]:
    """Defaults, but for what names the servers. Stripe is where nobody answers: no event may need a fetch."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "ENVIRONMENT": "test",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "STRIPE_SECRET_KEY": "sk_test_benchmarks",
        "STRIPE_WEBHOOK_SECRETS": SECRET,
        "STRIPE_API_BASE": f"http://127.0.0.1:{_free_port()}",
        "PLANS_FILE": str(ROOT / "plans.yaml"),
    }


@contextmanager
def running(
    rung: str, place: Place, *, profile: Path | None = None, commands: Mapping[str, tuple[str, ...]] = COMMANDS
) -> Iterator[Service]:
    """The rung's process, once it answers; with `profile` it runs under cProfile, which writes that file at the end."""
    port = _free_port()
    command = [part.format(port=port) for part in commands[rung]]
    profiler = [] if profile is None else ["-m", "cProfile", "-o", str(profile)]
    with place.log.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, *profiler, *command],
            cwd=ROOT,
            env=place.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        if place.cores is not None:
            os.sched_setaffinity(process.pid, place.cores)
        _wait_until_it_answers(process, port, place.log)
        yield Service(process.pid, port)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
