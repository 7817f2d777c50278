"""Subscription rows and what happens to them: billed, settled, past due, ended."""

from typing import Any

from app.sandbox import invoicing
from app.sandbox.catalog import amount
from app.sandbox.errors import CardError
from app.sandbox.lists import sublist
from app.sandbox.money import written
from app.sandbox.periods import next_boundary
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

TERMINAL = frozenset({"canceled", "incomplete_expired"})
BILLED = frozenset({"active", "past_due", "unpaid"})

#: Keys of a Subscription that nothing here sets at creation, and Stripe shows as null.
_NULLS = dict.fromkeys(
    (
        "application",
        "application_fee_percent",
        "billing_cycle_anchor_config",
        "billing_thresholds",
        "cancel_at",
        "canceled_at",
        "customer_account",
        "days_until_due",
        "default_payment_method",
        "default_source",
        "description",
        "ended_at",
        "latest_invoice",
        "next_pending_invoice_item_invoice",
        "on_behalf_of",
        "pause_collection",
        "pending_invoice_item_interval",
        "pending_setup_intent",
        "pending_update",
        "schedule",
        "test_clock",
        "transfer_data",
        "trial_end",
        "trial_start",
    )
)


def new(sandbox: Sandbox, customer: Row, items: list[Row], *, trial_end: int | None, **fields: Any) -> Row:
    """Store a subscription that starts now. ``items`` are {price: row, quantity, metadata}; the caller emits."""
    now = sandbox.now()
    recurring = items[0]["price"]["recurring"]
    anchor = trial_end or now
    end = trial_end or next_boundary(anchor, recurring["interval"], recurring["interval_count"], now)
    id = sandbox.new.mint("sub_")
    row: Row = {
        **_NULLS,
        "id": id,
        "object": "subscription",
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": anchor,
        "billing_mode": {
            "flexible": {"proration_discounts": "included"},
            "type": "flexible",
            "updated_at": now,
        },
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "cancellation_details": dict.fromkeys(("comment", "feedback", "feedback_option", "reason")),
        "collection_method": "charge_automatically",
        "created": now,
        "currency": items[0]["price"]["currency"],
        "customer": customer["id"],
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {
            "account_tax_ids": None,
            "custom_fields": None,
            "description": None,
            "footer": None,
            "issuer": {"type": "self"},
        },
        "items": sublist([], f"/v1/subscription_items?subscription={id}"),
        "livemode": False,
        "managed_payments": {"enabled": False},
        "metadata": {},
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "start_date": now,
        "status": "trialing" if trial_end else "incomplete",
        "trial_end": trial_end,
        "trial_settings": {"end_behavior": {"billing_cycle_anchor": "now", "missing_payment_method": "create_invoice"}},
        "trial_start": now if trial_end else None,
        **fields,
    }
    for item in items:
        add_item(sandbox, row, item["price"], item["quantity"], period=(now, end), metadata=item["metadata"])
    return sandbox.insert(row)


