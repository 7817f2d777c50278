"""What must hold in the end, whatever happened: our rows are Stripe's, each change is audited, each effect is one."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from billing import Account

from app import models
from app.provider.objects import Customer, Invoice, PaymentMethod, Subscription
from app.services import audit
from app.services.customers import USER_METADATA
from app.services.event_effects import KINDS
from app.services.event_types import HANDLED
from app.services.outbox import GRANTING, LIVE

Event = Mapping[str, Any]
People = Mapping[UUID, models.Customer]

BOOKKEEPING = {"id", "stripe_id", "synced_at", "revision", "customer_id", "trial_used"}
PERSONAL = {
    *("user_id", "email", "name", "last4", "description", "lines", "memo", "stripe_metadata"),
    *("url", "hosted_invoice_url", "invoice_pdf", "receipt_url", "pdf", "request"),
}
MEANINGS: Mapping[str, tuple[str, Any]] = {
    "subscription.activated": ("status", "granting"),
    "subscription.recovered": ("status", "granting"),
    "subscription.past_due": ("status", "past_due"),
    "subscription.unpaid": ("status", "unpaid"),
    "subscription.paused": ("status", "paused"),
    "subscription.canceled": ("status", "canceled"),
    "subscription.expired": ("status", "incomplete_expired"),
    "subscription.cancel_scheduled": ("ends", True),
    "subscription.cancel_withdrawn": ("ends", False),
    "payment.refunded": ("refund", "succeeded"),
    "payment.refund_failed": ("refund", "failed"),
    "dispute.opened": ("dispute", "opened"),
    "dispute.closed": ("dispute", "closed"),
}
"""What a message tells: which side of its subject, and what that is from now on."""


async def broken(account: Account, told: Iterable[Event]) -> list[Any]:
    """All that is otherwise than promised, once every event of `told` has arrived: (what, whose, ...)."""
    told = list(told)
    return [
        *await unsettled(account, told),
        *await differences(account, told),
        *await audit_gaps(account),
        *await effects_not_once(account, told),
    ]


async def unsettled(account: Account, told: Iterable[Event]) -> list[Any]:
    """Events that are not in the inbox exactly once, or that still wait, or were given up."""
    rows = await account.all(models.StripeEvent)
    count = Counter(row.event_id for row in rows)
    found: list[Any] = [(event["type"], event["id"], count[event["id"]]) for event in told if count[event["id"]] != 1]
    return found + [
        (row.type, row.event_id, row.status, row.last_error) for row in rows if row.status in {"pending", "dead"}
    ]


async def differences(account: Account, told: Iterable[Event]) -> list[Any]:
    """What is otherwise here than at Stripe."""
    told = list(told)
    found: list[Any] = []
    people = {row.id: row for row in await account.all(models.Customer)}
    for name, kind in KINDS.items():
        rows = {row.stripe_id: row for row in await account.all(kind.model)}
        expected = {id for kind, id in about(told) if kind == name}
        found += [(name, id, "missing") for id in expected - rows.keys()]
        for id, row in rows.items():
            truth = (await kind.fetch(account.provider, id)).object
            found += [(name, id, *difference) for difference in compare(row, truth, people)]
    return found


def about(told: Iterable[Event]) -> set[tuple[str, str]]:
    """Kind and id of the objects that events tell of."""
    return {(HANDLED[event["type"]], event["data"]["object"]["id"]) for event in told if event["type"] in HANDLED}


def compare(row: Any, truth: Any, people: People) -> list[tuple[str, Any, Any]]:
    """(field, ours, Stripe's) wherever they differ; of what is deleted, or detached, only that it is."""
    if getattr(truth, "deleted", False) or (isinstance(truth, PaymentMethod) and truth.customer is None):
        return [] if row.deleted else [("deleted", False, True)]
    apart = {"id", "items", "lines", "metadata"}
    named = [field.name for field in dataclasses.fields(truth) if field.name not in apart]
    pairs = [(name, getattr(row, name), getattr(truth, name)) for name in named if hasattr(row, name)]
    if isinstance(truth, Customer):
        pairs.append(("user_id", row.user_id, user_of(truth, people)))
    elif hasattr(truth, "customer"):  # products have none, and a dispute is its charge's customer's
        owner = None if row.customer_id is None else people[row.customer_id].stripe_id
        pairs.append(("customer", owner, truth.customer))
    if hasattr(truth, "metadata"):
        pairs.append(("metadata", row.stripe_metadata, truth.metadata))
    if isinstance(truth, Subscription):
        items = [{"id": item.id, "price": item.price.id, "quantity": item.quantity} for item in truth.items]
        pairs.append(
            ("items", [{name: item[name] for name in ("id", "price", "quantity")} for item in row.items], items)
        )
    if isinstance(truth, Invoice):
        pairs.append(("lines", row.lines, [dataclasses.asdict(line) for line in truth.lines]))
    return [pair for pair in pairs if pair[1] != pair[2]]


def user_of(customer: Customer, people: People) -> str | None:
    """Whose customer it is: as its metadata says, unless that user has another living one."""
    user = customer.metadata.get(USER_METADATA)
    holders = [row.stripe_id for row in people.values() if row.user_id == user and not row.deleted]
    return user if holders in ([], [customer.id]) else None


async def audit_gaps(account: Account) -> list[Any]:
    """Where the chain is broken, or the log, read from its beginning, doesn't lead to what a row shows now."""
    async with account.sessions() as session:
        gap = await audit.first_broken(session)
    found: list[Any] = [("audit chain", gap)] if gap else []
    replayed: dict[str, dict[str, Any]] = {}
    for entry in await account.all(models.AuditRow):
        if entry.before is None and entry.subject in replayed:
            found.append((entry.subject, "created twice"))
        state = replayed.setdefault(entry.subject, {})
        found += [
            (entry.subject, "before", name, value, state.get(name))
            for name, value in (entry.before or {}).items()
            if state.get(name) != value
        ]
        state.update(entry.after or {})
    for kind in KINDS.values():
        for row in await account.all(kind.model):
            shown = {column.key: getattr(row, column.key) for column in kind.model.__table__.columns}
            state = replayed.get(row.stripe_id, {})
            found += [
                (row.stripe_id, "audited", name, state.get(name, "nothing"), value)
                for name, value in shown.items()
                if name not in BOOKKEEPING | PERSONAL and (name not in state or state[name] != value)
            ]
    return found


async def effects_not_once(account: Account, told: Iterable[Event]) -> list[Any]:
    """Messages that are missing, told twice, of another's customer, or not the last word on what they tell of.

    Nothing need be said of what no event told us of: it may have been there before we came.
    """
    told_of = (models.Subscription, models.Invoice, models.Refund, models.Dispute)
    rows = {row.stripe_id: row for model in told_of for row in await account.all(model)}
    said: dict[tuple[str, str], list[Any]] = {}
    found: list[Any] = []
    for message in await account.all(models.OutboxMessage):
        side, what = meaning(message)
        before = said.setdefault((message.subject, side), [])
        if what in (before if side == "payment.failed" else before[-1:]) or (before and side == "payment.received"):
            found.append((message.subject, message.type, "told again", message.data))
        before.append(what)
        if message.customer_id != (owner := rows[message.subject].customer_id):
            found.append((message.subject, message.type, "told of", message.customer_id, owner))
    heard_of = {id for _, id in about(told)}
    for id, row in rows.items():
        for side, now in last_words(row).items():
            words = said.get((id, side), [])
            # That it ends is said only when it comes to be so later.
            if words[-1:] != [now] * (now is not None) and (words or (id in heard_of and side != "ends")):
                found.append((id, side, words, now))
    return found


def meaning(message: models.OutboxMessage) -> tuple[str, Any]:
    """Which side of its subject a message tells of, and what it says of that."""
    match message.type:
        case "payment.received":
            return message.type, message.data["amount_paid"]
        case "payment.failed":
            return message.type, message.data["attempt_count"]
        case _:
            return MEANINGS.get(message.type, (message.type, message.data))


def last_words(row: models.Subscription | models.Invoice | models.Refund | models.Dispute) -> dict[str, Any]:
    """What must have been said last, by side; None for nothing at all."""
    if isinstance(row, models.Refund):
        return {"refund": row.status if row.status in {"succeeded", "failed"} else None}
    if isinstance(row, models.Dispute):
        return {"dispute": "closed" if row.status in {"won", "lost", "warning_closed"} else "opened"}
    if isinstance(row, models.Invoice):
        received = row.amount_paid if row.status == "paid" and row.amount_paid > 0 else None
        failed = {"payment.failed": row.attempt_count} if row.status == "open" and row.attempt_count else {}
        return {"payment.received": received, **failed}
    status = None if row.status == "incomplete" else "granting" if row.status in GRANTING else row.status
    ends = {"ends": row.cancel_at_period_end or row.cancel_at is not None} if row.status in LIVE else {}
    return {"status": status, **ends}
