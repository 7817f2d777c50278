"""One measurement: one rung at one number of connections, in a fresh database, with a check that it did its work."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import load
import service
import usage
from database import MEASURED, Database, of, renew, wait_until_left, wal_syncs
from deliveries import Deliveries
from redis import Redis
from service import Place

DRAIN_SECONDS = 300.0
POLL_SECONDS = 0.02

WAITING = "SELECT EXISTS (SELECT 1 FROM stripe_events WHERE status = 'pending')"
STORED = """
    SELECT count(*) AS stored,
           count(*) FILTER (WHERE status = 'processed') AS processed,
           count(DISTINCT xmin::text) AS transactions
      FROM stripe_events WHERE id > (SELECT stored FROM benchmark_seed)
"""
# What a rung writes once for each event, by rung.
WRITTEN = {
    "apply-ceiling": """
        SELECT (SELECT count(*) FROM bench_audit) AS audit, (SELECT count(*) FROM bench_outbox) AS outbox
    """,
    "apply": """
        SELECT (SELECT count(*) FROM audit_log) - audit AS audit, (SELECT count(*) FROM outbox) - outbox AS outbox
          FROM benchmark_seed
    """,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all measurements share."""

    admin: Database
    database_url: str
    redis_url: str
    postgres_pid: int
    generator: Path
    deliveries: Deliveries
    seconds: float
    warm_up: int
    place: Place
    profiles: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was measured. Times are milliseconds, CPU is microseconds per event, memory is bytes."""

    rung: str
    connections: int
    round: int
    events: int
    """Those accepted (2xx) while it was measured."""
    answers: dict[str, int]
    lost: int
    events_per_second: float
    """Where events are applied: until the last one was."""
    answers_per_second: float
    p50: float
    p90: float
    p99: float
    max: float
    app_us: float
    postgres_us: float
    load_us: float
    wal_syncs: float
    """Per event."""
    events_per_transaction: float
    """Of the transactions that last wrote the events: those that received, or else applied, them."""
    memory: int
    """The app's peak."""
    wrong: list[str]
    """What the database should hold and does not; empty when all is well."""
    profile: str | None
    """The file, if the app was profiled."""


def measure(bench: Bench, rung: str, connections: int, round_: int) -> Cell:
    renew(bench.admin)
    with Redis.from_url(bench.redis_url) as redis:
        redis.flushall()
    bench.deliveries.sign()
    profile = None if bench.profiles is None else bench.profiles / f"{rung}-{connections}-{round_}.prof"
    syncs = wal_syncs(bench.admin)
    with Database(of(bench.database_url, MEASURED)) as database:
        with service.running(rung, bench.place, profile=profile) as app:
            applied_apart = rung == "apply"
            send = partial(load.send, bench.generator, bench.deliveries, port=app.port, connections=connections)
            warm = send(last=bench.warm_up)
            if applied_apart:
                wait_until_applied(database)
            app_cpu, postgres_cpu = usage.cpu_seconds(app.pid), usage.cpu_seconds(bench.postgres_pid)
            sent = send(first=bench.warm_up, seconds=bench.seconds)
            ended = sent.started_at + sent.seconds
            if applied_apart:
                ended = wait_until_applied(database)
            app_cpu = usage.cpu_seconds(app.pid) - app_cpu
            postgres_cpu = usage.cpu_seconds(bench.postgres_pid) - postgres_cpu
            memory = usage.peak_memory(app.pid)
        stored = database.row(STORED)
        written = database.row(WRITTEN[rung]) if rung in WRITTEN else {}
    wait_until_left(bench.admin)
    syncs = wal_syncs(bench.admin) - syncs
    accepted = warm.accepted + sent.accepted
    events = max(sent.accepted, 1)
    return Cell(
        rung=rung,
        connections=connections,
        round=round_,
        events=sent.accepted,
        answers=sent.answers,
        lost=sent.lost,
        events_per_second=sent.accepted / (ended - sent.started_at),
        answers_per_second=sum(sent.answers.values()) / sent.seconds,
        p50=sent.p50,
        p90=sent.p90,
        p99=sent.p99,
        max=sent.max,
        app_us=app_cpu * 1e6 / events,
        postgres_us=postgres_cpu * 1e6 / events,
        load_us=sent.cpu_us,
        wal_syncs=syncs / max(accepted, 1),
        events_per_transaction=stored["stored"] / max(stored["transactions"], 1),
        memory=memory,
        wrong=_wrong(rung, stored | written, accepted=accepted, lost=warm.lost + sent.lost),
        profile=None if profile is None else str(profile),
    )


def wait_until_applied(database: Database) -> float:
    """When it was seen that no event waits any more, in unix seconds; not later than after DRAIN_SECONDS."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while database.value(WAITING) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return time.time()


def _wrong(rung: str, found: Mapping[str, int], *, accepted: int, lost: int) -> list[str]:
    expected = 0 if rung == "verify" else accepted
    problems = [] if accepted else ["nothing was accepted"]
    # Of a lost request nobody knows whether it was stored.
    if not expected <= found["stored"] <= expected + lost:
        problems.append(f"{found['stored']} events are stored, but {expected} were accepted and {lost} lost")
    if rung in WRITTEN:
        problems += [
            f"{found[what]} of {found['stored']} {what}"
            for what in ("processed", "audit", "outbox")
            if found[what] != found["stored"]
        ]
    return problems
