"""Subscription schedules at work: they start a subscription, move it from phase to phase, and let it go or end it."""

from itertools import zip_longest

from app.sandbox import invoicing, subscription_rows, subscriptions
from app.sandbox.errors import CardError
from app.sandbox.metadata import merge
from app.sandbox.periods import DAY
from app.sandbox.resources import subscription_items as items
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.subscription_lines import item_lines

_WARNING = 7 * DAY
_COPIED = ("collection_method", "default_payment_method", "description")


def starts(sandbox: Sandbox, schedule: Row) -> int | None:
    """Say when a schedule that has not started does; never, if its customer is gone."""
    customer = sandbox.peek("customer", schedule["customer"]) or {"deleted": True}
    if schedule["status"] != "not_started" or customer.get("deleted"):
        return None
    moment: int = schedule["phases"][0]["start_date"]
    return moment


def next_moment(sandbox: Sandbox, subscription: Row) -> int | None:
    """Say when the subscription's schedule does something next: warns of its end, or moves on."""
    schedule = subscription["schedule"] and sandbox.peek("subscription_schedule", subscription["schedule"])
    if schedule is None or schedule["current_phase"] is None:
        return None
    moments: list[int] = [schedule["current_phase"]["end_date"]]
    if not schedule.get("_warned"):
        moments.append(max(last_end(schedule) - _WARNING, schedule["current_phase"]["start_date"]))
    return min(moments)


def act(sandbox: Sandbox, subscription: Row) -> None:
    """Do what is due: warn, enter the next phase, or end."""
    schedule = sandbox.get("subscription_schedule", subscription["schedule"])
    now = sandbox.now()
    if schedule["current_phase"]["end_date"] > now:
        schedule["_warned"] = True
        sandbox.emit("subscription_schedule.expiring", schedule)
        return
    phase = phase_at(schedule, now)
    if phase is None:
        release(sandbox, schedule)  # one that ends with cancellation does by the subscription's cancel_at
        return
    with sandbox.updating("subscription_schedule.updated", schedule):
        schedule["current_phase"] = _bounds(phase)
    with sandbox.updating("customer.subscription.updated", subscription):
        enter(sandbox, schedule, subscription, phase, phase["proration_behavior"])


def start(sandbox: Sandbox, schedule: Row) -> None:
    """Begin: make the subscription of the first phase and bill it."""
    phase = schedule["phases"][0]
    customer = sandbox.get("customer", schedule["customer"])
    chosen = [
        {"price": sandbox.get("price", item["price"]), "quantity": item.get("quantity"), "metadata": item["metadata"]}
        for item in phase["items"]
    ]
    trial_end = phase["trial_end"]
    subscription = subscription_rows.new(sandbox, customer, chosen, trial_end=trial_end, schedule=schedule["id"])
    with sandbox.updating("subscription_schedule.updated", schedule):
        schedule.update(status="active", subscription=subscription["id"], current_phase=_bounds(phase))
    _dress(schedule, subscription, phase)
    created = sandbox.emit("customer.subscription.created", subscription)
    invoice = subscriptions.new_invoice(sandbox, subscription, "subscription_create", item_lines(sandbox, subscription))
    invoicing.finalize(sandbox, invoice)
    if invoice["status"] == "open" and subscription["collection_method"] == "charge_automatically":
        try:
            paid = subscriptions.attempt(sandbox, subscription, invoice)
        except CardError:
            paid = False
    else:
        paid = True
    if paid and subscription["status"] == "incomplete":
        subscription["status"] = "active"
    created["data"]["object"] = sandbox.shown(subscription)


def enter(sandbox: Sandbox, schedule: Row, subscription: Row, phase: Row, behavior: str) -> None:
    """Make the subscription what a phase says."""
    changes = _changes(sandbox, subscription, phase)
    if changes:
        items.apply(sandbox, subscription, changes, {"proration_behavior": behavior})
    if _anchors(schedule, phase) and subscription["billing_cycle_anchor"] != sandbox.now():
        subscription_rows.restart_cycle(sandbox, subscription)
        subscriptions.bill(sandbox, subscription, "subscription_update", item_lines(sandbox, subscription))
    _dress(schedule, subscription, phase)


def phase_at(schedule: Row, moment: int) -> Row | None:
    """Find the phase a moment is in; it includes its start and excludes its end."""
    return next((p for p in schedule["phases"] if p["start_date"] <= moment < p["end_date"]), None)


def last_end(schedule: Row) -> int:
    moment: int = schedule["phases"][-1]["end_date"]
    return moment


def release(sandbox: Sandbox, schedule: Row, *, keep_cancellation: bool = False) -> None:
    """Let the subscription go on by itself."""
    id, schedule["subscription"] = schedule["subscription"], None
    if id is not None:
        subscription = sandbox.get("subscription", id)
        with sandbox.updating("customer.subscription.updated", subscription):
            subscription["schedule"] = None
            if not keep_cancellation:
                subscription["cancel_at"] = None
    schedule.update(status="released", released_at=sandbox.now(), released_subscription=id, current_phase=None)
    sandbox.emit("subscription_schedule.released", schedule)


def _dress(schedule: Row, subscription: Row, phase: Row) -> None:
    """Set what a phase, or else the schedule's defaults, say beside the items."""
    for name in _COPIED:
        value = phase[name] if phase[name] is not None else schedule["default_settings"][name]
        if value is not None:
            subscription[name] = value
    invoice_settings = phase["invoice_settings"] or schedule["default_settings"]["invoice_settings"]
    if subscription["collection_method"] == "send_invoice":
        subscription["days_until_due"] = invoice_settings["days_until_due"]
    merge(subscription, {"metadata": phase["metadata"]})
    set_end(schedule, subscription)


def set_end(schedule: Row, subscription: Row) -> None:
    """Let the subscription end with its schedule, if that is what it says."""
    ends = schedule["end_behavior"] == "cancel" and schedule["current_phase"]["end_date"] == last_end(schedule)
    subscription["cancel_at"] = last_end(schedule) if ends else None


def _changes(sandbox: Sandbox, subscription: Row, phase: Row) -> list[items.Change]:
    """Pair the phase's items with the subscription's: by price, and those left over in their order."""
    wanted, held = list(phase["items"]), list(subscription["items"]["data"])
    pairs: list[tuple[Row | None, Row | None]] = []
    for item in list(wanted):
        same = next((have for have in held if have["price"]["id"] == item["price"]), None)
        if same is not None:
            pairs.append((same, item))
            wanted.remove(item)
            held.remove(same)
    pairs += zip_longest(held, wanted)
    return [
        _change(sandbox, have, item) for have, item in pairs if item is None or have is None or _differs(have, item)
    ]


def _change(sandbox: Sandbox, have: Row | None, item: Row | None) -> items.Change:
    if item is None:
        return items.Change(have, None, None, {})
    price = sandbox.get("price", item["price"])
    return items.Change(have, price, item.get("quantity"), {"metadata": item["metadata"]})


def _differs(have: Row, item: Row) -> bool:
    return (have["price"]["id"], have.get("quantity")) != (item["price"], item.get("quantity")) or any(
        have["metadata"].get(name) != value for name, value in item["metadata"].items()
    )


def _anchors(schedule: Row, phase: Row) -> bool:
    anchor = phase["billing_cycle_anchor"] or schedule["default_settings"]["billing_cycle_anchor"]
    return bool(anchor == "phase_start")


def _bounds(phase: Row) -> Row:
    return {"end_date": phase["end_date"], "start_date": phase["start_date"]}
