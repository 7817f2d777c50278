"""Usage of meters: what the provider sends."""

from provider.contract import Case, case, page_of
from stripe.params import billing
from stripe.params.v2.core import EventRetrieveParams

CASES: dict[str, Case] = {
    "create_meter_event": case(
        lambda p: p.create_meter_event(
            event_name="billhook_api_calls",
            customer="cus_Qabc",
            value=5,
            identifier="use-1",
            timestamp=1767225600,
            idempotency_key="k-1",
        ),
        {"object": "billing.meter_event"},
        "POST /v1/billing/meter_events",
        {
            "event_name": "billhook_api_calls",
            "payload[stripe_customer_id]": "cus_Qabc",
            "payload[value]": "5",
            "identifier": "use-1",
            "timestamp": "1767225600",
        },
        billing.MeterEventCreateParams,
    ),
    "cancel_meter_event": case(
        lambda p: p.cancel_meter_event(event_name="billhook_api_calls", identifier="use-1", idempotency_key="k-1"),
        {"object": "billing.meter_event_adjustment"},
        "POST /v1/billing/meter_event_adjustments",
        {"event_name": "billhook_api_calls", "type": "cancel", "cancel[identifier]": "use-1"},
        billing.MeterEventAdjustmentCreateParams,
    ),
    "list_meter_summaries": case(
        lambda p: p.list_meter_summaries("mtr_1Qabc", customer="cus_Qabc", start_time=1767225600, end_time=1767225660),
        page_of({"aggregated_value": 2.5, "start_time": 1767225600, "end_time": 1767225660}),
        "GET /v1/billing/meters/mtr_1Qabc/event_summaries",
        {"customer": "cus_Qabc", "start_time": "1767225600", "end_time": "1767225660", "limit": "100"},
        billing.MeterListEventSummariesParams,
    ),
    "retrieve_meter_error_report": case(
        lambda p: p.retrieve_meter_error_report("evt_test_1Qabc"),
        {"object": "v2.core.event", "data": {"reason": {"error_types": []}}},
        "GET /v2/core/events/evt_test_1Qabc",
        {},
        EventRetrieveParams,
    ),
}
