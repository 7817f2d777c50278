"""Stripe's JSON, of any API generation from 2024-06-20 on, read into the frozen values of `protocol`.

Every function takes decoded JSON and raises UnreadableError where it cannot read all that it needs: a missing field,
a type Stripe never sends, or a value that Postgres could not hold.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic_core import from_json

from app.provider.protocol import (
    CheckoutSession,
    Customer,
    Envelope,
    Event,
    Invoice,
    MirroredObject,
    PaymentMethod,
    Price,
    Product,
    Subscription,
    SubscriptionItem,
)

T = TypeVar("T")

MAX_ID = 255  # what Stripe advises to store ids in (docs.stripe.com/upgrades, "backwards-compatible changes")
MAX_INT = 2**63 - 1  # Postgres bigint
MAX_TIME = 253_402_300_799  # the last second of year 9999, where Python's datetime ends


class UnreadableError(ValueError):
    """JSON that is not what it should be."""


def decode(text: str) -> Any:
    """JSON as Python's own parser reads it, but mostly sooner. Raises ValueError or RecursionError."""
    try:
        return from_json(text)
    except ValueError:  # half a surrogate pair, or nested deeply: rare, but an event
        return json.loads(text)


def map_customer(data: Mapping[str, Any]) -> Customer:
    """Read a customer; of a deleted one Stripe shows no more than `id` and `deleted`."""
    if _flag(data.get("deleted", False)):
        return Customer(id=_word(data.get("id")), deleted=True)
    return Customer(
        id=_word(data.get("id")),
        email=_maybe(_text, data.get("email")),
        name=_maybe(_text, data.get("name")),
        default_payment_method=_maybe(_ref, _within(data, "invoice_settings", "default_payment_method")),
        metadata=_metadata(data.get("metadata")),
        livemode=_flag(data.get("livemode")),
        created=_time(data.get("created")),
    )


def map_product(data: Mapping[str, Any]) -> Product:
    return Product(
        id=_word(data.get("id")),
        name=_text(data.get("name")),
        active=_flag(data.get("active")),
        metadata=_metadata(data.get("metadata")),
        description=_maybe(_text, data.get("description")),
    )


def map_price(data: Mapping[str, Any]) -> Price:
    recurring = _object(data.get("recurring") or {})
    return Price(
        id=_word(data.get("id")),
        product=_ref(data.get("product")),
        active=_flag(data.get("active")),
        currency=_word(data.get("currency")),
        unit_amount=_maybe(_int, data.get("unit_amount")),
        interval=_word(recurring.get("interval")) if recurring else None,
        interval_count=_int(recurring.get("interval_count")) if recurring else 1,
        lookup_key=_maybe(_word, data.get("lookup_key")),
        metadata=_metadata(data.get("metadata")),
        livemode=_flag(data.get("livemode")),
        created=_time(data.get("created")),
    )


def map_subscription(data: Mapping[str, Any]) -> Subscription:
    items_page = _object(data.get("items"))
    if items_page.get("has_more"):
        raise UnreadableError("the page of items is not the whole list")
    items = [_subscription_item(row, subscription=data) for row in rows(items_page)]
    starts = [item.current_period_start for item in items if item.current_period_start is not None]
    ends = [item.current_period_end for item in items if item.current_period_end is not None]
    return Subscription(
        id=_word(data.get("id")),
        customer=_ref(data.get("customer")),
        status=_word(data.get("status")),
        items=items,
        currency=_maybe(_word, data.get("currency")),
        current_period_start=min(starts, default=None),
        current_period_end=max(ends, default=None),
        cancel_at_period_end=_flag(data.get("cancel_at_period_end")),
        cancel_at=_maybe(_time, data.get("cancel_at")),
        canceled_at=_maybe(_time, data.get("canceled_at")),
        ended_at=_maybe(_time, data.get("ended_at")),
        trial_start=_maybe(_time, data.get("trial_start")),
        trial_end=_maybe(_time, data.get("trial_end")),
        pause_collection=_maybe(_word, _within(data, "pause_collection", "behavior")),
        default_payment_method=_maybe(_ref, data.get("default_payment_method")),
        latest_invoice=_maybe(_ref, data.get("latest_invoice")),
        metadata=_metadata(data.get("metadata")),
        livemode=_flag(data.get("livemode")),
        created=_time(data.get("created")),
    )


