"""Form-encoded requests in Stripe's bracket notation: ``items[0][price]=p&expand[]=x`` to a tree of strings."""

import json
import re
from typing import Any
from urllib.parse import parse_qsl

from app.sandbox.errors import ApiError

Tree = dict[str, Any]

_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_MAX_DEPTH = 8
_APPEND = ""


def parse(encoded: str) -> Tree:
    """Read a query string or body. Indexed lists stay mappings of "0", "1", …; params.py knows which are lists."""
    tree: Tree = {}
    for key, value in parse_qsl(encoded, keep_blank_values=True):
        match = _KEY.fullmatch(key)
        if match is None:
            raise _malformed(key)
        path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
        if len(path) > _MAX_DEPTH:
            raise _malformed(key)
        _place(tree, path, value, key)
    return tree


def body(raw: bytes, content_type: str) -> Tree:
    """Read a body that may be a form or JSON, to the same tree."""
    text = raw.decode("utf-8", "replace")
    if content_type.partition(";")[0].strip() != "application/json":
        return parse(text)
    try:
        given = json.loads(text or "{}")
    except ValueError:
        raise ApiError("Invalid request: the body is no JSON.") from None
    if not isinstance(given, dict):
        raise ApiError("Invalid request: the body is no JSON object.")
    return {name: _of_json(value) for name, value in given.items()}


def _of_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _of_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return {str(place): _of_json(item) for place, item in enumerate(value)}
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _place(node: Tree, path: list[str], value: str, key: str) -> None:
    """Walk to the last segment; an empty one (``expand[]``) takes the next free number."""
    for depth, segment in enumerate(path):
        name = str(len(node)) if segment == _APPEND else segment
        if segment == _APPEND and depth + 1 < len(path) and node:
            # items[][price]=a&items[][quantity]=2 is one item until a key of it comes again.
            last = str(len(node) - 1)
            if path[depth + 1] not in node.get(last, path):
                name = last
        if depth + 1 == len(path):
            if isinstance(node.get(name), dict):
                raise _malformed(key)
            node[name] = value
            return
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise _malformed(key)


def _malformed(key: str) -> ApiError:
    return ApiError(f"Invalid request parameters: {key[:100]}")
