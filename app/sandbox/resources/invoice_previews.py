"""Invoice previews: the next invoice, or the one that a change, a new subscription or an item would make."""

from app.sandbox import discounts, invoice_items, invoice_lines, invoicing, schedules, subscription_rows, subscriptions
from app.sandbox.errors import ApiError, missing, required, unsupported
from app.sandbox.resources import subscription_pauses
from app.sandbox.resources import subscriptions as api
from app.sandbox.route import route, under
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def create(sandbox: Sandbox, params: Row) -> Row:
    """Show the invoice that would come: it is made for real, and then undone."""
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
    row = _subscription(sandbox, params, details)
    if row is not None:
        customer = sandbox.get("customer", row["customer"])
    elif "customer" in params:
        customer = sandbox.get("customer", params["customer"], param="customer", status=400)
    else:
        raise required("customer")
    for index, entry in enumerate(params.get("invoice_items", [])):
        _add_item(sandbox, customer, entry, row["id"] if row else None, f"invoice_items[{index}]")
    if row is not None:
        return _of_subscription(sandbox, params, details, row)
    if "items" in details:
        return _first_invoice(sandbox, params, details)
    return _of_items(sandbox, params, customer)


def _subscription(sandbox: Sandbox, params: Row, details: Row) -> Row | None:
    """Find the subscription that is meant: the one named, else the customer's that is billed next."""
    if "subscription" in params:
        row = sandbox.get("subscription", params["subscription"], param="subscription", status=400)
        if params.get("customer", row["customer"]) != row["customer"]:
            raise missing("subscription", row["id"], param="subscription", status=400)
        if row["status"] in subscriptions.TERMINAL:
            raise _none(row["customer"])
        return row
    if "items" in details:
        return None
    running = [
        row
        for row in sandbox.rows("subscription")
        if row["customer"] == params.get("customer") and row["status"] in subscriptions.BILLED | {"trialing"}
    ]
    soonest = min(running, key=lambda row: subscription_rows.period(row)[1], default=None)
    return soonest and sandbox.get("subscription", soonest["id"])


def _of_subscription(sandbox: Sandbox, params: Row, details: Row, row: Row) -> Row:
    if "discounts" in params:
        row["discounts"] = discounts.redeem(
            sandbox,
            params["discounts"],
            at="discounts",
            currency=row["currency"],
            customer=row["customer"],
            reusable=row["discounts"],
            subscription=row["id"],
        )
    before = row["latest_invoice"]
    if details.pop("cancel_now", False):
        behavior = details.get("proration_behavior", "create_prorations")
        api.cancel(sandbox, {"prorate": behavior != "none", "invoice_now": True}, row["id"])
        if row["latest_invoice"] == before:
            return subscriptions.new_invoice(sandbox, row, "subscription_update", [])
        return sandbox.get("invoice", row["latest_invoice"])
    _change(sandbox, details, row)
    if row["latest_invoice"] != before:
        return sandbox.get("invoice", row["latest_invoice"])
    return _coming(sandbox, row)


def _coming(sandbox: Sandbox, row: Row) -> Row:
    """Make the invoice that comes next by itself: at the period's end, by the phase the schedule is in then."""
    if row["status"] == "paused":
        return subscriptions.new_invoice(sandbox, row, "subscription_update", [])
    before = row["latest_invoice"]
    end = subscription_rows.period(row)[1]
    if row["cancel_at"] is not None and row["cancel_at"] <= end:
        if not subscriptions.pending_items(sandbox, row):
            raise _none(row["customer"])
        return subscriptions.new_invoice(sandbox, row, "subscription_cycle", [])
    with sandbox.at(end):
        while (due := schedules.next_moment(sandbox, row)) is not None and due <= end:
            schedules.act(sandbox, row)
        if row["latest_invoice"] != before:
            return sandbox.get("invoice", row["latest_invoice"])
        return subscriptions.new_invoice(sandbox, row, "subscription_cycle", subscriptions.next_lines(sandbox, row))


