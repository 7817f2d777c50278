"""One measurement: one rung at one number of connections, in a fresh database, with a check of what it left there."""

import statistics
from dataclasses import dataclass
from pathlib import Path

import asked
import load
import rungs
import service
import usage
from asked import Requests, Users
from database import Database, renew, wait_until_left
from service import Place

WARM_UP = 100  # requests
COMMANDS = {
    "bare": (str(Path(__file__).with_name("bare.py")), "{port}"),
    "check": service.COMMANDS["receive"],
    "http": service.COMMANDS["receive"],
}

# The same number, said by the charges, by their accounts and by the ledger.
CHARGED = """
    SELECT (SELECT coalesce(sum(captured), 0)::bigint FROM credit_charges) AS charges,
           (SELECT coalesce(sum(used), 0)::bigint FROM credit_accounts) AS accounts,
           (SELECT coalesce(sum(amount), 0)::bigint FROM credit_transfers WHERE kind = 'charge') AS ledger
"""
DEBITED = """
    SELECT (SELECT coalesce(sum(quantity), 0)::bigint FROM bench_charges) AS charges,
           (SELECT coalesce(sum(amount), 0)::bigint FROM bench_ledger) AS ledger
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """What lives as long as the benchmark does. `place` is where the app runs."""

    admin: Database
    database_url: str
    postgres_pid: int
    place: Place
    generator: Path
    requests: dict[str, Requests]
    seconds: float
    accounts: int


@dataclass(frozen=True, slots=True)
class Rung:
    """What is measured, whom it is for, and how many ask at once."""

    name: str
    users: Users
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was measured. Times are milliseconds, CPU is microseconds per request."""

    rung: str
    users: str
    connections: int
    round: int
    requests: int
    seconds: float
    p50: float
    p99: float
    app_us: float
    """Of the app; of this process where it does the app's work."""
    postgres_us: float
    wrong: list[str]

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def measure(bench: Bench, rung: Rung, round_: int) -> Cell:
    wait_until_left(bench.admin)
    renew(bench.admin)
    cell = _over_http(bench, rung, round_) if rung.name in COMMANDS else _in_process(bench, rung, round_)
    print(
        f"round {round_}: {cell.rung} {cell.users} at {cell.connections}: {cell.rate:,.0f}/s, p99 {cell.p99:.1f} ms",
        *(f"WRONG: {problem}" for problem in cell.wrong),
        sep="; ",
        flush=True,
    )
    return cell


def _in_process(bench: Bench, rung: Rung, round_: int) -> Cell:
    cpu = usage.cpu_seconds(bench.postgres_pid)
    done = rungs.run(
        rung.name,
        rungs.Load(rung.users, rung.connections, bench.seconds, bench.accounts, bench.database_url),
        core=bench.place.cores,
    )
    wait_until_left(bench.admin)  # the time of sessions that have ended counts too
    cpu = usage.cpu_seconds(bench.postgres_pid) - cpu
    times = sorted(done.times)
    return Cell(
        rung=rung.name,
        users=rung.users,
        connections=rung.connections,
        round=round_,
        requests=done.requests,
        seconds=done.seconds,
        p50=statistics.median(times) * 1e3,
        p99=times[int(len(times) * 0.99)] * 1e3,
        app_us=done.cpu / done.requests * 1e6,
        postgres_us=cpu / done.asked * 1e6,
        wrong=_wrong(bench, rung, done.asked),
    )


def _over_http(bench: Bench, rung: Rung, round_: int) -> Cell:
    requests = bench.requests[rung.users if rung.name == "http" else rung.name]
    with service.running(rung.name, bench.place, commands=COMMANDS) as app:
        port, connections = app.port, rung.connections
        warm = load.send(bench.generator, requests, port=port, connections=connections, last=WARM_UP)
        cpu, postgres_cpu = usage.cpu_seconds(app.pid), usage.cpu_seconds(bench.postgres_pid)
        sent = load.send(
            bench.generator, requests, port=port, connections=connections, first=WARM_UP, seconds=bench.seconds
        )
        cpu = usage.cpu_seconds(app.pid) - cpu
        postgres_cpu = usage.cpu_seconds(bench.postgres_pid) - postgres_cpu
    answered = sum(sent.answers.values())
    expected = "402" if rung.users == "empty" else "201" if rung.name == "http" else "200"
    wrong = [] if {*warm.answers, *sent.answers} == {expected} else [f"answers {warm.answers}, {sent.answers}"]
    if warm.lost + sent.lost:
        wrong.append(f"{warm.lost + sent.lost} lost")
    return Cell(
        rung=rung.name,
        users=rung.users,
        connections=rung.connections,
        round=round_,
        requests=answered,
        seconds=sent.seconds,
        p50=sent.p50,
        p99=sent.p99,
        app_us=cpu / answered * 1e6,
        postgres_us=postgres_cpu / answered * 1e6,
        wrong=wrong + _wrong(bench, rung, sent.next if rung.name == "http" else 0),
    )


def _wrong(bench: Bench, rung: Rung, count: int) -> list[str]:
    """What the database says otherwise than the first `count` charges would have left it."""
    due = asked.due(asked.asked(rung.users, number, bench.accounts) for number in range(count))
    with Database(bench.database_url) as database:
        found = database.row(DEBITED if rung.name == "sql" else CHARGED)
    return [f"{due} uses were charged, {what} say {told}" for what, told in found.items() if told != due]
