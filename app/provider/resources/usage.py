"""Usage at Stripe: events of meters, taken back within a day, summed up, and reported where they were no good."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.errors import BillingError, ConflictError, InvalidRequestError, NotFoundError
from app.provider.mapping.usage import map_meter_error_report, map_meter_summary
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource, object_path, readable
from app.provider.stripe_client import Blame
from app.provider.usage_objects import MeterErrorReport, MeterSummary

if TYPE_CHECKING:
    from stripe.params.billing import (
        MeterEventAdjustmentCreateParams,
        MeterEventCreateParams,
        MeterEventSummaryListParams,
    )

# Whatever Stripe has against an event it will have against it for ever, unless it is the meter that is missing.
_REASONS = {"event_name": "no_meter", "timestamp": "timestamp_refused"}
_EVENT_BLAME = Blame(
    params={param: param for param in (*_REASONS, "identifier", "payload", "cancel[identifier]")},
    conflict="Stripe refuses this usage.",
)


class StripeUsage(StripeResource):
    async def create_meter_event(
        self,
        *,
        event_name: str,
        customer: str,
        value: int,
        identifier: str,
        timestamp: int,
        idempotency_key: str,
    ) -> None:
        params: MeterEventCreateParams = {
            "event_name": event_name,
            "payload": {"stripe_customer_id": customer, "value": str(value)},
            "identifier": identifier,
            "timestamp": timestamp,
        }
        await self._report("/v1/billing/meter_events", params, idempotency_key)

    async def cancel_meter_event(self, *, event_name: str, identifier: str, idempotency_key: str) -> None:
        params: MeterEventAdjustmentCreateParams = {
            "event_name": event_name,
            "type": "cancel",
            "cancel": {"identifier": identifier},
        }
        await self._report("/v1/billing/meter_event_adjustments", params, idempotency_key)

    async def list_meter_summaries(
        self, meter: str, *, customer: str, start_time: int, end_time: int
    ) -> Sequence[MeterSummary]:
        params: MeterEventSummaryListParams = {
            "customer": customer,
            "start_time": start_time,
            "end_time": end_time,
            "limit": PAGE_SIZE,
        }
        path = object_path("/v1/billing/meters", meter) + "/event_summaries"
        return await self._list(Kind(path, map_meter_summary), params)

    async def retrieve_meter_error_report(self, event: str) -> MeterErrorReport:
        answer = await self._client.send("get", object_path("/v2/core/events", event))
        return readable(map_meter_error_report, answer.data, request_id=answer.request_id)

    async def _report(self, path: str, params: Mapping[str, object], idempotency_key: str) -> None:
        try:
            await self._client.send("post", path, params, idempotency_key=idempotency_key, blame=_EVENT_BLAME)
        except BillingError as error:
            raise _verdict(error) from error


def _verdict(error: BillingError) -> BillingError:
    """A refusal of the event itself as InvalidRequestError, that of an identifier Stripe knows as ConflictError."""
    # v1 has been seen to say so in words alone, without a code.
    known = "event already exists with identifier" in str(error.__cause__).lower()
    if known or error.provider_code == "duplicate_meter_event":
        return ConflictError("Stripe has this event already.", code="duplicate_meter_event")
    refused = isinstance(error, InvalidRequestError | NotFoundError) or error.code == ConflictError.code
    if not refused:
        return error
    code = _REASONS.get(error.param or "") or error.provider_code or "refused_by_stripe"
    return InvalidRequestError("Stripe refuses this usage.", code=code)
