"""Whether an object is otherwise here than at Stripe, why, and mending it by the `sync` that webhooks use."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import NotFoundError
from app.provider.objects import Customer, MirroredObject, Snapshot, Subscription, customer_of
from app.provider.payment_objects import PaymentIntent
from app.provider.protocol import BillingProvider
from app.services import catalog, customers, mirror
from app.services.event_effects import KINDS, Ref
from app.services.event_types import kind_of
from app.services.mirror import AsOf, Change, Origin, Row

# Stripe signs these addresses anew each time it is asked: only whether there is one can differ.
_SIGNED = frozenset({"hosted_invoice_url", "invoice_pdf", "pdf", "receipt_url"})
_GONE = {"deleted": True}
_WITHOUT_STUB = frozenset({"product", "price"})
_WITNESSES = 3  # customers that are asked for to tell a deletion from a wrong key


class LookAgainError(Exception):
    """Somebody wrote the row while Stripe was asked: which of the two states is newer can't be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One object that is otherwise here than at Stripe; see `models.Difference`."""

    object: str
    stripe_id: str
    customer: str | None
    cause: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    repaired: bool = False

    @property
    def drift(self) -> bool:
        """Whether it needs anybody's attention: what waits in the inbox is only late."""
        return is_drift(self.cause)


def is_drift(cause: str) -> bool:
    return cause != "event_pending"


@dataclass(frozen=True, slots=True)
class Known:
    """Our rows of some objects (by Stripe's id), and what turns these objects into rows."""

    rows: Mapping[str, Row]
    owners: Mapping[str, UUID]
    plans: Mapping[str, str]
    erased: Collection[str]
    """Those of the owners of whom nothing personal may be here."""


async def known(session: AsyncSession, name: str, objects: Sequence[MirroredObject]) -> Known:
    """What is needed to compare `objects`, all of the kind `name`."""
    table = mirror.table_of(KINDS[name].model)
    found = await session.execute(table.select().where(table.c.stripe_id.in_([shown.id for shown in objects])))
    people = {owner for shown in objects if not isinstance(shown, Customer) and (owner := customer_of(shown))}
    owners = select(models.Customer.stripe_id, models.Customer.id, models.Customer.erased_at)
    found_owners = (await session.execute(owners.where(models.Customer.stripe_id.in_(people)))).all() if people else []
    prices = {item.price.id for shown in objects if isinstance(shown, Subscription) for item in shown.items}
    return Known(
        {row["stripe_id"]: dict(row) for row in found.mappings()},
        {row.stripe_id: row.id for row in found_owners},
        await catalog.plans_of_prices(session, prices) if prices else {},
        {row.stripe_id for row in found_owners if row.erased_at is not None},
    )


def differs(name: str, shown: MirroredObject, known: Known) -> Row | None:
    """What our row should say and doesn't: all of it where there is none; None when it says everything."""
    row = known.rows.get(shown.id)
    values: Row
    owner = customer_of(shown)
    if owner is None and mirror.must_belong(KINDS[name].model):
        return None  # an account's own, which we don't follow
    if isinstance(shown, Customer) and shown.deleted:
        values = _GONE
    elif isinstance(shown, Customer) or owner is None:
        values = KINDS[name].columns(shown, None, known.plans)
    elif owner in known.owners:
        values = KINDS[name].columns(shown, known.owners[owner], known.plans)
    else:
        return {"created": shown.created}  # without its customer, it can't be here either
    if row is None:
        return None if values.get("deleted") or _is_untold(shown) else values
    if row.get("erased_at") is not None or owner in known.erased:
        values = mirror.impersonal(values)
    return {field: value for field, value in values.items() if not _same(field, row[field], value)} or None


def _is_untold(shown: MirroredObject) -> bool:
    """Whether no event we follow has told of it yet: a payment that nobody has tried to collect."""
    return (
        isinstance(shown, PaymentIntent)
        and shown.latest_charge is None
        and shown.status in {"requires_payment_method", "requires_confirmation"}
    )


