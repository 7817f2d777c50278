"""Measures how fast credits are charged and checked, next to bare SQL and to a bare route; see docs/benchmarks.md."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

sys.path.append(str(Path(__file__).parents[1] / "webhooks"))  # its load generator, process runner, look at Postgres

import asked
import load
import measure
import seed
import service
import table
from database import MEASURED, Database, of, wait_until_left
from measure import Bench, Rung
from service import Place

from app.embedded import start_postgres, start_valkey
from app.migrate import upgrade

REQUESTS_PER_SECOND = 15_000
"""More than are answered; where they do run out, a measurement just ends earlier."""
AT = 16  # connections at which what isn't about connections is measured


def main() -> int:
    options = _options()
    if sys.platform != "linux":
        sys.exit("The benchmark needs Linux: it reads /proc, and its load generator waits with epoll.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    plan = [rung for rung in _plan(options.connections) if rung.name in options.only]
    with _bench(options) as bench:
        cells = [measure.measure(bench, rung, number) for number in range(1, options.rounds + 1) for rung in plan]
    goals = list(table.goals(cells))
    print(*table.table(cells), "", *goals, sep="\n")
    if options.json:
        document = {
            "cells": [asdict(cell) | {"rate": cell.rate} for cell in cells],
            "goals": [asdict(goal) for goal in goals],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(cell.wrong for cell in cells) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each measurement takes")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured; medians are shown")
    parser.add_argument("--accounts", type=int, default=10_000, help="among how many charges are spread")
    parser.add_argument("--connections", default="1,16,64", help="e.g. 1,16,64")
    parser.add_argument("--only", default="sql,layer,http,bare,check", help="of these rungs")
    parser.add_argument("--quick", action="store_true", help="a look at whether it works, not a measurement")
    parser.add_argument("--directory", type=Path, help="where Postgres keeps its data: a disk whose syncs count")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    options.connections = [int(part) for part in options.connections.split(",")]
    options.only = options.only.split(",")
    if options.quick:
        options.seconds, options.rounds, options.accounts, options.connections = 0.3, 1, 50, [4]
    return options


def _plan(connections: list[int]) -> Iterator[Rung]:
    """Rungs that are compared stand side by side, so that what else the machine does meets them alike."""
    for number in connections:
        for users in ("many", "hot"):
            for name in ("sql", "layer", "http"):
                yield Rung(name, users, number)
        for name in ("bare", "check"):
            yield Rung(name, "many", number)
    for users in ("mixed", "empty", "replayed"):
        for name in ("layer", "http"):
            yield Rung(name, users, AT if AT in connections else connections[-1])


@contextmanager
def _bench(options: argparse.Namespace) -> Iterator[Bench]:
    allowed = os.sched_getaffinity(0)
    core = frozenset({min(allowed)}) if len(allowed) > 1 else None
    if core:
        os.sched_setaffinity(0, allowed - core)  # which Postgres, Valkey and the load generator inherit
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="billhook-credits-", dir=options.directory)))
        generator = load.build(data)
        postgres = stack.enter_context(start_postgres(data, durable=True))
        valkey = stack.enter_context(start_valkey(data, durable=True))
        admin = stack.enter_context(Database(of(postgres.url, "postgres")))
        admin.execute("ALTER SYSTEM SET max_wal_size = '1GB'", "SELECT pg_reload_conf()")
        upgrade(postgres.url)
        key = asyncio.run(seed.seed(postgres.url, accounts=options.accounts))
        with Database(postgres.url) as database:
            database.execute("VACUUM ANALYZE")
            ids = database.value("SELECT array_agg(id) FROM credit_accounts WHERE user_id LIKE 'user-%'")
        wait_until_left(admin)
        environment = service.environment(database_url=of(postgres.url, MEASURED), redis_url=valkey.url) | {
            "RATE_LIMIT_PER_MINUTE_FOR_KEYS": "100000000",
            "LOG_LEVEL": "warning",
        }
        yield Bench(
            admin=admin,
            database_url=of(postgres.url, MEASURED),
            postgres_pid=postgres.pid,
            place=Place(environment, data / "app.log", core),
            generator=generator,
            requests=_requests(data, options, key, ids),
            seconds=options.seconds,
            accounts=options.accounts,
        )


def _requests(data: Path, options: argparse.Namespace, key: str, ids: list[UUID]) -> dict[str, asked.Requests]:
    """What is sent to each rung that speaks HTTP; to `http` by whom the charges are for."""
    count = measure.WARM_UP + int(options.seconds * REQUESTS_PER_SECOND)
    users: tuple[asked.Users, ...] = ("many", "hot", "mixed", "empty", "replayed")
    accounts = options.accounts
    return {
        "bare": asked.reads(data / "bare", count, accounts=ids),
        "check": asked.checks(data / "check", count, accounts=accounts, key=key),
        **{whom: asked.charges(data / whom, whom, count, accounts=accounts, key=key) for whom in users},
    }


if __name__ == "__main__":
    sys.exit(main())
