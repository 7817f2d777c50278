"""The hosted invoice, as a page where it can be paid and as a PDF, for whoever has its link."""

from starlette.requests import Request
from starlette.responses import Response

from app.sandbox import invoicing, payments, subscriptions
from app.sandbox.errors import ApiError, missing
from app.sandbox.money import written
from app.sandbox.pages import invoice_pdf, wording
from app.sandbox.pages.card_form import CardForm, submission
from app.sandbox.pages.layout import page, see_other
from app.sandbox.resources import invoices, payment_methods
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


async def show(sandbox: Sandbox, request: Request) -> Response:
    return _page(_finalized(sandbox, request), CardForm())


async def pay(sandbox: Sandbox, request: Request) -> Response:
    invoice = _finalized(sandbox, request)
    if invoice["status"] != "open":  # a second click pays nothing
        return see_other(_path(invoice))
    typed = await submission(request)
    try:
        with sandbox.changing(invoice["id"]):
            invoice = _finalized(sandbox, request)
            method = payments.card_used(sandbox, typed.card())
            method["billing_details"]["name"] = typed.form.name or None
            if not invoicing.collect(sandbox, invoice, method, off_session=False):
                return see_other(authentication_path(invoice))
            payment_methods.bind(sandbox, method, invoice["customer"])
            subscriptions.settle(sandbox, invoice)
    except ApiError as error:
        return _page(invoice, typed.form.refused_by(error), status=error.status)
    return see_other(_path(invoice))


async def show_authentication(sandbox: Sandbox, request: Request) -> Response:
    invoice = _finalized(sandbox, request)
    return page("authenticate.html") if _awaits_authentication(sandbox, invoice) else see_other(_path(invoice))


async def answer_authentication(sandbox: Sandbox, request: Request) -> Response:
    invoice = _finalized(sandbox, request)
    if not _awaits_authentication(sandbox, invoice):
        return see_other(_path(invoice))
    async with request.form() as data:
        succeed = data.get("outcome") == "complete"
    try:
        invoices.complete_authentication(sandbox, invoice["id"], succeed=succeed)
    except ApiError as error:
        return _page(invoice, CardForm().refused_by(error), status=error.status)
    return see_other(_path(invoice))


async def pdf(sandbox: Sandbox, request: Request) -> Response:
    invoice = _finalized(sandbox, request)
    return _document(invoice_pdf.render(invoice), f"Invoice-{invoice['number']}")


async def credit_note_pdf(sandbox: Sandbox, request: Request) -> Response:
    note = sandbox.get("credit_note", request.path_params["credit_note"])
    invoice = sandbox.get("invoice", note["invoice"])
    return _document(invoice_pdf.render_credit_note(note, invoice), f"CreditNote-{note['number']}")


def _document(content: bytes, name: str) -> Response:
    return Response(
        content,
        media_type="application/pdf",
        headers={
            "Cache-Control": "no-store",
            "Content-Disposition": f'inline; filename="{name}.pdf"',
            "X-Content-Type-Options": "nosniff",
        },
    )


def authentication_path(invoice: Row) -> str:
    return f"{_path(invoice)}/authenticate"


def _path(invoice: Row) -> str:
    return f"/i/{invoice['id']}"


def _page(invoice: Row, form: CardForm, *, status: int = 200) -> Response:
    return page(
        "invoice.html",
        status=status,
        path=_path(invoice),
        form=form,
        number=invoice["number"],
        state=wording.status(invoice["status"]),
        tone=wording.tone(invoice["status"]),
        facts=invoice_pdf.facts(invoice),
        lines=[_line(line) for line in invoice["lines"]["data"]],
        totals=[(name, written(total, invoice["currency"])) for name, total in invoice_pdf.totals(invoice)],
        to_pay=written(invoice["amount_remaining"], invoice["currency"]) if invoice["status"] == "open" else None,
        pdf=invoice["invoice_pdf"],
    )


def _finalized(sandbox: Sandbox, request: Request) -> Row:
    """Find the invoice; a draft has no number yet and no page."""
    invoice = sandbox.get("invoice", request.path_params["invoice"])
    if invoice["number"] is None:
        raise missing("invoice", invoice["id"])
    return invoice


def _awaits_authentication(sandbox: Sandbox, invoice: Row) -> bool:
    if invoice["status"] != "open":
        return False
    waiting: bool = invoicing.payment_intent(sandbox, invoice)["status"] == "requires_action"
    return waiting


def _line(line: Row) -> Row:
    return {
        "description": line["description"],
        "period": invoice_pdf.period(line),
        "quantity": line["quantity"],
        "amount": written(line["amount"], line["currency"]),
    }
