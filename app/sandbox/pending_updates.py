"""Changes that wait for their invoice: with ``pending_if_incomplete`` they come about when it is paid, or lapse."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from app.sandbox import invoicing
from app.sandbox.metadata import merge
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.subscription_rows import period, recount

_LASTS = 23 * 3600  # seconds, or to the end of the period if that is sooner


@contextmanager
def unless_paid(sandbox: Sandbox, subscription: Row, params: Row) -> Iterator[None]:
    """Make a change that is taken back if ``params`` want it pending and it leads to an invoice that isn't paid."""
    if params.get("payment_behavior") != "pending_if_incomplete":
        yield
        return
    if subscription["pending_update"] is not None:  # the newer one takes its place
        invoicing.close(sandbox, sandbox.get("invoice", subscription["_pending"]["invoice"]), "void")
        drop(sandbox, subscription)
    before = deepcopy(subscription)
    yield
    id = subscription["latest_invoice"]
    if id != before["latest_invoice"] and sandbox.get("invoice", id)["status"] == "open":
        _hold(sandbox, subscription, before, params)


def _hold(sandbox: Sandbox, subscription: Row, before: Row, params: Row) -> None:
    """Put a subscription back to what it was ``before``, and keep the change until its latest invoice is paid."""
    after, invoice = deepcopy(subscription), subscription["latest_invoice"]
    subscription.clear()
    subscription.update(before, latest_invoice=invoice)
    subscription["pending_update"] = {
        "billing_cycle_anchor": after["billing_cycle_anchor"] if "billing_cycle_anchor" in params else None,
        "cancel_at_period_end": None,
        "discount": None,
        "discounts": None,
        "expires_at": min(sandbox.now() + _LASTS, period(before)[1]),
        "metadata": params.get("metadata"),
        "subscription_items": after["items"]["data"] if params.keys() & {"items", "price", "quantity"} else None,
        "trial_end": after["trial_end"] if "trial_end" in params else None,
        "trial_from_plan": None,
    }
    subscription["_pending"] = {"invoice": invoice, "after": after}


def awaits(subscription: Row, invoice: Row) -> bool:
    return bool(subscription["pending_update"] and subscription["_pending"]["invoice"] == invoice["id"])


def apply(sandbox: Sandbox, subscription: Row) -> None:
    """Let the change come about: its invoice is paid."""
    after, pending = subscription["_pending"]["after"], subscription["pending_update"]
    with sandbox.updating("customer.subscription.updated", subscription):
        for name in ("items", "billing_cycle_anchor"):
            subscription[name] = after[name]
        if pending["trial_end"] is not None:
            for name in ("trial_start", "trial_end", "status"):
                subscription[name] = after[name]
        recount(subscription)
        if pending["metadata"] is not None:
            merge(subscription, {"metadata": pending["metadata"]})
        subscription.update(pending_update=None, _pending=None)
    sandbox.emit("customer.subscription.pending_update_applied", subscription)


def drop(sandbox: Sandbox, subscription: Row) -> None:
    """Let the change lapse. The caller voids its invoice, if that isn't done."""
    with sandbox.updating("customer.subscription.updated", subscription):
        subscription.update(pending_update=None, _pending=None)
    sandbox.emit("customer.subscription.pending_update_expired", subscription)
