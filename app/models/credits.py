"""Prepaid credits: accounts, what was granted to them, what was charged, and every transfer of uses there ever was.

All quantities are uses, never money. Times are unix seconds.
"""

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, LargeBinary, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base

ACCOUNT_STATUSES = ("active", "suspended", "closed")
CHARGE_STATUSES = ("held", "captured", "released", "expired")
PURCHASE_STATUSES = ("pending", "processing", "succeeded", "failed", "canceled", "mismatched")
PURCHASE_MODES = ("payment_intent", "checkout", "auto_topup")
OWN = ("free", "paid", "held", "owed")
"""The books kept for each account. What is `owed` was taken back after it had been spent."""
HOUSE = ("issued", "consumed", "expired", "revoked")
"""The books on the other side."""


def _among(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(map(repr, words))})"


class CreditAccount(Base):
    """One per user. The balances are projections of `credit_transfers`, and can't be negative.

    The grant that is being spent is in hand: what is left of it stands here and not in its own row, so that a charge
    changes one row.
    """

    __tablename__ = "credit_accounts"
    __table_args__ = (
        CheckConstraint(_among("status", ACCOUNT_STATUSES), name="status"),
        CheckConstraint("free >= 0 AND paid >= 0 AND held >= 0 AND owed >= 0 AND used >= 0", name="balances"),
        CheckConstraint("owed = 0 OR free + paid = 0", name="owed"),
        CheckConstraint("hand >= 0 AND hand <= CASE hand_book WHEN 'free' THEN free ELSE paid END", name="hand"),
        CheckConstraint(
            "(hand_grant IS NULL) = (hand_book IS NULL) AND (hand = 0 OR hand_grant IS NOT NULL)", name="in_hand"
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(unique=True)
    """The host product's id of the user."""
    oauth_provider: Mapped[str | None]
    external_id: Mapped[str | None]
    email: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="active")
    free: Mapped[int] = mapped_column(server_default=text("0"))
    paid: Mapped[int] = mapped_column(server_default=text("0"))
    held: Mapped[int] = mapped_column(server_default=text("0"))
    owed: Mapped[int] = mapped_column(server_default=text("0"))
    used: Mapped[int] = mapped_column(server_default=text("0"))
    """How many were consumed ever."""
    hand_grant: Mapped[UUID | None]
    hand_book: Mapped[str | None]
    """`free` or `paid`: which of the two the grant in hand belongs to."""
    hand: Mapped[int] = mapped_column(server_default=text("0"))
    expires_next: Mapped[int | None]
    """When the first of the open grants expires."""
    notice_at: Mapped[int] = mapped_column(server_default=text("-1"))
    """A charge that leaves no more than this has more to do than to charge; -1: none has."""
    created: Mapped[int]


class CreditGrant(Base):
    """Uses that were given or bought together: they expire together, and are taken back together."""

    __tablename__ = "credit_grants"
    __table_args__ = (
        CheckConstraint("book IN ('free', 'paid')", name="book"),
        CheckConstraint("amount > 0 AND remaining >= 0 AND remaining <= amount", name="remaining"),
        Index("ix_credit_grants_open", "account_id", postgresql_where=text("open")),
        Index("ix_credit_grants_account_id", "account_id", "created"),
        Index("ix_credit_grants_expiring", "expires_at", postgresql_where=text("open AND expires_at IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("credit_accounts.id"))
    book: Mapped[str]
    amount: Mapped[int]
    remaining: Mapped[int]
    """Without what of it is in hand."""
    open: Mapped[bool]
    """Whether anything is left of it, in hand or not."""
    expires_at: Mapped[int | None]
    purchase_id: Mapped[UUID | None] = mapped_column(ForeignKey("credit_purchases.id"), unique=True)
    """The purchase that paid for it; None for what was given."""
    reason: Mapped[str | None]
    created: Mapped[int]


class CreditCharge(Base):
    """Uses spent, or held to be spent. Its key is good for this charge alone, for ever."""

    __tablename__ = "credit_charges"
    __table_args__ = (
        CheckConstraint(_among("status", CHARGE_STATUSES), name="status"),
        CheckConstraint("quantity > 0 AND captured >= 0 AND captured <= quantity", name="quantity"),
        Index("ix_credit_charges_held", "expires_at", postgresql_where=text("status = 'held'")),
        {"comment": "account_id has no foreign key: rows come from the statement that changes the account itself"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID]
    key: Mapped[str] = mapped_column(unique=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    """Of what was asked for: the same key with anything else is refused."""
    status: Mapped[str]
    quantity: Mapped[int]
    captured: Mapped[int]
    """How many of them were spent."""
    amount_minor: Mapped[int | None]
    """What the use was worth, in minor units of `currency`. It decides nothing."""
    currency: Mapped[str | None]
    description: Mapped[str | None]
    details: Mapped[dict[str, str] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    balance_after: Mapped[int]
    """What could still be spent then."""
    expires_at: Mapped[int | None]
    """When the hold ends."""
    resolved_at: Mapped[int | None]
    """When it was captured, released, or had expired."""
    created: Mapped[int]


class CreditTransfer(Base):
    """Uses moved from one book to another. Append-only: a trigger refuses anything else."""

    __tablename__ = "credit_transfers"
    __table_args__ = (
        CheckConstraint("amount > 0 AND source <> destination", name="amount"),
        CheckConstraint(
            f"{_among('source', OWN + HOUSE)} AND {_among('destination', OWN + HOUSE)}"
            f" AND ({_among('source', OWN)} OR {_among('destination', OWN)})",
            name="books",
        ),
        Index("ix_credit_transfers_account_id", "account_id", "id"),
        Index("ix_credit_transfers_charge_id", "charge_id", postgresql_where=text("kind = 'hold'")),
        Index("ix_credit_transfers_purchase_id", "purchase_id", postgresql_where=text("purchase_id IS NOT NULL")),
        Index("uq_credit_transfers_key", "key", unique=True, postgresql_where=text("key IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    account_id: Mapped[UUID]
    kind: Mapped[str]
    """grant, charge, hold, capture, release, expire, claw_back, settle, restore or adjust."""
    source: Mapped[str]
    destination: Mapped[str]
    amount: Mapped[int]
    grant_id: Mapped[UUID | None]
    charge_id: Mapped[UUID | None]
    purchase_id: Mapped[UUID | None]
    key: Mapped[str | None]
    """What this can happen for but once, e.g. grant:{purchase}."""
    reason: Mapped[str | None]
    balance_after: Mapped[int]
    """What could be spent after this one."""
    created: Mapped[int]


class CreditPurchase(Base):
    """A pack being bought, or bought. It fixes price and uses, whatever plans.yaml says later."""

    __tablename__ = "credit_purchases"
    __table_args__ = (
        CheckConstraint(_among("status", PURCHASE_STATUSES), name="status"),
        CheckConstraint(_among("mode", PURCHASE_MODES), name="mode"),
        CheckConstraint("uses > 0 AND amount > 0 AND clawed >= 0 AND clawed <= uses", name="uses"),
        Index("ix_credit_purchases_account_id", "account_id", "created", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("credit_accounts.id"))
    mode: Mapped[str]
    status: Mapped[str]
    pack: Mapped[str]
    """Its key in the catalogue of then."""
    uses: Mapped[int]
    amount: Mapped[int]
    """Minor units of `currency`."""
    currency: Mapped[str]
    expires_days: Mapped[int | None]
    payment_intent: Mapped[str | None] = mapped_column(unique=True)
    checkout_session: Mapped[str | None] = mapped_column(unique=True)
    failure_code: Mapped[str | None]
    """Why the latest try to pay failed, in Stripe's words."""
    amount_refunded: Mapped[int] = mapped_column(server_default=text("0"))
    amount_disputed: Mapped[int] = mapped_column(server_default=text("0"))
    clawed: Mapped[int] = mapped_column(server_default=text("0"))
    """How many uses are taken back as things stand."""
    created: Mapped[int]
    granted_at: Mapped[int | None]


class CreditTopup(Base):
    """A pack bought by itself whenever little is left; see services/topups/tries.py for what pays."""

    __tablename__ = "credit_topups"
    __table_args__ = (
        CheckConstraint("threshold >= 0 AND failures >= 0", name="threshold"),
        Index("ix_credit_topups_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_credit_topups_declined", "account_id", postgresql_where=text("failures > 0")),
    )

    account_id: Mapped[UUID] = mapped_column(ForeignKey("credit_accounts.id"), primary_key=True)
    pack: Mapped[str]
    threshold: Mapped[int | None]
    """A charge that leaves no more than this makes it due. None once it was removed: only a try still has to end."""
    due_at: Mapped[int | None]
    """When the next try may be; None when nothing is due."""
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    """Declines in a row; see services/topups/tries.py for when they open the breaker."""
    payment_method: Mapped[str | None]
    """What the latest try was paid with, or declined: another one closes the breaker."""
    failure_code: Mapped[str | None]
    purchase_id: Mapped[UUID | None] = mapped_column(ForeignKey("credit_purchases.id"))
    """The try that is under way, whose end is not known yet."""
