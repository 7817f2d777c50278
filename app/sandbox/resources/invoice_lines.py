"""Lines of invoices: list them; add, change and remove those of a draft."""

from app.sandbox import invoice_items, invoice_lines, invoicing, lists, taxes, totals
from app.sandbox.errors import ApiError, missing, unsupported
from app.sandbox.metadata import merge
from app.sandbox.route import route, under
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def list_(sandbox: Sandbox, params: Row, invoice: str) -> Row:
    row = sandbox.get("invoice", invoice, param="invoice")
    return lists.embedded(row["lines"]["data"], params, f"/v1/invoices/{invoice}/lines")


def add(sandbox: Sandbox, params: Row, invoice: str) -> Row:
    """Make an invoice item and its line for each entry, or take in a pending item."""
    row = _draft(sandbox, invoice)
    customer = sandbox.get("customer", row["customer"])
    with sandbox.updating("invoice.updated", row):
        for index, entry in enumerate(params["lines"]):
            at = f"lines[{index}]"
            if "invoice_item" not in entry:
                invoice_items.new(sandbox, {"currency": row["currency"], **entry}, customer, row, at=at)
                continue
            item = sandbox.get("invoiceitem", entry["invoice_item"], param=f"{at}[invoice_item]", status=400)
            if item["customer"] != row["customer"] or item["invoice"] is not None:
                raise missing("invoiceitem", item["id"], param=f"{at}[invoice_item]", status=400)
            if item["currency"] != row["currency"]:
                raise ApiError("The item has another currency than the invoice.", param=f"{at}[invoice_item]")
            invoice_items.change(sandbox, item, {k: v for k, v in entry.items() if k != "invoice_item"}, at=at)
            invoicing.add_lines(sandbox, row, [invoice_lines.of_item(sandbox, item)])
        _merge(row, params)
    return row


def update_many(sandbox: Sandbox, params: Row, invoice: str) -> Row:
    row = _draft(sandbox, invoice)
    with sandbox.updating("invoice.updated", row):
        for index, entry in enumerate(params["lines"]):
            at = f"lines[{index}]"
            changes = {name: value for name, value in entry.items() if name != "id"}
            _change(sandbox, row, _line(row, entry["id"], f"{at}[id]", 400), changes, at)
        _merge(row, params)
    return row


def update(sandbox: Sandbox, params: Row, invoice: str, line: str) -> Row:
    """Change one line; gives the line."""
    row = _draft(sandbox, invoice)
    found = _line(row, line, "line_item_id", 404)
    with sandbox.updating("invoice.updated", row):
        _change(sandbox, row, found, params, "")
    return found


def remove(sandbox: Sandbox, params: Row, invoice: str) -> Row:
    """Take lines off a draft, and delete their items or make them pending again, as ``behavior`` says."""
    row = _draft(sandbox, invoice)
    with sandbox.updating("invoice.updated", row):
        for index, entry in enumerate(params["lines"]):
            line = _line(row, entry["id"], f"lines[{index}][id]", 400)
            id = invoice_lines.item_of(line)
            if id is None:
                raise unsupported("taking a subscription's own line off its invoice", param=f"lines[{index}][id]")
            row["lines"]["data"].remove(line)
            item = sandbox.get("invoiceitem", id)
            if entry["behavior"] == "unassign":
                item["invoice"] = None
            else:
                invoice_items.forget(sandbox, item)
        totals.recount(sandbox, row)
        _merge(row, params)
    return row


def _draft(sandbox: Sandbox, id: str) -> Row:
    row = sandbox.get("invoice", id, param="invoice")
    if row["status"] != "draft":
        raise ApiError("Finalized invoices can't be updated in this way", param="lines")
    return row


def _line(invoice: Row, id: str, param: str, status: int) -> Row:
    for line in invoice["lines"]["data"]:
        if line["id"] == id:
            found: Row = line
            return found
    raise missing("invoice_line_item", id, param=param, status=status)


def _change(sandbox: Sandbox, invoice: Row, line: Row, params: Row, at: str) -> None:
    """Change a line through its item; a subscription's own line has none and is changed itself."""
    item = invoice_lines.item_of(line)
    if item is not None:
        invoice_items.change(sandbox, sandbox.get("invoiceitem", item), params, at=at)
        return
    beyond = params.keys() - {"amount", "description", "discountable", "metadata", "period", "tax_rates"}
    if beyond:
        name = min(beyond)
        raise unsupported(f"changing `{name}` of a subscription's own line", param=name)
    for name in ("amount", "description", "discountable"):
        if name in params:
            line[name] = params[name]
    line["subtotal"] = line["amount"]
    if "period" in params:
        line["period"] = dict(params["period"])
    if "tax_rates" in params:
        line["_tax_rates"] = taxes.chosen(sandbox, params["tax_rates"], at=f"{at}[tax_rates]" if at else "tax_rates")
    merge(line, params)
    totals.recount(sandbox, invoice)


def _merge(invoice: Row, params: Row) -> None:
    if "invoice_metadata" in params:
        merge(invoice, {"metadata": params["invoice_metadata"]})


_LINE = "amount description discountable discounts metadata period price_data pricing.price quantity tax_rates"
_PATH = "/v1/invoices/{invoice}"
ROUTES = (
    route(f"GET {_PATH}/lines", list_, "InvoiceLineItemListParams"),
    route(f"POST {_PATH}/lines/{{line}}", update, "InvoiceLineItemUpdateParams", _LINE),
    route(
        f"POST {_PATH}/add_lines",
        add,
        "InvoiceAddLinesParams",
        f"invoice_metadata {under('lines', f'{_LINE} invoice_item')}",
    ),
    route(
        f"POST {_PATH}/update_lines",
        update_many,
        "InvoiceUpdateLinesParams",
        f"invoice_metadata {under('lines', f'{_LINE} id')}",
    ),
    route(f"POST {_PATH}/remove_lines", remove, "InvoiceRemoveLinesParams", "invoice_metadata lines"),
)
