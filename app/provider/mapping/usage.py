"""Stripe's sums of usage and its error reports, as our values."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from app.provider.mapping.reading import (
    UnreadableError,
    integer,
    mapping_of,
    mapping_or_empty,
    maybe,
    text,
    time,
    within,
    word,
)
from app.provider.usage_objects import MeterErrorReport, MeterErrors, MeterSummary


def map_meter_summary(data: Mapping[str, Any]) -> MeterSummary:
    return MeterSummary(
        start_time=time(data.get("start_time")),
        end_time=time(data.get("end_time")),
        aggregated_value=_number(data.get("aggregated_value")),
    )


def map_meter_error_report(data: Mapping[str, Any]) -> MeterErrorReport:
    """Read the whole of a thin event, as Stripe gives it when asked for it."""
    related = mapping_or_empty(data.get("related_object"))
    found = within(data, "data", "reason", "error_types")
    if not isinstance(found, list):
        raise UnreadableError("not an error report")
    return MeterErrorReport(meter=maybe(word, related.get("id")), errors=[_errors(mapping_of(row)) for row in found])


def _errors(data: Mapping[str, Any]) -> MeterErrors:
    samples = [mapping_of(row) for row in data.get("sample_errors") or ()]
    return MeterErrors(
        code=word(data.get("code")),
        count=integer(data.get("error_count")),
        identifiers=[text(within(sample, "request", "identifier")) for sample in samples],
    )


def _number(value: Any) -> Decimal:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UnreadableError("not a number")
    return Decimal(str(value))  # JSON's own digits, not the nearest binary fraction's
