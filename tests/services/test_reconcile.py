"""Comparing with Stripe: what never arrived is found, named and mended, and nothing else is touched."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from typing import Any

import httpx
import pytest
from billing import Account, card
from chaos.promises import audit_gaps, differences
from comparing import Interfered, away_at, causes, compare, dump, found, listed
from sqlalchemy import func, select, text, update
from starlette.applications import Starlette

from app import models
from app.errors import ConflictError, UnavailableError
from app.models import ReconcileRun, StripeEvent
from app.provider.objects import Page
from app.provider.stripe import StripeProvider
from app.sandbox import checkout as hosted
from app.sandbox.app import create_sandbox
from app.sandbox.resources import customers, invoices, payment_methods, prices, products, subscriptions
from app.sandbox.sandbox import Sandbox
from app.services.customers import Buyer
from app.services.event_types import HANDLED
from app.services.reconcile import runs
from app.services.reconcile.differences import Finding
from app.values import utcnow
from app.worker.reconcile import fetch_missed, watch_events, watch_objects

KEY = "sk_test_billhook"
URL = "http://sandbox.test"
HOUR = 3600


class Clock:
    """Stripe's: an hour slow, so that nothing counts as being on its way to us."""

    def __init__(self) -> None:
        self.behind = HOUR

    def __call__(self) -> float:
        return time.time() - self.behind


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox_app(clock: Clock) -> AsyncIterator[Starlette]:
    app = create_sandbox(secret_key=KEY, base_url=URL, now=clock)
    yield app
    await app.state.sandbox.aclose()


@pytest.fixture
async def bought(account: Account) -> Account:
    """A purchase, of which everything has arrived."""
    await account.buy()
    await account.deliver_and_process(account.events())
    return account


def change(sandbox: Sandbox, act: Callable[[], Any]) -> None:
    with sandbox.changing():
        act()


def ids(sandbox: Sandbox) -> dict[str, str]:
    return {kind: sandbox.rows(kind)[0]["id"] for kind in ("customer", "subscription", "payment_method", "invoice")}


# What happens at Stripe, and which objects then look otherwise.
CHANGES: Mapping[str, tuple[Callable[[Sandbox, dict[str, str]], Any], set[str]]] = {
    "customer.updated": (lambda box, its: customers.update(box, {"name": "Augusta"}, its["customer"]), {"customer"}),
    "customer.deleted": (
        lambda box, its: customers.delete(box, {}, its["customer"]),
        {"customer", "payment_method", "subscription"},
    ),
    "customer.created": (lambda box, _: customers.create(box, {"email": "grace@example.com"}), {"customer"}),
    "customer.subscription.updated": (
        lambda box, its: subscriptions.update(box, {"cancel_at_period_end": True}, its["subscription"]),
        {"subscription"},
    ),
    "customer.subscription.deleted": (
        lambda box, its: subscriptions.cancel(box, {}, its["subscription"]),
        {"subscription"},
    ),
    "invoice.created": (
        lambda box, its: subscriptions.update(
            box,
            {"items": [{"id": first_item(box), "quantity": 3}], "proration_behavior": "always_invoice"},
            its["subscription"],
        ),
        {"subscription", "invoice", "payment_intent", "charge"},
    ),
    "payment_method.attached": (
        lambda box, its: payment_methods.attach(box, {"customer": its["customer"]}, "pm_card_mastercard"),
        {"payment_method"},
    ),
    "payment_method.detached": (
        lambda box, its: payment_methods.detach(box, {}, its["payment_method"]),
        {"payment_method", "subscription"},
    ),
    "payment_method.updated": (
        lambda box, its: payment_methods.update(box, {"card": {"exp_month": 7}}, its["payment_method"]),
        {"payment_method"},
    ),
    "product.updated": (lambda box, _: products.update(box, {"name": "Professional"}, "billhook_pro"), {"product"}),
    "price.updated": (lambda box, _: prices.update(box, {"active": False}, box.rows("price")[0]["id"]), {"price"}),
}


def first_item(sandbox: Sandbox) -> str:
    id: str = sandbox.rows("subscription")[0]["items"]["data"][0]["id"]
    return id


async def test_nothing_is_found_where_everything_has_arrived(bought: Account) -> None:
    run = await compare(bought)
    assert (run.status, run.drifted, run.repaired, run.compared) == ("done", 0, 0, listed(bought))
    assert await found(bought, run) == []


