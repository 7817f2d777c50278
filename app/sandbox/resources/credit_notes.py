"""Credit notes: an open invoice asks less; of a paid one money is refunded or credited."""

from app.sandbox import credit_notes as engine
from app.sandbox import customer_balance, invoicing, lists, subscriptions
from app.sandbox.errors import ApiError, missing
from app.sandbox.metadata import merge
from app.sandbox.money import written
from app.sandbox.resources import refunds
from app.sandbox.route import route, under
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def create(sandbox: Sandbox, params: Row) -> Row:
    invoice = sandbox.get("invoice", params["invoice"], param="invoice", status=400)
    if invoice["status"] not in {"open", "paid"}:
        raise ApiError(
            f"You can only create credit notes for open or paid invoices. This invoice is {invoice['status']}.",
            param="invoice",
        )
    row = engine.draft(sandbox, invoice, params)
    merge(row, params)
    if row["type"] == "pre_payment":
        _ask_less(sandbox, invoice, row, params)
    else:
        _give_back(sandbox, invoice, row, params)
    sandbox.insert(row)
    sandbox.emit("credit_note.created", row)
    return row


def preview(sandbox: Sandbox, params: Row) -> Row:
    """Show the credit note that would be: it is issued for real, and then undone."""
    with sandbox.rehearsal():
        return sandbox.shown(create(sandbox, params))


def preview_lines(sandbox: Sandbox, params: Row) -> Row:
    lines = preview(sandbox, params)["lines"]["data"]
    return lists.embedded(lines, params, "/v1/credit_notes/preview/lines")


def retrieve(sandbox: Sandbox, _params: Row, credit_note: str) -> Row:
    return sandbox.get("credit_note", credit_note)


def update(sandbox: Sandbox, params: Row, credit_note: str) -> Row:
    row = sandbox.get("credit_note", credit_note)
    with sandbox.updating("credit_note.updated", row):
        if "memo" in params:
            row["memo"] = params["memo"]
        merge(row, params)
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    for kind in ("customer", "invoice"):
        if kind in params:
            sandbox.get(kind, params[kind], param=kind, status=400)
    return lists.page(
        sandbox,
        "credit_note",
        params,
        "/v1/credit_notes",
        lambda row: (
            lists.matches(row, params, "customer", "invoice") and lists.within(row["created"], params.get("created"))
        ),
    )


def list_lines(sandbox: Sandbox, params: Row, credit_note: str) -> Row:
    row = sandbox.get("credit_note", credit_note)
    return lists.embedded(row["lines"]["data"], params, f"/v1/credit_notes/{credit_note}/lines")


def void(sandbox: Sandbox, _params: Row, credit_note: str) -> Row:
    """Take a credit note back, while its invoice is open; what was paid back can't be asked for again."""
    row = sandbox.get("credit_note", credit_note)
    invoice = sandbox.get("invoice", row["invoice"])
    if row["status"] == "void":
        raise ApiError("This credit note has already been voided.")
    if row["type"] != "pre_payment" or invoice["status"] != "open":
        raise ApiError("You can only void a credit note of an open invoice.")
    invoicing.credit(sandbox, invoice, -row["pre_payment_amount"])
    row.update(status="void", voided_at=sandbox.now())
    sandbox.emit("credit_note.voided", row)
    return row


def _ask_less(sandbox: Sandbox, invoice: Row, row: Row, params: Row) -> None:
    for name in ("credit_amount", "refund_amount", "out_of_band_amount", "refunds"):
        if params.get(name):
            raise ApiError(f"You can only pass `{name}` for a paid invoice.", param=name)
    if row["total"] > invoice["amount_remaining"]:
        raise _too_much(row, invoice["amount_remaining"])
    row["pre_payment_amount"] = row["total"]
    invoicing.credit(sandbox, invoice, row["total"])
    subscriptions.settle(sandbox, invoice)


