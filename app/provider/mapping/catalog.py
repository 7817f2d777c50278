"""Stripe's products, prices and meters, of any API generation from 2024-06-20 on, as our values."""

from collections.abc import Mapping
from typing import Any

from app.provider.mapping.reading import flag, integer, mapping_of, maybe, metadata, ref, text, time, within, word
from app.provider.objects import Meter, Price, Product


def map_product(data: Mapping[str, Any]) -> Product:
    return Product(
        id=word(data.get("id")),
        name=text(data.get("name")),
        active=flag(data.get("active")),
        description=maybe(text, data.get("description")),
        default_price=maybe(ref, data.get("default_price")),
        metadata=metadata(data.get("metadata")),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )


def map_price(data: Mapping[str, Any]) -> Price:
    recurring = mapping_of(data.get("recurring") or {})
    return Price(
        id=word(data.get("id")),
        product=ref(data.get("product")),
        active=flag(data.get("active")),
        currency=word(data.get("currency")),
        unit_amount=maybe(integer, data.get("unit_amount")),
        interval=word(recurring.get("interval")) if recurring else None,
        interval_count=integer(recurring.get("interval_count")) if recurring else 1,
        lookup_key=maybe(word, data.get("lookup_key")),
        nickname=maybe(text, data.get("nickname")),
        usage_type=maybe(word, recurring.get("usage_type")),
        meter=maybe(ref, recurring.get("meter")),
        metadata=metadata(data.get("metadata")),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )


def map_meter(data: Mapping[str, Any]) -> Meter:
    return Meter(
        id=word(data.get("id")),
        display_name=text(data.get("display_name")),
        event_name=word(data.get("event_name")),
        formula=word(within(data, "default_aggregation", "formula")),
        status=word(data.get("status")),
    )
