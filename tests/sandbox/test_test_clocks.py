"""Test clocks: customers whose time stands still until it is told to advance."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
import stripe
from sandbox.driving import GOOD, Receiver, Shop

from app.sandbox import checkout

DAY = 86_400
START = int(datetime(2031, 1, 1, 12, tzinfo=UTC).timestamp())


@dataclass
class Life:
    """A customer with a card on a test clock that stands at ``START``, years ahead of the account's own time."""

    shop: Shop
    clock: str
    customer: str

    @property
    def v1(self) -> Any:
        return self.shop.client.v1

    async def subscribe(self, **params: Any) -> Any:
        defaults = {"customer": self.customer, "items": [{"price": self.shop.pro}]}
        return await self.v1.subscriptions.create_async({**defaults, **params})

    async def advance(self, to: int) -> Any:
        moved = await self.v1.test_helpers.test_clocks.advance_async(self.clock, {"frozen_time": to})
        assert (moved.status, moved.status_details.advancing.target_frozen_time) == ("advancing", to)
        return await self.v1.test_helpers.test_clocks.retrieve_async(self.clock)


@pytest.fixture
async def life(shop: Shop) -> Life:
    v1 = shop.client.v1
    clock = await v1.test_helpers.test_clocks.create_async({"frozen_time": START, "name": "A year"})
    customer = await v1.customers.create_async(
        {
            "email": "bo@example.com",
            "test_clock": clock.id,
            "payment_method": "pm_card_visa",
            "invoice_settings": {"default_payment_method": "pm_card_visa"},
        }
    )
    return Life(shop, clock.id, customer.id)


async def test_everything_of_its_customers_has_the_clocks_time(life: Life, receiver: Receiver) -> None:
    subscription = await life.subscribe(expand=["latest_invoice", "customer.test_clock"])
    assert subscription.customer.test_clock.frozen_time == START
    assert {subscription.test_clock, subscription.latest_invoice.test_clock} == {life.clock}
    assert (subscription.created, subscription.latest_invoice.created) == (START, START)
    assert subscription.items.data[0].current_period_end == int(datetime(2031, 2, 1, 12, tzinfo=UTC).timestamp())
    await life.shop.sandbox.drain()
    assert receiver.last("customer.subscription.created")["created"] == START
    assert receiver.last("test_helpers.test_clock.created")["created"] == life.shop.sandbox.now()


async def test_the_rest_of_the_account_keeps_its_own_time(life: Life) -> None:
    weekly = await life.v1.prices.create_async(
        {
            "currency": "usd",
            "unit_amount": 700,
            "recurring": {"interval": "week"},
            "product_data": {"name": "Weekly"},
        }
    )
    theirs, ours = await life.subscribe(), await life.shop.subscribe(items=[{"price": weekly.id}])
    assert ours.test_clock is None
    assert ours.created == life.shop.sandbox.now()
    await life.advance(START + 40 * DAY)
    assert (await life.shop.subscription(ours.id)).latest_invoice.billing_reason == "subscription_create"
    life.shop.clock.advance(days=8)
    assert (await life.shop.subscription(ours.id)).latest_invoice.billing_reason == "subscription_cycle"
    # One renewal by its clock's advance, and none by the account's time passing.
    assert len((await life.v1.invoices.list_async({"subscription": theirs.id})).data) == 2


async def test_answers_are_dated_by_the_account_not_by_the_clock(life: Life, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"/v1/customers/{life.customer}")
    assert answer.json()["created"] == START
    assert int(parsedate_to_datetime(answer.headers["Date"]).timestamp()) == life.shop.sandbox.now()


