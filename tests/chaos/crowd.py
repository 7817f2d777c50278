"""Many subscribers at Stripe, and all that Stripe has to tell of them: what load is made of."""

from collections.abc import Sequence
from typing import Any

from billing import Account

from app.sandbox.resources import customers, payment_methods, subscriptions

MINUTE = 60


def subscribe(account: Account, user_id: str, *, quantities: Sequence[int] = ()) -> list[dict[str, Any]]:
    """One user subscribes, then changes the quantity, minute by minute; returns the events of it, oldest first."""
    box = account.sandbox
    known = len(box.ids("event"))
    start = box.now() - (len(quantities) + 2) * MINUTE
    price = next(row["id"] for row in box.rows("price") if row["recurring"] and row["unit_amount"])
    with box.transaction():
        with box.at(start):
            person = customers.create(box, {"metadata": {"user_id": user_id}, "name": user_id})["id"]
            card = payment_methods.attach(box, {"customer": person}, "pm_card_visa")["id"]
            customers.update(box, {"invoice_settings": {"default_payment_method": card}}, person)
        with box.at(start + MINUTE):
            bought = subscriptions.create(box, {"customer": person, "items": [{"price": price}]})
        for minutes, quantity in enumerate(quantities, 2):
            with box.at(start + minutes * MINUTE):
                item = {"id": bought["items"]["data"][0]["id"], "quantity": quantity}
                subscriptions.update(box, {"items": [item], "proration_behavior": "none"}, bought["id"])
        return [box.shown(box.get("event", id)) for id in box.ids("event")[known:]]


def subscription_created(account: Account, user_id: str) -> dict[str, Any]:
    """The one event that says that a new customer has subscribed."""
    [event] = [e for e in subscribe(account, user_id) if e["type"] == "customer.subscription.created"]
    return event
