"""The samples that our documents print: found, and their answers compared with what is printed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOTS = "…"
UNIX_TIME = 1_000_000_000


@dataclass(frozen=True)
class Sample:
    """One fenced block. `line` is where it begins in `document`, whose path is below the repository's root."""

    document: str
    line: int
    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]


def samples(document: Path) -> list[Sample]:
    text = document.read_text(encoding="utf-8")
    return [
        Sample(str(document.relative_to(ROOT)), text[: found.start()].count("\n") + 1, found[1], found[2])
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def mismatch(shown: Any, got: Any, path: str = "$") -> str | None:
    """Where `got` is not what is printed. "…" stands for anything, and moments differ from day to day."""
    if isinstance(shown, dict) and isinstance(got, dict) and (DOTS in shown or shown.keys() == got.keys()):
        return _first(mismatch(shown[key], got.get(key, KeyError), f"{path}.{key}") for key in shown if key != DOTS)
    if isinstance(shown, list) and isinstance(got, list) and len(shown) == len(got):
        return _first(mismatch(*pair, f"{path}[]") for pair in zip(shown, got, strict=True))
    if isinstance(shown, str) and isinstance(got, str):
        same = re.fullmatch(".*".join(re.escape(part) for part in shown.split(DOTS)), got) is not None
    elif isinstance(shown, int) and isinstance(got, int) and shown > UNIX_TIME:
        same = got > UNIX_TIME
    else:
        same = shown == got and type(shown) is type(got)
    return None if same else f"{path}: {got!r} instead of {shown!r}"


def _first(found: Iterable[str | None]) -> str | None:
    return next((one for one in found if one), None)
