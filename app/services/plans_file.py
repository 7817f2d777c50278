"""Reading plans.yaml: every mistake in it is told with its file, line and column."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import override
from yaml.error import Mark
from yaml.nodes import MappingNode, Node, SequenceNode
from yaml.reader import ReaderError

from app.services.catalog import Catalog, Meter, Pack, Plan

_SECTIONS: Mapping[str, type[BaseModel]] = {"plans": Plan, "packs": Pack, "meters": Meter}
_DEEPEST = 10  # levels in the file; an alias may make it endless
_MOST = 10_000  # values in the file, with what aliases repeat: a few lines of them can come to billions
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_IMPLIED = {("currency",), ("key",)}
_TAG = "tag:yaml.org,2002:"

Place = tuple[str, ...]
"""The keys that lead to a value, e.g. ("plans", "pro", "amount"); in a list, positions."""


class CatalogError(ValueError):
    """plans.yaml can't be used; the message has a line for each mistake, beginning with where it is."""


class _Mistake(NamedTuple):
    line: int
    column: int
    message: str


def load(path: Path) -> Catalog:
    """Read and check plans.yaml. Raises CatalogError."""
    try:
        read = _read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CatalogError(f"{path}: this is no UTF-8 text") from error
    if isinstance(read, Catalog):
        return read
    raise CatalogError("\n".join(f"{path}:{line}:{column}: {message}" for line, column, message in sorted(read)))


def schema() -> dict[str, Any]:
    """The file's JSON schema, draft 2020-12: the models', but for what a plan's place in the file says of it."""
    found = Catalog.model_json_schema()
    for model in _SECTIONS.values():
        definition = found["$defs"][model.__name__]
        del definition["properties"]["key"]
        implied = {"key", "currency", *(["name"] if model is Meter else [])}
        definition["required"] = [name for name in definition["required"] if name not in implied]
    for part in (found, *found["$defs"].values()):
        for value in part.get("properties", {}).values():
            if "patternProperties" in value:  # other keys than these are refused, which pydantic leaves unsaid
                value["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": "plans.yaml"}


class _Loader(yaml.SafeLoader):
    @override
    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError) as error:  # a 30th of February, 5000 digits, `!!int x`
            raise yaml.constructor.ConstructorError(None, None, "this value can't be read", node.start_mark) from error


def _read(text: str) -> Catalog | list[_Mistake]:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if not isinstance(root, MappingNode):
            return [_at(root.start_mark if root else None, "expected a mapping with `plans`")]
        file = _File(root)
        data = {} if file.mistakes else loader.construct_document(root)
    except ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return [_Mistake(line, column, f"the character U+{error.character:04X} is not allowed")]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return [_at(mark, error.problem or "this is no YAML")]
    except RecursionError:
        return [_Mistake(1, 1, "nested too deeply")]
    if not file.mistakes:
        try:
            return Catalog.model_validate(_completed(data))
        except ValidationError as error:
            file.blame(error.errors(include_url=False))
    return file.mistakes


def _completed(data: dict[str, Any]) -> dict[str, Any]:
    """The file's data with what stands in it only once: each entry's key, the currency, a meter's name."""
    currency = data.get("currency")
    implied: Mapping[str, Callable[[str], dict[str, Any]]] = {
        "plans": lambda _key: {"currency": currency},
        "packs": lambda _key: {"currency": currency},
        "meters": lambda key: {"name": key.replace("_", " ").capitalize()},
    }
    entries = {
        section: {
            key: {**more(str(key)), **entry, "key": key} if isinstance(entry, dict) else entry
            for key, entry in data[section].items()
        }
        for section, more in implied.items()
        if isinstance(data.get(section), dict)
    }
    return {**data, **entries}


