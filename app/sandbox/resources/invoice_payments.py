"""Invoice payments: which PaymentIntent paid which invoice."""

from app.sandbox import lists
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def retrieve(sandbox: Sandbox, _params: Row, invoice_payment: str) -> Row:
    return sandbox.get("invoice_payment", invoice_payment, param="invoice_payment")


def list_(sandbox: Sandbox, params: Row) -> Row:
    intent = params.get("payment", {}).get("payment_intent")
    return lists.page(
        sandbox,
        "invoice_payment",
        params,
        "/v1/invoice_payments",
        lambda row: (
            lists.matches(row, params, "invoice", "status")
            and (intent is None or row["payment"]["payment_intent"] == intent)
            and lists.within(row["created"], params.get("created"))
        ),
    )
