"""The table that is printed, and how the figures stand against the goals."""

from collections.abc import Iterator, Sequence
from statistics import median

from measure import Cell
from report import Goal

CEILING_OF = {"layer": "sql", "http": "sql", "check": "bare"}
LEAST_SHARE = {("layer", "many"): 0.7, ("layer", "hot"): 1.0, ("check", "many"): 0.6}

# Title, width, attribute, format.
COLUMNS = (
    ("p50 ms", 9, "p50", ".2f"),
    ("p99 ms", 9, "p99", ".2f"),
    ("app us", 9, "app_us", ",.0f"),
    ("pg us", 9, "postgres_us", ",.0f"),
)


def table(cells: Sequence[Cell]) -> Iterator[str]:
    """Medians over the rounds."""
    titles = "".join(f"{title:>{width}}" for title, width, *_ in COLUMNS)
    yield f"\n{'':<16}{'connections':>12}{'requests/s':>12}{'share':>8}{titles}"
    for rung, users, connections in dict.fromkeys((cell.rung, cell.users, cell.connections) for cell in cells):
        found = _of(cells, rung, users, connections)
        share = _share(cells, rung, users, connections)
        yield (
            f"{f'{rung} {users}':<16}{connections:>12}{median(cell.rate for cell in found):>12,.0f}"
            f"{'' if share is None else format(share, '.2f'):>8}"
        ) + "".join(
            f"{format(median(getattr(cell, attribute) for cell in found), shape):>{width}}"
            for _, width, attribute, shape in COLUMNS
        )


def goals(cells: Sequence[Cell]) -> Iterator[Goal]:
    """Each goal, where both it and its ceiling were measured."""
    for rung, users, connections in dict.fromkeys((cell.rung, cell.users, cell.connections) for cell in cells):
        least = LEAST_SHARE.get((rung, users))
        share = _share(cells, rung, users, connections)
        if least is not None and share is not None:
            what = f"{rung} {users} at {connections}, share of {CEILING_OF[rung]}"
            yield Goal(what, share, least, share >= least)


def _share(cells: Sequence[Cell], rung: str, users: str, connections: int) -> float | None:
    """The median of the rounds' shares."""
    own = _of(cells, rung, users, connections)
    most = _of(cells, CEILING_OF.get(rung, ""), users, connections)
    return median(a.rate / b.rate for a, b in zip(own, most, strict=True)) if most else None


def _of(cells: Sequence[Cell], rung: str, users: str, connections: int) -> list[Cell]:
    return [cell for cell in cells if (cell.rung, cell.users, cell.connections) == (rung, users, connections)]
