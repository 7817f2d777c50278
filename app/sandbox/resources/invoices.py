"""Invoices: create, read, change, finalize, send, pay, void, give up."""

from app.sandbox import (
    collection,
    discounts,
    invoice_items,
    invoice_lines,
    invoicing,
    lists,
    payments,
    subscriptions,
    taxes,
    totals,
)
from app.sandbox.errors import ApiError, CardError, missing, required
from app.sandbox.metadata import merge
from app.sandbox.periods import DAY
from app.sandbox.rendering import public
from app.sandbox.resources import payment_methods
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_NOT_OPEN = "You can only pass in open invoices. This invoice isn't open."
_NO_CARD = (
    "There is no `default_payment_method` set on this Customer or Invoice. Please attach a payment method to the "
    "Customer and set it as the default, or pass one in `payment_method`."
)


_FIELDS = ("auto_advance", "custom_fields", "default_payment_method", "description", "footer", "statement_descriptor")


def create(sandbox: Sandbox, params: Row) -> Row:
    """Draft an invoice of what is pending, or an empty one; with ``subscription`` of what is pending for that."""
    subscription = None
    if "subscription" in params:
        subscription = sandbox.get("subscription", params["subscription"], param="subscription", status=400)
    customer_id = params.get("customer") or (subscription or {}).get("customer")
    if customer_id is None:
        raise required("customer")
    customer = sandbox.get("customer", customer_id, param="customer", status=400)
    if subscription is not None and subscription["customer"] != customer["id"]:
        raise missing("subscription", subscription["id"], param="subscription", status=400)
    items, currency = _pending(sandbox, params, customer, subscription)
    id = sandbox.new.mint("in_")
    method = (
        params.get("collection_method")
        or (subscription or {"collection_method": "charge_automatically"})["collection_method"]
    )
    row = invoicing.draft(
        sandbox,
        customer,
        [invoice_lines.of_item(sandbox, item) for item in items],
        currency=currency,
        reason="manual",
        period=(sandbox.now(), sandbox.now()),
        subscription=subscription,
        id=id,
        collection_method=method,
        **_chosen(sandbox, params, currency=currency, customer=customer["id"], invoice=id),
        **_due(sandbox, params, method),
    )
    if subscription is not None:
        subscription["latest_invoice"] = id
    return row


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
            and ("subscription" not in params or collection.subscription_of(row) == params["subscription"])
            and lists.within(row["created"], params.get("created"))
            and lists.within(row["due_date"], params.get("due_date"))
        ),
    )


def update(sandbox: Sandbox, params: Row, invoice: str) -> Row:
    """Change a draft; of a finalized invoice only metadata and how it goes on."""
    row = sandbox.get("invoice", invoice)
    if row["status"] != "draft":
        for name in params:
            if name not in {"metadata", "auto_advance", "default_payment_method"}:
                raise ApiError("Finalized invoices can't be updated in this way", param=name)
    with sandbox.updating("invoice.updated", row):
        row["collection_method"] = params.get("collection_method", row["collection_method"])
        row.update(
            _chosen(sandbox, params, currency=row["currency"], customer=row["customer"], invoice=invoice, before=row)
        )
        if params.keys() & {"days_until_due", "due_date"}:
            row.update(_due(sandbox, params, row["collection_method"]))
        merge(row, params)
        if row["status"] == "draft":
            totals.recount(sandbox, row)
    return row


def delete(sandbox: Sandbox, _params: Row, invoice: str) -> Row:
    """Delete a draft, and with it the items it was made of; they do not return to pending."""
    row = sandbox.get("invoice", invoice, param="invoice")
    if row["status"] != "draft":
        raise ApiError("You can only delete draft invoices.")
    for line in row["lines"]["data"]:
        if (item := invoice_lines.item_of(line)) is not None:
            invoice_items.forget(sandbox, sandbox.get("invoiceitem", item))
    sandbox.emit("invoice.deleted", row)
    row.clear()
    row.update({"id": invoice, "object": "invoice", "deleted": True})
    return row


def send(sandbox: Sandbox, _params: Row, invoice: str) -> Row:
    """Send an invoice to its customer, finalizing a draft first; an open one changes nothing visible."""
    row = sandbox.get("invoice", invoice, param="invoice")
    if row["status"] in {"void", "uncollectible"}:
        raise ApiError(_NOT_OPEN)
    if row["status"] == "draft":
        invoicing.finalize(sandbox, row)
    sandbox.emit("invoice.sent", row)
    return row


