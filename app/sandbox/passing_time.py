"""What time does by itself: sessions expire, trials end, periods roll over, payments are retried, schedules move."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

from app.sandbox import (
    aftermath,
    cancellations,
    clocks,
    collection,
    discounts,
    dunning,
    events,
    invoicing,
    metering,
    schedules,
    subscriptions,
)
from app.sandbox.periods import DAY
from app.sandbox.resources import active_entitlements, credit_grants, test_clocks
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.subscription_lines import usage_lines

INCOMPLETE_LASTS = 23 * 3600  # seconds the first payment may take, or that of a resumption
TRIAL_WARNING = 3 * DAY
IDEMPOTENCY_LASTS = DAY
_STARTED = subscriptions.BILLED | {"trialing", "paused"}


def pass_time(sandbox: Sandbox) -> None:
    """Catch up with the account's clock and with every test clock, each effect as of its own moment."""
    now = sandbox.now()
    catch_up(sandbox, None, now)
    for clock in sandbox.rows(clocks.KIND):
        if clock["deletes_after"] <= now:
            test_clocks.delete(sandbox, {}, clock["id"])
        elif clock["status"] == "advancing":
            catch_up(sandbox, clock["id"], test_clocks.target(clock))
            test_clocks.arrive(sandbox, clock["id"])
        else:
            catch_up(sandbox, clock["id"], clock["frozen_time"])
    aftermath.catch_up(sandbox)
    metering.process(sandbox)
    credit_grants.expire_due(sandbox)
    active_entitlements.refresh(sandbox)
    _forget_the_old(sandbox, now)


def catch_up(sandbox: Sandbox, clock: str | None, until: int) -> None:
    """Do everything due on one clock, in the order of time across all its objects."""
    order = count()
    agenda = _agenda(sandbox, clock, order)
    while agenda and agenda[0][0] <= until:
        due, _, kind, id = heappop(agenda)
        if _due(sandbox, kind, id) == due:
            with sandbox.at(due):
                _ACTS[kind](sandbox, sandbox.get(kind, id))
            if kind == "subscription_schedule":  # its subscription is new
                agenda = _agenda(sandbox, clock, order)
                continue
        if (again := _due(sandbox, kind, id)) is not None:
            heappush(agenda, (again, next(order), kind, id))


def _agenda(sandbox: Sandbox, clock: str | None, order: "count[int]") -> list[tuple[int, int, str, str]]:
    agenda = [
        (due, next(order), kind, row["id"])
        for kind in _ACTS
        for row in sandbox.rows(kind)
        if (due := _MOMENTS[kind](sandbox, row)) is not None and clocks.is_on(sandbox, row, clock)
    ]
    heapify(agenda)
    return agenda


def _due(sandbox: Sandbox, kind: str, id: str) -> int | None:
    row = sandbox.peek(kind, id)
    return None if row is None or row.get("deleted") else _MOMENTS[kind](sandbox, row)


def expire_session(sandbox: Sandbox, session: Row) -> None:
    session["status"] = "expired"
    session["url"] = None
    sandbox.emit("checkout.session.expired", session)


def _session_ends(_sandbox: Sandbox, session: Row) -> int | None:
    return session["expires_at"] if session["status"] == "open" else None


def _next(sandbox: Sandbox, subscription: Row) -> int | None:
    """Give the next moment at which something happens to this subscription by itself."""
    return min(_moments(sandbox, subscription), default=(None, None))[0]


def _moments(sandbox: Sandbox, subscription: Row) -> list[tuple[int, str]]:
    """List what is to come and when; at the same moment the first of the alphabet goes first."""
    status = subscription["status"]
    if status == "incomplete":
        return [(subscription["created"] + INCOMPLETE_LASTS, "lapse")]
    if status not in _STARTED:
        return []
    pause = subscription["pause_collection"]
    pending = subscription["pending_update"]
    found = [
        (subscription["cancel_at"], "a cancel"),
        (pause and pause["resumes_at"], "b resume collection"),
        (pending and pending["expires_at"], "c drop pending update"),
        (dunning.next_moment(sandbox, subscription), "d dunning"),
        (schedules.next_moment(sandbox, subscription), "e schedule"),
    ]
    if status == "paused":
        resumption = subscription.get("_resumption") and sandbox.peek("invoice", subscription["_resumption"])
        found.append((resumption and resumption["created"] + INCOMPLETE_LASTS, "void resumption"))
    else:
        found.append((min(i["current_period_end"] for i in subscription["items"]["data"]), "roll over"))
    if status == "trialing" and not subscription.get("_trial_warned"):
        warning = max(subscription["trial_end"] - TRIAL_WARNING, subscription["trial_start"])
        found.append((warning, "trial warning"))
    return [(due, what) for due, what in found if due is not None]


def _advance(sandbox: Sandbox, subscription: Row) -> None:
    """Do the one thing that is due at this moment."""
    _EFFECTS[min(_moments(sandbox, subscription))[1]](sandbox, subscription)


