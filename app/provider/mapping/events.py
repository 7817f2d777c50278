"""Events, snapshot and thin, of any API generation, as our values."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import from_json

from app.provider.mapping.catalog import map_price, map_product
from app.provider.mapping.checkout import map_checkout_session
from app.provider.mapping.customers import map_customer, map_payment_method
from app.provider.mapping.invoices import map_credit_note
from app.provider.mapping.payments import map_charge, map_dispute, map_payment_intent, map_refund
from app.provider.mapping.reading import (
    UnreadableError,
    flag,
    if_readable,
    iso_time,
    mapping_of,
    mapping_or_empty,
    maybe,
    ref,
    time,
    word,
)
from app.provider.mapping.subscription_changes import map_subscription_schedule
from app.provider.mapping.subscriptions import map_invoice, map_subscription
from app.provider.objects import Customer, Envelope, Event, Invoice, MirroredObject, Price, Product
from app.provider.payment_objects import Refund


def decode(text: str) -> Any:
    """JSON as Python's own parser reads it, but mostly sooner. Raises ValueError or RecursionError."""
    try:
        return from_json(text)
    except ValueError:  # half a surrogate pair, or nested deeply: rare, but an event
        return json.loads(text)


MAPPERS: Mapping[str, Callable[[Mapping[str, Any]], MirroredObject]] = {
    "customer": map_customer,
    "subscription": map_subscription,
    "invoice": map_invoice,
    "payment_method": map_payment_method,
    "checkout.session": map_checkout_session,
    "payment_intent": map_payment_intent,
    "charge": map_charge,
    "refund": map_refund,
    "dispute": map_dispute,
    "subscription_schedule": map_subscription_schedule,
    "product": map_product,
    "price": map_price,
    "credit_note": map_credit_note,
}


def map_envelope(payload: Any) -> Envelope:
    """Read a snapshot event or a thin one. UnreadableError when it is neither, never because of what it carries."""
    data = mapping_of(payload)
    match data.get("object"):
        case "event":
            return _snapshot_envelope(data)
        case "v2.core.event":
            return _thin_envelope(data)
        case _:
            raise UnreadableError("not an event")


def map_event(payload: Any) -> Event:
    """Read an event with the object it shows; a thin one shows none."""
    envelope = map_envelope(payload)
    mapper = MAPPERS.get(envelope.object_type or "")
    mapped = None
    if mapper and envelope.object_id and payload["object"] == "event":
        mapped = if_readable(mapper, payload["data"]["object"])
    if isinstance(mapped, Customer | Invoice | Product | Price) and envelope.type.endswith(".deleted"):
        mapped = dataclasses.replace(mapped, deleted=True)  # the event shows it as it was before
    if isinstance(mapped, Refund):
        mapped = dataclasses.replace(mapped, livemode=envelope.livemode)  # it doesn't say so itself
    return Event(
        id=envelope.id,
        type=envelope.type,
        created=envelope.created,
        livemode=envelope.livemode,
        account=envelope.account,
        api_version=envelope.api_version,
        object_type=envelope.object_type,
        object_id=envelope.object_id,
        customer=envelope.customer,
        object=mapped,
    )


def _snapshot_envelope(data: Mapping[str, Any]) -> Envelope:
    event_type = word(data.get("type"))
    content = mapping_or_empty(data.get("data"))
    shown = mapping_or_empty(content.get("object"))
    object_type = if_readable(word, shown.get("object"))
    # What `invoice.upcoming` shows will only exist at the renewal: nothing to keep and nothing to fetch.
    object_id = None if event_type == "invoice.upcoming" else if_readable(word, shown.get("id"))
    if object_type == "customer":
        customer = object_id
    else:
        previous = mapping_or_empty(content.get("previous_attributes"))
        customer = if_readable(ref, shown.get("customer") or previous.get("customer"))
    return Envelope(
        id=word(data.get("id")),
        type=event_type,
        created=time(data.get("created")),
        livemode=flag(data.get("livemode")),
        account=maybe(word, data.get("account")),
        api_version=maybe(word, data.get("api_version")),
        object_type=object_type,
        object_id=object_id,
        customer=customer,
    )


def _thin_envelope(data: Mapping[str, Any]) -> Envelope:
    related = mapping_or_empty(data.get("related_object"))
    object_type = if_readable(word, related.get("type"))
    object_id = if_readable(word, related.get("id"))
    return Envelope(
        id=word(data.get("id")),
        type=word(data.get("type")),
        created=iso_time(data.get("created")),
        livemode=flag(data.get("livemode")),
        account=maybe(word, data.get("context")),
        api_version=None,
        object_type=object_type,
        object_id=object_id,
        customer=object_id if object_type == "customer" else None,
    )
