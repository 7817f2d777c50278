"""Credit grants: billing credits of a customer, their balance and its transactions."""

from app.sandbox import lists
from app.sandbox.errors import ApiError, required, unsupported
from app.sandbox.metadata import merge
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_KIND = "billing.credit_grant"
_TRANSACTION = "billing.credit_balance_transaction"
_LOWEST = 100  # priority
_ENDED = frozenset({"canceled", "incomplete_expired"})


def create(sandbox: Sandbox, params: Row) -> Row:
    """Grant credits. Refused where Stripe would spend them on an invoice, for invoices here know nothing of them."""
    customer = _customer(sandbox, params)
    if any(
        item["price"]["recurring"]["usage_type"] == "metered"
        for subscription in sandbox.rows("subscription")
        if subscription["customer"] == customer["id"] and subscription["status"] not in _ENDED
        for item in subscription["items"]["data"]
    ):
        raise unsupported("credit grants for a customer with a metered subscription: invoices don't apply them")
    now = sandbox.now()
    effective_at = params.get("effective_at", now)
    row = sandbox.insert(
        {
            "id": sandbox.new.mint("credgr_test_"),
            "object": _KIND,
            "amount": _amount(params["amount"]),
            "applicability_config": {"scope": _scope(sandbox, params["applicability_config"]["scope"])},
            "category": params.get("category", "paid"),
            "created": now,
            "customer": customer["id"],
            "customer_account": None,
            "effective_at": effective_at,
            "expires_at": None,
            "livemode": False,
            "metadata": {},
            "name": params.get("name"),
            "priority": _priority(params),
            "test_clock": customer["test_clock"],
            "updated": now,
            "voided_at": None,
        }
    )
    _set(row, params)
    sandbox.emit("billing.credit_grant.created", row)
    _transact(sandbox, row, "credit", "credits_granted", effective_at)
    return row


def retrieve(sandbox: Sandbox, _params: Row, credit_grant: str) -> Row:
    return sandbox.get(_KIND, credit_grant)


def list_(sandbox: Sandbox, params: Row) -> Row:
    if "customer" in params:
        _customer(sandbox, params)
    return lists.page(
        sandbox, _KIND, params, "/v1/billing/credit_grants", lambda row: lists.matches(row, params, "customer")
    )


def update(sandbox: Sandbox, params: Row, credit_grant: str) -> Row:
    row = sandbox.get(_KIND, credit_grant)
    if "expires_at" in params:
        _held(sandbox, row, "updated")
    with sandbox.updating("billing.credit_grant.updated", row):
        _set(row, params)
    return row


def expire(sandbox: Sandbox, _params: Row, credit_grant: str) -> Row:
    row = _held(sandbox, sandbox.get(_KIND, credit_grant), "expired")
    _expire(sandbox, row)
    return row


def void(sandbox: Sandbox, _params: Row, credit_grant: str) -> Row:
    row = _held(sandbox, sandbox.get(_KIND, credit_grant), "voided")
    with sandbox.updating("billing.credit_grant.updated", row):
        row.update(voided_at=sandbox.now(), updated=sandbox.now())
    _transact(sandbox, row, "debit", "credits_voided", sandbox.now())
    return row


def expire_due(sandbox: Sandbox) -> None:
    """Take back what expired by itself."""
    for grant in sandbox.rows(_KIND):
        due = grant["expires_at"] is not None and grant["expires_at"] <= sandbox.now()
        if due and grant["voided_at"] is None and not grant.get("_expired"):
            row = sandbox.get(_KIND, grant["id"])
            row["_expired"] = True
            _transact(sandbox, row, "debit", "credits_expired", row["expires_at"])


def summarize(sandbox: Sandbox, params: Row) -> Row:
    """Add up what is left, currency by currency, of one grant or of all that apply to metered prices."""
    customer = _customer(sandbox, params)
    chosen = params["filter"]
    if chosen["type"] == "credit_grant":
        if "credit_grant" not in chosen:
            raise required("filter[credit_grant]")
        grant = sandbox.get(_KIND, chosen["credit_grant"], param="filter[credit_grant]", status=400)
        grants = [grant] if grant["customer"] == customer["id"] else []
    else:
        if "applicability_scope" not in chosen:
            raise required("filter[applicability_scope]")
        if chosen["applicability_scope"].get("price_type") != "metered":
            raise unsupported("balances of single prices", param="filter[applicability_scope][prices]")
        grants = [
            grant
            for grant in sandbox.rows(_KIND)
            if grant["customer"] == customer["id"] and "price_type" in grant["applicability_config"]["scope"]
        ]
    left: dict[str, int] = {}
    for grant in grants:
        monetary = grant["amount"]["monetary"]
        usable = _is_held(sandbox, grant) and grant["effective_at"] <= sandbox.now()
        left[monetary["currency"]] = left.get(monetary["currency"], 0) + (monetary["value"] if usable else 0)
    return {
        "object": "billing.credit_balance_summary",
        "balances": [
            {
                name: {"monetary": {"currency": currency, "value": value}, "type": "monetary"}
                for name in ("available_balance", "ledger_balance")
            }
            for currency, value in left.items()
        ],
        "customer": customer["id"],
        "customer_account": None,
        "livemode": False,
    }


