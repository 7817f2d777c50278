"""Meters, their events in the words of v1 and v2, what they add up to, and the reports of what was no good."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import httpx
import pytest
import stripe
from sandbox.driving import SECRET, AsyncTransport, ManualClock, Receiver, Shop
from sandbox.shapes import violations
from stripe.events._v1_billing_meter_error_report_triggered_event import V1BillingMeterErrorReportTriggeredEvent

from app.sandbox import metering, thin_events
from app.sandbox.periods import DAY
from app.sandbox.sandbox import Sandbox

Refused = stripe.InvalidRequestError


async def meter(shop: Shop, **params: Any) -> Any:
    defaults = {"display_name": "API calls", "event_name": "api_calls", "default_aggregation": {"formula": "sum"}}
    return await shop.client.v1.billing.meters.create_async({**defaults, **params})


async def use(shop: Shop, value: str = "1", *, at: int | None = None, **params: Any) -> Any:
    """Report usage; ``at`` is seconds from now."""
    event: dict[str, Any] = {
        "event_name": "api_calls",
        "payload": {"stripe_customer_id": shop.customer, "value": value},
        **params,
    }
    if at is not None:
        event["timestamp"] = shop.sandbox.now() + at
    return await shop.client.v1.billing.meter_events.create_async(event)


async def summaries(shop: Shop, meter: str, **params: Any) -> list[Any]:
    """What Stripe has counted since a day ago."""
    now = shop.sandbox.now() // 60 * 60
    asked = {"customer": shop.customer, "start_time": now - DAY, "end_time": now + 600, **params}
    found = await shop.client.v1.billing.meters.event_summaries.list_async(meter, asked)
    return list(found.data)


async def total(shop: Shop, meter: str) -> float:
    shop.clock.advance(seconds=1)
    [summary] = await summaries(shop, meter)
    return float(summary.aggregated_value)


async def test_a_meter_lives_from_active_to_inactive_and_back(shop: Shop, receiver: Receiver) -> None:
    made = await meter(shop)
    assert (made.status, made.event_name, made.customer_mapping.event_payload_key) == (
        "active",
        "api_calls",
        "stripe_customer_id",
    )
    meters = shop.client.v1.billing.meters
    await meters.update_async(made.id, {"display_name": "Calls"})
    assert (await meters.deactivate_async(made.id)).status_transitions.deactivated_at == shop.sandbox.now()
    with pytest.raises(Refused, match="already inactive"):
        await meters.deactivate_async(made.id)
    assert (await meters.list_async({"status": "active"})).data == []
    assert (await meters.reactivate_async(made.id)).status == "active"
    with pytest.raises(Refused, match="already active"):
        await meters.reactivate_async(made.id)
    assert (await meters.retrieve_async(made.id)).display_name == "Calls"
    await shop.sandbox.drain()
    assert [t for t in receiver.types() if t.startswith("billing.")] == [
        "billing.meter.created",
        "billing.meter.updated",
        "billing.meter.deactivated",
        "billing.meter.reactivated",
    ]
    assert receiver.last("billing.meter.updated")["data"]["previous_attributes"] == {"display_name": "API calls"}


async def test_an_event_name_has_one_active_meter(shop: Shop) -> None:
    first = await meter(shop)
    with pytest.raises(Refused, match=first.id):
        await meter(shop)
    await shop.client.v1.billing.meters.deactivate_async(first.id)
    await meter(shop)
    with pytest.raises(Refused, match="already exists"):
        await shop.client.v1.billing.meters.reactivate_async(first.id)


async def test_events_are_counted_a_moment_after_they_were_accepted(shop: Shop) -> None:
    made = await meter(shop)
    answer = await use(shop, "3", identifier="first")
    assert (answer.identifier, answer.payload["value"], answer.timestamp) == ("first", "3", shop.sandbox.now())
    assert [s.aggregated_value for s in await summaries(shop, made.id)] == [0]
    await use(shop, "1.5", at=-3600)
    await use(shop, "-0.25")
    assert await total(shop, made.id) == 4.25


@pytest.mark.parametrize(("formula", "counted"), [("sum", 9), ("count", 3), ("last", 2)])
async def test_a_meter_aggregates_by_its_formula(shop: Shop, formula: str, counted: int) -> None:
    made = await meter(shop, default_aggregation={"formula": formula})
    for value, at in (("2", 0), ("4", -20), ("3", -10)):
        await use(shop, value, at=at)
    assert await total(shop, made.id) == counted


async def test_of_pre_aggregated_events_the_latest_in_each_window_counts(shop: Shop) -> None:
    made = await meter(shop, event_time_window="hour")
    begin = shop.sandbox.now() // 3600 * 3600 - shop.sandbox.now()
    for value, at in (("5", begin - 3600), ("7", begin - 3500), ("11", begin)):
        await use(shop, value, at=at)
    assert await total(shop, made.id) == 18


async def test_summaries_are_grouped_by_hour_newest_first(shop: Shop) -> None:
    made = await meter(shop)
    hour = shop.sandbox.now() // 3600 * 3600
    for offset in (-7200, -7100, -60):
        await use(shop, "2", at=hour + offset - shop.sandbox.now())
    shop.clock.advance(seconds=1)
    asked = {"start_time": hour - 86_400, "end_time": hour, "value_grouping_window": "hour"}
    found = await summaries(shop, made.id, **asked)
    assert [(s.start_time - hour, s.end_time - hour, s.aggregated_value) for s in found] == [
        (-3600, 0, 2),
        (-7200, -3600, 4),
    ]
    [second] = await summaries(shop, made.id, **asked, starting_after=found[0].id)
    assert second.id == found[1].id


async def test_summaries_want_aligned_times_in_order(shop: Shop) -> None:
    made = await meter(shop)
    minute = shop.sandbox.now() // 60 * 60
    for wrong, param in (
        ({"start_time": minute + 1}, "start_time"),
        ({"end_time": minute + 30}, "end_time"),
        ({"start_time": minute, "end_time": minute}, "end_time"),
        ({"start_time": minute // DAY * DAY + 60, "value_grouping_window": "day"}, "start_time"),
        ({"customer": "cus_nope"}, "customer"),
    ):
        with pytest.raises(Refused) as refused:
            await summaries(shop, made.id, **wrong)
        assert refused.value.param == param


async def test_an_identifier_is_taken_for_a_day(shop: Shop) -> None:
    made = await meter(shop)
    await use(shop, identifier="once")
    with pytest.raises(Refused, match=r"An event already exists with identifier once\.") as refused:
        await use(shop, identifier="once")
    assert refused.value.code is None
    shop.clock.advance(days=1, seconds=60)
    await use(shop, identifier="once")
    assert await total(shop, made.id) == 1  # the other lies outside of what is asked
    with pytest.raises(Refused, match="100 characters"):
        await use(shop, identifier="x" * 101)


@pytest.mark.parametrize("at", [-35 * DAY - 1, 301])
async def test_an_event_must_be_timely(shop: Shop, at: int) -> None:
    await meter(shop)
    await use(shop, at=at + (1 if at < 0 else -1))
    with pytest.raises(Refused, match="The event timestamp cannot be more than") as refused:
        await use(shop, at=at)
    assert refused.value.param == "timestamp"


async def test_an_event_needs_an_active_meter(shop: Shop) -> None:
    with pytest.raises(Refused, match=r'No active meter found for event name "api_calls"\.'):
        await use(shop)
    made = await meter(shop)
    await shop.client.v1.billing.meters.deactivate_async(made.id)
    with pytest.raises(Refused, match="No active meter found"):
        await use(shop)


async def test_one_call_at_a_time_for_a_customer_and_meter(shop: Shop) -> None:
    made = await meter(shop)
    other = await shop.client.v1.customers.create_async()
    elsewhere = {"payload": {"stripe_customer_id": other.id, "value": "1"}}
    answers = await asyncio.gather(use(shop), use(shop), use(shop, **elsewhere), return_exceptions=True)
    assert [type(a).__name__ for a in answers] == ["MeterEvent", "RateLimitError", "MeterEvent"]
    await use(shop)
    assert await total(shop, made.id) == 2


async def test_an_event_can_be_taken_back_for_a_day(shop: Shop) -> None:
    made = await meter(shop)
    await use(shop, "5", identifier="wrong")
    await use(shop, "2", identifier="right")
    adjustments = shop.client.v1.billing.meter_event_adjustments
    adjustment = {"event_name": "api_calls", "type": "cancel", "cancel": {"identifier": "wrong"}}
    assert (await adjustments.create_async(adjustment)).status == "pending"
    assert await total(shop, made.id) == 2
    for params in (
        {**adjustment, "cancel": {"identifier": "never"}},
        {**adjustment, "event_name": "other"},
        {**adjustment, "cancel": {}},
    ):
        with pytest.raises(Refused):
            await adjustments.create_async(params)
    shop.clock.advance(days=1)
    with pytest.raises(Refused, match="in the last 24 hours"):
        await adjustments.create_async({**adjustment, "cancel": {"identifier": "right"}})


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"value": "1"}, "meter_event_no_customer_defined"),
        ({"value": "1", "stripe_customer_id": "cus_nope"}, "meter_event_customer_not_found"),
        ({"stripe_customer_id": "{customer}"}, "meter_event_invalid_value"),
        ({"stripe_customer_id": "{customer}", "value": "many"}, "meter_event_invalid_value"),
        ({"stripe_customer_id": "{customer}", "value": "0.0000000000001"}, "meter_event_value_too_many_digits"),
    ],
)
async def test_what_cannot_be_counted_is_reported(
    shop: Shop, receiver: Receiver, http: httpx.AsyncClient, payload: dict[str, str], code: str
) -> None:
    thin_events.add_destination(shop.sandbox, "http://app.test/hook", SECRET)
    made = await meter(shop)
    filled = {key: value.format(customer=shop.customer) for key, value in payload.items()}
    await use(shop, payload=filled, identifier="bad")
    await use(shop)
    shop.clock.advance(seconds=1)
    await shop.sandbox.drain()
    told = receiver.last("v1.billing.meter.error_report_triggered")
    assert (told["object"], told["related_object"]["id"], "data" in told) == ("v2.core.event", made.id, False)
    event = (await http.get(f"/v2/core/events/{told['id']}")).json()
    reason = event["data"]["reason"]
    assert (reason["error_count"], reason["error_types"][0]["code"]) == (1, code)
    assert reason["error_types"][0]["sample_errors"][0]["request"] == {"identifier": "bad"}
    assert event["data"]["developer_message_summary"] == "There is 1 invalid event"
    # The SDK reads it: the notification fetches its event.
    notification: Any = shop.client.parse_event_notification(*map(_text, receiver.requests[-1]), SECRET)
    fetched: Any = await notification.fetch_event_async()
    assert isinstance(fetched, V1BillingMeterErrorReportTriggeredEvent)
    assert fetched.data.reason.error_types[0].code == code
    assert await total(shop, made.id) == 1


def _text(part: Any) -> Any:
    return part if isinstance(part, bytes) else {k.title(): v for k, v in part.items()}["Stripe-Signature"]


async def test_reports_name_some_and_count_all(shop: Shop, http: httpx.AsyncClient) -> None:
    await meter(shop)
    for number in range(7):
        await use(shop, payload={"value": "1"}, identifier=f"bad-{number}")
    shop.clock.advance(seconds=1)
    shop.sandbox.tick()
    [event] = shop.sandbox.rows("v2.core.event")
    [errors] = event["data"]["reason"]["error_types"]
    assert (errors["error_count"], len(errors["sample_errors"])) == (7, 5)
    assert (await http.get(f"/v2/core/events/{event['id']}")).status_code == 200
    assert (await http.get("/v2/core/events/evt_nope")).status_code == 404


async def test_v2_says_at_once_what_is_wrong_with_a_payload(shop: Shop) -> None:
    v2 = shop.client.v2.billing
    event: dict[str, Any] = {"event_name": "api_calls", "payload": {"stripe_customer_id": shop.customer, "value": "4"}}

    async def refusal(**params: Any) -> str:
        with pytest.raises(stripe.StripeError) as refused:
            await v2.meter_events.create_async({**event, **params})
        return str(refused.value.code)

    assert await refusal() == "no_meter"
    made = await meter(shop)
    now = thin_events.written(shop.sandbox.now())
    accepted = await v2.meter_events.create_async({**event, "identifier": "one", "timestamp": now})
    assert (accepted.identifier, accepted.object) == ("one", "v2.billing.meter_event")
    assert await refusal(identifier="one") == "duplicate_meter_event"
    assert await refusal(payload={"value": "1"}) == "payload_no_customer_defined"
    assert await refusal(payload={"stripe_customer_id": shop.customer}) == "payload_no_value_defined"
    assert await refusal(payload={"stripe_customer_id": shop.customer, "value": "x"}) == "payload_invalid_value"
    assert await refusal(timestamp="2099-01-01T00:00:00Z") == "timestamp_in_future"
    assert await refusal(timestamp="yesterday") == "None"
    assert await total(shop, made.id) == 4
    adjustment = {"event_name": "api_calls", "type": "cancel", "cancel": {"identifier": "one"}}
    assert (await v2.meter_event_adjustments.create_async(adjustment)).cancel.identifier == "one"
    assert await total(shop, made.id) == 0
    await shop.client.v1.billing.meters.deactivate_async(made.id)
    assert await refusal() == "archived_meter"


async def test_v2_does_failed_work_anew_and_successful_work_once(shop: Shop) -> None:
    event = {"event_name": "api_calls", "payload": {"stripe_customer_id": shop.customer, "value": "4"}}
    events = shop.client.v2.billing.meter_events
    with pytest.raises(stripe.StripeError):
        await events.create_async(event, {"idempotency_key": "k"})
    made = await meter(shop)
    answers = [await events.create_async(event, {"idempotency_key": "k"}) for _ in range(2)]
    assert answers[0].identifier == answers[1].identifier
    assert await total(shop, made.id) == 4
    with pytest.raises(stripe.IdempotencyError):
        await events.create_async({**event, "identifier": "other"}, {"idempotency_key": "k"})


async def test_the_stream_takes_batches_on_a_session_s_token(
    shop: Shop, transport: Any, clock: ManualClock, receiver: Receiver
) -> None:
    thin_events.add_destination(shop.sandbox, "http://app.test/hook", SECRET)
    made = await meter(shop)
    session = await shop.client.v2.billing.meter_event_session.create_async()
    async with httpx.AsyncClient(transport=transport) as http_client:
        streaming: Any = stripe.StripeClient(
            session.authentication_token,
            base_addresses={"meter_events": "http://sandbox.test"},
            http_client=AsyncTransport(http_client),
        )
        stream = streaming.v2.billing.meter_event_stream
        event = {"event_name": "api_calls", "payload": {"stripe_customer_id": shop.customer, "value": "1"}}
        batch = [{**event, "identifier": f"s-{number}"} for number in range(100)]
        await stream.create_async({"events": batch})
        await stream.create_async({"events": [*batch[:1], {**event, "event_name": "unknown", "identifier": "lost"}]})
        assert await total(shop, made.id) == 100
        with pytest.raises(stripe.InvalidRequestError):
            await stream.create_async({"events": [event] * 101})
        clock.advance(seconds=900)
        with pytest.raises(stripe.TemporarySessionExpiredError) as refused:
            await stream.create_async({"events": [event]})
    assert refused.value.code == "billing_meter_event_session_expired"
    await shop.sandbox.drain()
    told = receiver.last("v1.billing.meter.no_meter_found")
    assert "related_object" not in told
    reason = shop.sandbox.get("v2.core.event", told["id"])["data"]["reason"]
    assert reason["error_types"][0]["sample_errors"][0]["request"] == {"identifier": "lost"}


async def test_v2_refuses_what_is_no_json_object_of_strings(http: httpx.AsyncClient) -> None:
    for content in (b"{", b"[]", json.dumps({"event_name": 5}).encode(), json.dumps({"unknown": "x"}).encode()):
        answer = await http.post("/v2/billing/meter_events", content=content)
        assert answer.status_code == 400, content
    assert (await http.get("/v2/billing/nothing")).status_code == 400
    wrong = {"Authorization": "Bearer sk_test_wrong"}
    assert (await http.post("/v2/billing/meter_events", headers=wrong)).status_code == 401
    assert (await http.post("/v2/billing/meter_event_stream", headers=wrong)).status_code == 401


async def test_event_destinations_take_thin_events_alone(shop: Shop) -> None:
    destinations = shop.client.v2.core.event_destinations
    params: dict[str, Any] = {
        "name": "ours",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": ["v1.billing.meter.no_meter_found"],
        "webhook_endpoint": {"url": "http://app.test/hook"},
    }
    made = await destinations.create_async({**params, "include": ["webhook_endpoint.signing_secret"]})
    assert made.webhook_endpoint.signing_secret.startswith("whsec_")
    assert (await destinations.retrieve_async(made.id)).webhook_endpoint is None
    with pytest.raises(stripe.StripeError, match="snapshots"):
        await destinations.create_async({**params, "event_payload": "snapshot"})
    await destinations.delete_async(made.id)
    with pytest.raises(stripe.StripeError):
        await destinations.retrieve_async(made.id)


async def test_metered_prices_are_backed_by_a_meter(shop: Shop) -> None:
    made = await meter(shop)
    params: dict[str, Any] = {"currency": "usd", "unit_amount": 2, "product_data": {"name": "Calls"}}
    recurring = {"interval": "month", "usage_type": "metered", "meter": made.id}
    price = await shop.client.v1.prices.create_async({**params, "recurring": recurring})
    assert (price.recurring.meter, price.recurring.usage_type) == (made.id, "metered")
    for wrong in (
        {"interval": "month", "usage_type": "metered"},
        {"interval": "month", "meter": made.id},
        {**recurring, "meter": "mtr_nope"},
    ):
        with pytest.raises(Refused):
            await shop.client.v1.prices.create_async({**params, "recurring": wrong})
    await shop.client.v1.billing.meters.deactivate_async(made.id)
    with pytest.raises(Refused, match="inactive"):
        await shop.client.v1.prices.create_async({**params, "recurring": recurring})


async def test_usage_for_a_bill_includes_what_waits_and_is_never_negative(shop: Shop, sandbox: Sandbox) -> None:
    made = await meter(shop)
    now = sandbox.now()

    def used(start: int, end: int) -> Decimal:
        with sandbox.transaction():
            return metering.usage_of(sandbox, made.id, shop.customer, start, end)

    await use(shop, "2.5", at=-10)
    assert used(now - 10, now) == Decimal("2.5")
    assert used(now - 9, now) == used(now - 20, now - 10) == 0
    await use(shop, "-9", at=-10)
    assert used(now - 10, now) == 0
    assert not any(violations(sandbox.shown(row)) for row in sandbox.rows("billing.meter"))
