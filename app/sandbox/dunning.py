"""Dunning: failed renewals are tried again on a schedule; after the last attempt the account's settings decide."""

from app.sandbox import subscriptions
from app.sandbox.errors import CardError
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def next_moment(sandbox: Sandbox, subscription: Row) -> int | None:
    """Say when one of this subscription's unpaid invoices is tried again, given up, or overdue."""
    return min((due for due, _ in _due(sandbox, subscription)), default=None)


def act(sandbox: Sandbox, subscription: Row) -> None:
    """Do the first thing that is due about an unpaid invoice."""
    _, id = min(_due(sandbox, subscription))
    invoice = sandbox.get("invoice", id)
    if invoice["collection_method"] == "send_invoice":
        subscription["_unpaid"].remove(id)
        if subscription["status"] == "active":
            with sandbox.updating("customer.subscription.updated", subscription):
                subscription["status"] = "past_due"
        return
    if invoice["next_payment_attempt"] is not None:
        _retry(sandbox, subscription, invoice)
    if invoice["status"] == "open" and invoice["next_payment_attempt"] is None:
        _give_up(sandbox, subscription, invoice)


def _due(sandbox: Sandbox, subscription: Row) -> list[tuple[int, str]]:
    found = []
    for id in subscription["_unpaid"]:
        invoice = sandbox.peek("invoice", id)
        if invoice is not None and invoice["status"] == "open":
            if invoice["collection_method"] == "send_invoice":
                due = invoice["due_date"]
            else:
                # Without a next attempt the last one has just failed.
                due = invoice["next_payment_attempt"] or invoice["_attempted_at"]
            found.append((due, id))
    return found


def _retry(sandbox: Sandbox, subscription: Row, invoice: Row) -> None:
    try:
        paid = subscriptions.attempt(sandbox, subscription, invoice)
    except CardError:
        paid = False
    if paid:
        subscriptions.settle(sandbox, invoice)


def _give_up(sandbox: Sandbox, subscription: Row, invoice: Row) -> None:
    match sandbox.settings["after_retries"]:
        case "cancel":
            subscriptions.end(sandbox, subscription, reason="payment_failed")
        case "pause":
            subscription["_unpaid"].remove(invoice["id"])
            subscriptions.pause(sandbox, subscription, "final_payment_failure")
        case "unpaid":
            with sandbox.updating("customer.subscription.updated", subscription):
                subscription["status"] = "unpaid"
            # From here on nothing is collected by itself.
            subscription["_unpaid"] = []
        case _:  # it stays past_due
            subscription["_unpaid"].remove(invoice["id"])
