"""Subscriptions that pause for real, resume, and change with a payment that is still to come."""

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe
from sandbox.driving import Receiver, Shop

DAY = 86_400
START = int(datetime(2026, 9, 21, 12, tzinfo=UTC).timestamp())  # a period of 30 days


@pytest.fixture
async def made(shop: Shop) -> Any:
    """A monthly subscription to Pro ($99)."""
    shop.clock.now = START
    return await shop.subscribe()


async def pending(shop: Shop) -> list[tuple[int, str]]:
    items = await shop.client.v1.invoice_items.list_async({"customer": shop.customer, "pending": True})
    return [(item.amount, item.description) for item in items]


async def fail_from_now_on(shop: Shop, subscription: Any) -> None:
    card = await shop.client.v1.payment_methods.attach_async("pm_card_chargeCustomerFail", {"customer": shop.customer})
    await shop.client.v1.subscriptions.update_async(subscription.id, {"default_payment_method": card.id})


async def test_a_pause_gives_unused_time_back_with_the_next_invoice(shop: Shop, made: Any, receiver: Receiver) -> None:
    shop.clock.advance(days=15)
    paused = await shop.client.v1.subscriptions.pause_async(made.id)
    assert paused.status == "paused"
    assert paused.status_details.paused.to_dict() == {
        "subscription": {"type": "pause_requested"},
        "transitioned_at": START + 15 * DAY,
        "type": "subscription",
    }
    assert paused.latest_invoice == made.latest_invoice
    assert await pending(shop) == [(-4950, "Unused time on Pro after 6 Oct 2026")]
    shop.clock.advance(days=100)
    assert (await shop.subscription(made.id)).latest_invoice.id == made.latest_invoice
    resumed = await shop.client.v1.subscriptions.resume_async(made.id, {"expand": ["latest_invoice"]})
    assert (resumed.status, resumed.status_details) == ("active", None)
    assert (resumed.latest_invoice.status, resumed.latest_invoice.total) == ("paid", 9900 - 4950)
    assert resumed.billing_cycle_anchor == resumed.items.data[0].current_period_start == START + 115 * DAY
    await shop.sandbox.drain()
    assert receiver.last("customer.subscription.paused")["data"]["object"]["status"] == "paused"
    assert receiver.last("customer.subscription.resumed")["data"]["object"]["status"] == "active"


@pytest.mark.parametrize(("unused", "credited"), [("now", -4950), ("item_current_period_start", -9900), ("none", None)])
async def test_a_pause_invoices_at_once_if_told_to(shop: Shop, made: Any, unused: Any, credited: int | None) -> None:
    shop.clock.advance(days=15)
    bill_for: Any = {"bill_for": {"unused_time_from": {"type": unused}}, "invoicing_behavior": "invoice"}
    await shop.client.v1.subscriptions.pause_async(made.id, bill_for)
    paused = await shop.subscription(made.id)
    assert paused.status == "paused"
    if credited is None:
        assert paused.latest_invoice.id == made.latest_invoice
    else:
        assert (paused.latest_invoice.total, paused.latest_invoice.status) == (credited, "paid")
    assert await pending(shop) == []


async def test_resuming_an_unchanged_cycle_charges_the_rest_of_it(shop: Shop, made: Any) -> None:
    shop.clock.advance(days=15)
    await shop.client.v1.subscriptions.pause_async(made.id)
    shop.clock.advance(days=6)
    keep: Any = {"billing_cycle_anchor": {"type": "unchanged"}}
    resumed = await shop.client.v1.subscriptions.resume_async(made.id, keep)
    assert (resumed.status, resumed.latest_invoice) == ("active", made.latest_invoice)
    assert (resumed.billing_cycle_anchor, resumed.items.data[0].current_period_end) == (START, START + 30 * DAY)
    assert [amount for amount, _ in await pending(shop)] == [2970, -4950]
    shop.clock.advance(days=10)
    assert (await shop.subscription(made.id)).latest_invoice.total == 9900 + 2970 - 4950


@pytest.mark.parametrize(("behavior", "charged"), [("always_invoice", [2970]), ("none", None)])
async def test_resuming_an_unchanged_cycle_bills_as_told(
    shop: Shop, made: Any, behavior: Any, charged: list[int] | None
) -> None:
    shop.clock.advance(days=21)
    no_credit: Any = {"bill_for": {"unused_time_from": {"type": "none"}}}
    await shop.client.v1.subscriptions.pause_async(made.id, no_credit)
    keep: Any = {"billing_cycle_anchor": {"type": "unchanged"}, "proration_behavior": behavior}
    await shop.client.v1.subscriptions.resume_async(made.id, keep)
    invoice = (await shop.subscription(made.id)).latest_invoice
    assert (invoice.id == made.latest_invoice) == (charged is None)
    if charged is not None:
        assert [line.amount for line in invoice.lines.data] == charged
    assert await pending(shop) == []