def _same(field: str, ours: Any, theirs: Any) -> bool:
    return (ours is None) == (theirs is None) if field in _SIGNED else bool(ours == theirs)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What Stripe shows (None: it knows no such object), and our row from before it was asked."""

    snapshot: Snapshot[Any] | None
    row: Row | None
    gone: bool = False
    """Whether Stripe has deleted it without leaving a stub, rather than never had it."""

    @property
    def revision(self) -> int:
        return mirror.NO_ROW if self.row is None else int(self.row["revision"])

    def is_history(self, until: int) -> bool:
        """Whether it is new to us only because it was made before second `until`: then it is announced to nobody."""
        return self.row is None and self.snapshot is not None and self.snapshot.object.created < until


async def fetch(session: AsyncSession, provider: BillingProvider, ref: Ref) -> Fetched:
    """Ask Stripe for one object. Raises UnreadableAnswerError."""
    kind = KINDS[ref[0]]
    row = await mirror.find_row(session, kind.model, ref[1])
    await release(session)
    try:
        return Fetched(await kind.fetch(provider, ref[1]), row)
    except NotFoundError:
        gone = ref[0] in _WITHOUT_STUB and row is not None and await _is_our_account(session, provider)
        return Fetched(None, row, gone)


async def _is_our_account(session: AsyncSession, provider: BillingProvider) -> bool:
    """Whether Stripe knows the customers that we have known longest, of whom it keeps a stub even when deleted.

    The newest might be another account's, taken in by this very comparison. A product's id tells nothing: `plans apply`
    gives the same ones to every account.
    """
    oldest = select(models.Customer.stripe_id).order_by(models.Customer.synced_at, models.Customer.stripe_id)
    witnesses = (await session.scalars(oldest.limit(_WITNESSES))).all()
    await release(session)
    try:
        for id in witnesses:
            await provider.retrieve_customer(id)
    except NotFoundError:
        return False
    return bool(witnesses)


async def apply(session: AsyncSession, ref: Ref, fetched: Fetched, *, origin: Origin, claim_user: bool = True) -> None:
    """Bring our row in line with what was fetched. Raises LookAgainError, and what the kind's `sync` raises."""
    kind = KINDS[ref[0]]
    if fetched.snapshot is None:
        done = await mirror.bury(session, kind.model, ref[1], revision=fetched.revision, origin=origin)
    else:
        as_of = AsOf(at=fetched.snapshot.at, revision=fetched.revision)
        unclaimed = {} if claim_user or ref[0] != "customer" else {"claim_user": False}
        done = await kind.sync(session, fetched.snapshot.object, as_of=as_of, origin=origin, **unclaimed)
    if not done:
        raise LookAgainError


async def follow_customer(
    session: AsyncSession, provider: BillingProvider, stripe_id: str, *, actor: str, claim_user: bool = True
) -> None:
    """Have our row of a customer say what Stripe says now, for the sake of another row. Raises as `apply` does."""
    ref = ("customer", stripe_id)
    fetched = await fetch(session, provider, ref)
    if not is_unknown(ref, fetched):
        await customers.lock(session, stripe_id)
        await apply(session, ref, fetched, origin=Origin(actor=actor), claim_user=claim_user)


async def examine(
    session: AsyncSession,
    provider: BillingProvider,
    ref: Ref,
    *,
    missed_in: UUID,
    repair_as: str | None,
    history_until: int,
    claim_user: bool = True,
) -> Finding | None:
    """Look at one object again, at Stripe and here; say why if it really differs, and mend it if `repair_as` says who.

    `missed_in` is the run whose differences name the events that never arrived. What was made before second
    `history_until` and is new to us is no news, and announced to nobody. Raises LookAgainError, and as `apply` does.
    """
    name, stripe_id = ref
    fetched = await fetch(session, provider, ref)
    owner = await owner_of(session, ref, fetched)
    if repair_as is not None and owner is not None:
        await customers.lock(session, owner)
    if await mirror.revision_of(session, KINDS[name].model, stripe_id) != fetched.revision:
        raise LookAgainError
    missing = await differing(session, name, fetched)
    if missing is None:
        return None
    cause = await _cause(session, ref, owner, fetched, missing, missed_in=missed_in)
    finding = Finding(
        object=name,
        stripe_id=stripe_id,
        customer=owner,
        cause=cause,
        fields=_fields(name, fetched.row, missing),
        repaired=repair_as is not None and cause not in {"event_pending", "unknown"},
    )
    if repair_as is not None and finding.repaired:
        origin = Origin(actor=repair_as, silent=fetched.is_history(history_until))
        await apply(session, ref, fetched, origin=origin, claim_user=claim_user)
    return finding


