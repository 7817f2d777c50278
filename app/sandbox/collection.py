"""Invoices that advance by themselves: a draft with ``auto_advance`` is finalized, and charged where it says so."""

from app.sandbox import invoicing, subscriptions
from app.sandbox.errors import CardError
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def charging_method(sandbox: Sandbox, invoice: Row) -> Row | None:
    """Find the card an invoice is charged to: its own, its subscription's, or the customer's default."""
    subscription = subscription_of(invoice)
    if invoice["default_payment_method"] is not None:
        return sandbox.get("payment_method", invoice["default_payment_method"])
    if subscription is not None:
        return subscriptions.charging_method(sandbox, sandbox.get("subscription", subscription))
    default = sandbox.get("customer", invoice["customer"])["invoice_settings"]["default_payment_method"]
    return sandbox.get("payment_method", default) if default else None


def subscription_of(invoice: Row) -> str | None:
    """Give the id of the subscription an invoice belongs to."""
    details = (invoice["parent"] or {}).get("subscription_details") or {}
    found: str | None = details.get("subscription")
    return found


def next_moment(_sandbox: Sandbox, invoice: Row) -> int | None:
    """Say when something happens to it by itself. Renewals have their own schedule: see ``dunning``."""
    moment: int | None = None
    if invoice["status"] == "draft":
        moment = invoice["automatically_finalizes_at"]
    elif invoice["status"] == "open" and invoice["billing_reason"] == "manual" and not invoice["attempted"]:
        moment = invoice["next_payment_attempt"]
    return moment


def advance(sandbox: Sandbox, invoice: Row) -> None:
    """Finalize a draft, and charge or send what is open."""
    if invoice["status"] == "draft":
        invoicing.finalize(sandbox, invoice)
    if invoice["status"] != "open":
        return
    if invoice["collection_method"] == "send_invoice":
        sandbox.emit("invoice.sent", invoice)
        return
    invoice["next_payment_attempt"] = None
    method = charging_method(sandbox, invoice)
    if method is None:
        invoicing.note_failure(sandbox, invoice)
        return
    try:
        paid = invoicing.collect(sandbox, invoice, method, off_session=True)
    except CardError:
        return
    if paid:
        subscriptions.settle(sandbox, invoice)
