"""Holds a form as it went over the wire to one of the SDK's parameter types."""

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typing_extensions
from stripe import RequestOptions

NAMES = {"StripeContext": object, "Mapping": Mapping}  # the SDK imports them for type checkers alone


def violations(form: Mapping[str, str], params: Any) -> list[str]:
    """What of `form` the TypedDict `params` does not allow or misses; empty when all is well."""
    return list(_check("", _nested(form), params))


def _nested(form: Mapping[str, str]) -> dict[str, Any]:
    """{"items[0][price]": "p"} → {"items": {"0": {"price": "p"}}}."""
    root: dict[str, Any] = {}
    for name, value in form.items():
        *way, last = name.replace("]", "").split("[")
        place = root
        for step in way:
            place = place.setdefault(step, {})
        place[last] = value
    return root


def _check(name: str, value: Any, wanted: Any) -> Iterator[str]:
    origin, arguments = get_origin(wanted), get_args(wanted)
    if typing_extensions.is_typeddict(wanted):
        yield from _check_fields(name, value, wanted)
    elif origin in {Union, UnionType}:
        found = [list(_check(name, value, choice)) for choice in arguments if choice is not NoneType]
        if all(found):
            yield from found[-1]
    elif origin is list and isinstance(value, dict) and list(value) == [str(i) for i in range(len(value))]:
        for index, row in value.items():
            yield from _check(f"{name}[{index}]", row, arguments[0])
    elif origin is dict and isinstance(value, dict):
        for key, entry in value.items():
            yield from _check(f"{name}[{key}]", entry, arguments[1])
    elif not _is_scalar(value, wanted):
        yield f"{name}: {value!r} is not {wanted}"


def _check_fields(name: str, value: Any, wanted: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{name}: {value!r} is not {wanted}"
        return
    hints = get_type_hints(wanted, localns=NAMES)
    options = {} if "[" in name else get_type_hints(RequestOptions, localns=NAMES)
    for key in wanted.__required_keys__ - value.keys():
        yield f"{name}[{key}] is missing"
    for key, entry in value.items():
        if key not in hints or key in options:
            yield f"{name}[{key}] is no parameter"
        else:
            yield from _check(f"{name}[{key}]", entry, hints[key])


def _is_scalar(value: Any, wanted: Any) -> bool:
    if not isinstance(value, str):
        return False
    if get_origin(wanted) is Literal:
        return value in get_args(wanted)
    if wanted is bool:
        return value in {"true", "false"}
    if wanted is int:
        return value.removeprefix("-").isdigit()
    return wanted is str