async def test_advancing_lets_things_happen_in_the_order_of_their_time(life: Life, receiver: Receiver) -> None:
    first = await life.subscribe()
    await life.advance(START + 10 * DAY)
    second = await life.subscribe(items=[{"price": life.shop.basic}], trial_period_days=7)
    await life.shop.sandbox.drain()
    receiver.events.clear()
    clock = await life.advance(START + 60 * DAY)
    assert (clock.status, clock.frozen_time, clock.status_details.to_dict()) == ("ready", START + 60 * DAY, {})
    await life.shop.sandbox.drain()
    happened = [
        (event["created"], event["type"], event["data"]["object"]["id"])
        for event in receiver.events
        if event["type"] in {"customer.subscription.updated", "customer.subscription.trial_will_end"}
    ]
    assert happened == [
        (START + 14 * DAY, "customer.subscription.trial_will_end", second.id),
        (START + 17 * DAY, "customer.subscription.updated", second.id),
        (START + 31 * DAY, "customer.subscription.updated", first.id),
        (START + 48 * DAY, "customer.subscription.updated", second.id),
        (START + 59 * DAY, "customer.subscription.updated", first.id),
    ]
    types = receiver.types()
    assert (types[0], types[-1]) == ("test_helpers.test_clock.advancing", "test_helpers.test_clock.ready")
    assert {receiver.events[n]["created"] for n in (0, -1)} == {life.shop.sandbox.now()}
    invoices = (await life.v1.invoices.list_async({"subscription": first.id})).data
    assert [invoice.created for invoice in invoices] == [START + 59 * DAY, START + 31 * DAY, START]
    assert {invoice.status for invoice in invoices} == {"paid"}


async def test_the_webhook_comes_without_anybody_asking(life: Life, receiver: Receiver) -> None:
    await life.subscribe()
    moved = await life.v1.test_helpers.test_clocks.advance_async(life.clock, {"frozen_time": START + DAY})
    assert moved.status == "advancing"
    await life.shop.sandbox.drain()
    assert receiver.last("test_helpers.test_clock.ready")["data"]["object"]["frozen_time"] == START + DAY


async def test_a_leap_year_is_lived_through(life: Life) -> None:
    clock = await life.v1.test_helpers.test_clocks.create_async(
        {"frozen_time": int(datetime(2032, 1, 31, 9, tzinfo=UTC).timestamp())}
    )
    customer = await life.v1.customers.create_async({"test_clock": clock.id})
    made = await life.subscribe(customer=customer.id, trial_period_days=1, payment_behavior="allow_incomplete")
    anchored = made.trial_end  # 1 February
    later = await life.subscribe(
        customer=customer.id, collection_method="send_invoice", days_until_due=90, items=[{"price": life.shop.basic}]
    )
    ends = [later.items.data[0].current_period_end]
    for _ in range(2):
        await life.v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": ends[-1]})
        ends.append((await life.v1.subscriptions.retrieve_async(later.id)).items.data[0].current_period_end)
    assert [datetime.fromtimestamp(end, UTC).strftime("%m-%d %H") for end in ends] == [
        "02-29 09",
        "03-31 09",
        "04-30 09",
    ]
    assert datetime.fromtimestamp(anchored, UTC).day == 1


@pytest.mark.parametrize(
    ("frozen_time", "message"),
    [
        (START, "must be after the test clock's current frozen time"),
        (START - 1, "must be after the test clock's current frozen time"),
        (START + 59 * DAY + 1, "cannot be more than two intervals in the future from the shortest subscription"),
    ],
)
async def test_it_refuses_to_go_back_or_too_far(life: Life, frozen_time: int, message: str) -> None:
    await life.subscribe()  # by the month: from 1 January two of them are 59 days
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await life.v1.test_helpers.test_clocks.advance_async(life.clock, {"frozen_time": frozen_time})
    assert message in str(refused.value.user_message)
    assert refused.value.param == "frozen_time"
    assert (await life.v1.test_helpers.test_clocks.retrieve_async(life.clock)).status == "ready"
    assert (await life.advance(START + 59 * DAY)).status == "ready"


async def test_without_subscriptions_it_goes_two_years_at_most(life: Life) -> None:
    clocks = life.v1.test_helpers.test_clocks
    two_years = int(datetime(2033, 1, 1, 12, tzinfo=UTC).timestamp())
    with pytest.raises(stripe.InvalidRequestError, match="two years without subscriptions"):
        await clocks.advance_async(life.clock, {"frozen_time": two_years + 1})
    assert (await life.advance(two_years)).frozen_time == two_years


async def test_lists_leave_its_customers_out_unless_asked(life: Life) -> None:
    subscription = await life.subscribe()
    on_clock: Any = {"test_clock": life.clock}
    assert [c.id for c in await life.v1.customers.list_async()] == [life.shop.customer]
    assert [c.id for c in await life.v1.customers.list_async(on_clock)] == [life.customer]
    assert list(await life.v1.subscriptions.list_async()) == []
    for asked in (on_clock, {"customer": life.customer}):
        assert [s.id for s in await life.v1.subscriptions.list_async(asked)] == [subscription.id]
    assert [c.id for c in await life.v1.test_helpers.test_clocks.list_async()] == [life.clock]