def add_item(
    sandbox: Sandbox,
    subscription: Row,
    price: Row,
    quantity: int,
    *,
    period: tuple[int, int],
    metadata: Row | None = None,
) -> Row:
    item: Row = {
        "id": sandbox.new.mint("si_"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": sandbox.now(),
        "current_period_end": period[1],
        "current_period_start": period[0],
        "current_trial": None,
        "discounts": [],
        "metadata": metadata or {},
        "subscription": subscription["id"],
        "tax_rates": [],
    }
    set_price(item, price, quantity)
    subscription["items"]["data"].append(item)
    recount(subscription)
    return item


def set_price(item: Row, price: Row, quantity: int) -> None:
    item["price"] = {name: value for name, value in price.items() if not name.startswith("_")}
    item["plan"] = _plan(price)
    item["quantity"] = quantity


def recount(subscription: Row) -> None:
    """Bring what follows from the items in line; Stripe shows plan and quantity on top for a single item."""
    items = subscription["items"]["data"]
    subscription["items"]["total_count"] = len(items)
    single = len(items) == 1
    subscription["plan"] = items[0]["plan"] if single else None
    subscription["quantity"] = items[0]["quantity"] if single else None


def period(subscription: Row) -> tuple[int, int]:
    """Give (start, end) of the current period; all items share it here, for they share the interval."""
    item = subscription["items"]["data"][0]
    return item["current_period_start"], item["current_period_end"]


def set_period(subscription: Row, start: int, end: int) -> None:
    for item in subscription["items"]["data"]:
        item["current_period_start"] = start
        item["current_period_end"] = end


def following_end(subscription: Row, after: int) -> int:
    """Give the end of the period that starts at ``after``."""
    recurring = subscription["items"]["data"][0]["price"]["recurring"]
    return next_boundary(
        subscription["billing_cycle_anchor"], recurring["interval"], recurring["interval_count"], after
    )


def item_lines(sandbox: Sandbox, subscription: Row) -> list[Row]:
    """Make the invoice lines of the current period; during a trial they cost nothing."""
    trial = subscription["status"] == "trialing"
    lines = []
    for item in subscription["items"]["data"]:
        price, quantity = item["price"], item["quantity"]
        name = sandbox.get("product", price["product"])["name"]
        recurring = price["recurring"]
        every = f"every {recurring['interval_count']} {recurring['interval']}s"
        each = f"/ {recurring['interval']}" if recurring["interval_count"] == 1 else every
        unit = written(amount(price, 1), price["currency"])
        lines.append(
            invoicing.line(
                sandbox,
                amount=0 if trial else amount(price, quantity),
                currency=price["currency"],
                description=f"Trial period for {name}" if trial else f"{quantity} × {name} (at {unit} {each})",  # noqa: RUF001 - Stripe's sign
                period=(item["current_period_start"], item["current_period_end"]),
                price=price,
                quantity=quantity,
                parent=line_parent(subscription, item["id"]),
                subscription=subscription["id"],
                unit_amount_decimal="0" if trial else price["unit_amount_decimal"],
                metadata=dict(subscription["metadata"]),
            )
        )
    return lines


def line_parent(subscription: Row, item: str, *, invoice_item: Row | None = None) -> Row:
    """Say where an invoice line comes from: the item, or the pending proration on it."""
    return {
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": invoice_item and invoice_item["id"],
            "proration": invoice_item is not None,
            "proration_details": {"credited_items": None},
            "subscription": subscription["id"],
            "subscription_item": item,
        },
        "type": "subscription_item_details",
    }


def pending_items(sandbox: Sandbox, subscription: Row) -> list[Row]:
    """List prorations waiting for the next invoice, newest first, as they stand on it."""
    return [
        row
        for row in reversed(sandbox.rows("invoiceitem"))
        if row["invoice"] is None and row["_subscription"] == subscription["id"]
    ]


def new_invoice(sandbox: Sandbox, subscription: Row, reason: str, lines: list[Row]) -> Row:
    """Draft an invoice of these lines and all pending prorations, and make it the latest."""
    for pending in pending_items(sandbox, subscription):
        item = sandbox.get("invoiceitem", pending["id"])
        lines.append(
            invoicing.line(
                sandbox,
                amount=item["amount"],
                currency=item["currency"],
                description=item["description"],
                period=(item["period"]["start"], item["period"]["end"]),
                price={"id": item["pricing"]["price_details"]["price"], "product": item["_product"]},
                quantity=item["quantity"],
                parent=line_parent(subscription, item["_subscription_item"], invoice_item=item),
                subscription=subscription["id"],
                metadata=dict(item["metadata"]),
            )
        )
    customer = sandbox.get("customer", subscription["customer"])
    invoice = invoicing.draft(
        sandbox,
        customer,
        lines,
        currency=subscription["currency"],
        reason=reason,
        period=(subscription["start_date"], sandbox.now()) if reason == "subscription_create" else period(subscription),
        subscription=subscription,
    )
    for line in lines:
        item_id = line["parent"]["subscription_item_details"]["invoice_item"]
        if item_id is not None:
            sandbox.get("invoiceitem", item_id)["invoice"] = invoice["id"]
    subscription["latest_invoice"] = invoice["id"]
    return invoice


