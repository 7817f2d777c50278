"""Holds JSON objects to the SDK's resource classes: unknown keys, wrong types, missing keys, odd enum values."""

import ast
import importlib
import inspect
import types
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import stripe
from stripe._object_classes import get_object_class

Violation = str

#: Keys real Stripe was recorded to send although the SDK's classes do not name them.
RECORDED = {
    "charge": {"customer_account", "dispute"},
    "dispute": {"balance_transaction"},
    "payment_method": {"shared_payment_granted_token"},
    "payment_intent": {"shared_payment_granted_token"},
    "product": {"attributes"},
    "subscription": {"plan", "quantity"},
    # What an event is about and says, which the SDK has in a class for each type.
    "v2.core.event": {"data", "related_object"},
}
LIST_KEYS = {"object", "data", "has_more", "url"}
STUB_KEYS = {"id", "object", "deleted"}


def violations(value: dict[str, Any]) -> list[Violation]:
    """List what is wrong with an API answer: an object, a list of objects, or a deleted one's stub."""
    if value.get("object") == "list":
        # Recorded: the refunds and the disputes of a charge come with their count.
        wrong = [f"list: unexpected or missing key {key}" for key in (value.keys() - {"count"}) ^ LIST_KEYS]
        return wrong + [found for item in value["data"] for found in violations(item)]
    name = value.get("object", "")
    cls = get_object_class("V2" if name.startswith("v2.") else "V1", name)
    if cls is stripe.StripeObject:
        return [f"no SDK class for object {value.get('object')!r}"]
    found = list(_object(value, cls, value["object"]))
    if value["object"] == "event":
        found += violations(value["data"]["object"])
    return found


def _object(value: dict[str, Any], cls: type, at: str) -> list[Violation]:
    if value.get("deleted") is True and value["object"] != "discount":  # a discount is shown whole a last time
        return [f"{at}: stub with {key}" for key in value.keys() ^ STUB_KEYS]
    hints = _hints(cls)
    known = RECORDED.get(str(value.get("object")), set())  # an Event's data has an object that is no name
    found = [f"{at}.{key}: unknown" for key in value.keys() - hints.keys() - known]
    found += [
        f"{at}.{key}: missing" for key, hint in hints.items() if key not in value and type(None) not in _options(hint)
    ]
    for key in value.keys() & hints.keys():
        found += _value(value[key], hints[key], f"{at}.{key}")
    return found


def _value(value: Any, hint: Any, at: str) -> list[Violation]:
    options = _options(hint)
    if Any in options:
        return []
    if value is None:
        return [] if type(None) in options else [f"{at}: null"]
    words = {word for option in options if get_origin(option) is Literal for word in get_args(option)}
    if isinstance(value, str) and words:
        expandable = any(inspect.isclass(option) and issubclass(option, stripe.StripeObject) for option in options)
        return [] if value in words or expandable else [f"{at}: {value!r} is none of {sorted(words)}"]
    if isinstance(value, dict):
        options = [option for option in options if option is not str]  # an expanded reference is held to its class
    results = [_plain(value, option, at) for option in options if option is not type(None)]
    return min(results, key=len, default=[f"{at}: {value!r}"])


def _plain(value: Any, hint: Any, at: str) -> list[Violation]:
    origin = get_origin(hint)
    if origin is not None:
        return _generic(value, origin, get_args(hint), at)
    if hint is Decimal:
        return [] if isinstance(value, str) and _is_number(value) else [f"{at}: {value!r} is no decimal string"]
    if inspect.isclass(hint) and issubclass(hint, stripe.StripeObject):
        return _object(value, hint, at) if isinstance(value, dict) else [f"{at}: {value!r} is no {hint.__name__}"]
    fits = type(value) is hint or (hint is float and type(value) in {int, float})
    return [] if fits else [f"{at}: {value!r} is no {hint}"]


def _generic(value: Any, origin: Any, args: tuple[Any, ...], at: str) -> list[Violation]:
    if origin is Literal:
        return [] if value in args else [f"{at}: {value!r} is none of {args}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{at}: not a list"]
        return [found for n, item in enumerate(value) for found in _value(item, args[0], f"{at}[{n}]")]
    if issubclass(origin, stripe.ListObject):
        return _embedded(value, args[0], at)
    return _map(value, args[-1], at)


def _embedded(value: Any, item: Any, at: str) -> list[Violation]:
    if not isinstance(value, dict) or value.get("object") != "list":
        return [f"{at}: no list object"]
    found = [f"{at}: {key}" for key in value.keys() ^ LIST_KEYS - {"total_count"} if key != "total_count"]
    return found + [wrong for n, row in enumerate(value["data"]) for wrong in _value(row, item, f"{at}[{n}]")]


def _map(value: Any, item: Any, at: str) -> list[Violation]:
    if not isinstance(value, dict):
        return [f"{at}: no map"]
    return [found for name, entry in value.items() for found in _value(entry, item, f"{at}[{name}]")]


def _options(hint: Any) -> list[Any]:
    if get_origin(hint) in {Union, types.UnionType}:
        return [option for part in get_args(hint) for option in _options(part)]
    return [hint]


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, localns={**_type_checking_names(cls.__module__), **vars(cls)})
    own = {name: hints[name] for name in cls.__annotations__ if not name.startswith("_")}
    return {name: hint for name, hint in own.items() if get_origin(hint) is not ClassVar}


@cache
def _type_checking_names(module: str) -> dict[str, Any]:
    """Import what a module of the SDK imports for type checkers only."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    names: dict[str, Any] = {}
    for guard in tree.body:
        if isinstance(guard, ast.If) and ast.unparse(guard.test) == "TYPE_CHECKING":
            for statement in guard.body:
                if isinstance(statement, ast.ImportFrom) and statement.module is not None:
                    source = importlib.import_module(statement.module)
                    for alias in statement.names:
                        names[alias.asname or alias.name] = getattr(source, alias.name)
    return names