async def test_a_checkout_session_of_its_customer_lives_by_it(life: Life) -> None:
    session = await life.shop.session(customer=life.customer)
    assert session.created == START
    assert isinstance(checkout.pay(life.shop.sandbox, session.id, GOOD), checkout.Paid)
    (subscription,) = await life.v1.subscriptions.list_async({"customer": life.customer})
    assert (subscription.created, subscription.test_clock) == (START, life.clock)
    other = await life.shop.session(customer=life.customer)
    await life.advance(other.expires_at)
    assert (await life.v1.checkout.sessions.retrieve_async(other.id)).status == "expired"


async def test_changes_by_any_id_are_made_in_its_time(life: Life) -> None:
    subscription = await life.subscribe()
    await life.advance(START + 15 * DAY + DAY // 2)  # half of January
    item = subscription.items.data[0].id
    await life.v1.subscription_items.update_async(item, {"quantity": 2, "proration_behavior": "always_invoice"})
    invoice = (await life.shop.subscription(subscription.id)).latest_invoice
    assert (invoice.created, invoice.total) == (START + 15 * DAY + DAY // 2, 4950)
    refund = await life.v1.refunds.create_async(
        {"payment_intent": (await life.v1.payment_intents.list_async({"customer": life.customer})).data[0].id}
    )
    assert refund.created == invoice.created


async def test_deleting_it_takes_all_that_was_on_it_along(life: Life, receiver: Receiver) -> None:
    subscription = await life.subscribe()
    assert (await life.v1.test_helpers.test_clocks.delete_async(life.clock)).deleted
    assert (await life.v1.customers.retrieve_async(life.customer)).deleted
    for ask, id in (
        (life.v1.subscriptions.retrieve_async, subscription.id),
        (life.v1.invoices.retrieve_async, subscription.latest_invoice),
        (life.v1.test_helpers.test_clocks.retrieve_async, life.clock),
    ):
        with pytest.raises(stripe.InvalidRequestError, match="No such"):
            await ask(id)
    await life.shop.sandbox.drain()
    ended = receiver.last("customer.subscription.deleted")
    assert (ended["created"], ended["data"]["object"]["status"]) == (START, "canceled")
    assert receiver.last("test_helpers.test_clock.deleted")["data"]["object"]["id"] == life.clock
    assert (await life.v1.customers.retrieve_async(life.shop.customer)).email == "ada@example.com"


async def test_it_deletes_itself_after_thirty_days(life: Life) -> None:
    life.shop.clock.advance(days=29)
    assert (await life.v1.test_helpers.test_clocks.retrieve_async(life.clock)).status == "ready"
    life.shop.clock.advance(days=1)
    with pytest.raises(stripe.InvalidRequestError, match="No such test clock"):
        await life.v1.test_helpers.test_clocks.retrieve_async(life.clock)


async def test_a_clock_in_the_past_keeps_its_events(life: Life) -> None:
    past = int(time.time()) - 400 * DAY
    clock = await life.v1.test_helpers.test_clocks.create_async({"frozen_time": past})
    customer = await life.v1.customers.create_async({"test_clock": clock.id})
    await life.shop.sandbox.drain()
    life.shop.clock.advance(seconds=5)
    found = await life.v1.events.list_async({"type": "customer.created"})
    assert (found.data[0].created, found.data[0].data.object.id) == (past, customer.id)


async def test_it_can_take_in_a_customer_who_has_nothing_yet(life: Life) -> None:
    clocks = life.v1.test_helpers.test_clocks
    clock = await clocks.create_async({"frozen_time": START, "customer": life.shop.customer})
    assert (await life.v1.customers.retrieve_async(life.shop.customer)).test_clock == clock.id
    with pytest.raises(stripe.InvalidRequestError, match="already has a test clock"):
        await clocks.create_async({"frozen_time": START, "customer": life.shop.customer})
    with pytest.raises(stripe.InvalidRequestError, match="No such test clock: 'clock_nope'"):
        await life.v1.customers.create_async({"test_clock": "clock_nope"})