async def test_a_resumption_that_is_not_paid_is_past_due_and_tried_again(shop: Shop, made: Any) -> None:
    await shop.client.v1.subscriptions.pause_async(made.id, {"bill_for": {"unused_time_from": {"type": "none"}}})
    await fail_from_now_on(shop, made)
    late = await shop.client.v1.subscriptions.resume_async(made.id, {"expand": ["latest_invoice"]})
    assert (late.status, late.latest_invoice.status) == ("past_due", "open")
    assert late.latest_invoice.next_payment_attempt == START + 3 * DAY


@pytest.mark.parametrize(("then", "ends"), [("paid", ("active", "paid")), ("forgotten", ("paused", "void"))])
async def test_one_that_wants_success_stays_paused_until_it_is_paid(
    shop: Shop, made: Any, receiver: Receiver, then: str, ends: tuple[str, str]
) -> None:
    await shop.client.v1.subscriptions.pause_async(made.id, {"bill_for": {"unused_time_from": {"type": "none"}}})
    await fail_from_now_on(shop, made)
    strict: Any = {"payment_behavior": "resume_on_payment_success"}
    waiting = await shop.client.v1.subscriptions.resume_async(made.id, strict)
    assert waiting.status == "paused"
    with pytest.raises(stripe.InvalidRequestError, match="already being resumed"):
        await shop.client.v1.subscriptions.resume_async(made.id)
    if then == "paid":
        good = await shop.client.v1.payment_methods.attach_async("pm_card_visa", {"customer": shop.customer})
        await shop.client.v1.invoices.pay_async(waiting.latest_invoice, {"payment_method": good.id})
    else:
        shop.clock.advance(hours=23)
    after = await shop.subscription(made.id)
    assert (after.status, after.latest_invoice.status) == ends
    await shop.sandbox.drain()
    assert ("customer.subscription.resumed" in receiver.types()) == (then == "paid")


async def test_what_cannot_pause_or_resume_is_refused(shop: Shop, made: Any) -> None:
    v1 = shop.client.v1
    with pytest.raises(stripe.InvalidRequestError, match="not currently `paused`"):
        await v1.subscriptions.resume_async(made.id)
    await v1.subscriptions.pause_async(made.id)
    with pytest.raises(stripe.InvalidRequestError, match="cannot pause a subscription with a status"):
        await v1.subscriptions.pause_async(made.id)
    other = await shop.subscribe(items=[{"price": shop.basic}])
    await v1.subscription_schedules.create_async({"from_subscription": other.id})
    with pytest.raises(stripe.InvalidRequestError, match="Cannot pause subscriptions with attached schedules"):
        await v1.subscriptions.pause_async(other.id)


async def test_a_paused_subscription_still_ends_when_it_was_told_to(shop: Shop, made: Any) -> None:
    await shop.client.v1.subscriptions.pause_async(made.id)
    await shop.client.v1.subscriptions.update_async(made.id, {"cancel_at": START + 50 * DAY})
    shop.clock.advance(days=49)
    assert (await shop.subscription(made.id)).status == "paused"
    shop.clock.advance(days=1)
    assert (await shop.subscription(made.id)).status == "canceled"


@pytest.mark.parametrize(
    ("behavior", "status"), [("keep_as_draft", "draft"), ("mark_uncollectible", "uncollectible"), ("void", "void")]
)
async def test_a_paused_collection_is_no_pause(
    shop: Shop, made: Any, receiver: Receiver, behavior: Any, status: str
) -> None:
    stop: Any = {"pause_collection": {"behavior": behavior, "resumes_at": START + 40 * DAY}}
    await shop.client.v1.subscriptions.update_async(made.id, stop)
    shop.clock.advance(days=31)
    stopped = await shop.subscription(made.id)
    assert (stopped.status, stopped.latest_invoice.status) == ("active", status)
    assert stopped.latest_invoice.next_payment_attempt is None
    shop.clock.advance(days=9)
    assert (await shop.subscription(made.id)).pause_collection is None
    shop.clock.advance(days=22)
    going = await shop.subscription(made.id)
    assert (going.status, going.latest_invoice.status) == ("active", "paid")
    await shop.sandbox.drain()
    assert not {"customer.subscription.paused", "customer.subscription.resumed"} & set(receiver.types())


async def upgrade_pending(shop: Shop, subscription: Any, **params: Any) -> Any:
    """Have the change from Basic to Pro wait for a payment that the card refuses."""
    await fail_from_now_on(shop, subscription)
    change: Any = {
        "items": [{"id": subscription.items.data[0].id, "price": shop.pro}],
        "payment_behavior": "pending_if_incomplete",
        "proration_behavior": "always_invoice",
        **params,
    }
    return await shop.client.v1.subscriptions.update_async(subscription.id, change)


