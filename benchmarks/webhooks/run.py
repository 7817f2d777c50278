"""Measures how fast webhooks are received and applied, next to what Python could reach; see docs/benchmarks.md."""

import argparse
import asyncio
import json
import os
import platform
import pstats
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cell
import deliveries
import load
import report
import samples
import service
from cell import Bench, Cell
from database import MEASURED, Database, of, wait_until_left
from service import Place

from app.embedded import start_postgres, start_valkey
from app.migrate import upgrade

RUNGS = tuple(service.COMMANDS)
DEFAULT_RUNGS = tuple(rung for rung in RUNGS if rung != "each")
EVENTS_PER_SECOND = 10_000
"""More than any rung that stores events takes; `verify` just ends earlier."""
PROFILE_LINES = 30
LOG_TAIL = 4000  # characters shown of what the app logged when something was wrong

REMEMBER_SEED = """
    CREATE TABLE benchmark_seed AS
    SELECT (SELECT max(id) FROM stripe_events) AS stored, (SELECT count(*) FROM audit_log) AS audit,
           (SELECT count(*) FROM outbox) AS outbox
"""
SEEDED = """
    SELECT (SELECT count(*) FROM customers) = {count} AND (SELECT count(*) FROM subscriptions) = {count}
       AND (SELECT count(*) FROM stripe_events WHERE status = 'processed') = 2 * {count}
"""


def main() -> int:
    options = _options()
    if sys.platform != "linux":
        sys.exit("The benchmark needs Linux: it reads /proc, and its load generator waits with epoll.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with _bench(options) as bench:
        facts = _facts(bench, options)
        print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n", flush=True)
        cells = list(_rounds(bench, options))
    goals = [] if options.profile else list(report.goals(cells))  # a profiler distorts what they are about
    print(*report.table(cells), "", *report.remarks(cells), *goals, sep="\n")
    for measured in cells:
        if measured.profile is not None:
            print(f"\n{measured.profile}")
            pstats.Stats(measured.profile).sort_stats("tottime").print_stats(PROFILE_LINES)
    if options.json:
        document = {
            "facts": facts,
            "cells": [asdict(measured) for measured in cells],
            "goals": [asdict(goal) for goal in goals],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(measured.wrong for measured in cells) else 0


def _options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    def rungs(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(RUNGS):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; there are {', '.join(RUNGS)}")
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=rungs, default=list(DEFAULT_RUNGS), help=f"rungs, of {','.join(RUNGS)}")
    parser.add_argument("--connections", type=numbers, default=[1, 16, 64], help="e.g. 1,16,64")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long events are sent in each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured; medians are shown")
    parser.add_argument("--customers", type=int, default=5000, help="customers with a subscription that exist before")
    parser.add_argument("--quick", action="store_true", help="a look at whether it works, not a measurement")
    parser.add_argument("--no-pin", action="store_true", help="let everything run on any core")
    parser.add_argument("--directory", type=Path, help="where Postgres keeps its data: a disk whose syncs count")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--profile", type=Path, help="run the app under cProfile, and put its profiles there")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds, options.customers, options.connections = 0.3, 1, 50, [4]
    return options


@contextmanager
def _bench(options: argparse.Namespace) -> Iterator[Bench]:
    """All that runs for as long as the benchmark does, on throw-away data."""
    allowed = os.sched_getaffinity(0)
    pinned = len(allowed) > 1 and not options.no_pin
    app_core = frozenset({min(allowed)}) if pinned else None
    if app_core:
        os.sched_setaffinity(0, allowed - app_core)  # which Postgres, Valkey and the load generator inherit
    with ExitStack() as stack:
        data = _temporary_directory(stack, options.directory)
        # Requests and logs are kept in memory, where there is a place for it: they must not get in the WAL's way.
        shared_memory = Path("/dev/shm")  # noqa: S108 - a directory of our own inside it
        work = _temporary_directory(stack, shared_memory if shared_memory.is_dir() else None)
        generator = load.build(work)
        postgres = stack.enter_context(start_postgres(data, durable=True))
        valkey = stack.enter_context(start_valkey(data, durable=True))
        admin = stack.enter_context(Database(of(postgres.url, "postgres")))
        # Segments of 1 MiB make initdb choose 64 MB, which would be a checkpoint every few seconds.
        admin.execute("ALTER SYSTEM SET max_wal_size = '1GB'", "SELECT pg_reload_conf()")
        upgrade(postgres.url)
        kinds = asyncio.run(samples.draw())
        log = work / "app.log"
        seeding = Place(service.environment(database_url=postgres.url, redis_url=valkey.url), log, app_core)
        _seed(
            postgres.url,
            seeding,
            generator,
            deliveries.write(work / "seed", deliveries.customers(kinds, options.customers)),
        )
        wait_until_left(admin)
        warm_up = 20 if options.quick else 500
        count = warm_up + int(options.seconds * EVENTS_PER_SECOND)
        measured_url = of(postgres.url, MEASURED)
        if options.profile:
            options.profile.mkdir(parents=True, exist_ok=True)
        yield Bench(
            admin=admin,
            database_url=postgres.url,
            redis_url=valkey.url,
            postgres_pid=postgres.pid,
            generator=generator,
            deliveries=deliveries.write(
                work / "requests", deliveries.changes(kinds, count, customers=options.customers)
            ),
            seconds=options.seconds,
            warm_up=warm_up,
            place=Place(service.environment(database_url=measured_url, redis_url=valkey.url), log, app_core),
            profiles=options.profile,
        )


def _temporary_directory(stack: ExitStack, parent: Path | None) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="billhook-benchmark-", dir=parent)))


