"""`billhook` commands in a fraction of a second: forks of one process that has already loaded the code."""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from processes import STOP_SECONDS, free_port

ROOT = Path(__file__).parents[2]
LOADED = ("app.cli.main", "app.main", "app.worker.process", "uvicorn", "uvloop", "httptools", "asyncpg", "hiredis")


class Fork:
    """One running command; it is told apart from a later process of the same number by its descriptor."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self._fd = os.pidfd_open(pid)

    def send(self, sign: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, sign)

    async def gone(self, seconds: float) -> bool:
        """Whether it ends within `seconds`."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._fd, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), seconds)
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._fd)
        return True

    async def kill(self) -> None:
        """SIGKILL, and wait until it has worked."""
        self.send(signal.SIGKILL)
        assert await self.gone(STOP_SECONDS)


class Template:
    """Where forks come from. What still runs at the end is killed."""

    def __init__(self) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.forks"],
            cwd=ROOT,
            env=kept | {"PYTHONPATH": str(ROOT / "tests")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fork(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> Fork:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, dict(env), str(log)]) + "\n")
        self._process.stdin.flush()
        return Fork(int(self._process.stdout.readline()), log)

    def close(self) -> None:
        self._process.communicate(timeout=STOP_SECONDS)


class Billhook:
    """The commands of one installation."""

    def __init__(self, template: Template, env: Mapping[str, str], directory: Path) -> None:
        self.env = dict(env)
        self._template = template
        self._directory = directory

    @asynccontextmanager
    async def serving(self, *options: str) -> AsyncIterator[tuple[Fork, str]]:
        """A `billhook serve` that listens, and its URL; killed in the end."""
        port = free_port()
        async with self._running("serve", "--port", str(port), *options) as server:
            while not await _listens(port):
                assert not await server.gone(0.02), server.log.read_text()
            yield server, f"http://127.0.0.1:{port}"

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Fork]:
        """A `billhook worker`; killed in the end."""
        async with self._running("worker") as worker:
            yield worker

    @asynccontextmanager
    async def _running(self, *command: str) -> AsyncIterator[Fork]:
        fork = self._template.fork(command, self.env, self._directory / f"{command[0]}.log")
        try:
            yield fork
        finally:
            await fork.kill()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


def main() -> None:
    """Fork at each line of stdin, [command, env, log]; answer with the child's number."""
    for module in LOADED:
        importlib.import_module(module)
    children: list[int] = []
    for line in sys.stdin:
        command, env, log = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(command, env, log)
        children.append(child)
        print(child, flush=True)  # noqa: T201 - this is the answer
    for child in children:  # none has been waited for, so the numbers are still theirs
        os.kill(child, signal.SIGKILL)


def _become(command: list[str], env: dict[str, str], log: str) -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(env)
        sys.argv = ["billhook", *command]
        sys.modules["app.cli.main"].main()
    finally:
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
