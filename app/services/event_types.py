"""Which of Stripe's event types concern us, and what kind of object each is about."""

from collections.abc import Mapping

HANDLED: Mapping[str, str] = {
    # The customer's name, address and default payment method; whether they still exist.
    **dict.fromkeys(("customer.created", "customer.updated", "customer.deleted"), "customer"),
    # Access hangs on these.
    **dict.fromkeys(
        (
            "customer.subscription.created",
            "customer.subscription.updated",
            "customer.subscription.deleted",
            "customer.subscription.paused",
            "customer.subscription.resumed",
            "customer.subscription.trial_will_end",
            "customer.subscription.pending_update_applied",
            "customer.subscription.pending_update_expired",
        ),
        "subscription",
    ),
    **dict.fromkeys(
        (
            "subscription_schedule.created",
            "subscription_schedule.updated",
            "subscription_schedule.released",
            "subscription_schedule.completed",
            "subscription_schedule.canceled",
            "subscription_schedule.aborted",
        ),
        "subscription_schedule",
    ),
    # Every event after which an invoice looks different. invoice.upcoming is not one: it has no id yet.
    **dict.fromkeys(
        (
            "invoice.created",
            "invoice.updated",
            "invoice.deleted",
            "invoice.finalized",
            "invoice.finalization_failed",
            "invoice.paid",
            "invoice.payment_succeeded",
            "invoice.payment_failed",
            "invoice.payment_action_required",
            "invoice.payment_attempt_required",
            "invoice.marked_uncollectible",
            "invoice.voided",
            "invoice.overdue",
            "invoice.overpaid",
            "invoice.sent",
        ),
        "invoice",
    ),
    **dict.fromkeys(("credit_note.created", "credit_note.updated", "credit_note.voided"), "credit_note"),
    **dict.fromkeys(
        (
            "payment_method.attached",
            "payment_method.detached",
            "payment_method.updated",
            "payment_method.automatically_updated",
        ),
        "payment_method",
    ),
    # How a purchase ended; for delayed methods the money comes, or doesn't, with the async_ ones.
    **dict.fromkeys(
        (
            "checkout.session.completed",
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
            "checkout.session.expired",
        ),
        "checkout.session",
    ),
    # Every try to collect a payment. payment_intent.created is none, and would only be fetched for nothing: what
    # follows it within the same second can't be told from it.
    **dict.fromkeys(
        (
            "payment_intent.requires_action",
            "payment_intent.processing",
            "payment_intent.amount_capturable_updated",
            "payment_intent.partially_funded",
            "payment_intent.succeeded",
            "payment_intent.payment_failed",
            "payment_intent.canceled",
        ),
        "payment_intent",
    ),
    # Nearly every charge.updated says that the money has reached the balance, of which a row says nothing.
    **dict.fromkeys(
        (
            "charge.succeeded",
            "charge.pending",
            "charge.failed",
            "charge.captured",
            "charge.expired",
            "charge.refunded",
        ),
        "charge",
    ),
    # charge.refund.updated says nothing that refund.updated doesn't.
    **dict.fromkeys(("refund.created", "refund.updated", "refund.failed"), "refund"),
    **dict.fromkeys(
        (
            "charge.dispute.created",
            "charge.dispute.updated",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.funds_reinstated",
            "charge.dispute.closed",
        ),
        "dispute",
    ),
    # What is sold, also where somebody changes it at Stripe.
    **dict.fromkeys(("product.created", "product.updated", "product.deleted"), "product"),
    **dict.fromkeys(("price.created", "price.updated", "price.deleted"), "price"),
}


_ONLY_THIN = {"v1.customer.subscription.": "subscription", "v1.invoice.": "invoice"}
_NOT_YET = frozenset({"v1.invoice.upcoming"})  # it has no id before it is made


def kind_of(event_type: str) -> str | None:
    """The kind of object an event is about; None if it doesn't concern us.

    Thin events about v1 objects are named `v1.` and then as their snapshot namesakes; some have none. They show nothing
    of the object, so it is always fetched. (docs.stripe.com/event-destinations, "thin events")
    """
    known = HANDLED.get(event_type.removeprefix("v1."))
    if known is not None or event_type in _NOT_YET:
        return known
    return next((kind for prefix, kind in _ONLY_THIN.items() if event_type.startswith(prefix)), None)