@pytest.mark.parametrize("event", CHANGES)
async def test_what_a_lost_webhook_told_is_found_and_mended(bought: Account, event: str) -> None:
    act, touched = CHANGES[event]
    change(bought.sandbox, lambda: act(bought.sandbox, ids(bought.sandbox)))
    before = await dump(bought)
    looked = await compare(bought)
    assert await dump(bought) == before, "a dry run changes nothing"
    expected = {(name, "event_missing") for name in ("event", *touched)}
    assert await causes(bought, looked) == expected
    assert (looked.drifted, looked.repaired) == (len(await found(bought, looked)), 0)

    mended = await compare(bought, repair=True)
    assert await causes(bought, mended) == expected
    assert mended.drifted == mended.repaired == looked.drifted
    assert await differences(bought, bought.events()) == []
    assert {row.actor for row in await bought.all(models.AuditRow)} >= {"cli"}

    assert (await compare(bought)).drifted == 0
    await bought.process()  # the events that were fetched
    again = await compare(bought, repair=True)
    assert (again.drifted, await found(bought, again)) == (0, [])
    assert {row.status for row in await bought.all(StripeEvent)} <= {"processed", "ignored"}
    assert await audit_gaps(bought) == []


async def test_what_has_just_happened_is_named_by_what_is_seen_of_it(bought: Account, clock: Clock) -> None:
    clock.behind = 0  # its events may still be on their way
    its = ids(bought.sandbox)
    change(bought.sandbox, lambda: customers.update(bought.sandbox, {"name": "Augusta"}, its["customer"]))
    change(bought.sandbox, lambda: payment_methods.detach(bought.sandbox, {}, its["payment_method"]))
    change(bought.sandbox, lambda: customers.create(bought.sandbox, {}))
    run = await compare(bought, repair=True)
    assert await causes(bought, run) == {
        ("customer", "stale"),
        ("customer", "missing"),
        ("payment_method", "deleted"),
        ("subscription", "stale"),
    }
    assert run.drifted == run.repaired == 4
    assert await differences(bought, bought.events()) == []


async def test_what_waits_in_the_inbox_is_shown_but_is_no_drift(bought: Account) -> None:
    await update_name(bought)
    await bought.deliver(bought.events("customer.updated")[-1])
    run = await compare(bought, repair=True)
    [difference] = await found(bought, run)
    assert (difference.cause, difference.repaired) == ("event_pending", False)
    assert (run.drifted, run.repaired) == (0, 0)
    assert (await bought.all(models.Customer))[0].name == "Ada"


async def test_what_a_dead_event_told_is_mended(bought: Account) -> None:
    await update_name(bought)
    await bought.deliver(bought.events("customer.updated")[-1])
    async with bought.sessions.begin() as session:
        await session.execute(update(StripeEvent).where(StripeEvent.status == "pending").values(status="dead"))
    run = await compare(bought, repair=True)
    assert await causes(bought, run) == {("customer", "event_dead")}
    assert run.drifted == run.repaired == 1
    assert (await bought.all(models.Customer))[0].name == "Augusta"


async def update_name(account: Account) -> None:
    change(
        account.sandbox,
        lambda: customers.update(account.sandbox, {"name": "Augusta"}, ids(account.sandbox)["customer"]),
    )


async def test_personal_values_are_named_but_not_written_down(bought: Account) -> None:
    await update_name(bought)
    its = ids(bought.sandbox)
    note = {"metadata": {"note": "private"}, "cancel_at_period_end": True}
    change(bought.sandbox, lambda: subscriptions.update(bought.sandbox, note, its["subscription"]))
    by_id = {row.stripe_id: row.fields for row in await found(bought, await compare(bought))}
    assert by_id[its["customer"]] == {"name": [None, None]}
    assert by_id[its["subscription"]]["stripe_metadata"] == [None, None]
    assert by_id[its["subscription"]]["cancel_at_period_end"] == [False, True]


async def test_the_heir_of_a_deleted_customer_is_found_with_it(bought: Account) -> None:
    box = bought.sandbox
    former = ids(box)["customer"]
    change(box, lambda: customers.delete(box, {}, former))
    change(box, lambda: customers.create(box, {"metadata": {"user_id": "demo-1"}}))
    run = await compare(bought, repair=True)
    assert run.drifted == run.repaired
    by_id = {row.stripe_id: row for row in await bought.all(models.Customer)}
    assert by_id[former].deleted
    [heir] = [row for row in by_id.values() if not row.deleted]
    assert heir.user_id == "demo-1"


async def test_a_second_customer_of_a_living_one_s_user_gets_no_user(bought: Account) -> None:
    change(bought.sandbox, lambda: customers.create(bought.sandbox, {"metadata": {"user_id": "demo-1"}}))
    run = await compare(bought, repair=True)
    assert run.drifted == run.repaired
    assert sorted(str(row.user_id) for row in await bought.all(models.Customer)) == ["None", "demo-1"]
    assert (await compare(bought)).drifted == 0


