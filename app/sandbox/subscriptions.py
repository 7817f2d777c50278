"""What happens to subscriptions: they are billed and settled, fall past due, pause, and end."""

from typing import Literal

from app.sandbox import invoice_lines, invoicing, pending_updates
from app.sandbox.errors import CardError
from app.sandbox.retry_schedule import next_attempt
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.subscription_lines import item_lines, usage_lines
from app.sandbox.subscription_rows import begin_period, period

TERMINAL = frozenset({"canceled", "incomplete_expired"})
BILLED = frozenset({"active", "past_due", "unpaid"})
_SETTLED = frozenset({"paid", "uncollectible"})

PauseReason = Literal["final_payment_failure", "pause_requested", "trial_end_without_payment_method"]


def pending_items(sandbox: Sandbox, subscription: Row) -> list[Row]:
    """List what waits for this subscription's next invoice, newest first, as it will stand on it."""
    return invoice_lines.pending(sandbox, subscription["customer"], subscription["currency"], subscription["id"])


def new_invoice(sandbox: Sandbox, subscription: Row, reason: str, lines: list[Row]) -> Row:
    """Draft an invoice of these lines and all that is pending, and make it the latest."""
    lines += [invoice_lines.of_item(sandbox, item) for item in pending_items(sandbox, subscription)]
    invoice = invoicing.draft(
        sandbox,
        sandbox.get("customer", subscription["customer"]),
        lines,
        currency=subscription["currency"],
        reason=reason,
        period=(subscription["start_date"], sandbox.now()) if reason == "subscription_create" else period(subscription),
        subscription=subscription,
    )
    subscription["latest_invoice"] = invoice["id"]
    _remember_charges(subscription, invoice)
    return invoice


def _remember_charges(subscription: Row, invoice: Row) -> None:
    """Note on each item the line that charged for its period, for credits name what they give back."""
    items = {item["id"]: item for item in subscription["items"]["data"]}
    for line in invoice["lines"]["data"]:
        details = line["parent"] and line["parent"]["subscription_item_details"]
        item = items.get(details["subscription_item"]) if details else None
        if item is not None and line["amount"] >= 0:
            item["_charged_by"] = {
                "invoice_item": None,
                "invoice_line_item_details": {"invoice": invoice["id"], "invoice_line_items": [line["id"]]},
                "type": "invoice_line_items",
            }


def next_lines(sandbox: Sandbox, subscription: Row) -> list[Row]:
    """Begin the next period of every item whose current one is over, and make the lines of its invoice."""
    now = sandbox.now()
    due = [item for item in subscription["items"]["data"] if item["current_period_end"] <= now]
    lines = [
        line
        for end in sorted({item["current_period_end"] for item in due})
        for line in usage_lines(sandbox, subscription, [i for i in due if i["current_period_end"] == end], end)
    ]
    if subscription["status"] == "trialing":
        subscription["status"] = "active"
    for item in due:
        begin_period(subscription, item, now)
    used = {line["parent"]["subscription_item_details"]["subscription_item"] for line in lines}
    return [*item_lines(sandbox, subscription, [item for item in due if item["id"] not in used]), *lines]


def bill(
    sandbox: Sandbox,
    subscription: Row,
    reason: str,
    lines: list[Row],
    *,
    on_failure: Literal["past_due", "raise", "keep"] = "past_due",
) -> Row:
    """Invoice and collect off session. A failure makes the subscription past_due, undoes it all, or changes nothing.

    The caller wraps this in ``sandbox.updating`` for the subscription's own event.
    """
    invoice = new_invoice(sandbox, subscription, reason, lines)
    pause = subscription["pause_collection"]
    if subscription["status"] == "unpaid" or (pause is not None and pause["behavior"] == "keep_as_draft"):
        invoice["auto_advance"] = False
        return invoice
    invoicing.finalize(sandbox, invoice)
    if invoice["status"] != "open":
        return invoice
    if pause is not None:
        invoicing.close(sandbox, invoice, "void" if pause["behavior"] == "void" else "uncollectible")
        return invoice
    if subscription["collection_method"] == "send_invoice":
        subscription["_unpaid"].append(invoice["id"])
        sandbox.emit("invoice.sent", invoice)
        return invoice
    if on_failure == "past_due":
        subscription["_unpaid"].append(invoice["id"])  # known before the attempt, whose failure says when the next is
    try:
        paid = attempt(sandbox, subscription, invoice)
    except CardError as error:
        if on_failure == "raise":
            error.keep = False
            raise
        paid = False
    if on_failure == "past_due":
        if paid:
            subscription["_unpaid"].remove(invoice["id"])
        else:
            subscription["status"] = "past_due"
    return invoice


def retry_later(sandbox: Sandbox, subscription: Row, invoice: Row) -> None:
    """Put an invoice whose payment just failed on the retry schedule."""
    subscription["_unpaid"].append(invoice["id"])
    with sandbox.updating("invoice.updated", invoice):
        invoice["next_payment_attempt"] = next_attempt(sandbox, invoice)


def attempt(sandbox: Sandbox, subscription: Row, invoice: Row) -> bool:
    """Try to collect an open invoice by itself; False without a card, or if the customer has to authenticate."""
    method = charging_method(sandbox, subscription)
    if method is not None:
        return invoicing.collect(sandbox, invoice, method, off_session=True, automatic=True)
    invoicing.note_failure(sandbox, invoice, automatic=True)
    return False