def finalize(sandbox: Sandbox, params: Row, invoice: str) -> Row:
    row = sandbox.get("invoice", invoice)
    if row["status"] != "draft":
        raise ApiError("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
    row["auto_advance"] = params.get("auto_advance", row["auto_advance"])
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
    with sandbox.changing(invoice):
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
    subscriptions.settle(sandbox, row)
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


def _method(sandbox: Sandbox, invoice: Row, params: Row) -> Row:
    """Find the card: the one named, else the subscription's or customer's default."""
    if "payment_method" in params:
        method = payment_methods.resolve(sandbox, params["payment_method"])
        if method["customer"] not in {None, invoice["customer"]}:
            raise missing("payment_method", method["id"], param="payment_method", status=400)
        payment_methods.bind(sandbox, method, invoice["customer"])
        return method
    found = collection.charging_method(sandbox, invoice)
    if found is None:
        raise ApiError(_NO_CARD, code="resource_missing")
    return found


def _pending(sandbox: Sandbox, params: Row, customer: Row, subscription: Row | None) -> tuple[list[Row], str]:
    """List the items a new invoice takes in, and say its currency."""
    if subscription is not None:
        waiting = subscriptions.pending_items(sandbox, subscription)
        items = [item for item in waiting if item["_subscription"] == subscription["id"]]
        if not items:
            raise ApiError(
                f"Nothing to invoice for subscription {subscription['id']}",
                code="invoice_no_subscription_line_items",
                param="subscription",
            )
        return items, subscription["currency"]
    waiting = invoice_lines.pending(sandbox, customer["id"], None)
    held = waiting[0]["currency"] if waiting else customer["currency"] or "usd"
    currency: str = str(params.get("currency", held)).lower()
    if params.get("pending_invoice_items_behavior") != "include":
        return [], currency
    return [item for item in waiting if item["currency"] == currency], currency


def _chosen(
    sandbox: Sandbox, params: Row, *, currency: str, customer: str, invoice: str, before: Row | None = None
) -> Row:
    """Read what creating and updating have in common into an invoice's fields."""
    chosen: Row = {name: params[name] for name in _FIELDS if name in params}
    if chosen.get("default_payment_method") is not None:
        payment_methods.of_customer(sandbox, chosen["default_payment_method"], customer, param="default_payment_method")
    if "default_tax_rates" in params:
        chosen["default_tax_rates"] = taxes.chosen(sandbox, params["default_tax_rates"], at="default_tax_rates")
    if "discounts" in params:
        chosen["discounts"] = discounts.redeem(
            sandbox,
            params["discounts"],
            at="discounts",
            currency=currency,
            customer=customer,
            amount=before["subtotal"] if before else None,
            reusable=before["discounts"] if before else [],
            invoice=invoice,
        )
    if before is None:
        chosen["metadata"] = {}
        merge(chosen, params)
    if params.get("auto_advance") is not None:
        method = params.get("collection_method") or (before or {}).get("collection_method", "charge_automatically")
        chosen.update(invoicing.advancing(sandbox, before, method, advances=params["auto_advance"]))
    return chosen


def _due(sandbox: Sandbox, params: Row, collection_method: str) -> Row:
    given = [name for name in ("due_date", "days_until_due") if name in params]
    if collection_method == "charge_automatically":
        if given:
            raise ApiError(
                "You can only specify 'due_date' or 'days_until_due' if invoice collection method is 'send_invoice'."
            )
        return {}
    if not given:
        raise ApiError(
            "If invoice collection method is 'send_invoice', you must specify 'due_date' or 'days_until_due'."
        )
    if len(given) > 1:
        raise ApiError("You may only specify one of these parameters: days_until_due, due_date.", param="due_date")
    due = params.get("due_date") or sandbox.now() + params["days_until_due"] * DAY
    if due < sandbox.now():
        raise ApiError("The due date must be in the future.", param=given[0])
    return {"due_date": due}


_DRAFT = """
auto_advance collection_method custom_fields days_until_due default_payment_method default_tax_rates description
discounts due_date footer statement_descriptor
"""
ROUTES = (
    route(
        "POST /v1/invoices",
        create,
        "InvoiceCreateParams",
        f"{_DRAFT} currency customer pending_invoice_items_behavior subscription",
    ),
    route(
        "GET /v1/invoices",
        list_,
        "InvoiceListParams",
        "collection_method created customer due_date status subscription",
    ),
    route("GET /v1/invoices/{invoice}", retrieve, "InvoiceRetrieveParams"),
    route("POST /v1/invoices/{invoice}", update, "InvoiceUpdateParams", _DRAFT),
    route("DELETE /v1/invoices/{invoice}", delete, "InvoiceDeleteParams"),
    route("POST /v1/invoices/{invoice}/finalize", finalize, "InvoiceFinalizeInvoiceParams", "auto_advance"),
    route(
        "POST /v1/invoices/{invoice}/pay",
        pay,
        "InvoicePayParams",
        "off_session paid_out_of_band payment_method",
    ),
    route("POST /v1/invoices/{invoice}/send", send, "InvoiceSendInvoiceParams"),
    route("POST /v1/invoices/{invoice}/void", void, "InvoiceVoidInvoiceParams"),
    route("POST /v1/invoices/{invoice}/mark_uncollectible", mark_uncollectible, "InvoiceMarkUncollectibleParams"),
)