async def test_a_missed_payment_is_announced_but_history_is_not(account: Account, clock: Clock) -> None:
    clock.behind = 2 * HOUR
    history = await account.buy(Buyer(user_id="before"))
    await forget(account)
    clock.behind = HOUR
    change(account.sandbox, lambda: customers.create(account.sandbox, {"email": "first@example.com"}))
    first = account.events("customer.created")[-1]
    await account.deliver_and_process([first])  # what was before this, we were never to be told
    await account.buy(Buyer(user_id="after"))
    run = await compare(account, repair=True)
    assert run.drifted == run.repaired > 0
    assert history
    by_customer = {row.id: row.user_id for row in await account.all(models.Customer)}
    announced = {(row.type, by_customer[row.customer_id]) for row in await account.all(models.OutboxMessage)}
    assert announced == {("payment.received", "after"), ("subscription.activated", "after")}
    assert {row.status for row in await account.all(models.Subscription)} == {"active"}


async def forget(account: Account) -> None:
    """As if Billhook had not been there."""
    async with account.sessions.begin() as session:
        for model in (models.CheckoutSession, models.Customer):
            await session.execute(model.__table__.delete())


async def test_another_account_s_key_buries_nothing(bought: Account) -> None:
    before = await bought.state()
    other = create_sandbox(secret_key=KEY, base_url=URL)
    with other.state.sandbox.transaction():  # the same user buys there too
        customers.create(other.state.sandbox, {"metadata": {"user_id": "demo-1"}})
    async with StripeProvider(KEY, base_url=URL, transport=httpx.ASGITransport(other)) as provider:
        run = await compare(bought, repair=True, provider=provider)
    assert {cause for _, cause in await causes(bought, run)} == {"unknown", "missing"}
    assert (run.drifted, run.repaired) == (listed(bought) + 1, 1)
    after = await bought.state()
    for kind, rows in before.items():
        assert [row for row in after[kind] if row in rows] == rows
    assert not [row for model in (models.Product, models.Price) for row in await bought.all(model) if row.deleted]


async def test_products_and_prices_that_were_deleted_are_buried(bought: Account) -> None:
    made = await bought.provider.create_product(
        id=None, name="Lite", description=None, metadata={}, idempotency_key="product"
    )
    price = await bought.provider.create_price(
        product=made.object.id,
        currency="usd",
        unit_amount=100,
        interval=None,
        lookup_key=None,
        transfer_lookup_key=False,
        metadata={},
        idempotency_key="price",
    )
    await bought.deliver_and_process(bought.events())
    rows = {"product": made.object.id, "price": price.object.id}
    with bought.sandbox.changing():  # of a price, Stripe's dashboard does
        for kind, id in rows.items():
            row = bought.sandbox.get(kind, id)
            row.clear()
            row.update({"id": id, "object": kind, "deleted": True})
    assert await causes(bought, await compare(bought)) == {("product", "deleted"), ("price", "deleted")}
    run = await compare(bought, repair=True)
    assert (run.drifted, run.repaired) == (2, 2)
    gone = [row for model in (models.Product, models.Price) for row in await bought.all(model) if row.deleted]
    assert {row.stripe_id for row in gone} == set(rows.values())
    assert (await compare(bought)).drifted == 0


async def test_a_draft_that_was_deleted_is_buried(bought: Account) -> None:
    async with bought.sessions.begin() as session:
        ghost = {"stripe_id": "in_deleted", "status": "draft", "number": None}
        [invoice] = await bought.all(models.Invoice)
        row = {column.key: getattr(invoice, column.key) for column in models.Invoice.__table__.columns}
        row.pop("id")
        session.add(models.Invoice(**{**row, **ghost}))
    run = await compare(bought, repair=True)
    assert await causes(bought, run) == {("invoice", "deleted")}
    assert {row.stripe_id: row.deleted for row in await bought.all(models.Invoice)}["in_deleted"]
    assert (await compare(bought)).drifted == 0


async def test_an_object_of_unknown_shape_is_named_and_stops_nothing(bought: Account) -> None:
    await update_name(bought)
    its = ids(bought.sandbox)

    class Strange(Interfered):
        async def list_subscriptions(self, **_asked: Any) -> Page[Any]:
            return Page(objects=[], at=0, next=None, unreadable=[its["subscription"]])

    async def nothing(_name: str, _count: int) -> None: ...

    run = await compare(bought, repair=True, provider=Strange(bought.provider, nothing))
    assert ("subscription", "unreadable") in await causes(bought, run)
    assert run.drifted == run.repaired + 1
    assert (await bought.all(models.Customer))[0].name == "Augusta"