def bill(sandbox: Sandbox, subscription: Row, reason: str, lines: list[Row], *, raising: bool = False) -> Row:
    """Invoice and collect off session; a failure makes the subscription past_due, or undoes it all if ``raising``.

    The caller wraps this in ``sandbox.updating`` for the subscription's own event.
    """
    invoice = new_invoice(sandbox, subscription, reason, lines)
    pause = subscription["pause_collection"]
    if pause is not None and pause["behavior"] == "keep_as_draft":
        invoice["auto_advance"] = False
        return invoice
    invoicing.finalize(sandbox, invoice)
    if invoice["status"] != "open":
        return invoice
    if pause is not None:
        invoicing.close(sandbox, invoice, "void" if pause["behavior"] == "void" else "uncollectible")
        return invoice
    if subscription["collection_method"] == "send_invoice":
        sandbox.emit("invoice.sent", invoice)
        return invoice
    method = charging_method(sandbox, subscription)
    try:
        paid = method is not None and invoicing.collect(sandbox, invoice, method, off_session=True)
    except CardError as error:
        if raising:
            error.keep = False
            raise
        paid = False
    if method is None:
        invoicing.note_failure(sandbox, invoice)
    if not paid:
        subscription["status"] = "past_due"
    return invoice


def charging_method(sandbox: Sandbox, subscription: Row) -> Row | None:
    """Find the card to charge: the subscription's own, else the customer's default."""
    customer = sandbox.get("customer", subscription["customer"])
    id = subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    return sandbox.get("payment_method", id) if id is not None else None


def settle(sandbox: Sandbox, invoice: Row) -> None:
    """After an invoice was paid or given up: its subscription follows if it is the latest one."""
    details = (invoice["parent"] or {}).get("subscription_details")
    if details is None:
        return
    subscription = sandbox.get("subscription", details["subscription"])
    if subscription["latest_invoice"] != invoice["id"]:
        return
    beginning = {"incomplete"} if invoice["status"] == "paid" else set()
    if subscription["status"] not in {"past_due", "unpaid"} | beginning:
        return
    with sandbox.updating("customer.subscription.updated", subscription):
        subscription["status"] = "active"
        if subscription["payment_settings"]["save_default_payment_method"] == "on_subscription":
            payment = invoicing.default_payment(sandbox, invoice["id"])
            if payment is not None:
                intent = invoicing.payment_intent(sandbox, invoice)
                subscription["default_payment_method"] = intent["payment_method"]


def end(sandbox: Sandbox, subscription: Row, *, reason: str) -> None:
    """Cancel for good, now. A first invoice that was never paid is voided with it."""
    if subscription["status"] == "incomplete":
        void_latest(sandbox, subscription)
    subscription["status"] = "canceled"
    subscription["canceled_at"] = subscription["canceled_at"] or sandbox.now()
    subscription["ended_at"] = sandbox.now()
    subscription["cancellation_details"]["reason"] = reason
    if subscription["pending_setup_intent"] is not None:
        subscription["pending_setup_intent"] = None
    sandbox.emit("customer.subscription.deleted", subscription)


def void_latest(sandbox: Sandbox, subscription: Row) -> None:
    invoice = sandbox.get("invoice", subscription["latest_invoice"])
    if invoice["status"] == "open":
        invoicing.close(sandbox, invoice, "void")


def _plan(price: Row) -> Row:
    """Build the legacy copy of the price that items still carry."""
    recurring = price["recurring"]
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring["interval"],
        "interval_count": recurring["interval_count"],
        "livemode": False,
        "metadata": dict(price["metadata"]),
        "meter": None,
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": None,
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": "licensed",
    }
