"""Pausing subscriptions for real (``status=paused``), and resuming them."""

from app.sandbox import prorations, subscription_rows, subscriptions
from app.sandbox.errors import ApiError
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.subscription_lines import item_lines, usage_lines

_PAUSABLE = frozenset({"active", "past_due", "trialing"})


def pause(sandbox: Sandbox, params: Row, subscription: str) -> Row:
    """Pause: unused time is given back and usage billed as ``bill_for`` says, now or with the next invoice."""
    row = sandbox.get("subscription", subscription)
    if row["schedule"] is not None:
        raise ApiError("Cannot pause subscriptions with attached schedules.")
    if row["status"] not in _PAUSABLE:
        raise ApiError(f"You cannot pause a subscription with a status of `{row['status']}`.")
    bill_for = params.get("bill_for", {})
    if row["status"] != "trialing":
        unused = bill_for.get("unused_time_from", {}).get("type", "now")
        if unused != "none":
            for item in row["items"]["data"]:
                date = sandbox.now() if unused == "now" else item["current_period_start"]
                prorations.credit(sandbox, row, item, date)
        used = []
        if bill_for.get("outstanding_usage_through", {}).get("type", "now") == "now":
            used = usage_lines(sandbox, row, row["items"]["data"], sandbox.now())
        _settle_pause(sandbox, row, used, params.get("invoicing_behavior", "pending_invoice_item"))
    subscriptions.pause(sandbox, row, "pause_requested")
    return row


def _settle_pause(sandbox: Sandbox, row: Row, used: list[Row], behavior: str) -> None:
    if behavior == "invoice":
        if used or subscriptions.pending_items(sandbox, row):
            with sandbox.updating("customer.subscription.updated", row):
                subscriptions.bill(sandbox, row, "subscription_update", used, on_failure="keep")
        return
    for line in used:
        prorations.leave_pending(sandbox, row, line)


def resume(sandbox: Sandbox, params: Row, subscription: str) -> Row:
    """Resume: a new period begins and is billed, or with an unchanged anchor the rest of the running one."""
    row = sandbox.get("subscription", subscription)
    if row["status"] != "paused":
        raise ApiError("This subscription is not currently `paused`, so it cannot be resumed.")
    if row["collection_method"] != "charge_automatically":
        raise ApiError("Only subscriptions with `collection_method=charge_automatically` can be resumed.")
    if row.get("_resumption") is not None:
        raise ApiError("This subscription is already being resumed; pay or void its latest invoice.")
    with sandbox.updating("customer.subscription.updated", row):
        if row["trial_end"] is not None and row["trial_end"] > sandbox.now():
            row.update(status="trialing", status_details=None)
            subscription_rows.set_period(row, row["trial_start"], row["trial_end"])
        else:
            _resume(sandbox, row, params)
    if row["status"] != "paused":
        sandbox.emit("customer.subscription.resumed", row)
    return row


def _resume(sandbox: Sandbox, row: Row, params: Row) -> None:
    lines: list[Row] | None = None
    if params.get("billing_cycle_anchor", {}).get("type", "now") == "now":
        subscription_rows.restart_cycle(sandbox, row)
        lines = item_lines(sandbox, row)
    else:
        behavior = params.get("proration_behavior", "create_prorations")
        date = params.get("proration_date", sandbox.now())
        for item in row["items"]["data"]:
            subscription_rows.begin_period(row, item, sandbox.now())
            if behavior != "none":
                prorations.charge(sandbox, row, item, date)
        if behavior == "always_invoice" and subscriptions.pending_items(sandbox, row):
            lines = []
    if lines is None:
        row.update(status="active", status_details=None)
        return
    invoice = subscriptions.bill(sandbox, row, "subscription_update", lines, on_failure="keep")
    on_attempt = params.get("payment_behavior", "resume_on_payment_attempt") == "resume_on_payment_attempt"
    if invoice["status"] != "open":
        row.update(status="active", status_details=None)
    elif on_attempt and subscriptions.charging_method(sandbox, row) is not None:
        row.update(status="past_due", status_details=None)
        subscriptions.retry_later(sandbox, row, invoice)
    else:
        row["_resumption"] = invoice["id"]  # it resumes when this is paid, or stays paused


_PATH = "/v1/subscriptions/{subscription}"
ROUTES = (
    route(f"POST {_PATH}/pause", pause, "SubscriptionPauseParams", "bill_for invoicing_behavior type"),
    route(
        f"POST {_PATH}/resume",
        resume,
        "SubscriptionResumeParams",
        "billing_cycle_anchor payment_behavior proration_behavior proration_date",
    ),
)