class _File:
    """Where everything in the file stands, and the mistakes in it."""

    def __init__(self, root: MappingNode) -> None:
        self.keys: dict[Place, Mark] = {}
        self.values: dict[Place, Mark] = {}
        self.mistakes: list[_Mistake] = []
        self._walk(root, ())

    def _walk(self, node: Node, place: Place) -> None:
        self.values[place] = node.start_mark
        if len(place) > _DEEPEST or len(self.values) > _MOST:
            if not self.mistakes:
                self.mistakes.append(_at(node.start_mark, "too deep, or too much: does an alias repeat itself?"))
        elif isinstance(node, MappingNode):
            for key, value in node.value:
                self._walk_entry(key, value, place)
        elif isinstance(node, SequenceNode):
            for position, value in enumerate(node.value):
                self._walk(value, (*place, str(position)))
        elif node.tag == f"{_TAG}int" and not _DECIMAL.fullmatch(node.value):
            # YAML 1.1 takes 0120 for 80, and 1:20 too.
            self.mistakes.append(_at(node.start_mark, f"{_dotted(place)}: write the number in decimal digits"))

    def _walk_entry(self, key: Node, value: Node, place: Place) -> None:
        if key.tag not in {f"{_TAG}str", f"{_TAG}merge"}:
            self.mistakes.append(_at(key.start_mark, f"{_dotted(place) or 'file'}: a key that is no text: quote it"))
            return
        inner = (*place, key.value)
        if inner in self.keys:
            first = self.keys[inner].line + 1
            self.mistakes.append(_at(key.start_mark, f"{_dotted(inner)}: stands here twice, first in line {first}"))
            return
        if inner[2:] == ("key",) and inner[0] in _SECTIONS:
            self.mistakes.append(_at(key.start_mark, f"{_dotted(inner)}: unknown key"))
        self.keys[inner] = key.start_mark
        self._walk(value, inner)

    def blame(self, details: Sequence[ErrorDetails]) -> None:
        """Add what pydantic found."""
        unknown = {place: _meant(place) for detail in details if (place := _place(detail)) and _is_unknown(detail)}
        misspelt = {(*place[:-1], meant) for place, meant in unknown.items()}
        for detail in details:
            place = _place(detail)
            if detail["type"] == "missing":
                if place not in misspelt:
                    above = self.keys.get(place[:-1]) or self.values[()]
                    self.mistakes.append(_at(above, f"{_dotted(place)}: is missing"))
            elif place in unknown:
                hint = f"; did you mean `{unknown[place]}`?" if unknown[place] else ""
                self.mistakes.append(_at(self.keys.get(place), f"{_dotted(place)}: unknown key{hint}"))
            elif detail["loc"][-1:] == ("[key]",):
                message = f"{_dotted(place)}: this can't be a key: {detail['msg']}"
                self.mistakes.append(_at(self.keys.get(place), message))
            elif place in self.values or place[-1:] not in _IMPLIED:
                message = detail["msg"].removeprefix("Value error, ")
                self.mistakes.append(_at(self._nearest(place), f"{_dotted(place)}: {message}"))
            # What was implied is told of itself: the file's own currency, the entry's key.

    def _nearest(self, place: Place) -> Mark:
        """Where a value stands; of one that was merged in from elsewhere, where what it was merged into does."""
        while place not in self.values:
            place = place[:-1]
        return self.values[place]


def _place(detail: ErrorDetails) -> Place:
    return tuple(str(part) for part in detail["loc"] if part != "[key]")


def _is_unknown(detail: ErrorDetails) -> bool:
    return detail["type"] == "extra_forbidden"


def _meant(place: Place) -> str:
    model = Catalog if len(place) == 1 else _SECTIONS.get(place[0], Catalog)
    near = difflib.get_close_matches(place[-1], model.model_fields.keys() - {"key"}, n=1)
    return near[0] if near else ""


def _dotted(place: Place) -> str:
    return ".".join(place)


def _at(mark: Mark | None, message: str) -> _Mistake:
    return _Mistake(mark.line + 1, mark.column + 1, message) if mark else _Mistake(1, 1, message)
