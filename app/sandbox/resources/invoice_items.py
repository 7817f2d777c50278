"""Invoice items: what is to be billed besides subscriptions; pending until an invoice takes them in."""

from app.sandbox import invoice_items as engine
from app.sandbox import lists
from app.sandbox.errors import ApiError, missing, required
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def create(sandbox: Sandbox, params: Row) -> Row:
    invoice = None
    if "invoice" in params:
        invoice = sandbox.get("invoice", params["invoice"], param="invoice", status=400)
        if invoice["status"] != "draft":
            raise ApiError("You can only add invoice items to draft invoices.", param="invoice")
        if params.get("customer", invoice["customer"]) != invoice["customer"]:
            raise ApiError("The invoice belongs to another customer.", param="invoice")
    elif "customer" not in params:
        raise required("customer")
    customer_id = params.get("customer") or (invoice or {})["customer"]
    customer = sandbox.get("customer", customer_id, param="customer", status=400)
    if "subscription" in params:
        subscription = sandbox.get("subscription", params["subscription"], param="subscription", status=400)
        if subscription["customer"] != customer["id"]:
            raise missing("subscription", subscription["id"], param="subscription", status=400)
    return engine.new(sandbox, params, customer, invoice)


def retrieve(sandbox: Sandbox, _params: Row, invoiceitem: str) -> Row:
    row = sandbox.find("invoiceitem", invoiceitem)
    if row is None or row.get("deleted"):
        raise _no_such(invoiceitem)
    return row


def update(sandbox: Sandbox, params: Row, invoiceitem: str) -> Row:
    row = _once(sandbox, invoiceitem)
    engine.change(sandbox, row, params)
    return row


def delete(sandbox: Sandbox, _params: Row, invoiceitem: str) -> Row:
    return engine.remove(sandbox, _once(sandbox, invoiceitem))


def list_(sandbox: Sandbox, params: Row) -> Row:
    if "customer" in params:
        sandbox.get("customer", params["customer"], param="customer", status=400)
    return lists.page(
        sandbox,
        "invoiceitem",
        params,
        "/v1/invoiceitems",
        lambda row: (
            lists.matches(row, params, "customer", "invoice")
            and params.get("pending") in {None, row["invoice"] is None}
            and lists.within(row["date"], params.get("created"))
        ),
    )


def _once(sandbox: Sandbox, id: str) -> Row:
    """Find an item to change; one that went with its draft is told apart from one that never was."""
    row = sandbox.find("invoiceitem", id)
    if row is None or (row.get("deleted") and not row["_had_invoice"]):
        raise _no_such(id)
    return row


def _no_such(id: str) -> ApiError:
    # Recorded: the one noun with its mode behind it.
    return ApiError(f"No such Invoice Item: '{id}'(livemode=false)", status=404, code="resource_missing", param="id")


_ITEM = """
amount description discountable discounts period price_data pricing.price quantity tax_rates unit_amount_decimal
"""
ROUTES = (
    route(
        "POST /v1/invoiceitems", create, "InvoiceItemCreateParams", f"{_ITEM} currency customer invoice subscription"
    ),
    route("GET /v1/invoiceitems", list_, "InvoiceItemListParams", "created customer invoice pending"),
    route("GET /v1/invoiceitems/{invoiceitem}", retrieve, "InvoiceItemRetrieveParams"),
    route("POST /v1/invoiceitems/{invoiceitem}", update, "InvoiceItemUpdateParams", _ITEM),
    route("DELETE /v1/invoiceitems/{invoiceitem}", delete, "InvoiceItemDeleteParams"),
)