def charging_method(sandbox: Sandbox, subscription: Row) -> Row | None:
    """Find the card to charge: the subscription's own, else the customer's default; a detached one is none."""
    customer = sandbox.get("customer", subscription["customer"])
    id = subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    method = sandbox.get("payment_method", id) if id is not None else None
    return method if method is not None and method["customer"] == customer["id"] else None


def settle(sandbox: Sandbox, invoice: Row) -> None:
    """After an invoice was paid, voided or given up: its subscription follows its newest one that counts."""
    details = (invoice["parent"] or {}).get("subscription_details")
    if details is None:
        return
    subscription = sandbox.get("subscription", details["subscription"])
    if pending_updates.awaits(subscription, invoice):
        (pending_updates.apply if invoice["status"] == "paid" else pending_updates.drop)(sandbox, subscription)
    if subscription["status"] == "incomplete" and invoice["status"] == "paid":
        _activate(sandbox, subscription, invoice)
    elif subscription["status"] in {"past_due", "unpaid"}:
        newest = _newest(sandbox, subscription)
        if newest is not None and newest["status"] in _SETTLED:
            _activate(sandbox, subscription, newest)
    elif subscription["status"] == "paused" and invoice["status"] in _SETTLED:
        reason = subscription["status_details"]["paused"]["subscription"]["type"]
        if subscription.get("_resumption") == invoice["id"] or reason == "final_payment_failure":
            _activate(sandbox, subscription, invoice)
            sandbox.emit("customer.subscription.resumed", subscription)


def _newest(sandbox: Sandbox, subscription: Row) -> Row | None:
    """Find the invoice the status follows: drafts have no say yet, voided ones none any more."""
    return next(
        (
            row
            for row in reversed(sandbox.rows("invoice"))
            if row["status"] not in {"draft", "void"}
            and ((row["parent"] or {}).get("subscription_details") or {}).get("subscription") == subscription["id"]
        ),
        None,
    )


def _activate(sandbox: Sandbox, subscription: Row, invoice: Row) -> None:
    with sandbox.updating("customer.subscription.updated", subscription):
        subscription.update(status="active", status_details=None, _resumption=None)
        if subscription["payment_settings"]["save_default_payment_method"] == "on_subscription":
            payment = invoicing.default_payment(sandbox, invoice["id"])
            if payment is not None:
                intent = invoicing.payment_intent(sandbox, invoice)
                subscription["default_payment_method"] = intent["payment_method"]


def pause(sandbox: Sandbox, subscription: Row, reason: PauseReason) -> None:
    """Stop periods and invoices until it is resumed."""
    with sandbox.updating("customer.subscription.updated", subscription):
        subscription["status"] = "paused"
        subscription["status_details"] = {
            "paused": {"subscription": {"type": reason}, "transitioned_at": sandbox.now(), "type": "subscription"}
        }
    sandbox.emit("customer.subscription.paused", subscription)


def end(sandbox: Sandbox, subscription: Row, *, reason: str) -> None:
    """Cancel for good, now, and the schedule with it. A first invoice that was never paid is voided."""
    if subscription["status"] == "incomplete":
        void_latest(sandbox, subscription)
    if subscription["pending_update"] is not None:
        subscription.update(pending_update=None, _pending=None)
    for id in subscription["_unpaid"]:  # what is owed stays owed, but is no longer asked for by itself
        invoice = sandbox.get("invoice", id)
        with sandbox.updating("invoice.updated", invoice):
            invoice.update(auto_advance=False, next_payment_attempt=None)
    subscription["_unpaid"] = []
    subscription["status"] = "canceled"
    subscription["canceled_at"] = subscription["canceled_at"] or sandbox.now()
    subscription["ended_at"] = sandbox.now()
    subscription["cancellation_details"]["reason"] = reason
    if subscription["pending_setup_intent"] is not None:
        subscription["pending_setup_intent"] = None
    _end_schedule(sandbox, subscription, reason)
    sandbox.emit("customer.subscription.deleted", subscription)


def _end_schedule(sandbox: Sandbox, subscription: Row, reason: str) -> None:
    """End the schedule with its subscription: as was planned, for want of payment, or because it was canceled."""
    if subscription["schedule"] is None:
        return
    schedule = sandbox.get("subscription_schedule", subscription["schedule"])
    now = sandbox.now()
    subscription["schedule"] = None
    schedule["current_phase"] = None
    if schedule["end_behavior"] == "cancel" and schedule["phases"][-1]["end_date"] <= now:
        schedule.update(status="completed", completed_at=now)
        sandbox.emit("subscription_schedule.completed", schedule)
    else:
        schedule.update(status="canceled", canceled_at=now)
        kind = "aborted" if reason == "payment_failed" else "canceled"
        sandbox.emit(f"subscription_schedule.{kind}", schedule)


def void_latest(sandbox: Sandbox, subscription: Row) -> None:
    invoice = sandbox.get("invoice", subscription["latest_invoice"])
    if invoice["status"] == "open":
        invoicing.close(sandbox, invoice, "void")
