"""Failed renewals: tried again on a schedule, recovered, or given up as the account is set."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import stripe
from sandbox.driving import Receiver, Shop
from starlette.applications import Starlette

from app.sandbox.errors import ApiError

DAY = 86_400
START = int(datetime(2027, 1, 1, 12, tzinfo=UTC).timestamp())
RENEWAL = int(datetime(2027, 2, 1, 12, tzinfo=UTC).timestamp())


@pytest.fixture
async def failing(shop: Shop) -> Any:
    """A subscription paid on 1 January whose card will refuse the renewal of 1 February."""
    shop.clock.now = START
    made = await shop.subscribe()
    card = await shop.client.v1.payment_methods.attach_async("pm_card_chargeCustomerFail", {"customer": shop.customer})
    return await shop.client.v1.subscriptions.update_async(made.id, {"default_payment_method": card.id})


async def good_card(shop: Shop) -> str:
    attached = await shop.client.v1.payment_methods.attach_async("pm_card_visa", {"customer": shop.customer})
    return str(attached.id)


async def invoice_at(shop: Shop, subscription: Any, days: float) -> Any:
    """Give the subscription's latest invoice so many days after the renewal."""
    shop.clock.now = RENEWAL + days * DAY
    return (await shop.subscription(subscription.id)).latest_invoice


async def test_it_is_tried_four_more_times_over_two_weeks_and_then_canceled(
    shop: Shop, failing: Any, receiver: Receiver
) -> None:
    seen = []
    for days in (0, 2.9, 3, 6, 10, 13.9):
        invoice = await invoice_at(shop, failing, days)
        next_attempt = invoice.next_payment_attempt and (invoice.next_payment_attempt - RENEWAL) / DAY
        seen.append((invoice.attempt_count, next_attempt))
    assert seen == [(1, 3), (1, 3), (2, 6), (3, 10), (4, 14), (4, 14)]
    assert (await shop.subscription(failing.id)).status == "past_due"
    invoice = await invoice_at(shop, failing, 14)
    ended = await shop.subscription(failing.id)
    assert (ended.status, ended.ended_at, ended.cancellation_details.reason) == (
        "canceled",
        RENEWAL + 14 * DAY,
        "payment_failed",
    )
    assert (invoice.status, invoice.attempt_count, invoice.next_payment_attempt) == ("open", 5, None)
    assert invoice.auto_advance is False
    await shop.sandbox.drain()
    failures = [event for event in receiver.events if event["type"] == "invoice.payment_failed"]
    assert [(event["created"] - RENEWAL) / DAY for event in failures] == [0, 3, 6, 10, 14]
    said = [event["data"]["object"] for event in failures]
    assert [row["attempt_count"] for row in said] == [1, 2, 3, 4, 5]
    assert [row["next_payment_attempt"] is None for row in said] == [False] * 4 + [True]


async def test_a_retry_with_a_better_card_recovers_it(shop: Shop, failing: Any, receiver: Receiver) -> None:
    await invoice_at(shop, failing, 1)
    assert (await shop.subscription(failing.id)).status == "past_due"
    better: Any = {"default_payment_method": await good_card(shop)}
    await shop.client.v1.subscriptions.update_async(failing.id, better)
    assert (await invoice_at(shop, failing, 2.9)).status == "open"
    invoice = await invoice_at(shop, failing, 3)
    assert (invoice.status, invoice.attempt_count, invoice.next_payment_attempt) == ("paid", 2, None)
    assert (await shop.subscription(failing.id)).status == "active"
    await shop.sandbox.drain()
    recovered = receiver.last("customer.subscription.updated")
    assert recovered["data"]["previous_attributes"] == {"status": "past_due"}
    assert recovered["created"] == receiver.last("invoice.paid")["created"] == RENEWAL + 3 * DAY
    shop.clock.now = RENEWAL + 28 * DAY
    renewed = await shop.subscription(failing.id)
    assert (renewed.status, renewed.latest_invoice.status) == ("active", "paid")
    assert renewed.latest_invoice.id != invoice.id


async def test_what_the_customer_tries_neither_counts_nor_moves_the_schedule(shop: Shop, failing: Any) -> None:
    invoice = await invoice_at(shop, failing, 1)
    with pytest.raises(stripe.CardError):
        await shop.client.v1.invoices.pay_async(invoice.id)
    after = await shop.client.v1.invoices.retrieve_async(invoice.id)
    assert (after.attempt_count, after.next_payment_attempt) == (1, RENEWAL + 3 * DAY)
    method: Any = {"payment_method": await good_card(shop)}
    paid = await shop.client.v1.invoices.pay_async(invoice.id, method)
    assert (paid.status, paid.attempt_count) == ("paid", 1)
    assert (await shop.subscription(failing.id)).status == "active"
    shop.clock.now = RENEWAL + 20 * DAY
    assert (await shop.client.v1.invoices.retrieve_async(invoice.id)).attempt_count == 1


async def test_without_any_card_it_is_the_same(shop: Shop) -> None:
    shop.clock.now = START
    made = await shop.client.v1.subscriptions.create_async(
        {"customer": shop.customer, "items": [{"price": shop.pro}], "trial_end": RENEWAL}
    )
    assert (await invoice_at(shop, made, 0)).next_payment_attempt == RENEWAL + 3 * DAY
    assert (await invoice_at(shop, made, 3)).attempt_count == 2
    await invoice_at(shop, made, 14)
    assert (await shop.subscription(made.id)).status == "canceled"


