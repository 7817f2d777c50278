"""Events: what the provider sends."""

from provider.contract import Case, case, page_of
from stripe import params

CASES: dict[str, Case] = {
    "list_events": case(
        lambda p: p.list_events(
            types=["invoice.paid", "customer.updated"], since=1767225600, until=1767229200, after="evt_1Qabc"
        ),
        page_of({"object": "event", "id": "evt_2Qabc"}),
        "GET /v1/events",
        {
            "limit": "100",
            "types[0]": "invoice.paid",
            "types[1]": "customer.updated",
            "created[gte]": "1767225600",
            "created[lte]": "1767229200",
            "starting_after": "evt_1Qabc",
        },
        params.EventListParams,
    ),
}
