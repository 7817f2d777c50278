"""Measures how fast usage is recorded over HTTP, next to bare inserts of the same rows; see docs/benchmarks.md."""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import rungs
import seed

sys.path.append(str(Path(__file__).parents[1] / "webhooks"))  # its process runner and its look at Postgres

import service
from database import MEASURED, Database, of, renew, wait_until_left
from service import Place
from usage import cpu_seconds

from app.embedded import start_postgres, start_valkey
from app.migrate import upgrade

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Bench:
    """What lives as long as the benchmark does. `place` is where the app runs, `key` what it is asked with."""

    admin: Database
    database_url: str
    place: Place
    key: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement. `stored` is what the database holds afterwards of the `rows` that were acknowledged."""

    rung: str
    connections: int
    round: int
    rows: int
    stored: int
    counted: int
    seconds: float
    p50: float
    p99: float
    cpu_us: float
    """Of the process that inserts, or of the app, for each row."""

    @property
    def rate(self) -> float:
        return self.rows / self.seconds

    @property
    def wrong(self) -> str | None:
        """What the database says otherwise than the answers did."""
        if self.stored != self.rows:
            return f"{self.rows} rows were acknowledged, {self.stored} are stored"
        if not self.rung.startswith("insert") and self.counted != self.rows:
            return f"{self.rows} rows are stored, the totals say {self.counted}"
        return None


@dataclass(frozen=True, slots=True)
class Rung:
    """`rows` go into each request or statement. `ceiling` is the bare insert it is held against."""

    name: str
    rows: int
    connections: int
    ceiling: str | None = None


RUNGS = (
    Rung("insert-batch", BATCH, 1),
    Rung("batch", BATCH, 1, "insert-batch"),
    Rung("insert-batch", BATCH, 4),
    Rung("batch", BATCH, 4, "insert-batch"),
    Rung("insert-single", 1, 1),
    Rung("single", 1, 1, "insert-single"),
    Rung("insert-single", 1, 16),
    Rung("single", 1, 16, "insert-single"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each measurement takes")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured; medians are shown")
    parser.add_argument("--customers", type=int, default=1000, help="customers with a subscription")
    parser.add_argument("--quick", action="store_true", help="a look at whether it works, not a measurement")
    parser.add_argument("--directory", type=Path, help="where Postgres keeps its data: a disk whose syncs count")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("The benchmark needs Linux: it pins processes to cores.")
    if options.quick:
        options.seconds, options.rounds, options.customers = 0.3, 1, 20
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with _bench(options) as bench:
        cells = [_measure(bench, rung, number) for number in range(1, options.rounds + 1) for rung in RUNGS]
    shares = dict(_shares(cells))
    print(*_table(cells, shares), sep="\n")
    wrong = [
        f"WRONG: {cell.rung} at {cell.connections}, round {cell.round}: {cell.wrong}" for cell in cells if cell.wrong
    ]
    print(*wrong, sep="\n")
    if options.json:
        document = {
            "cells": [asdict(cell) | {"rate": cell.rate, "wrong": cell.wrong} for cell in cells],
            "shares": {f"{name} at {connections}": share for (name, connections), share in shares.items()},
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if wrong else 0


@contextmanager
def _bench(options: argparse.Namespace) -> Iterator[Bench]:
    allowed = os.sched_getaffinity(0)
    core = frozenset({min(allowed)}) if len(allowed) > 1 else None
    if core:
        os.sched_setaffinity(0, allowed - core)  # which Postgres, Valkey and the load generator inherit
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="billhook-usage-", dir=options.directory)))
        postgres = stack.enter_context(start_postgres(data, durable=True))
        valkey = stack.enter_context(start_valkey(data, durable=True))
        admin = stack.enter_context(Database(of(postgres.url, "postgres")))
        admin.execute("ALTER SYSTEM SET max_wal_size = '1GB'", "SELECT pg_reload_conf()")
        upgrade(postgres.url)
        key = asyncio.run(seed.seed(postgres.url, customers=options.customers))
        wait_until_left(admin)
        environment = service.environment(database_url=of(postgres.url, MEASURED), redis_url=valkey.url) | {
            "RATE_LIMIT_PER_MINUTE_FOR_KEYS": "100000000",
            "LOG_LEVEL": "warning",
        }
        yield Bench(
            admin=admin,
            database_url=of(postgres.url, MEASURED),
            place=Place(environment, data / "app.log", core),
            key=key,
            seconds=options.seconds,
        )


def _measure(bench: Bench, rung: Rung, number: int) -> Cell:
    """On a fresh copy of the seeded database."""
    wait_until_left(bench.admin)
    renew(bench.admin)
    load = rungs.Load(rows=rung.rows, connections=rung.connections, seconds=bench.seconds, customers=seed.NAMES)
    if rung.name.startswith("insert"):
        used = time.process_time()
        done = asyncio.run(rungs.insert(load, database_url=bench.database_url, core=bench.place.cores))
        used = time.process_time() - used
    else:
        with service.running("receive", bench.place) as app:
            used = cpu_seconds(app.pid)
            done = asyncio.run(rungs.post(load, port=app.port, key=bench.key))
            used = cpu_seconds(app.pid) - used
    with Database(bench.database_url) as database:
        stored = database.value("SELECT count(*) FROM usage_events")
        counted = database.value("SELECT coalesce(sum(used), 0)::bigint FROM usage_totals")
    times = sorted(done.times)
    cell = Cell(
        rung=rung.name,
        connections=rung.connections,
        round=number,
        rows=done.rows,
        stored=stored,
        counted=counted,
        seconds=done.seconds,
        p50=statistics.median(times) * 1e3,
        p99=times[int(len(times) * 0.99)] * 1e3,
        cpu_us=used / done.rows * 1e6,
    )
    print(f"round {number}: {cell.rung} at {cell.connections}: {cell.rate:,.0f} rows/s", cell.wrong or "", flush=True)
    time.sleep(0.1)
    return cell


def _of(cells: list[Cell], name: str, connections: int) -> list[Cell]:
    return [cell for cell in cells if (cell.rung, cell.connections) == (name, connections)]


def _shares(cells: list[Cell]) -> Iterator[tuple[tuple[str, int], float]]:
    """Of the bare inserts beside it in the same round; the median of the rounds."""
    for rung in RUNGS:
        if rung.ceiling is not None:
            own = _of(cells, rung.name, rung.connections)
            most = _of(cells, rung.ceiling, rung.connections)
            pairs = zip(own, most, strict=True)
            yield (rung.name, rung.connections), statistics.median(a.rate / b.rate for a, b in pairs)


def _table(cells: list[Cell], shares: dict[tuple[str, int], float]) -> Iterator[str]:
    yield f"\n{'':<16}{'connections':>12}{'rows/s':>12}{'share':>8}{'p50 ms':>9}{'p99 ms':>9}{'cpu us':>9}"
    for rung in RUNGS:
        found = _of(cells, rung.name, rung.connections)
        rate = statistics.median(cell.rate for cell in found)
        p50 = statistics.median(cell.p50 for cell in found)
        p99 = statistics.median(cell.p99 for cell in found)
        cpu = statistics.median(cell.cpu_us for cell in found)
        share = shares.get((rung.name, rung.connections))
        told = "" if share is None else f"{share:.2f}"
        yield f"{rung.name:<16}{rung.connections:>12}{rate:>12,.0f}{told:>8}{p50:>9.1f}{p99:>9.1f}{cpu:>9,.0f}"


if __name__ == "__main__":
    sys.exit(main())