@pytest.mark.parametrize("same_second", [True, False], ids=["in one second", "one a second"])
async def test_lists_of_many_pages_are_compared_whole(account: Account, *, same_second: bool) -> None:
    many = 260
    add_customers(account.sandbox, many, apart=0 if same_second else 1)
    await compare(account, repair=True)
    rows = await account.all(models.Customer)
    assert sorted(row.name for row in rows) == sorted(f"number {number}" for number in range(many))

    asked = Interfered(account.provider, before=nobody)
    run = await compare(account, provider=asked)
    assert (run.compared, run.drifted) == (listed(account), 0)
    assert asked.calls.count("list_customers") == 3
    assert "retrieve_customer" not in asked.calls, "nothing was suspected"

    # Ours that Stripe doesn't list, wherever in its order they would stand.
    gone = [rows[n].stripe_id for n in (0, 99, 100, 101, 259)]
    for id in gone:
        change(account.sandbox, lambda id=id: customers.delete(account.sandbox, {}, id))
    run = await compare(account, repair=True, provider=asked)
    assert sorted(row.stripe_id for row in await found(account, run) if row.object == "customer") == sorted(gone)
    assert {row.stripe_id for row in await account.all(models.Customer) if row.deleted} == set(gone)


def add_customers(sandbox: Sandbox, many: int, *, apart: int = 0) -> None:
    """`apart` seconds after one another."""
    start = int(time.time()) - 2 * HOUR
    with sandbox.transaction():
        for number in range(many):
            with sandbox.at(start + number * apart):
                customers.create(sandbox, {"name": f"number {number}"})


async def nobody(_name: str, _count: int) -> None:
    """Nobody meddles."""


async def test_since_leaves_out_what_neither_was_made_nor_changed_since(bought: Account, clock: Clock) -> None:
    box, its = bought.sandbox, ids(bought.sandbox)
    clock.behind = HOUR - 600
    now = int(clock())
    async with bought.sessions.begin() as session:  # wrong for long, and nothing tells of it
        await session.execute(update(models.PaymentMethod).values(brand="amex"))
    change(box, lambda: subscriptions.update(box, {"cancel_at_period_end": True}, its["subscription"]))
    change(box, lambda: customers.create(box, {"email": "grace@example.com"}))
    run = await compare(bought, repair=True, since=now)
    assert await causes(bought, run) == {
        ("event", "event_missing"),
        ("subscription", "event_missing"),
        ("customer", "event_missing"),
    }
    assert run.drifted == run.repaired
    assert await causes(bought, await compare(bought)) == {("payment_method", "stale")}


async def test_a_comparison_goes_on_where_stripe_fell_silent(account: Account) -> None:
    add_customers(account.sandbox, 210)
    with pytest.raises(UnavailableError):
        await compare(account, repair=True, provider=Interfered(account.provider, away_at("list_customers", 3)))
    [run] = await account.all(ReconcileRun)
    assert (run.status, run.error, run.compared, run.repaired) == ("failed", "Stripe is not reachable.", 200, 200)

    asked = Interfered(account.provider, nobody)
    dry = await compare(account, provider=asked)
    assert dry.id != run.id, "what was to mend is not gone on with by what was not"
    asked.calls.clear()
    again = await compare(account, repair=True, provider=asked)
    assert (again.id, again.status, again.error) == (run.id, "done", None)
    assert asked.calls.count("list_customers") == 1
    assert (again.compared, again.drifted, again.repaired) == (listed(account), 210, 210)
    assert len(await account.all(models.Customer)) == 210


async def test_what_was_found_before_an_interruption_is_counted_once(account: Account) -> None:
    add_customers(account.sandbox, 10)
    with pytest.raises(UnavailableError):  # in the middle of a page: all of it is looked at again
        await compare(account, provider=Interfered(account.provider, away_at("retrieve_customer", 6)))
    run = await compare(account)
    assert (run.drifted, len(await found(account, run))) == (10, 10)


async def test_only_one_compares_at_a_time(bought: Account) -> None:
    first, wake_first = await compare_to_the_invoices(bought)
    with pytest.raises(ConflictError):
        await compare(bought)
    # It has fallen silent for so long that somebody else may go on; when it wakes up, it has lost the run.
    async with bought.sessions.begin() as session:
        await session.execute(update(ReconcileRun).values(updated_at=func.now() - 2 * runs.LEASE))
    second, wake_second = await compare_to_the_invoices(bought)
    wake_first.set()
    with pytest.raises(ConflictError):
        await first
    wake_second.set()
    done = await second
    [run] = await bought.all(ReconcileRun)
    assert (run.id, run.status, run.compared) == (done.id, "done", listed(bought))


