"""The account's balance, and every movement that made it."""

from app.sandbox import ledger, lists
from app.sandbox.errors import missing
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def retrieve(sandbox: Sandbox, _params: Row) -> Row:
    return ledger.balance(sandbox)


def retrieve_transaction(sandbox: Sandbox, _params: Row, transaction: str) -> Row:
    return sandbox.get("balance_transaction", transaction)


def list_transactions(sandbox: Sandbox, params: Row) -> Row:
    """List movements; recorded: asking for a dispute's own finds none, and an odd type or currency just finds none."""
    if "payout" in params:
        raise missing("payout", params["payout"], param="payout", status=400)
    return lists.page(
        sandbox,
        "balance_transaction",
        params,
        "/v1/balance_transactions",
        lambda row: (
            lists.matches(row, params, "currency", "source", "type")
            and not ("source" in params and row["source"].startswith("du_"))
            and lists.within(row["created"], params.get("created"))
        ),
    )


ROUTES = (
    route("GET /v1/balance", retrieve, "BalanceRetrieveParams"),
    route(
        "GET /v1/balance_transactions",
        list_transactions,
        "BalanceTransactionListParams",
        "created currency payout source type",
    ),
    route("GET /v1/balance_transactions/{transaction}", retrieve_transaction, "BalanceTransactionRetrieveParams"),
)