def _subscription_item(data: Mapping[str, Any], *, subscription: Mapping[str, Any]) -> SubscriptionItem:
    # Until 2025-03-31.basil the period stood on the subscription, once for all its items.
    start, end = (data.get(key, subscription.get(key)) for key in ("current_period_start", "current_period_end"))
    return SubscriptionItem(
        id=_word(data.get("id")),
        price=map_price(_object(data.get("price"))),
        quantity=_int(data.get("quantity") or 0),  # a metered item has none
        current_period_start=_maybe(_time, start),
        current_period_end=_maybe(_time, end),
    )


def map_invoice(data: Mapping[str, Any]) -> Invoice:
    # Until 2025-03-31.basil the subscription stood on the invoice itself.
    subscription = _within(data, "parent", "subscription_details", "subscription") or data.get("subscription")
    return Invoice(
        id=_word(data.get("id")),
        customer=_maybe(_ref, data.get("customer")),
        status=_maybe(_word, data.get("status")),
        currency=_word(data.get("currency")),
        amount_due=_int(data.get("amount_due")),
        amount_paid=_int(data.get("amount_paid")),
        amount_remaining=_int(data.get("amount_remaining")),
        subtotal=_int(data.get("subtotal")),
        total=_int(data.get("total")),
        number=_maybe(_text, data.get("number")),
        subscription=_maybe(_ref, subscription),
        billing_reason=_maybe(_word, data.get("billing_reason")),
        description=_maybe(_text, data.get("description")),
        hosted_invoice_url=_maybe(_text, data.get("hosted_invoice_url")),
        invoice_pdf=_maybe(_text, data.get("invoice_pdf")),
        period_start=_maybe(_time, data.get("period_start")),
        period_end=_maybe(_time, data.get("period_end")),
        due_date=_maybe(_time, data.get("due_date")),
        paid_at=_maybe(_time, _within(data, "status_transitions", "paid_at")),
        attempt_count=_int(data.get("attempt_count")),
        next_payment_attempt=_maybe(_time, data.get("next_payment_attempt")),
        livemode=_flag(data.get("livemode")),
        created=_time(data.get("created")),
    )


def map_payment_method(data: Mapping[str, Any]) -> PaymentMethod:
    card = _object(data.get("card") or {})
    return PaymentMethod(
        id=_word(data.get("id")),
        type=_word(data.get("type")),
        customer=_maybe(_ref, data.get("customer")),
        brand=_maybe(_word, card.get("brand")),
        last4=_maybe(_word, card.get("last4")),
        exp_month=_maybe(_int, card.get("exp_month")),
        exp_year=_maybe(_int, card.get("exp_year")),
        livemode=_flag(data.get("livemode")),
        created=_time(data.get("created")),
    )


def map_checkout_session(data: Mapping[str, Any]) -> CheckoutSession:
    return CheckoutSession(
        id=_word(data.get("id")),
        mode=_word(data.get("mode")),
        status=_maybe(_word, data.get("status")),
        payment_status=_word(data.get("payment_status")),
        url=_maybe(_text, data.get("url")),
        customer=_maybe(_ref, data.get("customer")),
        expires_at=_time(data.get("expires_at")),
        subscription=_maybe(_ref, data.get("subscription")),
        payment_intent=_maybe(_ref, data.get("payment_intent")),
        invoice=_maybe(_ref, data.get("invoice")),
        client_reference_id=_maybe(_text, data.get("client_reference_id")),
        currency=_maybe(_word, data.get("currency")),
        amount_total=_maybe(_int, data.get("amount_total")),
        metadata=_metadata(data.get("metadata")),
        livemode=_flag(data.get("livemode")),
        created=_time(data.get("created")),
    )


def map_id(data: Mapping[str, Any]) -> str:
    return _word(data.get("id"))


def map_url(data: Mapping[str, Any]) -> str:
    return _text(data.get("url"))


MAPPERS: Mapping[str, Callable[[Mapping[str, Any]], MirroredObject]] = {
    "customer": map_customer,
    "subscription": map_subscription,
    "invoice": map_invoice,
    "payment_method": map_payment_method,
    "checkout.session": map_checkout_session,
}