async def test_a_comparison_that_lives_says_so(bought: Account) -> None:
    async def wait(name: str, _count: int) -> None:
        if name == "list_invoices":
            async with bought.sessions.begin() as session:
                await session.execute(update(ReconcileRun).values(updated_at=func.now() - 2 * runs.LEASE))
            for _ in range(1000):
                await asyncio.sleep(0.01)
                [run] = await bought.all(ReconcileRun)
                if said := run.updated_at > utcnow() - runs.LEASE:
                    break
            assert said

    await compare(bought, provider=Interfered(bought.provider, wait), beat=0.01)


async def compare_to_the_invoices(account: Account) -> tuple[asyncio.Task[ReconcileRun], asyncio.Event]:
    """A comparison that waits before its last list until it is woken."""
    there, wake = asyncio.Event(), asyncio.Event()

    async def wait(name: str, _count: int) -> None:
        if name == "list_invoices":
            there.set()
            await wake.wait()

    task = asyncio.create_task(compare(account, provider=Interfered(account.provider, wait), beat=HOUR))
    await there.wait()
    return task, wake


@pytest.mark.parametrize("repair", [True, False], ids=["repair", "dry run"])
async def test_an_answer_that_a_webhook_overtook_is_no_difference_and_not_written(
    bought: Account, *, repair: bool
) -> None:
    box, its = bought.sandbox, ids(bought.sandbox)
    change(box, lambda: subscriptions.update(box, {"metadata": {"note": "lost"}}, its["subscription"]))

    class Slow(Interfered):
        async def retrieve_subscription(self, id: str) -> Any:
            shown = await bought.provider.retrieve_subscription(id)
            if "retrieve_subscription" not in self.calls:
                self.calls.append("retrieve_subscription")
                change(box, lambda: subscriptions.cancel(box, {}, its["subscription"]))
                await bought.deliver_and_process(bought.events())
            return shown

    run = await compare(bought, repair=repair, provider=Slow(bought.provider, nobody))
    [subscription] = await bought.all(models.Subscription)
    assert subscription.status == "canceled"
    assert not [row for row in await found(bought, run) if row.object == "subscription"]
    ends = [row for row in await bought.all(models.AuditRow) if row.after and row.after.get("status")]
    assert [row.after["status"] for row in ends if row.subject == its["subscription"]] == ["active", "canceled"]


async def test_webhooks_and_a_comparison_at_once_end_as_stripe_has_it(account: Account) -> None:
    for number in range(8):
        await account.buy(Buyer(user_id=f"user-{number}"))
    box = account.sandbox
    for row in box.rows("subscription")[::2]:
        change(box, lambda id=row["id"]: subscriptions.cancel(box, {}, id))
    for event in account.events()[::2]:
        await account.deliver(event)

    async def work() -> None:
        for event in account.events()[1::2]:
            await account.deliver(event)
            await account.process()

    await asyncio.gather(work(), compare(account, repair=True))
    await account.process()
    await compare(account, repair=True)
    assert await differences(account, account.events()) == []
    assert await audit_gaps(account) == []


async def test_missed_events_are_stored_as_the_receiver_would(bought: Account) -> None:
    box, its = bought.sandbox, ids(bought.sandbox)
    change(box, lambda: subscriptions.update(box, {"cancel_at_period_end": True}, its["subscription"]))
    change(box, lambda: payment_methods.detach(box, {}, its["payment_method"]))
    every = timedelta(minutes=15)
    assert await fetch_missed(bought.sessions, bought.provider, every=every) == 0, "the first call only notes when"
    assert await fetch_missed(bought.sessions, bought.provider, every=every) == 0, "somebody just did"
    await make_due(bought)
    lost = [row for row in bought.events() if row["id"] not in {row.event_id for row in await bought.all(StripeEvent)}]
    assert await fetch_missed(bought.sessions, bought.provider, every=every) == len(lost) == 3
    stored = {row.event_id: row for row in await bought.all(StripeEvent)}
    for event in lost:
        row = stored[event["id"]]
        assert (row.status, row.type, row.key) == ("pending", event["type"], its["customer"])
        assert (row.created, row.livemode, row.account) == (event["created"], False, "")
        assert (row.api_version, row.reason) == (event["api_version"], None)
        assert json.loads(row.payload) == event
    kind = "customer.subscription.updated"
    in_order = [row["id"] for row in lost if row["type"] == kind]
    assert [row.event_id for row in await bought.all(StripeEvent) if row.event_id in in_order] == in_order
    assert (await bought.deliver(lost[0])).outcome == "duplicate"
    await bought.process()
    assert await differences(bought, bought.events()) == []
    assert {row.status for row in await bought.all(StripeEvent)} <= {"processed", "ignored"}
    await make_due(bought)
    assert await fetch_missed(bought.sessions, bought.provider, every=every) == 0


