"""One server process on one data directory that never outlives this Python process."""

import ctypes
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, Self

from app.embedded_binaries import EmbeddedServerError, Program, copy_readable

RUN_ROOT = Path("/tmp")  # noqa: S108 - a socket path has 107 bytes and every user must get here; $TMPDIR may fail both
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ON_LINUX: bool = sys.platform == "linux"

# Seconds.
START_TIMEOUT = 60.0  # a crash recovery happens inside it
STOP_TIMEOUT = 30.0
LOCK_TIMEOUT = 5.0  # a server whose Python was killed is gone well within it
POLL_INTERVAL = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    uid: int
    gid: int


class EmbeddedServer(ABC):
    """One server process on one data directory, which never outlives this Python process.

    The address is a Unix socket in a directory that only the server's user (and root) can enter; it stays the
    same over `stop` and `start`. A lock beside the data is inherited by the server and its children, so it tells
    whether anything still works on the data, whatever was killed.
    """

    stop_signal: ClassVar[signal.Signals]

    def __init__(self, data: Path, program: Program, *, durable: bool) -> None:
        self.data = data.absolute()
        self.durable = durable
        self.log = self.data.with_name(f"{data.name}.log")
        self.run_dir = RUN_ROOT / f"billhook-{secrets.token_hex(4)}"
        self._program = program
        self._account = _unprivileged_account(self.data)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """What a client connects to."""

    @abstractmethod
    def _prepare(self, program: Path) -> list[str]:
        """Make the data directory ready and give the server's command line."""

    @abstractmethod
    def _is_ready(self) -> bool: ...

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedServerError(f"no server is running on {self.data}")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers. Raises EmbeddedServerError."""
        if ON_LINUX and threading.current_thread() is not threading.main_thread():
            # Linux sends the parent-death signal when the starting *thread* ends.
            raise EmbeddedServerError("start servers from the main thread: they end with the thread that started them")
        try:
            self.data.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            self._take_lock()
            self.log.unlink(missing_ok=True)  # another user's, if root and a person take turns
            self._make_directory(self.run_dir)
            (self.run_dir / "lock").symlink_to(self._lock_path)
            self._process = self._spawn(self._prepare(self._within_reach(self._program)))
            self._wait_until_ready(self._process)
        except PermissionError as error:
            self.stop()
            raise EmbeddedServerError(f"no permission for {error.filename}: does it belong to another user?") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut down cleanly and remove the socket; harmless when nothing runs."""
        if self._process is not None:
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdin is not None:
                with suppress(BrokenPipeError), self._process.stdin as guard:
                    guard.write(b"stopped\n")
            self._process = None
        if self._lock is not None:
            shutil.rmtree(self.run_dir, ignore_errors=True)
            self._lock.close()
            self._lock = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _lock_path(self) -> Path:
        return self.data.with_name(f"{self.data.name}.lock")

    def _take_lock(self) -> None:
        # Read-only, so that root and a person can take turns.
        opened = os.open(self._lock_path, os.O_RDONLY | os.O_CREAT, 0o644)
        # The server inherits it; guarded_by_pipe needs the numbers below 10.
        lock = os.fdopen(fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 10), "rb")
        os.close(opened)
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.close()
                    raise EmbeddedServerError(
                        f"another server is running on {self.data}: stop it first, or use another directory"
                    ) from None
                time.sleep(POLL_INTERVAL)
            else:
                self._lock = lock
                return

    def _make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)

    def _sweep(self) -> None:
        """Remove what is left in RUN_ROOT of servers that were killed together with their Python."""
        uid = os.geteuid() if self._account is None else self._account.uid
        for run_dir in RUN_ROOT.glob("billhook-????????"):
            with suppress(FileNotFoundError):  # another process sweeps too
                if run_dir.lstat().st_uid == uid and (run_dir / "lock").is_symlink() and _is_free(run_dir / "lock"):
                    shutil.rmtree(run_dir, ignore_errors=True)

    def _within_reach(self, program: Program) -> Path:
        """Give a path the server's user can execute: a copy, where root's venv is in a directory closed to others."""
        if self._account is None:
            return program.path
        with suppress(PermissionError):
            if self._run([str(program.path), "--version"], cwd=self.run_dir):
                return program.path
        if not program.trees:
            raise EmbeddedServerError(f"user {self._account.uid} can't execute {program.path}")
        for tree in program.trees:
            copy_readable(tree, self.run_dir / tree.name)
        return self.run_dir / program.path.relative_to(program.trees[0].parent)

    def _place(self, path: Path) -> str:
        """Name the server's working directory `path` so that the server can reach it.

        As root the way to it may be closed to the server's user. Its working directory is set before the user is
        switched, and the kernel follows this link without looking at the way.
        """
        return str(path) if self._account is None or not ON_LINUX else "/proc/self/cwd"

    def _run(self, command: list[str], *, cwd: Path, text: bytes = b"") -> bool:
        with self._popen(command, cwd=cwd, stdin=subprocess.PIPE) as process:
            process.communicate(text)
            return process.returncode == 0

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        if not ON_LINUX:
            guarded = guarded_by_pipe(command, self.stop_signal)
            return self._popen(guarded, cwd=self.data, stdin=subprocess.PIPE)
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads; what runs between fork and exec takes no lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            preparation = _die_with(os.getpid(), self.stop_signal)
            return self._popen(command, cwd=self.data, stdin=subprocess.DEVNULL, preparation=preparation)

    def _popen(
        self, command: list[str], *, cwd: Path, stdin: int, preparation: Callable[[], None] | None = None
    ) -> subprocess.Popen[bytes]:
        if self._lock is None:
            raise EmbeddedServerError(f"{self.data} is not locked")
        account = self._account
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command line
                command,
                cwd=cwd,
                # Nothing of ours: PG* variables would change the server, and secrets are not its business.
                env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock.fileno()],
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else [],
                start_new_session=True,  # Ctrl-C is for us; we stop the server when its clients are gone
                preexec_fn=preparation,  # noqa: PLW1509 - see _spawn
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise self._failure("the server did not start")
            time.sleep(POLL_INTERVAL)

    def _failure(self, problem: str) -> EmbeddedServerError:
        last_lines = self.log.read_text(errors="replace").splitlines()[-5:]
        return EmbeddedServerError("\n".join([f"{problem} (the whole log: {self.log})", *last_lines]))


def guarded_by_pipe(command: list[str], stop_signal: signal.Signals) -> list[str]:
    """Wrap `command` so that it gets `stop_signal` when its stdin closes without a line on it.

    For systems without a parent-death signal. The shell becomes the command, so the pid stays the one we know.
    """
    watch = f"( {{ read -r _ <&3 || kill -s {stop_signal.name[3:]} $$; }} & )"
    return ["sh", "-c", f'exec 3<&0; {watch}; exec "$@" 3<&- </dev/null', "sh", *command]


def _die_with(parent: int, stop_signal: signal.Signals) -> Callable[[], None]:
    """Give what a child runs before exec to get `stop_signal` when `parent` dies, however it dies.

    Switching the user clears the setting; subprocess calls this after the switch.
    """
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, int(stop_signal))
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return in_child


def _is_free(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except FileNotFoundError:  # it went away with throw-away data
        pass
    return True


def _unprivileged_account(data: Path) -> _Account | None:
    """Whom root's server runs as (Postgres refuses root): the data's owner, else `postgres`, else `nobody`."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return _Account(uid=owner.st_uid, gid=owner.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _Account(uid=entry.pw_uid, gid=entry.pw_gid)
    raise EmbeddedServerError("Postgres refuses to run as root, and there is no user `postgres` or `nobody`")