def _change(sandbox: Sandbox, details: Row, row: Row) -> None:
    """Pause, resume or update the subscription, as the preview asks."""
    if details.get("billing_cycle_anchor", {}).get("type") == "timestamp":
        raise unsupported("previews of an anchor at a timestamp", param="subscription_details[billing_cycle_anchor]")
    pause, resumes = details.pop("pause", None), details.pop("resume_at", None)
    if pause is not None:
        subscription_pauses.pause(sandbox, pause, row["id"])
    elif resumes is not None:
        named = ("billing_cycle_anchor", "proration_behavior", "proration_date")
        subscription_pauses.resume(sandbox, {name: details[name] for name in named if name in details}, row["id"])
    else:
        api.update(sandbox, details, row["id"])


def _first_invoice(sandbox: Sandbox, params: Row, details: Row) -> Row:
    wanted = {**details, "customer": params["customer"], "payment_behavior": "default_incomplete"}
    if "discounts" in params:
        wanted["discounts"] = params["discounts"]
    created = api.create(sandbox, wanted)
    return sandbox.get("invoice", created["latest_invoice"])


def _of_items(sandbox: Sandbox, params: Row, customer: Row) -> Row:
    """Preview an invoice of what is pending and no subscription will take in."""
    waiting = invoice_lines.pending(sandbox, customer["id"], None)
    items = [item for item in waiting if item["currency"] == waiting[0]["currency"]]
    if not items:
        raise _none(customer["id"])
    id = sandbox.new.mint("in_")
    chosen = discounts.redeem(
        sandbox,
        params.get("discounts"),
        at="discounts",
        currency=items[0]["currency"],
        customer=customer["id"],
        invoice=id,
    )
    return invoicing.draft(
        sandbox,
        customer,
        [invoice_lines.of_item(sandbox, item) for item in items],
        currency=items[0]["currency"],
        reason="manual",
        period=(sandbox.now(), sandbox.now()),
        id=id,
        discounts=chosen,
    )


def _add_item(sandbox: Sandbox, customer: Row, entry: Row, subscription: str | None, at: str) -> None:
    """Let an item join the preview, or change one that is pending."""
    entry = dict(entry)
    if "price" in entry:
        entry["pricing"] = {"price": entry.pop("price")}
    if "unit_amount" in entry:
        entry["unit_amount_decimal"] = str(entry.pop("unit_amount"))
    if "invoiceitem" not in entry:
        invoice_items.new(sandbox, {**entry, "subscription": subscription}, customer, None, at=at)
        return
    id = entry.pop("invoiceitem")
    item = sandbox.get("invoiceitem", id, param=f"{at}[invoiceitem]", status=400)
    if item["customer"] != customer["id"] or item["invoice"] is not None:
        raise missing("invoiceitem", id, param=f"{at}[invoiceitem]", status=400)
    invoice_items.change(sandbox, item, entry, at=at)


def _none(customer: str) -> ApiError:
    return ApiError("No upcoming invoices for customer: " + customer, status=404, code="invoice_upcoming_none")


_PRICE_DATA = under("price_data", "currency product recurring unit_amount unit_amount_decimal tax_behavior")
_DETAILS = f"""
billing_cycle_anchor billing_mode.type cancel_at cancel_at_period_end cancel_now default_tax_rates pause
proration_behavior proration_date resume_at trial_end
{under("items", f"price quantity metadata discounts tax_rates deleted id {_PRICE_DATA}")}
"""
_ITEM = """
amount currency description discountable discounts invoiceitem metadata period price price_data quantity tax_rates
unit_amount unit_amount_decimal
"""
ROUTES = (
    route(
        "POST /v1/invoices/create_preview",
        create,
        "InvoiceCreatePreviewParams",
        f"customer discounts subscription {under('subscription_details', _DETAILS)} {under('invoice_items', _ITEM)}",
    ),
)
