"""What Stripe's refusals of usage mean: had already, never to be taken, or not now."""

from typing import Any

import pytest
from provider.scripted_stripe import Reply, ScriptedStripe

from app.errors import BillingError, ConflictError, InvalidRequestError, ProviderError, UnreadableAnswerError

EVENT: dict[str, Any] = {
    "event_name": "billhook_api_calls",
    "customer": "cus_Qabc",
    "value": 1,
    "identifier": "use-1",
    "timestamp": 1767225600,
    "idempotency_key": "k-1",
}


def refusal(status: int = 400, **error: Any) -> Reply:
    return Reply(status=status, body={"error": {"type": "invalid_request_error", "message": "No.", **error}})


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (refusal(message="An event already exists with identifier use-1."), ConflictError, "duplicate_meter_event"),
        (refusal(code="duplicate_meter_event"), ConflictError, "duplicate_meter_event"),
        (
            refusal(param="event_name", message='No active meter found for event name "x".'),
            InvalidRequestError,
            "no_meter",
        ),
        (refusal(param="timestamp"), InvalidRequestError, "timestamp_refused"),
        (refusal(code="resource_missing", param="payload"), InvalidRequestError, "resource_missing"),
        (refusal(), InvalidRequestError, "refused_by_stripe"),
        # These are not about the event: it is to be sent again.
        (refusal(code="parameter_unknown", param="new_one"), ProviderError, "provider_error"),
        (refusal(status=401), ProviderError, "provider_error"),
        (refusal(status=409, message="Too many at once"), ConflictError, "idempotency_key_in_use"),
        (refusal(status=429, code="too_many_concurrent_requests"), BillingError, "rate_limited"),
    ],
)
async def test_a_refusal_says_whether_to_try_again(reply: Reply, kind: type[BillingError], code: str) -> None:
    async with ScriptedStripe(reply).provider(max_network_retries=0) as provider:
        with pytest.raises(kind) as raised:
            await provider.create_meter_event(**EVENT)
    assert raised.value.code == code


async def test_what_came_too_late_to_be_canceled_is_refused() -> None:
    async with ScriptedStripe(refusal(param="cancel[identifier]", code="resource_missing")).provider() as provider:
        with pytest.raises(InvalidRequestError):
            await provider.cancel_meter_event(event_name="x", identifier="use-1", idempotency_key="k")


async def test_sums_are_read_to_the_last_digit_and_reports_as_they_are() -> None:
    summary = {"aggregated_value": 0.1, "start_time": 0, "end_time": 60}
    page = {"object": "list", "data": [summary], "has_more": False, "url": "/"}
    report = {
        "related_object": {"id": "mtr_1"},
        "data": {
            "reason": {
                "error_types": [
                    {"code": "no_meter", "error_count": 7, "sample_errors": [{"request": {"identifier": "use-1"}}]},
                    {"code": "archived_meter", "error_count": 1},
                ]
            }
        },
    }
    async with ScriptedStripe(Reply(body=page), Reply(body=report), Reply(body={})).provider() as provider:
        [read] = await provider.list_meter_summaries("mtr_1", customer="cus_1", start_time=0, end_time=60)
        told = await provider.retrieve_meter_error_report("evt_1")
        with pytest.raises(UnreadableAnswerError):
            await provider.retrieve_meter_error_report("evt_1")
    assert str(read.aggregated_value) == "0.1"
    assert [(e.code, e.count, list(e.identifiers)) for e in told.errors] == [
        ("no_meter", 7, ["use-1"]),
        ("archived_meter", 1, []),
    ]