def _lapse(sandbox: Sandbox, subscription: Row) -> None:
    with sandbox.updating("customer.subscription.updated", subscription):
        subscription["status"] = "incomplete_expired"
        subscription["ended_at"] = sandbox.now()
    subscriptions.void_latest(sandbox, subscription)


def _cancel(sandbox: Sandbox, subscription: Row) -> None:
    """End it as it was told to, after billing what was used and what is still pending."""
    lines = usage_lines(sandbox, subscription, subscription["items"]["data"], sandbox.now())
    used = [line for line in lines if line["amount"]]
    if subscription["status"] in subscriptions.BILLED and (used or subscriptions.pending_items(sandbox, subscription)):
        with sandbox.updating("customer.subscription.updated", subscription):
            subscriptions.bill(sandbox, subscription, "subscription_cycle", used, on_failure="keep")
    subscriptions.end(sandbox, subscription, reason="cancellation_requested")


def _resume_collection(sandbox: Sandbox, subscription: Row) -> None:
    with sandbox.updating("customer.subscription.updated", subscription):
        subscription["pause_collection"] = None


def _drop_pending_update(sandbox: Sandbox, subscription: Row) -> None:
    invoice = sandbox.get("invoice", subscription["_pending"]["invoice"])
    invoicing.close(sandbox, invoice, "void")
    subscriptions.settle(sandbox, invoice)


def _void_resumption(sandbox: Sandbox, subscription: Row) -> None:
    """Give up on a resumption that nobody paid in time; the subscription stays paused."""
    invoicing.close(sandbox, sandbox.get("invoice", subscription["_resumption"]), "void")
    subscription["_resumption"] = None


def _warn_of_trial_end(sandbox: Sandbox, subscription: Row) -> None:
    subscription["_trial_warned"] = True
    sandbox.emit("customer.subscription.trial_will_end", subscription)


def roll_over(sandbox: Sandbox, subscription: Row) -> None:
    """Begin the next period and bill it; a trial without a card ends as its settings say."""
    without_card = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    if (
        subscription["status"] == "trialing"
        and subscription["collection_method"] == "charge_automatically"
        and without_card != "create_invoice"
        and subscriptions.charging_method(sandbox, subscription) is None
    ):
        if without_card == "cancel":
            subscriptions.end(sandbox, subscription, reason="payment_failed")
        else:
            subscriptions.pause(sandbox, subscription, "trial_end_without_payment_method")
        return
    with sandbox.updating("customer.subscription.updated", subscription):
        lines = subscriptions.next_lines(sandbox, subscription)
        cancellations.foresee(sandbox, subscription)
        subscriptions.bill(sandbox, subscription, "subscription_cycle", lines)


_EFFECTS: dict[str, Callable[[Sandbox, Row], None]] = {
    "a cancel": _cancel,
    "b resume collection": _resume_collection,
    "c drop pending update": _drop_pending_update,
    "d dunning": dunning.act,
    "e schedule": schedules.act,
    "lapse": _lapse,
    "roll over": roll_over,
    "trial warning": _warn_of_trial_end,
    "void resumption": _void_resumption,
}
_MOMENTS: dict[str, Callable[[Sandbox, Row], int | None]] = {
    "checkout.session": _session_ends,
    "subscription_schedule": schedules.starts,
    "subscription": _next,
    "invoice": collection.next_moment,
    "discount": discounts.ends,
    "coupon": discounts.lapses,
    "promotion_code": discounts.lapses,
}
_ACTS: dict[str, Callable[[Sandbox, Row], None]] = {
    "checkout.session": expire_session,
    "subscription_schedule": schedules.start,
    "subscription": _advance,
    "invoice": collection.advance,
    "discount": discounts.end,
    "coupon": discounts.lapse,
    "promotion_code": discounts.lapse,
}


def _forget_the_old(sandbox: Sandbox, now: int) -> None:
    """Drop events, deliveries and idempotency keys past their time; each loop ends at the first younger row.

    Events of a test clock carry another time; they go when it goes.
    """
    waiting = {delivery["event"] for delivery in sandbox.pending_deliveries()}
    for event in sandbox.rows("event"):
        if event["created"] + events.RETENTION > now:
            break
        clock = clocks.id_of(sandbox, event["data"]["object"])
        if event["id"] not in waiting and (sandbox.peek(clocks.KIND, clock or "") or {"deleted": True}).get("deleted"):
            sandbox.forget("event", event["id"])
    for delivery in sandbox.rows("_delivery"):
        if sandbox.find(delivery.get("event_object", "event"), delivery["event"]) is not None:
            break
        sandbox.forget("_delivery", delivery["id"])
    for key in sandbox.rows("_idempotency_key"):
        if key["created"] + IDEMPOTENCY_LASTS > now:
            break
        sandbox.forget("_idempotency_key", key["id"])
