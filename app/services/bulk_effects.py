"""Events of many customers at once: rows read together, changes decided in memory, everything written together.

Only what needs no thought is done here: payloads that are newer than their rows, and those that bring no news. What
needs Stripe to be asked, or is about more than one customer, is left for `event_effects` to do one customer at a time.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.models import Price, Product
from app.models.mirror import Mirrored
from app.provider.objects import CheckoutSession, Customer, Event, MirroredObject, Subscription, customer_of
from app.provider.payment_objects import Dispute, PaymentIntent, Refund
from app.services import bulk_rows, customers, mirror
from app.services.credits import settling
from app.services.event_effects import KINDS, Kind, Ref, announces_more, ref_of, requirements
from app.services.mirror import AsOf, Change, Origin, Row

_WITH_PLANS = (Product, Price)
BREATH = 8  # keys decided between two looks at the event loop, so that requests are not kept waiting


async def decide(connection: Any, events: Mapping[str, Sequence[Event]]) -> dict[str, list[Change]]:
    """What `events` by key (oldest first) change, by key; keys that need a closer look are not in the answer.

    Reads on an asyncpg `connection`, in the transaction that holds the lock of every key and will `write`.
    """
    flat = [event for several in events.values() for event in several]
    wanted = [ref for event in flat for ref in (ref_of(event), *requirements(event)) if ref is not None]
    known = await read(connection, wanted, [event.object for event in flat])
    touched: dict[tuple[type[Mirrored], str], str] = {}
    changes: dict[str, list[Change]] = {}
    for count, (key, several) in enumerate(events.items(), 1):
        if count % BREATH == 0:
            await asyncio.sleep(0)
        decided = _decide(several, known)
        # Two keys with one object are so rare that the second may wait for its turn alone.
        if decided is not None and all(touched.get(_place(change), key) == key for change in decided):
            touched |= {_place(change): key for change in decided}
            changes[key] = decided
    return changes


def _place(change: Change) -> tuple[type[Mirrored], str]:
    return change.model, change.new["stripe_id"]


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored: rows, the plans of prices, and which of the users that customers claim have one already.

    `sold` are those payment intents among the refunded ones that paid for credits.
    """

    rows: Mapping[Ref, Row]
    plans: Mapping[str, str]
    taken: set[str]
    sold: set[str]


async def read(connection: Any, refs: Iterable[Ref], objects: Sequence[MirroredObject | None]) -> Known:
    """Everything that deciding about `objects` takes; `refs` are they, and what they depend on."""
    wanted: dict[str, set[str]] = {}
    for kind, stripe_id in refs:
        wanted.setdefault(kind, set()).add(stripe_id)
    rows = {
        (kind, stripe_id): row
        for kind, ids in wanted.items()
        for stripe_id, row in (await bulk_rows.find(connection, KINDS[kind].model, list(ids))).items()
    }
    prices = {item.price.id for shown in objects if isinstance(shown, Subscription) for item in shown.items}
    sql = """
        SELECT prices.stripe_id, coalesce(prices.plan, products.plan) AS plan
        FROM prices LEFT JOIN products ON products.stripe_id = prices.product
        WHERE prices.stripe_id = ANY($1) AND coalesce(prices.plan, products.plan) IS NOT NULL
    """
    plans = {row["stripe_id"]: row["plan"] for row in await connection.fetch(sql, list(prices))} if prices else {}
    people = [shown for shown in objects if isinstance(shown, Customer)]
    claims = {claim for person in people if (claim := customers.claim_of(rows.get(("customer", person.id)), person))}
    sql = "SELECT user_id FROM customers WHERE user_id = ANY($1) AND NOT deleted"
    taken = {row["user_id"] for row in await connection.fetch(sql, list(claims))} if claims else set()
    refunded = {shown.payment_intent for shown in objects if isinstance(shown, Refund) and shown.payment_intent}
    sql = "SELECT payment_intent FROM credit_purchases WHERE payment_intent = ANY($1)"
    sold = {row["payment_intent"] for row in await connection.fetch(sql, list(refunded))} if refunded else set()
    return Known(rows, plans, taken, sold)


def _decide(events: Sequence[Event], known: Known) -> list[Change] | None:
    """The changes one key's events make, in their order; None when they need more than our rows to judge."""
    written: dict[Ref, Row] = {}

    def find(ref: Ref) -> Row | None:
        return written.get(ref) or known.rows.get(ref)

    changes: list[Change] = []
    for event in events:
        ref = ref_of(event)
        if ref is None or event.object is None or announces_more(event) or not all(map(find, requirements(event))):
            return None
        row = find(ref)
        kind = KINDS[ref[0]]
        model = kind.model
        values = values_of(kind, event.object, row, known, find)
        if values is None:
            return None
        new = mirror.next_row(model, ref[1], row, values, as_of=AsOf(at=event.created))
        if new is not None:
            if model in _WITH_PLANS and (row is None or row["plan"] != new["plan"]):
                return None  # subscriptions follow it
            origin = Origin(actor="stripe", stripe_event_id=event.id)
            changes.append(Change(model=model, old=row, new=new, origin=origin))
            written[ref] = new
        elif not mirror.shows(row, values):
            return None
    return changes


def values_of(
    kind: Kind, shown: MirroredObject, row: Row | None, known: Known, find: Callable[[Ref], Row | None]
) -> dict[str, Any] | None:
    """What the row is to say; None when its customer, or a customer's user, or what it pays needs a closer look."""
    if isinstance(shown, Customer):
        if shown.deleted or (row is not None and (row["deleted"] or row["erased_at"] is not None)):
            return None  # another customer may have to take its place
        values = customers.columns(shown)
        if (claim := customers.claim_of(row, shown)) is not None:
            if row is not None or claim in known.taken:
                return None  # usage may have to follow; or the user has another customer
            known.taken.add(claim)
            values["user_id"] = claim
        return values
    named = customer_of(shown)
    if (named is None and isinstance(shown, Dispute | Refund)) or _is_about_credits(shown, known):
        return None  # its charge knows whose it is; or an account's books change with it
    owner = None if named is None else find(("customer", named))
    unowned = owner is None and (named is not None or mirror.must_belong(kind.model))
    if unowned or (owner is not None and owner["erased_at"] is not None):  # of whom little may be kept
        return None
    return kind.columns(shown, owner and owner["id"], known.plans)


def _is_about_credits(shown: MirroredObject, known: Known) -> bool:
    if isinstance(shown, PaymentIntent | CheckoutSession):
        return settling.METADATA in shown.metadata
    return isinstance(shown, Refund) and shown.payment_intent in known.sold


async def write(connection: Any, changes: Sequence[Change]) -> None:
    """Write all of it, and what it means to the audit log and the outbox.

    Raises bulk_rows.OvertakenError, or what Postgres says, and then the transaction must be rolled back.
    """
    for model, rows in bulk_rows.news_of(changes).items():
        await bulk_rows.write(connection, model, rows)
    on_trial = {c.new["customer_id"] for c in changes if c.new.get("trial_end") is not None}
    if on_trial:
        sql = "UPDATE customers SET trial_used = true WHERE id = ANY($1) AND NOT trial_used"
        await connection.execute(sql, list(on_trial))
    await bulk_rows.append_outbox(connection, [message for c in changes for message in mirror.announcements(c)])
    entries = [mirror.audit_entry(change) for change in changes]
    await bulk_rows.append_audit(connection, [entry for entry in entries if entry is not None])