def _seed(url: str, place: Place, generator: Path, seed: deliveries.Deliveries) -> None:
    """Make customers and their subscriptions by way of Billhook itself: their events are sent, and it applies them."""
    half = seed.count // 2
    seed.sign()
    with Database(url) as database:
        with service.running("apply", place) as app:
            for first, last in ((0, half), (half, seed.count)):
                load.send(generator, seed, port=app.port, connections=16, first=first, last=last)
                cell.wait_until_applied(database)
        if not database.value(SEEDED.format(count=half)):
            raise RuntimeError(f"the customers could not be made:\n{place.log.read_text()[-2000:]}")
        database.execute(REMEMBER_SEED, "VACUUM ANALYZE")


def _rounds(bench: Bench, options: argparse.Namespace) -> Iterator[Cell]:
    """Rung after rung within a round, so that what else the machine does meets them all alike."""
    for round_ in range(1, options.rounds + 1):
        for connections in options.connections:
            for rung in options.only:
                measured = cell.measure(bench, rung, connections, round_)
                print(
                    f"round {round_}: {rung} at {connections}: {measured.events_per_second:,.0f} events/s,"
                    f" p99 {measured.p99:.1f} ms",
                    *measured.wrong,
                    sep="; ",
                    flush=True,
                )
                if measured.wrong:
                    print(bench.place.log.read_text()[-LOG_TAIL:], file=sys.stderr)
                yield measured


def _facts(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "app runs on": "any core"
        if bench.place.cores is None
        else f"core {min(bench.place.cores)}, the others on the rest",
        "python": platform.python_version(),
        "postgres": bench.admin.value("SHOW server_version"),
        "durable": ", ".join(f"{name} {bench.admin.value(f'SHOW {name}')}" for name in ("fsync", "synchronous_commit")),
        "fdatasync of 8 kB": f"{_sync_milliseconds(options.directory):.2f} ms",
        "events": f"{bench.deliveries.file.stat().st_size / bench.deliveries.count:,.0f} bytes each with their headers",
        "seconds": options.seconds,
        "rounds": options.rounds,
        "customers": options.customers,
        "profiled": options.profile is not None,
    }


def _sync_milliseconds(directory: Path | None) -> float:
    """What a commit must wait for, at least."""
    took = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(50):
            file.write(bytes(8192))
            file.flush()
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - started) * 1e3)
    return statistics.median(took)


if __name__ == "__main__":
    sys.exit(main())
