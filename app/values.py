"""Money, currencies and time: the values every layer shares."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

# Stripe's own table, which differs from ISO 4217 (docs.stripe.com/currencies): ISK and UGX, for instance, have
# no cents in ISO but are sent to Stripe with two decimals.
ZERO_DECIMAL = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
)
THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})


def currency_exponent(currency: str) -> int:
    """How many decimals of `currency` (ISO code in any case) one Stripe minor unit stands for: 0, 2 or 3."""
    code = currency.lower()
    if code in ZERO_DECIMAL:
        return 0
    return 3 if code in THREE_DECIMAL else 2


def charge_step(currency: str) -> int:
    """What amounts in minor units of `currency` must be a multiple of for Stripe to charge them: 1, 10 or 100.

    Card networks know no third decimal, and no hundredths of these two (docs.stripe.com/currencies, "three-decimal
    currencies" and "special cases").
    """
    code = currency.lower()
    if code in {"isk", "ugx"}:
        return 100
    return 10 if code in THREE_DECIMAL else 1


@dataclass(frozen=True, slots=True)
class Money:
    """`amount` in the currency's minor unit; `currency` in lower case, as Stripe writes it."""

    amount: int
    currency: str

    @property
    def decimal(self) -> Decimal:
        """The amount in major units, exactly: Money(9900, "usd").decimal == Decimal("99.00")."""
        return Decimal(self.amount).scaleb(-currency_exponent(self.currency))


def utcnow() -> datetime:
    return datetime.now(UTC)


def unix_now() -> int:
    """Whole seconds since 1970, as Stripe counts time."""
    return int(time.time())
