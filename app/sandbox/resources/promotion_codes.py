"""Promotion codes: they can be looked up; as none can be created here yet, none is ever found."""

from app.sandbox import lists
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "promotion_code",
        params,
        "/v1/promotion_codes",
        lambda row: lists.matches(row, params, "active", "code"),
    )
