"""Sets up .venv from requirements-dev.lock, then runs a command in it: `test`, `check`, or any of `billhook`.

Needs Python and nothing else, and does nothing when all is up to date. Without a command it only sets up. Syntax newer
than Python 3.6 stays out of this file, so that an old Python can still say what it lacks.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed"
REQUIREMENTS = ROOT / "requirements-dev.lock"

CHECKS = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("mypy",),
    ("lint-imports",),
)
DRIFT_TESTS = "tests/test_house_rules.py"  # generated files against their source

# They would send pip, uv or Python to another environment than ours.
FOREIGN_VARIABLES = {
    *("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH"),
    *("PIP_PREFIX", "PIP_PYTHON", "PIP_TARGET", "PIP_USER"),
    *("UV_BREAK_SYSTEM_PACKAGES", "UV_PREFIX", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET"),
}


def main(arguments: "list[str]") -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - the check is for whoever has an older one
        run_with_newer_python(arguments)
    os.chdir(str(ROOT))
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    try:
        if read_stamp() != current_stamp():
            with only_one():
                install()
        if arguments[:1] == ["check"]:
            run_checks()
            become("pytest", DRIFT_TESTS, *arguments[1:])
        elif arguments[:1] == ["test"]:
            run_checks()
            become("pytest", *arguments[1:])
        elif arguments:
            become("app.cli", *arguments)
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(error.cmd)}")
    except OSError as error:
        sys.exit(f"failed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def run_with_newer_python(arguments: "list[str]") -> None:
    for minor in range(20, 10, -1):
        python = shutil.which(f"python3.{minor}")
        if python and subprocess.call([python, "-c", ""], stderr=subprocess.DEVNULL) == 0:  # noqa: S603 - some are shims
            os.execv(python, [python, __file__, *arguments])  # noqa: S606 - no shell wanted
    sys.exit(f"Billhook needs Python 3.11 or newer; this is {platform.python_version()} ({sys.executable}).")


def read_stamp() -> "list[str]":
    """Read what .venv was made for and what was installed; nothing while an installation is under way."""
    if STAMP.exists() and PYTHON.exists():
        return STAMP.read_text().splitlines()
    return []


def current_stamp() -> "list[str]":
    interpreter = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]} {platform.machine()} {ROOT}"
    content = (ROOT / "pyproject.toml").read_bytes() + REQUIREMENTS.read_bytes()
    return [hashlib.sha256(part).hexdigest() for part in (interpreter.encode(), content)]


@contextlib.contextmanager
def only_one() -> "Iterator[None]":
    """Let a second run wait until the first has installed, and a killed one's pip or uv has ended."""
    path = ROOT / ".dev" / "bootstrap.lock"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with path.open("w") as lock:
        os.set_inheritable(lock.fileno(), True)  # noqa: FBT003 - os takes no keyword
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this directory …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install() -> None:
    before, wanted = read_stamp(), current_stamp()
    if before == wanted:  # the run we waited for did it
        return
    started = time.monotonic()
    if before[:1] == wanted[:1]:
        STAMP.unlink()
    else:  # new, moved, of another Python, or interrupted halfway: half-written packages can't be told from whole ones
        say("[1/4] making .venv")
        make_venv()
        say("[2/4] getting uv from PyPI")
        install_uv()
    uv = (PYTHON, "-m", "uv", "pip")
    say("[3/4] installing the packages of requirements-dev.lock")
    run(*uv, "sync", "--python", PYTHON, "--require-hashes", REQUIREMENTS.name)
    say("[4/4] installing Billhook itself")
    run(*uv, "install", "--quiet", "--python", PYTHON, "--no-deps", "--no-build-isolation", "--editable", ".")
    STAMP.write_text("\n".join(wanted))
    say(f"set up in {time.monotonic() - started:.0f} s")


def make_venv() -> None:
    if VENV.exists():
        shutil.rmtree(str(VENV))
    venv.EnvBuilder(symlinks=True).create(str(VENV))


def install_uv() -> None:
    """Install the uv of the lock file: its hashes are checked like every other package's."""
    pinned = re.search(r"^uv==.*\n(?:[ \t]+.*\n)*", REQUIREMENTS.read_text(), re.MULTILINE)
    if pinned is None:
        sys.exit(f"{REQUIREMENTS.name} does not name uv; run `make lock` in a working set-up")
    requirement = VENV / "uv.txt"
    requirement.write_text(pinned.group())
    if importlib.util.find_spec("ensurepip") is not None:
        run(PYTHON, "-m", "ensurepip", quietly=True)
        pip = [str(PYTHON), "-m", "pip"]
    elif importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    else:
        sys.exit("This Python has neither ensurepip nor pip. On Debian or Ubuntu: apt install python3-venv")
    flags = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes")
    run(*pip, "install", *flags, "--requirement", requirement)


def run_checks() -> None:
    for check in CHECKS:
        say("$ " + " ".join(check))
        run(VENV / "bin" / check[0], *check[1:])


def run(*command: object, quietly: bool = False) -> None:
    subprocess.run(  # noqa: S603 - our own commands
        [str(part) for part in command],
        check=True,
        stdout=subprocess.DEVNULL if quietly else None,
        close_fds=False,  # hands on the lock of only_one
    )


def become(module: str, *arguments: str) -> None:
    os.execv(str(PYTHON), [str(PYTHON), "-m", module, *arguments])  # noqa: S606 - no shell wanted


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
