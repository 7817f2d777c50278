"""One operation of the API: method and path, what answers, its SDK parameter class, and the parameters it acts on."""

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

Handler = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Route:
    """One operation. ``acts_on`` are dotted parameter paths; expand, paging and metadata need no mention.

    ``exclusive`` names what a request, as it came, is about: of that there may be one at a time.
    """

    method: str
    path: str
    handler: Handler
    params: str
    acts_on: frozenset[str]
    exclusive: Callable[[dict[str, Any]], Hashable] | None = None
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path)
        object.__setattr__(self, "pattern", re.compile(pattern))


def route(
    verb_and_path: str,
    handler: Handler,
    params: str,
    acts_on: str = "",
    *,
    exclusive: Callable[[dict[str, Any]], Hashable] | None = None,
) -> Route:
    method, path = verb_and_path.split()
    return Route(method, path, handler, params, frozenset(acts_on.split()), exclusive)


def under(prefix: str, names: str) -> str:
    return " ".join(f"{prefix}.{name}" for name in names.split())
