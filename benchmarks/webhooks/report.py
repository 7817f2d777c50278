"""The table that is printed, and how the figures stand against the goals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from cell import Cell
from typing_extensions import override

CEILING_OF = {"receive": "receive-ceiling", "apply": "apply-ceiling"}
LEAST_SHARE = {"receive": 0.85, "apply": 0.6}
MOST_MEMORY = 150e6
P99_CONNECTIONS = 16
MOST_P99 = 10.0  # milliseconds, where the ceiling's is under
CEILING_P99 = 6.0

# Title, width, attribute, format, factor.
COLUMNS = (
    ("events/s", 9, "events_per_second", ",.0f", 1),
    ("p50 ms", 7, "p50", ".2f", 1),
    ("p99 ms", 7, "p99", ".2f", 1),
    ("app us", 7, "app_us", ",.0f", 1),
    ("pg us", 7, "postgres_us", ",.0f", 1),
    ("load us", 8, "load_us", ".0f", 1),
    ("syncs/ev", 9, "wal_syncs", ".3f", 1),
    ("ev/commit", 10, "events_per_transaction", ".1f", 1),
    ("peak MB", 8, "memory", ".0f", 1e-6),
)


@dataclass(frozen=True, slots=True)
class Goal:
    what: str
    measured: float
    limit: float
    reached: bool | None
    """None where the machine was too slow for the goal to say anything."""

    @override
    def __str__(self) -> str:
        verdict = {True: "reached", False: "MISSED", None: "not judged"}[self.reached]
        return f"{self.what}: {self.measured:.2f} (goal {self.limit:g}) {verdict}"


def table(cells: Sequence[Cell]) -> Iterator[str]:
    """Medians over the rounds, a block for each number of connections."""
    for connections in dict.fromkeys(cell.connections for cell in cells):
        head = f"{connections} connection{'s' if connections > 1 else ''}"
        yield ""
        yield f"{head:<16}" + "".join(f"{title:>{width}}" for title, width, *_ in COLUMNS)
        for rung in dict.fromkeys(cell.rung for cell in cells):
            found = _of(cells, rung, connections)
            yield f"{rung:<16}" + "".join(
                f"{format(_median(found, attribute) * factor, shape):>{width}}"
                for _, width, attribute, shape, factor in COLUMNS
            )


def remarks(cells: Sequence[Cell]) -> Iterator[str]:
    """Answers other than 2xx, and what was wrong."""
    for cell in cells:
        where = f"{cell.rung} at {cell.connections}, round {cell.round}"
        refused = {status: count for status, count in cell.answers.items() if not status.startswith("2")}
        if refused or cell.lost:
            yield f"{where}: answers {refused}, lost {cell.lost}"
        for problem in cell.wrong:
            yield f"WRONG: {where}: {problem}"


def goals(cells: Sequence[Cell]) -> Iterator[Goal]:
    """Each goal, where both it and its ceiling were measured. A share is the median of the rounds' shares."""
    for rung, ceiling in CEILING_OF.items():
        for connections in dict.fromkeys(cell.connections for cell in cells):
            pairs = list(zip(_of(cells, rung, connections), _of(cells, ceiling, connections), strict=False))
            if not pairs:
                continue
            share = median(own.events_per_second / most.events_per_second for own, most in pairs)
            least = LEAST_SHARE[rung]
            yield Goal(f"{rung} at {connections}, share of the ceiling", share, least, share >= least)
            if connections == P99_CONNECTIONS:
                p99 = median(own.p99 for own, _ in pairs)
                judged = median(most.p99 for _, most in pairs) < CEILING_P99
                yield Goal(f"{rung} at {connections}, p99 in ms", p99, MOST_P99, p99 < MOST_P99 if judged else None)
        if memory := [cell.memory for cell in cells if cell.rung == rung]:
            yield Goal(f"{rung}, peak MB", max(memory) / 1e6, MOST_MEMORY / 1e6, max(memory) < MOST_MEMORY)


def _of(cells: Sequence[Cell], rung: str, connections: int) -> list[Cell]:
    return [cell for cell in cells if (cell.rung, cell.connections) == (rung, connections)]


def _median(cells: Sequence[Cell], attribute: str) -> float:
    return median(float(getattr(cell, attribute)) for cell in cells)
