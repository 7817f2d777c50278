"""Events: what happened in the last thirty days."""

from app.sandbox import lists
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def retrieve(sandbox: Sandbox, _params: Row, event: str) -> Row:
    return sandbox.get("event", event)


def list_(sandbox: Sandbox, params: Row) -> Row:
    delivered = params.get("delivery_success")
    return lists.page(
        sandbox,
        "event",
        params,
        "/v1/events",
        lambda row: (
            lists.matches(row, params, "type")
            and ("types" not in params or row["type"] in params["types"])
            and (delivered is None or delivered == (row["pending_webhooks"] == 0))
            and lists.within(row["created"], params.get("created"))
        ),
    )
