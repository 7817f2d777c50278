"""What must hold in the end, whatever happened: our rows are Stripe's, each change is audited, each effect is one."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from billing import Account

from app import models
from app.provider.protocol import PaymentMethod, Subscription
from app.services import audit
from app.services.event_effects import HANDLED, KINDS

Event = Mapping[str, Any]

BOOKKEEPING = {"id", "stripe_id", "synced_at", "revision", "customer_id", "trial_used"}
PERSONAL = {"email", "name", "stripe_metadata", "url", "hosted_invoice_url", "invoice_pdf", "request"}
ENDS = {"canceled": "subscription.canceled", "incomplete_expired": "subscription.expired"}


async def broken(account: Account, told: Iterable[Event]) -> list[Any]:
    """All that is otherwise than promised, once every event of `told` has arrived: (what, whose, ...)."""
    told = list(told)
    return [
        *await unsettled(account, told),
        *await differences(account, told),
        *await audit_gaps(account),
        *await effects_not_once(account),
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
    for name, kind in KINDS.items():
        rows = {row.stripe_id: row for row in await account.all(kind.model)}
        expected = {event["data"]["object"]["id"] for event in told if HANDLED.get(event["type"]) == name}
        found += [(name, id, "missing") for id in expected - rows.keys()]
        for id, row in rows.items():
            truth = (await kind.fetch(account.provider, id)).object
            found += [(name, id, *difference) for difference in compare(row, truth)]
    return found


def compare(row: Any, truth: Any) -> list[tuple[str, Any, Any]]:
    """(field, ours, Stripe's) wherever they differ; of what is deleted, or detached, only that it is."""
    if getattr(truth, "deleted", False) or (isinstance(truth, PaymentMethod) and truth.customer is None):
        return [] if row.deleted else [("deleted", False, True)]
    named = [field.name for field in dataclasses.fields(truth) if field.name not in {"id", "items", "metadata"}]
    pairs = [(name, getattr(row, name), getattr(truth, name)) for name in named if hasattr(row, name)]
    if hasattr(truth, "metadata"):
        pairs.append(("metadata", row.stripe_metadata, truth.metadata))
    if isinstance(truth, Subscription):
        items = [{"id": item.id, "price": item.price.id, "quantity": item.quantity} for item in truth.items]
        pairs.append(
            ("items", [{name: item[name] for name in ("id", "price", "quantity")} for item in row.items], items)
        )
    return [pair for pair in pairs if pair[1] != pair[2]]


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


async def effects_not_once(account: Account) -> list[Any]:
    """Messages that are missing, or more than the one thing they tell of."""
    messages = await account.all(models.OutboxMessage)
    count = Counter((message.subject, message.type) for message in messages)
    received = {message.subject: message.data for message in messages if message.type == "payment.received"}
    found: list[Any] = []
    for row in await account.all(models.Invoice):
        paid = row.status == "paid" and row.amount_paid > 0
        if (times := count[row.stripe_id, "payment.received"]) != int(paid):
            found.append((row.stripe_id, "payment.received", times, row.status))
        elif paid and received[row.stripe_id]["amount_paid"] != row.amount_paid:
            found.append((row.stripe_id, "payment.received", received[row.stripe_id], row.amount_paid))
        if (failures := count[row.stripe_id, "payment.failed"]) > row.attempt_count:
            found.append((row.stripe_id, "payment.failed", failures, row.attempt_count))
    for row in await account.all(models.Subscription):
        found += [
            (row.stripe_id, type, count[row.stripe_id, type], row.status)
            for status, type in ENDS.items()
            if count[row.stripe_id, type] != int(row.status == status)
        ]
    return found
