"""What a payment provider tells of subscriptions' future: previews of changes, and schedules. See `objects`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemWish:
    """What an item is to be: `id` names one that is there, None makes a new one."""

    price: str
    quantity: int | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewLine:
    """One line of an invoice that is not made yet; `amount` is below zero for what is given back."""

    description: str | None
    amount: int
    quantity: int | None
    price: str | None
    proration: bool
    period_start: int | None
    period_end: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicePreview:
    """The invoice something would lead to; `lines` are at most Stripe's first ten, the amounts are of all of them."""

    currency: str
    subtotal: int
    total: int
    amount_due: int
    lines: Sequence[PreviewLine]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePhase:
    """What a subscription is to consist of between two moments; `items` are (price, quantity)."""

    start: int
    end: int
    items: Sequence[tuple[str, int | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionSchedule:
    """`subscription` is None before it starts and once it has let go."""

    id: str
    customer: str | None
    subscription: str | None
    status: str  # not_started, active, completed, released, canceled
    phases: Sequence[SchedulePhase]
    end_behavior: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    livemode: bool = False
    created: int = 0