async def differing(session: AsyncSession, name: str, fetched: Fetched) -> Row | None:
    """What our row should say and doesn't."""
    if fetched.snapshot is None:
        return _GONE if fetched.row is not None and not fetched.row["deleted"] else None
    shown = fetched.snapshot.object
    return differs(name, shown, await known(session, name, [shown]))


async def owner_of(session: AsyncSession, ref: Ref, fetched: Fetched) -> str | None:
    """The Stripe customer an object belongs to, or belonged to as far as we know."""
    if ref[0] == "customer":
        return ref[1]
    if fetched.snapshot is not None and (owner := customer_of(fetched.snapshot.object)) is not None:
        return owner
    if fetched.row is None or "customer_id" not in fetched.row:
        return None
    return await session.scalar(
        select(models.Customer.stripe_id).where(models.Customer.id == fetched.row["customer_id"])
    )


async def _cause(
    session: AsyncSession, ref: Ref, owner: str | None, fetched: Fetched, missing: Row, *, missed_in: UUID
) -> str:
    """Why, as far as can be told."""
    name, stripe_id = ref
    if is_unknown(ref, fetched):
        return "unknown"
    if await was_missed(session, stripe_id, missed_in):
        return "event_missing"
    waiting = select(models.StripeEvent.status, models.StripeEvent.type).where(
        models.StripeEvent.key.in_([key for key in (owner, stripe_id) if key is not None]),
        models.StripeEvent.status.in_(("pending", "dead")),
    )
    found = {row.status for row in await session.execute(waiting.distinct()) if kind_of(row.type) == name}
    for status in ("pending", "dead"):
        if status in found:
            return f"event_{status}"
    if fetched.row is None:
        return "missing"
    return "deleted" if missing.get("deleted") else "stale"


def is_unknown(ref: Ref, fetched: Fetched) -> bool:
    """Whether this account never had the object, and so a wrong key would be the reason rather than a deletion.

    Of all but drafts of invoices, products and prices Stripe keeps at least a stub. Burying what it doesn't know could
    bury everything.
    """
    draft = ref[0] == "invoice" and fetched.row is not None and fetched.row["status"] == "draft"
    return fetched.snapshot is None and not (draft or fetched.gone)


async def was_missed(session: AsyncSession, stripe_id: str, run_id: UUID) -> bool:
    """Whether an event that tells of this object is one that the run found to have never arrived."""
    # Spelled as the index is: Postgres does not look for one by an expression with parameters in it.
    about = text("object = 'event' AND ((fields -> 'object'::text) ->> 1) = :about").bindparams(about=stripe_id)
    told = select(models.Difference.id).where(models.Difference.run_id == run_id, about).limit(1)
    return await session.scalar(told) is not None


def _fields(name: str, row: Row | None, missing: Row) -> dict[str, Any]:
    """{field: [ours, Stripe's]}; what the audit log doesn't keep (personal values) is only named."""
    if row is None:
        return {}
    change = Change(model=KINDS[name].model, old=row, new={**row, **missing}, origin=Origin(actor="reconcile"))
    entry = mirror.audit_entry(change)
    shown = (
        {}
        if entry is None or entry.before is None or entry.after is None
        else {field: [entry.before[field], entry.after[field]] for field in entry.after}
    )
    return {field: shown.get(field, [None, None]) for field in missing}
