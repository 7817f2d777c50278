"""The least that applying a batch of events can be: one statement, with plain tables of its own for what it writes."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

Event = dict[str, Any]

PREPARE = """
    CREATE TABLE bench_subscriptions (
        stripe_id text PRIMARY KEY, customer_id uuid NOT NULL, status text NOT NULL, price text, quantity bigint,
        current_period_start bigint, current_period_end bigint, cancel_at_period_end bool NOT NULL, cancel_at bigint,
        canceled_at bigint, latest_invoice text, synced_at bigint NOT NULL
    );
    INSERT INTO bench_subscriptions
    SELECT stripe_id, customer_id, status, price, quantity, current_period_start, current_period_end,
           cancel_at_period_end, cancel_at, canceled_at, latest_invoice, synced_at
      FROM subscriptions;
    CREATE TABLE bench_invoices (
        stripe_id text PRIMARY KEY, customer_id uuid NOT NULL, subscription text, status text, number text,
        currency text NOT NULL, total bigint NOT NULL, amount_due bigint NOT NULL, amount_paid bigint NOT NULL,
        amount_remaining bigint NOT NULL, paid_at bigint, synced_at bigint NOT NULL
    );
    CREATE TABLE bench_audit (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(),
        stripe_event_id text NOT NULL, action text NOT NULL, subject text NOT NULL, after jsonb NOT NULL
    );
    CREATE TABLE bench_outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL UNIQUE, type text NOT NULL,
        subject text NOT NULL, stripe_event_id text NOT NULL, data jsonb NOT NULL
    );
    ANALYZE bench_subscriptions;
"""

# An event that is here already gives nothing, so what is appended comes once.
APPLY = """
    WITH stored AS (
        INSERT INTO stripe_events (account, event_id, type, key, created, livemode, api_version, payload,
                                   status, attempts, processed_at)
        SELECT *, 'processed', 1, now()
          FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bool[], $7::text[], $8::text[])
        ON CONFLICT (account, event_id) DO NOTHING
        RETURNING event_id
    ), subscriptions AS (
        INSERT INTO bench_subscriptions
        SELECT new.stripe_id, customers.id, status, price, quantity, current_period_start, current_period_end,
               cancel_at_period_end, cancel_at, canceled_at, latest_invoice, new.synced_at
          FROM unnest($9::text[], $10::text[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::bigint[],
                      $16::bool[], $17::bigint[], $18::bigint[], $19::text[], $20::bigint[])
               AS new (stripe_id, customer, status, price, quantity, current_period_start, current_period_end,
                       cancel_at_period_end, cancel_at, canceled_at, latest_invoice, synced_at)
          JOIN customers ON customers.stripe_id = new.customer
        ON CONFLICT (stripe_id) DO UPDATE SET
            status = excluded.status, price = excluded.price, quantity = excluded.quantity,
            current_period_start = excluded.current_period_start, current_period_end = excluded.current_period_end,
            cancel_at_period_end = excluded.cancel_at_period_end, cancel_at = excluded.cancel_at,
            canceled_at = excluded.canceled_at, latest_invoice = excluded.latest_invoice,
            synced_at = excluded.synced_at
        WHERE excluded.synced_at > bench_subscriptions.synced_at
    ), invoices AS (
        INSERT INTO bench_invoices
        SELECT new.stripe_id, customers.id, subscription, status, number, currency, total, amount_due, amount_paid,
               amount_remaining, paid_at, new.synced_at
          FROM unnest($21::text[], $22::text[], $23::text[], $24::text[], $25::text[], $26::text[], $27::bigint[],
                      $28::bigint[], $29::bigint[], $30::bigint[], $31::bigint[], $32::bigint[])
               AS new (stripe_id, customer, subscription, status, number, currency, total, amount_due, amount_paid,
                       amount_remaining, paid_at, synced_at)
          JOIN customers ON customers.stripe_id = new.customer
        ON CONFLICT (stripe_id) DO UPDATE SET
            status = excluded.status, total = excluded.total, amount_due = excluded.amount_due,
            amount_paid = excluded.amount_paid, amount_remaining = excluded.amount_remaining,
            paid_at = excluded.paid_at, synced_at = excluded.synced_at
        WHERE excluded.synced_at > bench_invoices.synced_at
    ), news AS (
        SELECT * FROM unnest($33::text[], $34::text[], $35::text[], $36::text[])
                   AS news (event_id, action, subject, shown) JOIN stored USING (event_id)
    ), audited AS (
        INSERT INTO bench_audit (stripe_event_id, action, subject, after)
        SELECT event_id, action, subject, shown::jsonb FROM news
    )
    INSERT INTO bench_outbox (key, type, subject, stripe_event_id, data)
    SELECT action || ':' || event_id, action, subject, event_id, shown::jsonb FROM news
"""


def columns_to_apply(events: Sequence[Event]) -> list[list[Any]]:
    """The parameters of APPLY from $9 on: subscriptions, invoices, and what audit and outbox say of each event."""
    subscriptions: dict[str, tuple[Any, ...]] = {}
    invoices: dict[str, tuple[Any, ...]] = {}
    news = []
    # The newest of each object comes last, and so it stays: an upsert can't meet one row twice.
    for event in sorted(events, key=lambda event: int(event["created"])):
        shown = event["data"]["object"]
        if shown["object"] == "subscription":
            item = shown["items"]["data"][0]
            after = {
                "status": shown["status"],
                "price": item["price"]["id"],
                "quantity": item["quantity"],
                "current_period_start": item["current_period_start"],
                "current_period_end": item["current_period_end"],
                "cancel_at_period_end": shown["cancel_at_period_end"],
                "cancel_at": shown["cancel_at"],
                "canceled_at": shown["canceled_at"],
                "latest_invoice": shown["latest_invoice"],
            }
            subscriptions[shown["id"]] = (shown["id"], shown["customer"], *after.values(), event["created"])
        else:
            after = {
                "subscription": shown["parent"]["subscription_details"]["subscription"],
                "status": shown["status"],
                "number": shown["number"],
                "currency": shown["currency"],
                "total": shown["total"],
                "amount_due": shown["amount_due"],
                "amount_paid": shown["amount_paid"],
                "amount_remaining": shown["amount_remaining"],
                "paid_at": shown["status_transitions"]["paid_at"],
            }
            invoices[shown["id"]] = (shown["id"], shown["customer"], *after.values(), event["created"])
        news.append((event["id"], f"{shown['object']}.updated", shown["id"], json.dumps(after)))
    return [*_turned(subscriptions.values(), 12), *_turned(invoices.values(), 12), *_turned(news, 4)]


def _turned(rows: Iterable[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Columns of `rows`; `width` empty ones of none."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
