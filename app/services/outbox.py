"""The outbox: what happened to a customer, in our own words, written with the change itself and told once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import OutboxMessage

Row = Mapping[str, Any]

GRANTING = frozenset({"active", "trialing"})
LIVE = GRANTING | {"past_due", "unpaid", "paused"}

_SUBSCRIPTION_STATES = {
    "active": "subscription.activated",
    "trialing": "subscription.activated",
    "past_due": "subscription.past_due",
    "unpaid": "subscription.unpaid",
    "paused": "subscription.paused",
    "canceled": "subscription.canceled",
    "incomplete_expired": "subscription.expired",
}


@dataclass(frozen=True, slots=True)
class News:
    """One thing that happened. Whatever else tells of the same thing must come to the same `key`."""

    type: str
    key: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A row of the outbox; see `models.OutboxMessage`."""

    key: str
    type: str
    subject: str
    customer_id: UUID | None
    stripe_event_id: str | None
    data: dict[str, Any]


async def append(session: AsyncSession, messages: Sequence[Message]) -> None:
    """Add what is not there yet. It appears if, and only if, the caller's transaction commits."""
    if messages:
        rows = [asdict(message) for message in messages]
        await session.execute(insert(OutboxMessage).on_conflict_do_nothing(index_elements=["key"]), rows)


def news(kind: str, old: Row | None, new: Row) -> list[News]:
    """What the step of a row from `old` to `new` means to those outside; mostly nothing."""
    tell = _NEWS.get(kind)
    return [] if tell is None else tell(old, new)


def _subscription_news(old: Row | None, new: Row) -> list[News]:
    was, now = None if old is None else old["status"], new["status"]
    types: list[str] = []
    if was != now and not (was in GRANTING and now in GRANTING):
        recovered = was == "past_due" and now == "active"
        types.append("subscription.recovered" if recovered else _SUBSCRIPTION_STATES.get(now, ""))
    if old is not None and was in LIVE and now in LIVE:
        if (old["plan"], old["price"], old["quantity"]) != (new["plan"], new["price"], new["quantity"]):
            types.append("subscription.changed")
        if _ends(old) != _ends(new):
            types.append("subscription.cancel_scheduled" if _ends(new) else "subscription.cancel_withdrawn")
    data = {
        name: new[name] for name in ("status", "plan", "quantity", "current_period_end", "cancel_at", "canceled_at")
    }
    # A state may come again (past_due, active, past_due): the row's revision says which time it was.
    return [News(type, f"{type}:{new['stripe_id']}:{new['revision']}", data) for type in types if type]


def _ends(row: Row) -> bool:
    return row["cancel_at_period_end"] or row["cancel_at"] is not None


def _invoice_news(old: Row | None, new: Row) -> list[News]:
    subject, status, attempts = new["stripe_id"], new["status"], new["attempt_count"]
    names = ("number", "currency", "amount_due", "amount_paid", "attempt_count", "next_payment_attempt", "subscription")
    data = {name: new[name] for name in names}
    if status == "paid" and (old is None or old["status"] != "paid") and new["amount_paid"] > 0:
        return [News("payment.received", f"payment.received:{subject}", data)]
    if status == "open" and attempts > (0 if old is None else old["attempt_count"]):
        return [News("payment.failed", f"payment.failed:{subject}:{attempts}", data)]
    return []


def _intent_news(old: Row | None, new: Row) -> list[News]:
    """Of a payment that was made for itself: an invoice, or the Checkout session it was made for, tells of its own."""
    of_another = (new["order_reference"] or "").startswith(("in_", "cs_"))
    if of_another or new["status"] != "succeeded" or (old is not None and old["status"] == "succeeded"):
        return []
    return [_received(new["stripe_id"], new["amount_received"], new["currency"])]


def _session_news(old: Row | None, new: Row) -> list[News]:
    """Of what is bought once, where Checkout makes no invoice of it."""
    bought = new["mode"] == "payment" and new["payment_status"] == "paid" and new["invoice"] is None
    if not bought or new["payment_intent"] is None or (old is not None and old["payment_status"] == "paid"):
        return []
    return [_received(new["payment_intent"], new["amount_total"], new["currency"])]


def _received(payment_intent: str, amount: int, currency: str) -> News:
    data = {"currency": currency, "amount_paid": amount, "payment_intent": payment_intent}
    return News("payment.received", f"payment.received:{payment_intent}", data)


_REFUND_STATES = {"succeeded": "payment.refunded", "failed": "payment.refund_failed"}


def _refund_news(old: Row | None, new: Row) -> list[News]:
    """Each refund is told of once, and once more if the bank sends it back."""
    type = _REFUND_STATES.get(new["status"])
    if type is None or (old is not None and old["status"] == new["status"]):
        return []
    names = ("amount", "currency", "reason", "failure_reason", "charge", "payment_intent")
    return [News(type, f"{type}:{new['stripe_id']}", {name: new[name] for name in names})]


_DISPUTE_ENDS = frozenset({"won", "lost", "warning_closed", "prevented"})


def _dispute_news(old: Row | None, new: Row) -> list[News]:
    status = new["status"]
    names = ("amount", "currency", "reason", "status", "evidence_due_by", "charge", "payment_intent")
    data = {name: new[name] for name in names}
    types = [] if old is not None else ["dispute.opened"]
    if status in _DISPUTE_ENDS and (old is None or old["status"] not in _DISPUTE_ENDS):
        types.append("dispute.closed")
    return [News(type, f"{type}:{new['stripe_id']}", data) for type in types]


_NEWS: Mapping[str, Callable[[Row | None, Row], list[News]]] = {
    "subscription": _subscription_news,
    "invoice": _invoice_news,
    "payment_intent": _intent_news,
    "checkout_session": _session_news,
    "refund": _refund_news,
    "dispute": _dispute_news,
}
