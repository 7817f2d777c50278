"""Customer balance transactions: what an account credits or debits a customer, and what invoices made of it."""

from app.sandbox import customer_balance, lists
from app.sandbox.errors import ApiError, missing
from app.sandbox.metadata import merge
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def create(sandbox: Sandbox, params: Row, customer: str) -> Row:
    row = sandbox.get("customer", customer, param="customer")
    if row["currency"] not in {None, params["currency"].lower()}:
        raise ApiError(
            f"The currency of the customer {customer} is {row['currency']}, so its balance cannot be changed in "
            f"{params['currency']}.",
            param="currency",
        )
    with sandbox.updating("customer.updated", row):
        row["currency"] = params["currency"].lower()
        made = customer_balance.move(
            sandbox,
            row,
            params["amount"],
            type="adjustment",
            currency=row["currency"],
            description=params.get("description"),
        )
    merge(made, params)
    return made


def retrieve(sandbox: Sandbox, _params: Row, customer: str, transaction: str) -> Row:
    row = sandbox.get("customer_balance_transaction", transaction)
    if row["customer"] != customer:
        raise missing("customer_balance_transaction", transaction)
    return row


def list_(sandbox: Sandbox, params: Row, customer: str) -> Row:
    sandbox.get("customer", customer, param="customer")
    return lists.page(
        sandbox,
        "customer_balance_transaction",
        params,
        f"/v1/customers/{customer}/balance_transactions",
        lambda row: (
            row["customer"] == customer
            and lists.matches(row, params, "invoice")
            and lists.within(row["created"], params.get("created"))
        ),
    )


_PATH = "/v1/customers/{customer}/balance_transactions"
ROUTES = (
    route(f"POST {_PATH}", create, "CustomerBalanceTransactionCreateParams", "amount currency description"),
    route(f"GET {_PATH}", list_, "CustomerBalanceTransactionListParams", "created invoice"),
    route(f"GET {_PATH}/{{transaction}}", retrieve, "CustomerBalanceTransactionRetrieveParams"),
)