def _give_back(sandbox: Sandbox, invoice: Row, row: Row, params: Row) -> None:
    left = invoice["amount_paid"] - invoice["post_payment_credit_notes_amount"]
    if row["total"] > left:
        raise _too_much(row, left)
    refunded: int = params.get("refund_amount", 0)
    linked = _linked(sandbox, invoice, params.get("refunds", []))
    credited, outside = params.get("credit_amount", 0), params.get("out_of_band_amount", 0)
    given = refunded + credited + outside + sum(entry["amount_refunded"] for entry in linked)
    if given != row["total"]:
        raise ApiError(
            f"The sum of credit amount, refund amount and out of band amount ({written(given, row['currency'])}) must "
            f"equal the credit note amount ({written(row['total'], row['currency'])})."
        )
    row["refunds"] = linked
    if refunded:
        payment = invoicing.default_payment(sandbox, invoice["id"])
        if payment is None or payment["status"] != "paid":
            raise ApiError("This invoice was not paid by a charge that can be refunded.", param="refund_amount")
        intent = payment["payment"]["payment_intent"]
        refund = refunds.create(sandbox, {"payment_intent": intent, "amount": refunded})
        row["refunds"] = [*linked, _link(refund["id"], refunded)]
    if credited:
        customer = sandbox.get("customer", invoice["customer"])
        with sandbox.updating("customer.updated", customer):
            moved = customer_balance.move(
                sandbox,
                customer,
                -credited,
                type="credit_note",
                currency=invoice["currency"],
                credit_note=row["id"],
                invoice=invoice["id"],
            )
        row["customer_balance_transaction"] = moved["id"]
    row["post_payment_amount"] = row["total"]
    with sandbox.updating("invoice.updated", invoice):
        invoice["post_payment_credit_notes_amount"] += row["total"]


def _linked(sandbox: Sandbox, invoice: Row, wanted: list[Row]) -> list[Row]:
    """Find refunds that were made before and now get their credit note."""
    payment = invoicing.default_payment(sandbox, invoice["id"])
    found = []
    for index, entry in enumerate(wanted):
        param = f"refunds[{index}][refund]"
        refund = sandbox.get("refund", entry.get("refund", ""), param=param, status=400)
        if payment is None or refund["payment_intent"] != payment["payment"]["payment_intent"]:
            raise missing("refund", refund["id"], param=param, status=400)
        amount: int = entry["amount_refunded"] if "amount_refunded" in entry else refund["amount"]
        found.append(_link(refund["id"], amount))
    return found


def _link(refund: str, amount: int) -> Row:
    return {"amount_refunded": amount, "payment_record_refund": None, "refund": refund, "type": "refund"}


def _too_much(row: Row, left: int) -> ApiError:
    total = written(row["total"], row["currency"])
    return ApiError(
        f"The credit note amount ({total}) is greater than what is left to credit on the invoice "
        f"({written(left, row['currency'])}).",
        param="amount",
    )


_LINE = "amount description invoice_line_item metadata quantity tax_rates type unit_amount unit_amount_decimal"
_NOTE = f"""
amount credit_amount effective_at email_type invoice memo out_of_band_amount reason refund_amount
{under("lines", _LINE)} {under("refunds", "amount_refunded refund type")}
"""
_PATH = "/v1/credit_notes"
ROUTES = (
    route(f"POST {_PATH}", create, "CreditNoteCreateParams", _NOTE),
    route(f"GET {_PATH}", list_, "CreditNoteListParams", "created customer invoice"),
    route(f"GET {_PATH}/preview", preview, "CreditNotePreviewParams", _NOTE),
    route(f"GET {_PATH}/preview/lines", preview_lines, "CreditNotePreviewLinesListParams", _NOTE),
    route(f"GET {_PATH}/{{credit_note}}", retrieve, "CreditNoteRetrieveParams"),
    route(f"POST {_PATH}/{{credit_note}}", update, "CreditNoteUpdateParams", "memo"),
    route(f"GET {_PATH}/{{credit_note}}/lines", list_lines, "CreditNoteLineItemListParams"),
    route(f"POST {_PATH}/{{credit_note}}/void", void, "CreditNoteVoidCreditNoteParams"),
)
