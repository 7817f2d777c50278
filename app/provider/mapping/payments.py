"""Stripe's payments, refunds, disputes and balance as our values."""

from collections.abc import Mapping
from typing import Any

from app.provider.mapping.reading import (
    UnreadableError,
    flag,
    integer,
    mapping_of,
    maybe,
    metadata,
    ref,
    text,
    time,
    within,
    word,
)
from app.provider.payment_objects import (
    Amount,
    Balance,
    BalanceTransaction,
    Charge,
    Dispute,
    NextAction,
    PaymentIntent,
    Refund,
)


def map_payment_intent(data: Mapping[str, Any]) -> PaymentIntent:
    return PaymentIntent(
        id=word(data.get("id")),
        customer=maybe(ref, data.get("customer")),
        amount=integer(data.get("amount")),
        amount_capturable=integer(data.get("amount_capturable", 0)),
        amount_received=integer(data.get("amount_received", 0)),
        currency=word(data.get("currency")),
        status=word(data.get("status")),
        capture_method=word(data.get("capture_method")),
        payment_method=maybe(ref, data.get("payment_method")),
        setup_future_usage=maybe(word, data.get("setup_future_usage")),
        latest_charge=maybe(ref, data.get("latest_charge")),
        description=maybe(text, data.get("description")),
        canceled_at=maybe(time, data.get("canceled_at")),
        cancellation_reason=maybe(word, data.get("cancellation_reason")),
        failure_code=maybe(word, within(data, "last_payment_error", "code")),
        decline_code=maybe(word, within(data, "last_payment_error", "decline_code")),
        order_reference=maybe(text, within(data, "payment_details", "order_reference")),
        client_secret=maybe(text, data.get("client_secret")),
        next_action=maybe(_next_action, data.get("next_action")),
        metadata=metadata(data.get("metadata")),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )


def _next_action(value: Any) -> NextAction:
    kind = word(mapping_of(value).get("type"))
    return NextAction(type=kind, url=maybe(text, within(value, "redirect_to_url", "url")))


def map_charge(data: Mapping[str, Any]) -> Charge:
    """Read a charge; a bank's own reason stands in its `outcome`, as Stripe puts it for network declines."""
    failure_code = maybe(word, data.get("failure_code"))
    return Charge(
        id=word(data.get("id")),
        customer=maybe(ref, data.get("customer")),
        amount=integer(data.get("amount")),
        amount_captured=integer(data.get("amount_captured")),
        amount_refunded=integer(data.get("amount_refunded")),
        currency=word(data.get("currency")),
        status=word(data.get("status")),
        captured=flag(data.get("captured")),
        disputed=flag(data.get("disputed")),
        refunded=flag(data.get("refunded")),
        payment_intent=maybe(ref, data.get("payment_intent")),
        payment_method=maybe(ref, data.get("payment_method")),
        description=maybe(text, data.get("description")),
        receipt_url=maybe(text, data.get("receipt_url")),
        failure_code=failure_code,
        decline_code=maybe(word, within(data, "outcome", "reason")) if failure_code else None,
        metadata=metadata(data.get("metadata")),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )


def map_refund(data: Mapping[str, Any], *, livemode: bool = False) -> Refund:
    """Read a refund, which does not say itself which of Stripe's two worlds it is from."""
    return Refund(
        livemode=livemode,
        id=word(data.get("id")),
        charge=maybe(ref, data.get("charge")),
        amount=integer(data.get("amount")),
        currency=word(data.get("currency")),
        status=maybe(word, data.get("status")),
        customer=maybe(ref, data.get("customer")),
        payment_intent=maybe(ref, data.get("payment_intent")),
        reason=maybe(word, data.get("reason")),
        failure_reason=maybe(word, data.get("failure_reason")),
        metadata=metadata(data.get("metadata")),
        created=time(data.get("created")),
    )


def map_dispute(data: Mapping[str, Any]) -> Dispute:
    return Dispute(
        id=word(data.get("id")),
        charge=ref(data.get("charge")),
        amount=integer(data.get("amount")),
        currency=word(data.get("currency")),
        status=word(data.get("status")),
        reason=word(data.get("reason")),
        payment_intent=maybe(ref, data.get("payment_intent")),
        evidence_due_by=maybe(time, within(data, "evidence_details", "due_by")),
        metadata=metadata(data.get("metadata")),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )


def map_balance(data: Mapping[str, Any]) -> Balance:
    return Balance(available=_amounts(data.get("available")), pending=_amounts(data.get("pending")))


def _amounts(value: Any) -> list[Amount]:
    if not isinstance(value, list):
        raise UnreadableError("not a list")
    entries = [mapping_of(entry) for entry in value]
    return [Amount(amount=integer(entry.get("amount")), currency=word(entry.get("currency"))) for entry in entries]


def map_balance_transaction(data: Mapping[str, Any]) -> BalanceTransaction:
    return BalanceTransaction(
        id=word(data.get("id")),
        amount=integer(data.get("amount")),
        fee=integer(data.get("fee")),
        net=integer(data.get("net")),
        currency=word(data.get("currency")),
        type=word(data.get("type")),
        reporting_category=word(data.get("reporting_category")),
        status=word(data.get("status")),
        available_on=time(data.get("available_on")),
        source=maybe(ref, data.get("source")),
        description=maybe(text, data.get("description")),
        created=time(data.get("created")),
    )
