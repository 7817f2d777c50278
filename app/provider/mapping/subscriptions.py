"""Stripe's subscriptions and invoices, of any API generation from 2024-06-20 on, as our values."""

from collections.abc import Mapping
from typing import Any

from app.provider.mapping.catalog import map_price
from app.provider.mapping.invoices import discounted, map_lines, taxed
from app.provider.mapping.reading import (
    UnreadableError,
    flag,
    integer,
    mapping_of,
    maybe,
    metadata,
    ref,
    rows,
    text,
    time,
    within,
    word,
)
from app.provider.objects import Invoice, Subscription, SubscriptionItem


def map_subscription(data: Mapping[str, Any]) -> Subscription:
    items_page = mapping_of(data.get("items"))
    if items_page.get("has_more"):
        raise UnreadableError("the page of items is not the whole list")
    items = [_subscription_item(row, subscription=data) for row in rows(items_page)]
    starts = [item.current_period_start for item in items if item.current_period_start is not None]
    ends = [item.current_period_end for item in items if item.current_period_end is not None]
    return Subscription(
        id=word(data.get("id")),
        customer=ref(data.get("customer")),
        status=word(data.get("status")),
        items=items,
        currency=maybe(word, data.get("currency")),
        current_period_start=min(starts, default=None),
        current_period_end=max(ends, default=None),
        cancel_at_period_end=flag(data.get("cancel_at_period_end")),
        cancel_at=maybe(time, data.get("cancel_at")),
        canceled_at=maybe(time, data.get("canceled_at")),
        ended_at=maybe(time, data.get("ended_at")),
        trial_start=maybe(time, data.get("trial_start")),
        trial_end=maybe(time, data.get("trial_end")),
        pause_collection=maybe(word, within(data, "pause_collection", "behavior")),
        pause_resumes_at=maybe(time, within(data, "pause_collection", "resumes_at")),
        paused_reason=maybe(word, within(data, "status_details", "paused", "subscription", "type")),
        default_payment_method=maybe(ref, data.get("default_payment_method")),
        latest_invoice=maybe(ref, data.get("latest_invoice")),
        collection_method=maybe(word, data.get("collection_method")),
        schedule=maybe(ref, data.get("schedule")),
        discounts=_discounts(data.get("discounts")),
        pending_update_expires_at=maybe(time, within(data, "pending_update", "expires_at")),
        pending_items=_pending_items(data),
        metadata=metadata(data.get("metadata")),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )


def _discounts(value: Any) -> list[str]:
    """Their ids; until 2025-03-31.basil there were none to list."""
    if not isinstance(value, list | None):
        raise UnreadableError("not a list")
    return [ref(discount) for discount in value or []]


def _pending_items(data: Mapping[str, Any]) -> tuple[tuple[str, str, int], ...]:
    pending = rows({"data": within(data, "pending_update", "subscription_items") or []})
    return tuple((word(item.get("id")), ref(item.get("price")), integer(item.get("quantity") or 0)) for item in pending)


def _subscription_item(data: Mapping[str, Any], *, subscription: Mapping[str, Any]) -> SubscriptionItem:
    # Until 2025-03-31.basil the period stood on the subscription, once for all its items.
    start, end = (data.get(key, subscription.get(key)) for key in ("current_period_start", "current_period_end"))
    return SubscriptionItem(
        id=word(data.get("id")),
        price=map_price(mapping_of(data.get("price"))),
        quantity=integer(data.get("quantity") or 0),  # a metered item has none
        current_period_start=maybe(time, start),
        current_period_end=maybe(time, end),
    )


def map_invoice(data: Mapping[str, Any]) -> Invoice:
    # Until 2025-03-31.basil the subscription stood on the invoice itself.
    subscription = within(data, "parent", "subscription_details", "subscription") or data.get("subscription")
    return Invoice(
        id=word(data.get("id")),
        customer=maybe(ref, data.get("customer")),
        status=maybe(word, data.get("status")),
        currency=word(data.get("currency")),
        amount_due=integer(data.get("amount_due")),
        amount_paid=integer(data.get("amount_paid")),
        amount_remaining=integer(data.get("amount_remaining")),
        subtotal=integer(data.get("subtotal")),
        total=integer(data.get("total")),
        number=maybe(text, data.get("number")),
        subscription=maybe(ref, subscription),
        billing_reason=maybe(word, data.get("billing_reason")),
        description=maybe(text, data.get("description")),
        hosted_invoice_url=maybe(text, data.get("hosted_invoice_url")),
        invoice_pdf=maybe(text, data.get("invoice_pdf")),
        period_start=maybe(time, data.get("period_start")),
        period_end=maybe(time, data.get("period_end")),
        due_date=maybe(time, data.get("due_date")),
        paid_at=maybe(time, within(data, "status_transitions", "paid_at")),
        attempt_count=integer(data.get("attempt_count")),
        next_payment_attempt=maybe(time, data.get("next_payment_attempt")),
        discount=discounted(data),
        tax=taxed(data),
        lines=map_lines(data),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )
