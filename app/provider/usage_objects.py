"""What Stripe says of usage: sums of it, and what of it was no good."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterSummary:
    """What was counted from `start_time` (inclusive) to `end_time` (exclusive), unix seconds."""

    start_time: int
    end_time: int
    aggregated_value: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterErrors:
    """Events that one reason kept from being counted: how many, and some of their identifiers."""

    code: str
    count: int
    identifiers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterErrorReport:
    """`meter` is Stripe's id of it; None where the events named no meter there is."""

    meter: str | None
    errors: Sequence[MeterErrors]