def retrieve_transaction(sandbox: Sandbox, _params: Row, transaction: str) -> Row:
    return sandbox.get(_TRANSACTION, transaction)


def list_transactions(sandbox: Sandbox, params: Row) -> Row:
    customer = _customer(sandbox, params)
    if "credit_grant" in params:
        sandbox.get(_KIND, params["credit_grant"], param="credit_grant", status=400)
    return lists.page(
        sandbox,
        _TRANSACTION,
        params,
        "/v1/billing/credit_balance_transactions",
        lambda row: row["_customer"] == customer["id"] and lists.matches(row, params, "credit_grant"),
    )


def _customer(sandbox: Sandbox, params: Row) -> Row:
    if "customer" not in params:
        raise required("customer")
    return sandbox.get("customer", params["customer"], param="customer", status=400)


def _amount(amount: Row) -> Row:
    if "monetary" not in amount:
        raise required("amount[monetary]")
    if amount["monetary"]["value"] < 1:
        raise ApiError(
            "This value must be greater than or equal to 1.",
            code="parameter_invalid_integer",
            param="amount[monetary][value]",
        )
    return {**amount, "monetary": {**amount["monetary"], "currency": amount["monetary"]["currency"].lower()}}


def _scope(sandbox: Sandbox, scope: Row) -> Row:
    at = "applicability_config[scope]"
    if ("price_type" in scope) == ("prices" in scope):
        raise ApiError(f"You must specify either `price_type` or `prices` in `{at}`.", param=at)
    for index, given in enumerate(scope.get("prices", ())):
        param = f"{at}[prices][{index}][id]"
        price = sandbox.get("price", given["id"], param=param, status=400)
        if not price["recurring"] or price["recurring"]["usage_type"] != "metered":
            raise ApiError(f"The price {given['id']} is not metered.", param=param)
    return scope


def _priority(params: Row) -> int:
    priority: int = params.get("priority", 50)
    if not 0 <= priority <= _LOWEST:
        raise ApiError(f"Invalid priority: must be between 0 and {_LOWEST}.", param="priority")
    return priority


def _set(row: Row, params: Row) -> None:
    if "expires_at" in params:
        if params["expires_at"] is not None and params["expires_at"] <= row["effective_at"]:
            raise ApiError("`expires_at` must be later than `effective_at`.", param="expires_at")
        row["expires_at"] = params["expires_at"]
    merge(row, params)


def _is_held(sandbox: Sandbox, row: Row) -> bool:
    return row["voided_at"] is None and (row["expires_at"] is None or row["expires_at"] > sandbox.now())


def _held(sandbox: Sandbox, row: Row, done: str) -> Row:
    if not _is_held(sandbox, row):
        state = "voided" if row["voided_at"] is not None else "expired"
        raise ApiError(f"This credit grant has been {state}, so it cannot be {done}.")
    return row


def _expire(sandbox: Sandbox, row: Row) -> None:
    with sandbox.updating("billing.credit_grant.updated", row):
        row.update(expires_at=sandbox.now(), updated=sandbox.now(), _expired=True)
    _transact(sandbox, row, "debit", "credits_expired", sandbox.now())


def _transact(sandbox: Sandbox, grant: Row, type: str, reason: str, effective_at: int) -> None:
    """Book the whole grant, in or out; nothing ever spends a part of it."""
    other = "debit" if type == "credit" else "credit"
    details = "credits_application_invoice_voided" if type == "credit" else "credits_applied"
    row = sandbox.insert(
        {
            "id": sandbox.new.mint("cbtxn_test_"),
            "object": _TRANSACTION,
            "created": sandbox.now(),
            type: {"amount": grant["amount"], details: None, "type": reason},
            other: None,
            "credit_grant": grant["id"],
            "effective_at": effective_at,
            "livemode": False,
            "test_clock": grant["test_clock"],
            "type": type,
            "_customer": grant["customer"],
        }
    )
    sandbox.emit("billing.credit_balance_transaction.created", row)


ROUTES = (
    route(
        "POST /v1/billing/credit_grants",
        create,
        "billing.CreditGrantCreateParams",
        "amount applicability_config category customer effective_at expires_at name priority",
    ),
    route("GET /v1/billing/credit_grants", list_, "billing.CreditGrantListParams", "customer"),
    route("GET /v1/billing/credit_grants/{credit_grant}", retrieve, "billing.CreditGrantRetrieveParams"),
    route("POST /v1/billing/credit_grants/{credit_grant}", update, "billing.CreditGrantUpdateParams", "expires_at"),
    route("POST /v1/billing/credit_grants/{credit_grant}/expire", expire, "billing.CreditGrantExpireParams"),
    route("POST /v1/billing/credit_grants/{credit_grant}/void", void, "billing.CreditGrantVoidGrantParams"),
    route(
        "GET /v1/billing/credit_balance_summary",
        summarize,
        "billing.CreditBalanceSummaryRetrieveParams",
        "customer filter",
    ),
    route(
        "GET /v1/billing/credit_balance_transactions",
        list_transactions,
        "billing.CreditBalanceTransactionListParams",
        "credit_grant customer",
    ),
    route(
        "GET /v1/billing/credit_balance_transactions/{transaction}",
        retrieve_transaction,
        "billing.CreditBalanceTransactionRetrieveParams",
    ),
)