async def make_due(account: Account) -> None:
    async with account.sessions.begin() as session:
        await session.execute(update(models.Cursor).values(updated_at=func.now() - timedelta(hours=1)))


async def test_no_request_asks_for_more_types_than_stripe_takes(bought: Account) -> None:
    asked: list[str] = []

    class Counting(Interfered):
        async def list_events(self, **more: Any) -> Any:
            assert len(more["types"]) <= 20
            asked.extend(more["types"])
            return await bought.provider.list_events(**more)

    await fetch_missed(bought.sessions, Counting(bought.provider, nobody), every=timedelta(0))
    assert asked == list(HANDLED)


async def test_an_address_that_stripe_signed_anew_is_no_difference(bought: Account) -> None:
    async def write(**values: Any) -> set[tuple[str, str]]:
        async with bought.sessions.begin() as session:
            await session.execute(update(models.Invoice).values(**values))
        return await causes(bought, await compare(bought))

    assert await write(hosted_invoice_url="https://invoice.stripe.com/i/signed/yesterday") == set()
    assert await write(hosted_invoice_url=None) == {("invoice", "stale")}


async def test_what_may_still_be_on_its_way_is_not_fetched_yet(bought: Account, clock: Clock) -> None:
    await fetch_missed(bought.sessions, bought.provider, every=timedelta(0))
    clock.behind = 60
    await update_name(bought)
    assert await fetch_missed(bought.sessions, bought.provider, every=timedelta(0)) == 0
    [cursor] = await cursors(bought)
    assert cursor.value["at"] <= time.time() - 300


async def cursors(account: Account) -> list[models.Cursor]:
    async with account.sessions() as session:
        return [await session.get_one(models.Cursor, "events")]


async def test_a_gap_of_many_days_is_read_window_by_window_and_goes_on_after_a_failure(
    bought: Account, clock: Clock
) -> None:
    await fetch_missed(bought.sessions, bought.provider, every=timedelta(0))
    started = int(time.time()) - 4 * 86_400
    async with bought.sessions.begin() as session:
        value = {"began": started, "at": started, "installed": started}
        await session.execute(update(models.Cursor).values(value=value))
    clock.behind = 2 * HOUR
    await update_name(bought)
    # A day has four windows, and each is asked for twice, for all the types there are.
    broken = Interfered(bought.provider, away_at("list_events", 12))
    with pytest.raises(UnavailableError):
        await fetch_missed(bought.sessions, broken, every=timedelta(0))
    [cursor] = await cursors(bought)
    assert started < cursor.value["at"] < started + 2 * 86_400
    assert await fetch_missed(bought.sessions, bought.provider, every=timedelta(0)) == 1


async def test_the_schedule_begins_goes_on_and_waits(bought: Account, settings: Any) -> None:
    day = timedelta(hours=24)

    async def due() -> bool:
        async with bought.sessions() as session:
            return await runs.is_due(session, every=day, repair=True)

    async def age(by: timedelta) -> None:
        async with bought.sessions.begin() as session:
            earlier = {"started_at": ReconcileRun.started_at - by, "updated_at": ReconcileRun.updated_at - by}
            await session.execute(update(ReconcileRun).values(earlier))

    assert not await due(), "not before it is known since when we are here"
    await watch_objects(settings, sessions=bought.sessions, provider=bought.provider)
    assert await bought.all(ReconcileRun) == []
    async with bought.sessions.begin() as session:
        [cursor] = await cursors(bought)
        long_ago = {**cursor.value, "installed": int(time.time()) - 90_000}
        await session.execute(update(models.Cursor).values(value=long_ago))
    await update_name(bought)
    await watch_objects(settings, sessions=bought.sessions, provider=bought.provider)
    [run] = await bought.all(ReconcileRun)
    assert (run.actor, run.status, run.repair, run.repaired) == ("reconcile", "done", True, run.drifted)
    assert not await due()
    await age(day)
    assert await due()
    async with bought.sessions.begin() as session:
        await session.execute(update(ReconcileRun).values(status="running", started_at=func.now()))
    assert await due(), "nobody has been at it for a day"
    async with bought.sessions.begin() as session:
        await session.execute(update(ReconcileRun).values(status="failed", updated_at=func.now()))
    assert not await due(), "it failed just now"
    await age(runs.RETRY)
    assert await due()


async def test_a_failing_stripe_never_ends_the_worker(bought: Account, settings: Any) -> None:
    async with bought.sessions.begin() as session:
        long_ago = {"began": 0, "at": 0, "installed": 0}
        session.add(models.Cursor(name="events", value=long_ago))
    await make_due(bought)
    away = Interfered(bought.provider, away_at("list_events", 1))
    await watch_events(settings, sessions=bought.sessions, provider=away)
    assert away.calls == ["list_events"]


