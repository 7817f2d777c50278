"""Request parameters held to the SDK's own TypedDicts: Stripe's refusals, and values in their right types."""

import re
import types
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import stripe.params
import stripe.params.v2.billing
import stripe.params.v2.core
from stripe import RequestOptions
from typing_extensions import get_type_hints, is_typeddict

from app.sandbox.errors import ApiError, required, unsupported
from app.sandbox.forms import Tree

#: Understood wherever Stripe takes them, so no route has to declare them.
_EVERYWHERE = frozenset({"expand", "limit", "starting_after", "ending_before", "metadata"})
#: Plain texts that Stripe lets you empty although the SDK's types show no "" for them.
_CLEARABLE = frozenset({"name", "email", "phone", "description", "lookup_key"})
#: Stripe lists some enums in an order of its own; the SDK sorts them.
_ORDERS = {
    frozenset({"draft", "open", "paid", "uncollectible", "void"}): ["draft", "open", "void", "paid", "uncollectible"],
    frozenset({"include", "exclude"}): ["include", "exclude"],
}


@cache
def spec(name: str) -> Any:
    """Find a parameter class by its name in ``stripe.params``, such as "checkout.SessionCreateParams"."""
    found: Any = stripe.params
    for part in name.split("."):
        found = getattr(found, part)
    return found


def read(name: str, tree: Tree, acts_on: frozenset[str], where: str) -> dict[str, Any]:
    """Check a request's tree against ``name`` and return the typed values; "" unsets and reads as None.

    ``acts_on`` are the dotted paths the endpoint does something with (a path stands for everything below it);
    any other parameter Stripe knows is refused, so that the sandbox never ignores what it was asked.
    """
    seen: list[tuple[str, str]] = []
    values = _object(spec(name), tree, "", seen)
    for dotted, bracketed in seen:
        steps = dotted.split(".")
        prefixes = {".".join(steps[: n + 1]) for n in range(len(steps))}
        if not prefixes & (acts_on | _EVERYWHERE):
            raise unsupported(f"the parameter `{bracketed}` of {where}", param=bracketed)
    return values


def typed(cls: Any, tree: Tree) -> dict[str, Any]:
    """Check a tree against a TypedDict of the sandbox's own."""
    return _object(cls, tree, "", [])


def _object(cls: Any, tree: Any, at: str, seen: list[tuple[str, str]], dotted: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise ApiError("Invalid object", param=at)
    hints = _hints(cls)
    if "payment_method_types" in tree and "payment_method_types" not in hints and not at:
        raise ApiError(
            "`payment_method_types` is no longer supported. Remove it to use dynamic payment methods, or use "
            "`allowed_payment_method_types`.",
            code="payment_method_types_no_longer_supported",
            param="payment_method_types",
        )
    unknown = [_inside(at, name) for name in tree if name not in hints]
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        raise ApiError(
            f"Received unknown parameter{plural}: {', '.join(unknown)}", code="parameter_unknown", param=unknown[0]
        )
    # The SDK's __required_keys__ has only the class's own keys right; RequestOptions' are all optional.
    for name in sorted(cls.__required_keys__ & hints.keys()):
        if name not in tree:
            raise required(_inside(at, name))
    return {
        name: _value(
            hints[name],
            value,
            _inside(at, name),
            seen,
            f"{dotted}.{name}".lstrip("."),
            clearable=name in _CLEARABLE and name not in cls.__required_keys__,
        )
        for name, value in tree.items()
    }


@cache
def _hints(cls: Any) -> dict[str, Any]:
    # Every parameter class inherits RequestOptions' annotations, which name what its own module doesn't import.
    hints = get_type_hints(cls, localns={"StripeContext": Any, "Mapping": Mapping})
    return {name: hint for name, hint in hints.items() if name not in RequestOptions.__annotations__}


def _value(hint: Any, raw: Any, at: str, seen: list[tuple[str, str]], dotted: str, *, clearable: bool = False) -> Any:
    choices = list(_flatten(hint))
    literals = [literal for c in choices if get_origin(c) is Literal for literal in get_args(c)]
    kinds = [c for c in choices if get_origin(c) is not Literal]
    if raw == "":
        if "" in literals or clearable:
            seen.append((dotted, at))
            return None
        raise ApiError(
            f"You passed an empty string for '{at}'. We assume empty values are an attempt to unset a parameter; "
            f"however '{at}' cannot be unset. You should remove '{at}' from your request or supply a non-empty value.",
            code="parameter_invalid_empty",
            param=at,
        )
    words = [literal for literal in literals if literal != ""]
    if isinstance(raw, dict):
        return _tree(kinds, raw, at, seen, dotted)
    seen.append((dotted, at))
    if raw in words:
        return raw
    return _scalar([kind for kind in kinds if not (words and kind is str)], words, raw, at)


def _tree(kinds: list[Any], raw: Tree, at: str, seen: list[tuple[str, str]], dotted: str) -> Any:
    """Read a nested object, a map (metadata) or a list, whichever the parameter allows."""
    for kind in kinds:
        if is_typeddict(kind):
            return _object(kind, raw, at, seen, dotted)
        if get_origin(kind) is list:
            if not all(re.fullmatch(r"\d+", index) for index in raw):
                raise ApiError("Invalid array", param=at)
            (item,) = get_args(kind)
            ordered = sorted(raw.items(), key=lambda pair: int(pair[0]))
            return [_value(item, value, f"{at}[{index}]", seen, dotted) for index, value in ordered]
        if get_origin(kind) is dict:
            seen.append((dotted, at))
            item = get_args(kind)[1]
            return {
                name: None if value == "" else _value(item, value, f"{at}[{name}]", [], dotted)
                for name, value in raw.items()
            }
    raise ApiError("Invalid string", param=at)


def _scalar(kinds: list[Any], words: list[Any], raw: str, at: str) -> Any:
    for kind in kinds:
        if kind is str or kind is Any:
            return raw
        if kind is int:
            if re.fullmatch(r"-?\d{1,18}", raw):
                return int(raw)
            raise ApiError(f"Invalid integer: {raw}", code="parameter_invalid_integer", param=at)
        if kind is bool:
            if raw in {"true", "false"}:
                return raw == "true"
            raise ApiError(f"Invalid boolean: {raw}", param=at)
        if kind in {float, Decimal}:
            return _number(raw, at) if kind is float else str(_number(raw, at))
    if words:
        name = re.sub(r"\[\d+\]$", "", at)
        name = name.rsplit("[", 1)[-1].rstrip("]")
        raise ApiError(f"Invalid {name}: must be one of {_either(words)}", param=at)
    is_list = any(get_origin(kind) is list for kind in kinds)
    raise ApiError("Invalid array" if is_list else "Invalid object", param=at)


def _number(raw: str, at: str) -> Decimal | float:
    try:
        number = Decimal(raw)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise ApiError(f"Invalid decimal: {raw}", param=at)
    return number


def _either(words: list[str]) -> str:
    words = _ORDERS.get(frozenset(words), words)
    if len(words) == 1:
        return words[0]
    comma = "," if len(words) > 2 else ""  # noqa: PLR2004 - two alternatives take no comma
    return f"{', '.join(words[:-1])}{comma} or {words[-1]}"


def _flatten(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in {Union, types.UnionType}:
        for option in get_args(hint):
            yield from _flatten(option)
    else:
        yield hint


def _inside(at: str, name: str) -> str:
    return f"{at}[{name}]" if at else name
