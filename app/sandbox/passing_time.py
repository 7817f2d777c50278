"""What time does by itself: sessions expire, trials end, periods roll over, unpaid beginnings lapse."""

from app.sandbox import events, subscriptions
from app.sandbox.periods import DAY
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

INCOMPLETE_LASTS = 23 * 3600  # seconds the first payment may take
TRIAL_WARNING = 3 * DAY
IDEMPOTENCY_LASTS = DAY


def pass_time(sandbox: Sandbox) -> None:
    """Catch up with the clock, each effect as of its own moment."""
    now = sandbox.now()
    for session in sandbox.rows("checkout.session"):
        if session["status"] == "open" and session["expires_at"] <= now:
            expire_session(sandbox, sandbox.get("checkout.session", session["id"]))
    for subscription in sandbox.rows("subscription"):
        while (due := _next(subscription)) is not None and due <= now:
            with sandbox.at(due):
                _advance(sandbox, sandbox.get("subscription", subscription["id"]))
    _forget_the_old(sandbox, now)


def expire_session(sandbox: Sandbox, session: Row) -> None:
    session["status"] = "expired"
    session["url"] = None
    sandbox.emit("checkout.session.expired", session)


def _next(subscription: Row) -> int | None:
    """Give the next moment at which something happens to this subscription by itself."""
    status = subscription["status"]
    if status == "incomplete":
        return int(subscription["created"]) + INCOMPLETE_LASTS
    if status not in subscriptions.BILLED | {"trialing"}:
        return None
    moments = [subscriptions.period(subscription)[1]]
    if subscription["cancel_at"] is not None:
        moments.append(subscription["cancel_at"])
    if status == "trialing" and not subscription.get("_trial_warned"):
        moments.append(max(subscription["trial_end"] - TRIAL_WARNING, subscription["trial_start"]))
    pause = subscription["pause_collection"]
    if pause is not None and pause["resumes_at"] is not None:
        moments.append(pause["resumes_at"])
    return min(moments)


def _advance(sandbox: Sandbox, subscription: Row) -> None:
    """Do the one thing that is due at this moment."""
    now = sandbox.now()
    pause = subscription["pause_collection"]
    if subscription["status"] == "incomplete":
        with sandbox.updating("customer.subscription.updated", subscription):
            subscription["status"] = "incomplete_expired"
            subscription["ended_at"] = now
        subscriptions.void_latest(sandbox, subscription)
    elif subscription["cancel_at"] is not None and subscription["cancel_at"] <= now:
        subscriptions.end(sandbox, subscription, reason="cancellation_requested")
    elif pause is not None and pause["resumes_at"] is not None and pause["resumes_at"] <= now:
        with sandbox.updating("customer.subscription.updated", subscription):
            subscription["pause_collection"] = None
    elif subscription["status"] == "trialing" and subscriptions.period(subscription)[1] > now:
        subscription["_trial_warned"] = True
        sandbox.emit("customer.subscription.trial_will_end", subscription)
    elif subscription["status"] == "trialing":
        end_trial(sandbox, subscription)
    else:
        roll_over(sandbox, subscription)


def end_trial(sandbox: Sandbox, subscription: Row) -> None:
    """Bill the first paid period, or do what trial_settings say where there is no card."""
    without_card = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    if (
        subscription["collection_method"] == "charge_automatically"
        and subscriptions.charging_method(sandbox, subscription) is None
        and without_card != "create_invoice"
    ):
        if without_card == "cancel":
            subscriptions.end(sandbox, subscription, reason="payment_failed")
            return
        with sandbox.updating("customer.subscription.updated", subscription):
            _pause(sandbox, subscription)
        sandbox.emit("customer.subscription.paused", subscription)
        return
    roll_over(sandbox, subscription)


def roll_over(sandbox: Sandbox, subscription: Row) -> None:
    """Begin the next period and bill it."""
    with sandbox.updating("customer.subscription.updated", subscription):
        begin_period(sandbox, subscription)
        lines = subscriptions.item_lines(sandbox, subscription)
        subscriptions.bill(sandbox, subscription, "subscription_cycle", lines)


def begin_period(sandbox: Sandbox, subscription: Row) -> None:
    if subscription["status"] == "trialing":
        subscription["status"] = "active"
    now = sandbox.now()
    subscriptions.set_period(subscription, now, subscriptions.following_end(subscription, now))


def _pause(sandbox: Sandbox, subscription: Row) -> None:
    subscription["status"] = "paused"
    subscription["status_details"] = {
        "paused": {
            "subscription": {"type": "trial_end_without_payment_method"},
            "transitioned_at": sandbox.now(),
            "type": "subscription",
        }
    }


def _forget_the_old(sandbox: Sandbox, now: int) -> None:
    """Drop events, deliveries and idempotency keys past their time; each loop ends at the first younger row."""
    waiting = {delivery["event"] for delivery in sandbox.pending_deliveries()}
    for event in sandbox.rows("event"):
        if event["created"] + events.RETENTION > now:
            break
        if event["id"] not in waiting:
            sandbox.forget("event", event["id"])
    for delivery in sandbox.rows("_delivery"):
        if sandbox.find("event", delivery["event"]) is not None:
            break
        sandbox.forget("_delivery", delivery["id"])
    for key in sandbox.rows("_idempotency_key"):
        if key["created"] + IDEMPOTENCY_LASTS > now:
            break
        sandbox.forget("_idempotency_key", key["id"])