async def test_a_purchase_whose_every_webhook_was_lost_is_taken_in_whole(bought: Account) -> None:
    opened = await bought.open_checkout(Buyer(user_id="grace"))
    hosted.pay(bought.sandbox, opened.stripe_id, card())
    run = await compare(bought, repair=True)
    assert run.drifted == run.repaired
    await bought.process()
    assert await differences(bought, bought.events()) == []
    assert len({row.customer_id for row in await bought.all(models.Subscription) if row.status == "active"}) == 2


async def test_an_unpaid_invoice_that_was_voided_is_found(bought: Account) -> None:
    box, its = bought.sandbox, ids(bought.sandbox)
    change(box, lambda: pay_by_a_bad_card(box, its))
    await bought.deliver_and_process(bought.events())
    [unpaid] = [row["id"] for row in box.rows("invoice") if row["status"] == "open"]
    change(box, lambda: invoices.void(box, {}, unpaid))
    run = await compare(bought, repair=True)
    assert ("invoice", "event_missing") in await causes(bought, run)
    assert {row.stripe_id: row.status for row in await bought.all(models.Invoice)}[unpaid] == "void"


def pay_by_a_bad_card(sandbox: Sandbox, its: dict[str, str]) -> None:
    method = payment_methods.attach(sandbox, {"customer": its["customer"]}, "pm_card_chargeCustomerFail")
    subscriptions.update(sandbox, {"default_payment_method": method["id"]}, its["subscription"])
    more = {"items": [{"id": first_item(sandbox), "quantity": 5}], "proration_behavior": "always_invoice"}
    subscriptions.update(sandbox, more, its["subscription"])


@pytest.mark.parametrize("since", [None, 0], ids=["everything", "what changed"])
async def test_a_customer_of_unknown_shape_stops_no_comparison(account: Account, since: int | None) -> None:
    await account.buy()
    await forget(account)
    box = account.sandbox
    change(box, lambda: customers.update(box, {"name": "a\0b"}, ids(box)["customer"]))
    change(box, lambda: customers.create(box, {"name": "Grace"}))
    run = await compare(account, repair=True, since=since)
    assert run.status == "done"
    assert ("customer", "unreadable") in await causes(account, run)
    assert [row.name for row in await account.all(models.Customer)] == ["Grace"]
    left = {row.object for row in await found(account, run) if not row.repaired}
    assert left == {"customer", "subscription", "invoice", "payment_intent", "charge"}


async def test_a_changed_object_of_unknown_shape_is_named(bought: Account, clock: Clock) -> None:
    clock.behind = HOUR - 600
    now = int(clock())
    await update_name(bought)
    change(bought.sandbox, lambda: customers.update(bought.sandbox, {"name": "a\0b"}, ids(bought.sandbox)["customer"]))
    run = await compare(bought, repair=True, since=now)
    assert (run.status, await causes(bought, run)) == (
        "done",
        {("customer", "unreadable"), ("event", "event_missing")},
    )


async def test_a_run_whose_place_is_gone_begins_its_list_again(account: Account) -> None:
    add_customers(account.sandbox, 210)
    with pytest.raises(UnavailableError):
        await compare(account, repair=True, provider=Interfered(account.provider, away_at("list_customers", 3)))
    async with account.sessions.begin() as session:
        [run] = (await session.scalars(select(ReconcileRun))).all()
        run.cursor = {**run.cursor, "place": {**run.cursor["place"], "after": "cus_deleted_since"}}
    again = await compare(account, repair=True)
    assert (again.id, again.status, again.repaired) == (run.id, "done", 210)


async def test_a_run_is_not_gone_on_with_a_day_after_it_began(account: Account) -> None:
    add_customers(account.sandbox, 10)
    away = Interfered(account.provider, away_at("list_invoices", 1))
    with pytest.raises(UnavailableError):
        await compare(account, repair=True, provider=away)
    [first] = await account.all(ReconcileRun)
    async with account.sessions.begin() as session:
        await session.execute(update(ReconcileRun).values(started_at=func.now() - runs.RESUMABLE))
    assert (await compare(account, repair=True)).id != first.id


async def test_another_account_s_lists_stop_a_comparison(account: Account) -> None:
    async with account.sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO customers"
                " (id, stripe_id, livemode, created, synced_at, revision, deleted, stripe_metadata)"
                " SELECT gen_random_uuid(), 'cus_' || n, false, 1, 1, 1, false, '{}' FROM generate_series(1, 1001) AS n"
            )
        )
    with pytest.raises(ConflictError, match="right key"):
        await compare(account, repair=True)
    assert await account.all(models.Difference) == []
    assert not any(row.deleted for row in await account.all(models.Customer))


