"""Stripe's invoice previews and subscription schedules as our values."""

from collections.abc import Mapping
from typing import Any

from app.provider.mapping.reading import integer, mapping_of, maybe, metadata, ref, rows, text, time, within, word
from app.provider.subscription_objects import InvoicePreview, PreviewLine, SchedulePhase, SubscriptionSchedule


def map_invoice_preview(data: Mapping[str, Any]) -> InvoicePreview:
    return InvoicePreview(
        currency=word(data.get("currency")),
        subtotal=integer(data.get("subtotal")),
        total=integer(data.get("total")),
        amount_due=integer(data.get("amount_due")),
        lines=[_line(row) for row in rows(mapping_of(data.get("lines")))],
    )


def _line(data: Mapping[str, Any]) -> PreviewLine:
    parents = ("subscription_item_details", "invoice_item_details")
    return PreviewLine(
        description=maybe(text, data.get("description")),
        amount=integer(data.get("amount")),
        quantity=maybe(integer, data.get("quantity")),
        price=maybe(ref, within(data, "pricing", "price_details", "price")),
        proration=any(within(data, "parent", parent, "proration") is True for parent in parents),
        period_start=maybe(time, within(data, "period", "start")),
        period_end=maybe(time, within(data, "period", "end")),
    )


def map_confirmation_secret(data: Mapping[str, Any]) -> str | None:
    """What Stripe.js needs to let the customer pay an invoice; None where there is nothing to pay."""
    return maybe(word, within(data, "confirmation_secret", "client_secret"))


def map_subscription_schedule(data: Mapping[str, Any]) -> SubscriptionSchedule:
    phases = data.get("phases")
    return SubscriptionSchedule(
        id=word(data.get("id")),
        customer=maybe(ref, data.get("customer")),
        subscription=maybe(ref, data.get("subscription")),
        status=word(data.get("status")),
        phases=[_phase(mapping_of(phase)) for phase in phases] if isinstance(phases, list) else [],
        end_behavior=maybe(word, data.get("end_behavior")),
        metadata=metadata(data.get("metadata")),
        livemode=data.get("livemode") is True,
        created=time(data.get("created")),
    )


def _phase(data: Mapping[str, Any]) -> SchedulePhase:
    items = rows({"data": data.get("items")})
    return SchedulePhase(
        start=time(data.get("start_date")),
        end=time(data.get("end_date")),
        items=[(ref(item.get("price")), maybe(integer, item.get("quantity"))) for item in items],
    )
