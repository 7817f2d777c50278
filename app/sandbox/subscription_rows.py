"""Subscriptions and their items as rows: how they begin, what they hold, and when their periods run."""

from typing import Any

from app.sandbox import metering
from app.sandbox.errors import unsupported
from app.sandbox.lists import sublist
from app.sandbox.periods import window
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

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
        "status_details",
        "transfer_data",
        "trial_end",
        "trial_start",
    )
)


def new(sandbox: Sandbox, customer: Row, items: list[Row], *, trial_end: int | None, **fields: Any) -> Row:
    """Store a subscription that starts now. ``items`` are {price: row, quantity, metadata}; the caller emits."""
    now = sandbox.now()
    id = sandbox.new.mint("sub_")
    row: Row = {
        **_NULLS,
        "id": id,
        "object": "subscription",
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": trial_end or now,
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
        "test_clock": customer["test_clock"],
        "trial_end": trial_end,
        "trial_settings": {"end_behavior": {"billing_cycle_anchor": "now", "missing_payment_method": "create_invoice"}},
        "trial_start": now if trial_end else None,
        "_unpaid": [],  # invoices that wait for their next attempt or their due date
        **fields,
    }
    for item in items:
        add_item(sandbox, row, item["price"], item["quantity"], metadata=item["metadata"])
    return sandbox.insert(row)


def add_item(
    sandbox: Sandbox, subscription: Row, price: Row, quantity: int | None, *, metadata: Row | None = None
) -> Row:
    """Put an item on the subscription; its first period runs from now to the end of the cycle."""
    metering.refuse_credits(sandbox, subscription["customer"], price)
    item: Row = {
        "id": sandbox.new.mint("si_"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": sandbox.now(),
        "current_trial": None,
        "discounts": [],
        "metadata": metadata or {},
        "subscription": subscription["id"],
        "tax_rates": [],
    }
    set_price(item, price, quantity)
    begin_period(subscription, item, sandbox.now())
    subscription["items"]["data"].append(item)
    recount(subscription)
    return item


def set_price(item: Row, price: Row, quantity: int | None) -> None:
    """Put a price on an item; one for usage has no quantity."""
    item["price"] = {name: value for name, value in price.items() if not name.startswith("_")}
    item["plan"] = plan(price)
    item.pop("quantity", None)
    if not is_metered(item):
        item["quantity"] = quantity


def is_metered(item: Row) -> bool:
    return bool(item["price"]["recurring"]["usage_type"] == "metered")


def recount(subscription: Row) -> None:
    """Bring what follows from the items in line; Stripe shows plan and quantity on top for a single item."""
    items = subscription["items"]["data"]
    subscription["items"]["total_count"] = len(items)
    single = len(items) == 1
    subscription["plan"] = items[0]["plan"] if single else None
    subscription["quantity"] = items[0].get("quantity") if single else None


def period(subscription: Row) -> tuple[int, int]:
    """Give (start, end) of the current period: of several, from the latest start to the earliest end."""
    items = subscription["items"]["data"]
    return max(i["current_period_start"] for i in items), min(i["current_period_end"] for i in items)


def set_period(subscription: Row, start: int, end: int) -> None:
    for item in subscription["items"]["data"]:
        item["current_period_start"] = start
        item["current_period_end"] = end


def cycle(subscription: Row, item: Row, moment: int) -> tuple[int, int]:
    """Give the full billing cycle of an item that ``moment`` is in, whether or not the item was there all along.

    During a trial this is the trial.
    """
    if subscription["status"] == "trialing":
        return subscription["trial_start"], subscription["trial_end"]
    return window(subscription["billing_cycle_anchor"], item["price"]["recurring"], moment)


def set_trial_end_behavior(subscription: Row, settings: Row | None) -> None:
    """Take ``trial_settings`` over, what they don't mention staying as it is."""
    behavior = (settings or {}).get("end_behavior", {})
    if behavior.get("billing_cycle_anchor") == "unchanged":
        raise unsupported(
            "trials that leave the billing cycle as it was", param="trial_settings[end_behavior][billing_cycle_anchor]"
        )
    subscription["trial_settings"]["end_behavior"].update(behavior)


def begin_period(subscription: Row, item: Row, now: int) -> None:
    """Let an item's period run from now to the end of its cycle."""
    item["current_period_start"] = now
    item["current_period_end"] = cycle(subscription, item, now)[1]


def restart_cycle(sandbox: Sandbox, subscription: Row) -> None:
    """Anchor the billing cycle to this moment; every item begins a new period."""
    subscription["billing_cycle_anchor"] = sandbox.now()
    for item in subscription["items"]["data"]:
        begin_period(subscription, item, sandbox.now())


def plan(price: Row) -> Row:
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
        "meter": recurring["meter"],
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": price["transform_quantity"],
        "trial_period_days": None,
        "usage_type": recurring["usage_type"],
    }
