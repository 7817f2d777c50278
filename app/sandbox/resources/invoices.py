"""Invoices: read, preview, finalize, pay, void."""

from app.sandbox import invoicing, lists, passing_time, payments, subscriptions
from app.sandbox.errors import ApiError, CardError, missing, required
from app.sandbox.metadata import merge
from app.sandbox.rendering import public
from app.sandbox.resources import payment_methods
from app.sandbox.resources import subscriptions as api
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_NOT_OPEN = "You can only pass in open invoices. This invoice isn't open."
_NO_CARD = (
    "There is no `default_payment_method` set on this Customer or Invoice. Please attach a payment method to the "
    "Customer and set it as the default, or pass one in `payment_method`."
)


def retrieve(sandbox: Sandbox, _params: Row, invoice: str) -> Row:
    return sandbox.get("invoice", invoice, param="invoice")


def list_(sandbox: Sandbox, params: Row) -> Row:
    if "customer" in params:
        sandbox.get("customer", params["customer"], param="customer", status=400)
    return lists.page(
        sandbox,
        "invoice",
        params,
        "/v1/invoices",
        lambda row: (
            lists.matches(row, params, "customer", "status", "collection_method")
            and ("subscription" not in params or subscription_of(row) == params["subscription"])
            and lists.within(row["created"], params.get("created"))
            and lists.within(row["due_date"], params.get("due_date"))
        ),
    )


def list_lines(sandbox: Sandbox, params: Row, invoice: str) -> Row:
    row = sandbox.get("invoice", invoice, param="invoice")
    return lists.embedded(row["lines"]["data"], params, f"/v1/invoices/{invoice}/lines")


def update(sandbox: Sandbox, params: Row, invoice: str) -> Row:
    row = sandbox.get("invoice", invoice)
    if row["status"] != "draft" and "description" in params:
        raise ApiError("Finalized invoices can't be updated in this way", param="description")
    with sandbox.updating("invoice.updated", row):
        for name in ("description", "auto_advance"):
            if name in params:
                row[name] = params[name]
        merge(row, params)
    return row


