"""List endpoints: newest first, cursors, silent clamping of ``limit``, and Stripe's range filters."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from app.sandbox.errors import ApiError, missing
from app.sandbox.store import Row

if TYPE_CHECKING:
    from app.sandbox.sandbox import Sandbox

_DEFAULT_LIMIT = 10
_MAX_LIMIT = 100
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}


def page(sandbox: "Sandbox", kind: str, params: Row, url: str, where: Callable[[Row], bool]) -> Row:
    """One page of a table. A deleted object still serves as a cursor; one that never existed is a 400."""
    order = sandbox.ids(kind)
    rows = [row for row in reversed(sandbox.rows(kind)) if where(row)]
    for name in ("starting_after", "ending_before"):
        if name in params and params[name] not in order:
            raise missing(kind, params[name], param=name, status=400)
    position = {id: place for place, id in enumerate(order)}
    return cut(rows, params, url, lambda row: -position[row["id"]], lambda id: -position[id])


def embedded(rows: Iterable[Row], params: Row, url: str) -> Row:
    """One page of rows that have no table of their own (line items), in their own order."""
    rows = list(rows)
    position = {row["id"]: place for place, row in enumerate(rows)}
    for name in ("starting_after", "ending_before"):
        if name in params and params[name] not in position:
            raise missing("line_item", params[name], param=name, status=400)
    return cut(rows, params, url, lambda row: position[row["id"]], lambda id: position[id])


def cut(rows: list[Row], params: Row, url: str, place: Callable[[Row], int], place_of: Callable[[str], int]) -> Row:
    """Cut the page out of ordered rows; ``place`` is where in that order something stands."""
    after, before = params.get("starting_after"), params.get("ending_before")
    if after and before:
        raise ApiError("Received both starting_after and ending_before parameters. Please pass in only one.")
    limit = min(max(params.get("limit", _DEFAULT_LIMIT), 1), _MAX_LIMIT)
    if after:
        rows = [row for row in rows if place(row) > place_of(after)]
    if before:
        rows = [row for row in rows if place(row) < place_of(before)]
        return listing(rows[-limit:], url, has_more=len(rows) > limit)
    return listing(rows[:limit], url, has_more=len(rows) > limit)


def listing(data: list[Row], url: str, *, has_more: bool = False) -> Row:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def sublist(data: list[Row], url: str) -> Row:
    """Build a list inside an object, which shows its ``total_count``."""
    return {**listing(data, url), "total_count": len(data)}


def within(value: int | None, bounds: Any) -> bool:
    """Match a timestamp against ``created=5`` or ``created[gte]=5``; no bounds match everything."""
    if bounds is None:
        return True
    if value is None:
        return False
    if isinstance(bounds, int):
        return value == bounds
    return all(_COMPARE[name](value, bound) for name, bound in bounds.items())


def matches(row: Row, params: Row, *names: str) -> bool:
    """Whether each named filter that was given equals the row's field."""
    return all(params.get(name) is None or row[name] == params[name] for name in names)