async def test_a_change_waits_for_its_payment(shop: Shop, receiver: Receiver) -> None:
    shop.clock.now = START
    made = await shop.subscribe(items=[{"price": shop.basic}], metadata={"plan": "basic"})
    shop.clock.advance(days=15)
    waiting = await upgrade_pending(shop, made, metadata={"plan": "pro"}, expand=["latest_invoice"])
    assert (waiting.status, waiting.items.data[0].price.id) == ("active", shop.basic)
    assert waiting.metadata.to_dict() == {"plan": "basic"}
    assert (waiting.latest_invoice.status, waiting.latest_invoice.total) == ("open", 3500)
    assert waiting.latest_invoice.next_payment_attempt is None
    held = waiting.pending_update
    assert held.expires_at == START + 15 * DAY + 23 * 3600
    assert [item.price.id for item in held.subscription_items] == [shop.pro]
    good = await shop.client.v1.payment_methods.attach_async("pm_card_visa", {"customer": shop.customer})
    await shop.client.v1.invoices.pay_async(waiting.latest_invoice.id, {"payment_method": good.id})
    applied = await shop.subscription(made.id)
    assert (applied.pending_update, applied.items.data[0].price.id) == (None, shop.pro)
    assert applied.items.data[0].id == made.items.data[0].id
    assert applied.metadata.to_dict() == {"plan": "pro"}
    await shop.sandbox.drain()
    assert "customer.subscription.pending_update_applied" in receiver.types()
    changed = receiver.last("customer.subscription.updated")["data"]["previous_attributes"]
    assert {"items", "metadata", "pending_update"} <= set(changed)


@pytest.mark.parametrize("how", ["in time", "by voiding", "by another"])
async def test_a_change_nobody_pays_for_lapses(shop: Shop, receiver: Receiver, how: str) -> None:
    shop.clock.now = START
    made = await shop.subscribe(items=[{"price": shop.basic}])
    shop.clock.advance(days=15)
    waiting = await upgrade_pending(shop, made)
    if how == "in time":
        shop.clock.advance(hours=23)
    elif how == "by voiding":
        await shop.client.v1.invoices.void_invoice_async(waiting.latest_invoice)
    else:
        again = await upgrade_pending(shop, made)
        assert again.latest_invoice != waiting.latest_invoice
        assert again.pending_update is not None
    after = await shop.subscription(made.id)
    assert (await shop.client.v1.invoices.retrieve_async(waiting.latest_invoice)).status == "void"
    assert (after.pending_update is None) == (how != "by another")
    assert (after.status, after.items.data[0].price.id) == ("active", shop.basic)
    assert await pending(shop) == []
    await shop.sandbox.drain()
    assert "customer.subscription.pending_update_expired" in receiver.types()


async def test_a_change_that_is_paid_at_once_waits_for_nothing(shop: Shop) -> None:
    shop.clock.now = START
    made = await shop.subscribe(items=[{"price": shop.basic}])
    paid = await shop.client.v1.subscription_items.update_async(
        made.items.data[0].id,
        {"price": shop.pro, "payment_behavior": "pending_if_incomplete", "proration_behavior": "always_invoice"},
    )
    assert paid.price.id == shop.pro
    assert (await shop.subscription(made.id)).pending_update is None


async def test_not_everything_can_wait(shop: Shop, made: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="together with `cancel_at_period_end`"):
        await upgrade_pending(shop, made, cancel_at_period_end=True)


async def preview(shop: Shop, subscription: Any, **details: Any) -> Any:
    return await shop.client.v1.invoices.create_preview_async(
        {"subscription": subscription.id, "subscription_details": details}
    )


async def test_pauses_and_resumptions_are_previewed(shop: Shop, made: Any) -> None:
    shop.clock.advance(days=15)
    shown = await preview(shop, made, pause={"bill_for": {"unused_time_from": {"type": "now"}}})
    assert [line.amount for line in shown.lines.data] == [-4950]
    assert (await shop.subscription(made.id)).status == "active"
    await shop.client.v1.subscriptions.pause_async(made.id)
    shown = await preview(shop, made, resume_at="now")
    assert shown.total == 9900 - 4950
    keep: Any = {"billing_cycle_anchor": {"type": "unchanged"}, "proration_behavior": "always_invoice"}
    assert (await preview(shop, made, resume_at="now", **keep)).total == 0
    with pytest.raises(stripe.InvalidRequestError, match="does not implement previews of an anchor at a timestamp"):
        await preview(shop, made, billing_cycle_anchor={"type": "timestamp", "timestamp": START + DAY})
    assert (await shop.subscription(made.id)).status == "paused"


async def test_a_moved_anchor_is_previewed_with_the_next_invoice(shop: Shop, made: Any) -> None:
    shop.clock.advance(days=15)
    shown = await preview(shop, made, billing_cycle_anchor={"type": "now"}, proration_behavior="always_invoice")
    assert sorted(line.amount for line in shown.lines.data) == [-4950, 9900]
