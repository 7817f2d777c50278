"""Ending in mid-period: what is paid beyond ``cancel_at`` is given back, and taken back with another end."""

from app.sandbox import invoice_items, prorations
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def foresee(sandbox: Sandbox, subscription: Row) -> None:
    """Give back what the running periods have beyond ``cancel_at``.

    Source: ``cancel_at`` at https://docs.stripe.com/api/subscriptions/update.
    """
    end = subscription["cancel_at"]
    given = []
    if end is not None:
        for item in subscription["items"]["data"]:
            if item["current_period_end"] > end:
                row = prorations.credit(sandbox, subscription, item, max(end, item["current_period_start"]))
                given += [row["id"]] if row else []
    subscription["_end_credits"] = given


def take_back(sandbox: Sandbox, subscription: Row) -> None:
    """Take back what was given for an end that is not to come: while it waits it goes, else it is charged."""
    items = {item["id"]: item for item in subscription["items"]["data"]}
    for id in subscription.get("_end_credits", []):
        credit = sandbox.get("invoiceitem", id)
        if credit["invoice"] is None:
            invoice_items.forget(sandbox, credit)
        elif (item := items.get(credit["_subscription_item"])) is not None:
            prorations.charge(sandbox, subscription, item, credit["period"]["start"])
    subscription["_end_credits"] = []