async def test_a_later_finding_of_the_same_object_counts(bought: Account) -> None:
    def finding(id: str, cause: str, *, repaired: bool = False) -> Finding:
        return Finding(object="customer", stripe_id=id, customer=id, cause=cause, repaired=repaired)

    async def record(*findings: Finding) -> tuple[int, int, int]:
        """How many say something new, and then the run's counters."""
        async with bought.sessions.begin() as session:
            new = await runs.record(session, run, findings)
        now = await session_get(bought, run)
        return len(new), now.drifted, now.repaired

    async with bought.sessions.begin() as session:
        run = await runs.start(session, actor="cli", repair=True, since=None)
    assert await record() == (0, 0, 0)
    assert await record(finding("a", "missing", repaired=True), finding("b", "event_pending")) == (2, 1, 1)
    assert await record(finding("b", "event_pending")) == (0, 1, 1)
    assert await record(finding("b", "event_dead"), finding("a", "stale"), finding("c", "stale")) == (3, 3, 0)
    assert {row.stripe_id: row.cause for row in await bought.all(models.Difference)} == {
        "a": "stale",
        "b": "event_dead",
        "c": "stale",
    }


async def session_get(account: Account, run: ReconcileRun) -> ReconcileRun:
    async with account.sessions() as session:
        return await session.get_one(ReconcileRun, run.id)


async def test_missed_events_are_stored_page_by_page(bought: Account) -> None:
    box, its = bought.sandbox, ids(bought.sandbox)
    await fetch_missed(bought.sessions, bought.provider, every=timedelta(0))
    with box.changing():
        for number in range(130):
            customers.update(box, {"name": f"number {number}"}, its["customer"])
    broken = Interfered(bought.provider, away_at("list_events", 2))
    with pytest.raises(UnavailableError):
        await fetch_missed(bought.sessions, broken, every=timedelta(0))
    assert sum(row.status == "pending" for row in await bought.all(StripeEvent)) == 100
    assert await fetch_missed(bought.sessions, bought.provider, every=timedelta(0)) == 30
    await bought.process()
    assert await differences(bought, bought.events()) == []


async def test_what_the_schedule_has_read_it_does_not_read_again(bought: Account, settings: Any) -> None:
    now = int(time.time())
    async with bought.sessions.begin() as session:
        value = {"began": now - 20 * 86_400, "at": now, "installed": now - 20 * 86_400}
        session.add(models.Cursor(name="events", value=value))
    asked: list[int] = []

    class Counting(Interfered):
        async def list_events(self, **more: Any) -> Any:
            asked.append(more["since"])
            return await bought.provider.list_events(**more)

    await watch_objects(settings, sessions=bought.sessions, provider=Counting(bought.provider, nobody))
    assert set(asked) == {now - HOUR}
    asked.clear()
    await compare(bought, provider=Counting(bought.provider, nobody))
    assert min(asked) == now - 20 * 86_400, "who asks by hand is told of all there is"


async def test_an_interrupted_comparison_that_the_schedule_ends_counts_as_its_own(bought: Account) -> None:
    with pytest.raises(UnavailableError):
        await compare(bought, repair=True, provider=Interfered(bought.provider, away_at("list_invoices", 1)))
    assert (await compare(bought, repair=True, actor=runs.ACTOR)).actor == "cli"
    async with bought.sessions.begin() as session:
        session.add(models.Cursor(name="events", value={"began": 0, "at": 0, "installed": 0}))
        assert not await runs.is_due(session, every=timedelta(hours=24), repair=True)
        assert await runs.is_due(session, every=timedelta(hours=24), repair=False)


async def test_what_there_is_to_compare_is_guessed_by_what_is_here(bought: Account) -> None:
    async with bought.sessions.begin() as session:
        await session.execute(text("ANALYZE customers, payment_methods, subscriptions, invoices"))
        assert await runs.expected(session) == 4


async def test_comparing_needs_no_fetching_of_missed_events(bought: Account, settings: Any) -> None:
    alone = settings.model_copy(update={"reconcile_events_minutes": 0})

    async def watch() -> None:
        await watch_events(alone, sessions=bought.sessions, provider=bought.provider)
        await watch_objects(alone, sessions=bought.sessions, provider=bought.provider)

    await watch()
    async with bought.sessions.begin() as session:
        [cursor] = await cursors(bought)
        long_ago = {**cursor.value, "installed": int(time.time()) - 90_000}
        await session.execute(update(models.Cursor).values(value=long_ago))
    await watch()
    assert [run.status for run in await bought.all(ReconcileRun)] == ["done"]
