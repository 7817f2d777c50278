"""Payment intents and charges, as far as sessions and invoices make them: read only."""

from app.sandbox import lists
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def retrieve(sandbox: Sandbox, _params: Row, payment_intent: str) -> Row:
    return sandbox.get("payment_intent", payment_intent, param="intent")


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "payment_intent",
        params,
        "/v1/payment_intents",
        lambda row: lists.matches(row, params, "customer") and lists.within(row["created"], params.get("created")),
    )


def retrieve_charge(sandbox: Sandbox, _params: Row, charge: str) -> Row:
    return sandbox.get("charge", charge)


def list_charges(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "charge",
        params,
        "/v1/charges",
        lambda row: (
            lists.matches(row, params, "customer", "payment_intent")
            and lists.within(row["created"], params.get("created"))
        ),
    )