def finalize(sandbox: Sandbox, _params: Row, invoice: str) -> Row:
    row = sandbox.get("invoice", invoice)
    if row["status"] != "draft":
        raise ApiError("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
    return invoicing.finalize(sandbox, row)


def pay(sandbox: Sandbox, params: Row, invoice: str) -> Row:
    """Pay a draft, open or uncollectible invoice by card, or note that it was paid outside Stripe."""
    row = sandbox.get("invoice", invoice)
    if row["status"] == "paid":
        raise ApiError("Invoice is already paid")
    if row["status"] == "void":
        raise ApiError(_NOT_OPEN)
    if row["status"] == "draft":
        invoicing.finalize(sandbox, row)
    if params.get("paid_out_of_band"):
        invoicing.mark_paid(sandbox, row, attempts=0, out_of_band=True)
    elif row["status"] != "paid":
        method = _method(sandbox, row, params)
        if not invoicing.collect(sandbox, row, method, off_session=params.get("off_session", False)):
            raise CardError(
                "This payment requires additional user action before it can be completed successfully.",
                code="invoice_payment_intent_requires_action",
                payment_intent=public(invoicing.payment_intent(sandbox, row)),
            )
    subscriptions.settle(sandbox, row)
    return row


def complete_authentication(sandbox: Sandbox, invoice: str, *, succeed: bool) -> Row:
    """Take the customer's answer to the bank's challenge (the hosted invoice page); a failed one is a CardError."""
    with sandbox.changing():
        row = sandbox.get("invoice", invoice)
        intent = invoicing.payment_intent(sandbox, row)
        if row["status"] != "open" or intent["status"] != "requires_action":
            raise ApiError("This invoice has no payment that waits for authentication.")
        payments.authenticate(sandbox, intent, succeed=succeed)
        invoicing.mark_paid(sandbox, row)
        subscriptions.settle(sandbox, row)
        return row


def void(sandbox: Sandbox, _params: Row, invoice: str) -> Row:
    row = sandbox.get("invoice", invoice)
    if row["status"] == "paid":
        raise ApiError("Invoices with `paid` payments cannot be voided.")
    if row["status"] not in {"open", "uncollectible"}:
        raise ApiError(_NOT_OPEN)
    invoicing.close(sandbox, row, "void")
    return row


def mark_uncollectible(sandbox: Sandbox, _params: Row, invoice: str) -> Row:
    row = sandbox.get("invoice", invoice)
    if row["status"] == "uncollectible":
        raise ApiError("This invoice has already been marked uncollectible.")
    if row["status"] != "open":
        raise ApiError(_NOT_OPEN)
    invoicing.close(sandbox, row, "uncollectible")
    subscriptions.settle(sandbox, row)
    return row


def create_preview(sandbox: Sandbox, params: Row) -> Row:
    """Show the next invoice, or the one a change would make: it is made for real, and then undone."""
    with sandbox.rehearsal():
        made = _next_invoice(sandbox, params)["id"]
        # The draft as it was announced, before finalizing and collecting changed it.
        announced = next(
            event
            for event in reversed(sandbox.rows("event"))
            if event["type"] == "invoice.created" and event["data"]["object"]["id"] == made
        )
        invoice: Row = announced["data"]["object"]
    invoice["id"] = sandbox.new.mint("upcoming_in_")
    invoice["billing_reason"] = "upcoming"
    for line in invoice["lines"]["data"]:
        line["id"] = line["id"].replace("il_", "il_tmp_")
        line["invoice"] = invoice["id"]
    invoice["lines"]["url"] = f"/v1/invoices/{invoice['id']}/lines"
    return invoice


def _next_invoice(sandbox: Sandbox, params: Row) -> Row:
    details = dict(params.get("subscription_details", {}))
    if "subscription" not in params:
        return _first_invoice(sandbox, params, details)
    row = sandbox.get("subscription", params["subscription"], param="subscription", status=400)
    if row["status"] in subscriptions.TERMINAL:
        raise ApiError(
            "No upcoming invoices for customer: " + row["customer"], status=404, code="invoice_upcoming_none"
        )
    if details.pop("cancel_now", False):
        latest = row["latest_invoice"]
        behavior = details.get("proration_behavior", "create_prorations")
        api.cancel(sandbox, {"prorate": behavior != "none", "invoice_now": True}, row["id"])
        if row["latest_invoice"] == latest:
            return subscriptions.new_invoice(sandbox, row, "subscription_update", [])
        return sandbox.get("invoice", row["latest_invoice"])
    before = row["latest_invoice"]
    api.update(sandbox, details, row["id"])
    if row["latest_invoice"] != before:
        return sandbox.get("invoice", row["latest_invoice"])
    end = subscriptions.period(row)[1]
    if row["cancel_at"] is not None and row["cancel_at"] <= end:
        if not subscriptions.pending_items(sandbox, row):
            raise ApiError(
                "No upcoming invoices for customer: " + row["customer"], status=404, code="invoice_upcoming_none"
            )
        return subscriptions.new_invoice(sandbox, row, "subscription_cycle", [])
    with sandbox.at(end):
        passing_time.begin_period(sandbox, row)
        return subscriptions.new_invoice(sandbox, row, "subscription_cycle", subscriptions.item_lines(sandbox, row))


def _first_invoice(sandbox: Sandbox, params: Row, details: Row) -> Row:
    if "customer" not in params:
        raise required("customer")
    if "items" not in details:
        raise ApiError(
            "No upcoming invoices for customer: " + params["customer"], status=404, code="invoice_upcoming_none"
        )
    wanted = {**details, "customer": params["customer"], "payment_behavior": "default_incomplete"}
    created = api.create(sandbox, wanted)
    return sandbox.get("invoice", created["latest_invoice"])


def subscription_of(invoice: Row) -> str | None:
    """Give the id of the subscription an invoice belongs to."""
    details = (invoice["parent"] or {}).get("subscription_details") or {}
    found: str | None = details.get("subscription")
    return found


def _method(sandbox: Sandbox, invoice: Row, params: Row) -> Row:
    """Find the card: the one named, else the subscription's or customer's default."""
    if "payment_method" in params:
        method = payment_methods.resolve(sandbox, params["payment_method"])
        if method["customer"] not in {None, invoice["customer"]}:
            raise missing("payment_method", method["id"], param="payment_method", status=400)
        payment_methods.bind(sandbox, method, invoice["customer"])
        return method
    subscription = subscription_of(invoice)
    if subscription is not None:
        found = subscriptions.charging_method(sandbox, sandbox.get("subscription", subscription))
    else:
        customer = sandbox.get("customer", invoice["customer"])
        default = customer["invoice_settings"]["default_payment_method"]
        found = sandbox.get("payment_method", default) if default else None
    if found is None:
        raise ApiError(_NO_CARD, code="resource_missing")
    return found
