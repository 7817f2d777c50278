"""Metadata: keys merge, an empty value removes its key, an empty hash removes them all."""

from app.sandbox.store import Row


def merge(row: Row, params: Row) -> None:
    """Apply ``params["metadata"]`` if the request has it."""
    if "metadata" not in params:
        return
    if params["metadata"] is None:
        row["metadata"] = {}
        return
    merged = {**(row["metadata"] or {}), **params["metadata"]}
    row["metadata"] = {key: value for key, value in merged.items() if value is not None}