async def test_set_to_unpaid_later_invoices_stay_drafts(shop: Shop, failing: Any, receiver: Receiver) -> None:
    shop.sandbox.configure(after_retries="unpaid", retry_after_days=[1, 1])
    last = await invoice_at(shop, failing, 2)
    unpaid = await shop.subscription(failing.id)
    assert (unpaid.status, last.status, last.attempt_count) == ("unpaid", "open", 3)
    shop.clock.now = RENEWAL + 30 * DAY
    renewed = (await shop.subscription(failing.id)).latest_invoice
    assert (renewed.status, renewed.auto_advance, renewed.attempt_count) == ("draft", False, 0)
    assert (await shop.subscription(failing.id)).status == "unpaid"
    await shop.sandbox.drain()
    assert receiver.types().count("invoice.payment_failed") == 3
    # The newest invoice that was finalized decides: paying the old one is enough while the others are drafts.
    method: Any = {"payment_method": await good_card(shop)}
    await shop.client.v1.invoices.pay_async(last.id, method)
    assert (await shop.subscription(failing.id)).status == "active"


async def test_set_to_past_due_it_stays_so_and_renewals_are_tried(shop: Shop, failing: Any) -> None:
    shop.sandbox.configure(after_retries="past_due", retry_after_days=[])
    assert (await invoice_at(shop, failing, 20)).attempt_count == 1
    assert (await shop.subscription(failing.id)).status == "past_due"
    renewed = await invoice_at(shop, failing, 28)
    assert (renewed.status, renewed.attempt_count) == ("open", 1)
    # It follows the newest: paying the older one leaves it past_due.
    older, newer = (await shop.client.v1.invoices.list_async({"subscription": failing.id, "status": "open"})).data[::-1]
    method: Any = {"payment_method": await good_card(shop)}
    await shop.client.v1.invoices.pay_async(older.id, method)
    assert (await shop.subscription(failing.id)).status == "past_due"
    await shop.client.v1.invoices.pay_async(newer.id, method)
    assert (await shop.subscription(failing.id)).status == "active"


async def test_set_to_pause_it_resumes_when_paid(shop: Shop, failing: Any, receiver: Receiver) -> None:
    shop.sandbox.configure(after_retries="pause", retry_after_days=[2])
    invoice = await invoice_at(shop, failing, 2)
    paused = await shop.subscription(failing.id)
    assert paused.status == "paused"
    assert paused.status_details.paused.subscription.type == "final_payment_failure"
    assert paused.status_details.paused.transitioned_at == RENEWAL + 2 * DAY
    method: Any = {"payment_method": await good_card(shop)}
    await shop.client.v1.invoices.pay_async(invoice.id, method)
    resumed = await shop.subscription(failing.id)
    assert (resumed.status, resumed.status_details) == ("active", None)
    await shop.sandbox.drain()
    assert {"customer.subscription.paused", "customer.subscription.resumed"} <= set(receiver.types())


async def test_a_voided_invoice_has_no_say(shop: Shop, failing: Any) -> None:
    invoice = await invoice_at(shop, failing, 1)
    await shop.client.v1.invoices.void_invoice_async(invoice.id)
    assert (await shop.subscription(failing.id)).status == "active"  # the invoice before it is paid
    shop.clock.now = RENEWAL + 20 * DAY
    assert (await shop.subscription(failing.id)).status == "active"


async def test_a_bill_that_is_not_paid_in_time_is_past_due(shop: Shop) -> None:
    shop.clock.now = START
    made = await shop.subscribe(collection_method="send_invoice", days_until_due=10)
    assert made.status == "active"
    renewed = await invoice_at(shop, made, 9.9)
    assert (renewed.status, renewed.due_date) == ("open", RENEWAL + 10 * DAY)
    assert (await shop.subscription(made.id)).status == "active"
    await invoice_at(shop, made, 10)
    assert (await shop.subscription(made.id)).status == "past_due"
    await shop.client.v1.invoices.pay_async(renewed.id, {"paid_out_of_band": True})
    assert (await shop.subscription(made.id)).status == "active"


async def test_settings_are_changed_by_http(shop: Shop, sandbox_app: Starlette) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox_app), base_url="http://sandbox.test") as http:
        assert (await http.get("/_sandbox/settings")).json() == {
            "after_retries": "cancel",
            "retry_after_days": [3, 3, 4, 4],
        }
        changed = await http.post("/_sandbox/settings", json={"after_retries": "unpaid"})
    assert changed.json() == {"after_retries": "unpaid", "retry_after_days": [3, 3, 4, 4]}
    assert shop.sandbox.settings["after_retries"] == "unpaid"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"after_retries": "forgive"}, "after_retries must be one of cancel, pause, past_due, unpaid."),
        ({"retry_after_days": [0]}, "whole numbers of days, each from 1"),
        ({"retry_after_days": [1] * 9}, "a list of up to 8"),
        ({"dunning": True}, "Received unknown parameter: dunning"),
    ],
)
async def test_senseless_settings_are_refused(
    shop: Shop, http: httpx.AsyncClient, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ApiError, match=message):
        shop.sandbox.configure(**wrong)
    answer = await http.post("/_sandbox/settings", json=wrong)
    assert answer.status_code == 400
    assert shop.sandbox.settings == {"after_retries": "cancel", "retry_after_days": [3, 3, 4, 4]}


async def test_a_detached_card_is_not_charged(shop: Shop) -> None:
    shop.clock.now = START
    made = await shop.subscribe()
    card = (await shop.client.v1.customers.retrieve_async(shop.customer)).invoice_settings.default_payment_method
    await shop.client.v1.subscriptions.update_async(made.id, {"default_payment_method": card})
    await shop.client.v1.payment_methods.detach_async(card)
    assert (await invoice_at(shop, made, 0)).status == "open"
    assert (await shop.subscription(made.id)).status == "past_due"
