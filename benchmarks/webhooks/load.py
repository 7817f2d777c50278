"""Compiles and runs the load generator."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deliveries import Deliveries

SOURCE = Path(__file__).with_name("load.c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the load generator saw. Times in milliseconds, unless a name says otherwise."""

    started_at: float
    """Unix seconds."""
    seconds: float
    """From the first request to the last answer."""
    next: int
    """The first request that was not sent."""
    answers: dict[str, int]
    """By status."""
    lost: int
    """Requests whose connection ended before an answer."""
    p50: float
    p90: float
    p99: float
    max: float
    cpu_us: float
    """Microseconds of the load generator's own CPU per request."""

    @property
    def accepted(self) -> int:
        return sum(count for status, count in self.answers.items() if status.startswith("2"))


def build(directory: Path) -> Path:
    """The compiled load generator; ends the program where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        sys.exit("The load generator is written in C: install a C compiler (cc, gcc or clang).")
    program = directory / "load"
    subprocess.run([compiler, "-O2", "-o", program, SOURCE], check=True)  # noqa: S603 - the compiler, on our own file
    return program


def send(
    program: Path,
    deliveries: Deliveries,
    *,
    port: int,
    connections: int,
    first: int = 0,
    last: int | None = None,
    seconds: float = 3600,
) -> Answers:
    """Send the requests from `first` up to, but without, `last` until `seconds` are over."""
    end = deliveries.count if last is None else last
    arguments = [str(part) for part in (program, port, connections, seconds, first, end, deliveries.file)]
    run = subprocess.run(arguments, check=True, stdout=subprocess.PIPE)  # noqa: S603 - what `build` built
    return Answers(**json.loads(run.stdout))
