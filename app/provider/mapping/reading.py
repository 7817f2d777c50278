"""Decoded JSON read value by value: what Stripe can't have sent, or Postgres can't hold, is refused."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")

MAX_ID = 255  # what Stripe advises to store ids in (docs.stripe.com/upgrades, "backwards-compatible changes")
MAX_INT = 2**63 - 1  # Postgres bigint
MAX_TIME = 253_402_300_799  # the last second of year 9999, where Python's datetime ends


class UnreadableError(ValueError):
    """JSON that is not what it should be."""


def rows(page: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The objects on one page of a Stripe list."""
    data = page.get("data")
    if not isinstance(data, list):
        raise UnreadableError("not a list")
    return [mapping_of(row) for row in data]


def maybe(read: Callable[[Any], T], value: Any) -> T | None:
    return None if value is None else read(value)


def if_readable(read: Callable[[Any], T], value: Any) -> T | None:
    try:
        return read(value)
    except UnreadableError:
        return None


def mapping_of(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UnreadableError("not an object")
    return value


def mapping_or_empty(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def within(data: Mapping[str, Any], *path: str) -> Any:
    """The value at `path`, or None where a step of it is missing or null."""
    value: Any = data
    for key in path:
        if value is None:
            return None
        value = mapping_of(value).get(key)
    return value


def text(value: Any) -> str:
    if isinstance(value, str) and "\0" not in value and (value.isascii() or _encodable(value)):
        return value
    raise UnreadableError("not text")


def _encodable(value: str) -> bool:
    if value.isascii():  # as nearly all of it is
        return True
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can write one, Postgres can't keep it
        return False
    return True


def word(value: Any) -> str:
    """An id, a status, a type: never empty, never long."""
    words = text(value)
    if not 1 <= len(words) <= MAX_ID:
        raise UnreadableError("empty or too long")
    return words


def ref(value: Any) -> str:
    """The id of another object, which may stand there expanded."""
    return word(value.get("id") if isinstance(value, dict) else value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UnreadableError("neither true nor false")
    return value


def integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_INT:
        raise UnreadableError("not an integer, or too large")
    return value


def time(value: Any) -> int:
    seconds = integer(value)
    if not 0 <= seconds <= MAX_TIME:
        raise UnreadableError("not a time")
    return seconds


def iso_time(value: Any) -> int:
    words = text(value)
    try:
        moment = datetime.fromisoformat(words)
    except ValueError as error:
        raise UnreadableError("not a time") from error
    if moment.tzinfo is None:
        raise UnreadableError("a time without its zone")
    return time(int(moment.timestamp()))


def metadata(value: Any) -> Mapping[str, str]:
    return {text(key): text(entry) for key, entry in mapping_of(value or {}).items()}
