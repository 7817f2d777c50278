"""Payments as a provider tells of them: frozen values, in the spelling of `objects`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class NextAction:
    """What the customer has to do before a payment goes on.

    `url` is where they do it; None where the provider's own script in the browser knows (`use_stripe_sdk`).
    """

    type: str
    url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentIntent:
    """`failure_code` and `decline_code` are those of the last try. `client_secret` opens it to a browser.

    `order_reference` is the id of the invoice or Checkout session it was made for, or what its maker chose.
    """

    id: str
    customer: str | None
    amount: int
    amount_capturable: int
    amount_received: int
    currency: str
    status: str
    capture_method: str
    payment_method: str | None = None
    setup_future_usage: str | None = None
    latest_charge: str | None = None
    description: str | None = None
    canceled_at: int | None = None
    cancellation_reason: str | None = None
    failure_code: str | None = None
    decline_code: str | None = None
    order_reference: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    next_action: NextAction | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    id: str
    customer: str | None
    amount: int
    amount_captured: int
    amount_refunded: int
    currency: str
    status: str  # succeeded, pending, failed
    captured: bool
    disputed: bool
    refunded: bool  # all of it
    payment_intent: str | None = None
    payment_method: str | None = None
    description: str | None = None
    receipt_url: str | None = None
    failure_code: str | None = None
    decline_code: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """`customer` is None also where the provider doesn't say whose it is: then its charge does."""

    id: str
    charge: str | None
    amount: int
    currency: str
    status: str | None  # pending, requires_action, succeeded, failed, canceled
    customer: str | None = None
    payment_intent: str | None = None
    reason: str | None = None
    failure_reason: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """Whose it is, its charge says. `evidence_due_by` is None where there is nothing to answer."""

    id: str
    charge: str
    amount: int
    currency: str
    status: str
    reason: str
    payment_intent: str | None = None
    evidence_due_by: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    livemode: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    amount: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The account's own money, an amount per currency. An amount may be negative."""

    available: Sequence[Amount]
    pending: Sequence[Amount]


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceTransaction:
    """One movement of the account's money: `net` is `amount` less `fee`. `source` is what caused it."""

    id: str
    amount: int
    fee: int
    net: int
    currency: str
    type: str
    reporting_category: str
    status: str  # available, pending
    available_on: int
    source: str | None = None
    description: str | None = None
    created: int = 0