def map_envelope(payload: Any) -> Envelope:
    """Read a snapshot event or a thin one. UnreadableError when it is neither, never because of what it carries."""
    data = _object(payload)
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
        mapped = _readable(mapper, payload["data"]["object"])
    if isinstance(mapped, Customer | Invoice) and envelope.type.endswith(".deleted"):
        mapped = dataclasses.replace(mapped, deleted=True)  # the event shows it as it was before
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
    event_type = _word(data.get("type"))
    content = _object_or_empty(data.get("data"))
    shown = _object_or_empty(content.get("object"))
    object_type = _readable(_word, shown.get("object"))
    # What `invoice.upcoming` shows will only exist at the renewal: nothing to keep and nothing to fetch.
    object_id = None if event_type == "invoice.upcoming" else _readable(_word, shown.get("id"))
    if object_type == "customer":
        customer = object_id
    else:
        previous = _object_or_empty(content.get("previous_attributes"))
        customer = _readable(_ref, shown.get("customer") or previous.get("customer"))
    return Envelope(
        id=_word(data.get("id")),
        type=event_type,
        created=_time(data.get("created")),
        livemode=_flag(data.get("livemode")),
        account=_maybe(_word, data.get("account")),
        api_version=_maybe(_word, data.get("api_version")),
        object_type=object_type,
        object_id=object_id,
        customer=customer,
    )


def _thin_envelope(data: Mapping[str, Any]) -> Envelope:
    related = _object_or_empty(data.get("related_object"))
    object_type = _readable(_word, related.get("type"))
    object_id = _readable(_word, related.get("id"))
    return Envelope(
        id=_word(data.get("id")),
        type=_word(data.get("type")),
        created=_iso_time(data.get("created")),
        livemode=_flag(data.get("livemode")),
        account=_maybe(_word, data.get("context")),
        api_version=None,
        object_type=object_type,
        object_id=object_id,
        customer=object_id if object_type == "customer" else None,
    )


def rows(page: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The objects on one page of a Stripe list."""
    data = page.get("data")
    if not isinstance(data, list):
        raise UnreadableError("not a list")
    return [_object(row) for row in data]


def _maybe(read: Callable[[Any], T], value: Any) -> T | None:
    return None if value is None else read(value)


def _readable(read: Callable[[Any], T], value: Any) -> T | None:
    try:
        return read(value)
    except UnreadableError:
        return None


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UnreadableError("not an object")
    return value


def _object_or_empty(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _within(data: Mapping[str, Any], *path: str) -> Any:
    """The value at `path`, or None where a step of it is missing or null."""
    value: Any = data
    for key in path:
        if value is None:
            return None
        value = _object(value).get(key)
    return value


def _text(value: Any) -> str:
    if isinstance(value, str) and "\0" not in value and (value.isascii() or _encodable(value)):
        return value
    raise UnreadableError("not text")


def _encodable(value: str) -> bool:
    if value.isascii():  # as nearly all of it is
        return True
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can write one, Postgres can't keep it
        return False
    return True


def _word(value: Any) -> str:
    """An id, a status, a type: never empty, never long."""
    text = _text(value)
    if not 1 <= len(text) <= MAX_ID:
        raise UnreadableError("empty or too long")
    return text


def _ref(value: Any) -> str:
    """The id of another object, which may stand there expanded."""
    return _word(value.get("id") if isinstance(value, dict) else value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UnreadableError("neither true nor false")
    return value


def _int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_INT:
        raise UnreadableError("not an integer, or too large")
    return value


def _time(value: Any) -> int:
    seconds = _int(value)
    if not 0 <= seconds <= MAX_TIME:
        raise UnreadableError("not a time")
    return seconds


def _iso_time(value: Any) -> int:
    text = _text(value)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UnreadableError("not a time") from error
    if moment.tzinfo is None:
        raise UnreadableError("a time without its zone")
    return _time(int(moment.timestamp()))


def _metadata(value: Any) -> Mapping[str, str]:
    return {_text(key): _text(entry) for key, entry in _object(value or {}).items()}
