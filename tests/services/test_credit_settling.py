"""Grants, claw-backs and restorations follow from how payments stand, whatever order the news of them comes in."""

import asyncio
import copy
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from billing import Account, card
from comparing import compare
from purchasing import HeldClock
from sqlalchemy import func, select, text
from starlette.applications import Starlette
from structlog.testing import capture_logs

from app import models
from app.db import create_engine, create_sessions, transaction
from app.sandbox import checkout as hosted
from app.sandbox.app import create_sandbox
from app.sandbox.resources import disputes, payment_intents, refunds
from app.services import audit, customers, mirror, payment_rows
from app.services.catalog import Credits
from app.services.credits import settling
from app.services.credits.accounts import Identity
from app.services.credits.book import open_book
from app.services.mirror import NO_ROW, AsOf, Origin
from app.services.purchases import creating, reading
from app.services.purchases.creating import Begun, Wish
from app.values import unix_now
from app.worker.backfill import sync

STRIPE = Origin(actor="stripe")


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
async def sandbox_app(clock: HeldClock) -> AsyncIterator[Starlette]:
    app = create_sandbox(secret_key="sk_test_billhook", base_url="http://sandbox.test", now=clock)
    yield app
    await app.state.sandbox.aclose()


async def begin(account: Account, *, page: bool = False, user_id: str = "ada", key: str | None = None) -> Begun:
    wish = Wish(
        identity=Identity(user_id=user_id),
        pack="starter",
        success_url="https://app.example.com/done" if page else None,
        cancel_url=None,
        save_payment_method=False,
    )
    async with transaction(account.sessions) as session:
        return await creating.create(
            session, account.provider, account.redis, account.plans, wish, idempotency_key=key, actor="user:ada"
        )


def pay(account: Account, begun: Begun, method: str = "pm_card_visa") -> str:
    """Pay the purchase, without anybody hearing of it; the payment intent."""
    if begun.row.checkout_session is not None:
        number = {"pm_card_visa": "4242424242424242", "pm_card_createDispute": "4000000000000259"}[method]
        hosted.pay(account.sandbox, begun.row.checkout_session, card(number))
        return str(account.sandbox.get("checkout.session", begun.row.checkout_session)["payment_intent"])
    wish = {"payment_method": method, "return_url": "https://app.example.com/"}
    with account.sandbox.changing():
        payment_intents.confirm(account.sandbox, wish, str(begun.row.payment_intent))
    return str(begun.row.payment_intent)


def refund(account: Account, intent: str, amount: int) -> None:
    with account.sandbox.changing():
        refunds.create(account.sandbox, {"payment_intent": intent, "amount": amount})


async def purchase(account: Account, begun: Begun) -> models.CreditPurchase:
    [row] = [row for row in await account.all(models.CreditPurchase) if row.id == begun.row.id]
    return row  # type: ignore[no-any-return]  # `all` is of any model


async def balance(account: Account, user_id: str = "ada") -> tuple[int, int, int]:
    """(free, paid, owed); the ledger must say the same."""
    [row] = [row for row in await account.all(models.CreditAccount) if row.user_id == user_id]
    moved = models.CreditTransfer
    async with account.sessions() as session:
        for book, sign in (("free", 1), ("paid", 1), ("owed", -1)):
            came = select(func.coalesce(func.sum(moved.amount), 0)).where(moved.account_id == row.id)
            total = await session.scalar(came.where(moved.destination == book))
            left = await session.scalar(came.where(moved.source == book))
            assert sign * (int(total or 0) - int(left or 0)) == getattr(row, book)
        assert await audit.first_broken(session) is None
    return row.free, row.paid, row.owed


def without(events: list[dict[str, Any]], *types: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] not in types]


async def test_one_delivery_of_either_event_grants(account: Account) -> None:
    for number, type in enumerate(("checkout.session.completed", "payment_intent.succeeded")):
        begun = await begin(account, page=True, user_id=f"user-{number}")
        pay(account, begun)
        await account.deliver_and_process(account.events(type)[-1:])
        assert (await purchase(account, begun)).status == "succeeded"
        assert await balance(account, f"user-{number}") == (3, 20, 0)
        await account.deliver_and_process(account.events())
        assert await balance(account, f"user-{number}") == (3, 20, 0)


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_no_order_of_the_news_changes_the_end(
    account: Account, clock: HeldClock, *, page: bool, seed: int
) -> None:
    """Bought, refunded in two parts, disputed and won: 20 uses, of which 5 went back with the money."""
    chance = random.Random(seed)  # noqa: S311 - shuffles, guards nothing
    clock.hold()
    begun = await begin(account, page=page)
    intent = pay(account, begun, "pm_card_createDispute")
    refund(account, intent, 30)
    refund(account, intent, 95)
    clock.wait(5)
    account.sandbox.tick()
    [dispute] = account.sandbox.rows("dispute")
    with account.sandbox.changing():
        evidence = {"evidence": {"uncategorized_text": "winning_evidence"}}
        disputes.update(account.sandbox, evidence, dispute["id"])
    clock.wait(5)
    account.sandbox.tick()
    events = account.events() * 2
    chance.shuffle(events)
    for event in events:
        await account.deliver(event)
        if chance.random() < 0.3:
            await account.process()
    await account.process()
    row = await purchase(account, begun)
    assert (row.status, row.amount_refunded, row.amount_disputed, row.clawed) == ("succeeded", 125, 0, 5)
    assert row.payment_intent == intent
    assert await balance(account) == (3, 15, 0)
    assert {event.status for event in await account.all(models.StripeEvent)} <= {"processed", "ignored"}


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("heal", ["reconcile", "backfill", "read"])
async def test_what_no_webhook_told_is_found_out(account: Account, *, page: bool, heal: str) -> None:
    begun = await begin(account, page=page)
    intent = pay(account, begun)
    refund(account, intent, 250)
    if heal == "reconcile":
        await compare(account, repair=True)
    elif heal == "backfill":
        await sync(account.sessions, account.provider, actor="cli", since=None, watch=lambda _page: None)
    else:
        async with transaction(account.sessions) as session:
            row = await reading.get(session, account.provider, id=str(begun.row.id), user_id="ada", actor="user:ada")
        assert (row.status, row.payment_intent) == ("succeeded", intent)
        await account.deliver_and_process(account.events("refund.created"))
    assert await balance(account) == (3, 10, 0)
    assert (await purchase(account, begun)).clawed == 10
    await account.deliver_and_process(account.events())
    assert await balance(account) == (3, 10, 0)


async def test_a_replayed_event_settles_what_was_left_undone(account: Account) -> None:
    """As if a bug of ours had once stored the payment, and not granted its uses."""
    begun = await begin(account)
    pay(account, begun)
    events = account.events("payment_intent.succeeded")
    async with transaction(account.sessions) as session:
        await session.execute(text("UPDATE payment_intents SET status = 'succeeded', amount_received = 500"))
    await account.deliver_and_process(events)
    assert await balance(account) == (3, 20, 0)


async def test_payments_that_are_not_ours_change_nothing(account: Account) -> None:
    begun = await begin(account)
    with account.sandbox.changing():
        bare = {"amount": 500, "currency": "usd", "customer": account.sandbox.rows("customer")[0]["id"]}
        for metadata in ({}, {settling.METADATA: "no id"}, {settling.METADATA: str(uuid4())}):
            made = payment_intents.create(account.sandbox, {**bare, "metadata": metadata})
            payment_intents.confirm(
                account.sandbox, {"payment_method": "pm_card_visa", "return_url": "https://a.example"}, made["id"]
            )
    await account.deliver_and_process(account.events())
    assert {event.status for event in await account.all(models.StripeEvent)} <= {"processed", "ignored"}
    assert (await purchase(account, begun)).status == "pending"
    assert await balance(account) == (3, 0, 0)


@pytest.mark.parametrize("page", [False, True])
async def test_an_intent_with_copied_metadata_never_grants(account: Account, *, page: bool) -> None:
    begun = await begin(account, page=page)
    with account.sandbox.changing():
        copied = {"amount": 500, "currency": "usd", "metadata": {settling.METADATA: str(begun.row.id)}}
        made = payment_intents.create(account.sandbox, copied)
        payment_intents.confirm(
            account.sandbox, {"payment_method": "pm_card_visa", "return_url": "https://a.example"}, made["id"]
        )
    with capture_logs() as logs:
        await account.deliver_and_process(account.events())
    assert [log["reason"] for log in logs if log["event"] == "purchase_mismatched"] == ["another_payment_intent"]
    assert await balance(account) == (3, 0, 0)
    pay(account, begun)
    await account.deliver_and_process(account.events())
    assert await balance(account) == (3, 20, 0)


@pytest.mark.parametrize("change", [{"amount": 400}, {"currency": "eur"}])
async def test_another_amount_or_currency_grants_nothing_and_is_told(account: Account, change: dict[str, Any]) -> None:
    begun = await begin(account)
    with account.sandbox.changing():
        payment_intents.update(account.sandbox, change, str(begun.row.payment_intent))
    pay(account, begun)
    with capture_logs() as logs:
        for _ in range(2):
            await account.deliver_and_process(account.events())
    told = [(log["purchase_id"], log["reason"]) for log in logs if log["event"] == "purchase_mismatched"]
    assert told == [(str(begun.row.id), "amount")]
    assert (await purchase(account, begun)).status == "mismatched"
    assert await balance(account) == (3, 0, 0)
    told = [row.type for row in await account.all(models.OutboxMessage) if row.type.startswith("credits.")]
    assert told == ["credits.purchase_mismatched"]
    refund(account, str(begun.row.payment_intent), 400)
    await account.deliver_and_process(account.events())
    row = await purchase(account, begun)
    assert (row.status, row.amount_refunded, row.clawed) == ("mismatched", 400, 0)


class SlowMethod:
    """A purchase on Stripe's page by a method that takes days.

    The sandbox knows only cards, so what differs is changed in its rows (docs.stripe.com/payments/checkout/
    fulfill-orders): the session is complete and unpaid, the intent is processing.
    """

    def __init__(self, account: Account, begun: Begun) -> None:
        self.account = account
        self.intent = account.sandbox.get("payment_intent", pay(account, begun))
        self.session = account.sandbox.get("checkout.session", str(begun.row.checkout_session))
        [self.completed] = account.events("checkout.session.completed")

    async def tell(self, type: str, *, intent: dict[str, Any], session: dict[str, Any]) -> None:
        self.intent.update(intent)
        self.session.update(session)
        about = self.session if type.startswith("checkout") else self.intent
        event = copy.deepcopy(self.completed)
        event.update(id=f"evt_{uuid4().hex}", type=type)
        event["data"] = {"object": json.loads(json.dumps(self.account.sandbox.shown(about)))}
        await self.account.deliver_and_process([event])


@pytest.mark.parametrize("succeeds", [True, False])
async def test_a_slow_method_grants_when_it_has_paid(account: Account, *, succeeds: bool) -> None:
    begun = await begin(account, page=True)
    slow = SlowMethod(account, begun)
    unpaid = {"payment_status": "unpaid"}
    await slow.tell("checkout.session.completed", intent={"status": "processing", "amount_received": 0}, session=unpaid)
    await slow.tell("payment_intent.processing", intent={}, session={})
    assert (await purchase(account, begun)).status == "processing"
    assert await balance(account) == (3, 0, 0)
    if succeeds:
        paid = {"status": "succeeded", "amount_received": 500}
        await slow.tell("checkout.session.async_payment_succeeded", intent=paid, session={"payment_status": "paid"})
        await slow.tell("payment_intent.succeeded", intent={}, session={})
    else:
        error = {"code": "payment_method_provider_decline", "decline_code": None, "type": "invalid_request_error"}
        failed = {"status": "requires_payment_method", "last_payment_error": error}
        await slow.tell("payment_intent.payment_failed", intent=failed, session={})
        await slow.tell("checkout.session.async_payment_failed", intent={}, session={})
    row = await purchase(account, begun)
    assert (row.status, row.failure_code) == (
        ("succeeded", None) if succeeds else ("failed", "payment_method_provider_decline")
    )
    assert await balance(account) == (3, 20 if succeeds else 0, 0)


async def test_a_batch_leaves_what_is_about_credits_to_be_done_alone(account: Account, clock: HeldClock) -> None:
    begun = await begin(account)
    other = await begin(account, user_id="grace")
    intent = pay(account, begun)
    clock.wait(2)
    refund(account, intent, 25)
    with account.sandbox.changing():
        plain = {"amount": 500, "currency": "usd", "customer": account.sandbox.rows("customer")[1]["id"]}
        made = payment_intents.create(account.sandbox, plain)
        payment_intents.cancel(account.sandbox, {}, made["id"])
    for event in without(account.events(), "charge.succeeded", "charge.refunded"):
        await account.deliver(event)
    keys = await account.due_keys(most=100)
    left = (await account.process_batch(keys)).left
    assert [account.sandbox.get("customer", key)["metadata"]["user_id"] for key in left] == ["ada"]
    for key in left:
        await account.inbox.process_key(key)
    await account.deliver_and_process(account.events())
    assert (await balance(account), (await purchase(account, begun)).clawed) == ((3, 19, 0), 1)
    assert (await purchase(account, other)).status == "pending"


async def test_refunds_of_credits_alone_are_left_by_a_batch(account: Account, clock: HeldClock) -> None:
    begun = await begin(account)
    intent = pay(account, begun)
    with account.sandbox.changing():
        plain = {"amount": 500, "currency": "usd", "customer": account.sandbox.rows("customer")[0]["id"]}
        other = payment_intents.create(account.sandbox, plain)["id"]
        method = {"payment_method": "pm_card_visa", "return_url": "https://a.example"}
        payment_intents.confirm(account.sandbox, method, other)
    await account.deliver_and_process(account.events())
    for paid, is_left in ((other, False), (intent, True)):
        clock.wait(2)
        refund(account, paid, 25)
        await account.deliver(account.events("refund.created")[-1])
        [key] = await account.due_keys(most=100)
        assert (await account.process_batch([key])).left == [key] * is_left
    await account.process()
    assert (await purchase(account, begun)).clawed == 1


async def test_a_payment_and_its_dispute_at_the_same_moment_see_each_other(account: Account, clock: HeldClock) -> None:
    """Their events have other keys, so two workers may take them at once.

    That the payment's row is there already is the hardest case: then only the purchase is still to be written.
    """
    clock.hold()
    begun = await begin(account, page=True)
    intent = pay(account, begun, "pm_card_createDispute")
    clock.wait(5)
    account.sandbox.tick()
    shown = await account.provider.retrieve_payment_intent(intent)
    disputed = await account.provider.retrieve_dispute(account.sandbox.rows("dispute")[0]["id"])
    async with transaction(account.sessions) as session:
        owner = await customers.get_for_user(session, "ada")
        columns = payment_rows.intent_columns(shown.object, owner.id)
        as_of = AsOf(at=shown.at, revision=NO_ROW)
        assert await mirror.upsert(session, models.PaymentIntent, intent, columns, as_of=as_of, origin=STRIPE)
    wrote, go_on = asyncio.Event(), asyncio.Event()

    async def dispute() -> None:
        async with transaction(account.sessions) as session:
            as_of = AsOf(at=disputed.at, revision=NO_ROW)
            assert await payment_rows.sync_dispute(session, disputed.object, as_of=as_of, origin=STRIPE)
            wrote.set()
            await go_on.wait()

    async def payment() -> None:
        await wrote.wait()
        async with transaction(account.sessions) as session:
            assert await payment_rows.sync_intent(session, shown.object, as_of=AsOf(at=shown.at), origin=STRIPE)

    both = asyncio.gather(dispute(), payment())
    await wrote.wait()
    await asyncio.sleep(0.5)
    go_on.set()
    await both
    assert (await purchase(account, begun)).clawed == 20
    assert await balance(account) == (3, 0, 0)


@pytest.mark.parametrize(("first", "second"), [("sync_intent", "sync_refund"), ("sync_refund", "sync_intent")])
async def test_many_at_once_never_deadlock_and_grant_once(account: Account, first: str, second: str) -> None:
    begun = await begin(account)
    intent = pay(account, begun)
    refund(account, intent, 100)
    [given] = account.sandbox.rows("refund")
    paid = await account.provider.retrieve_payment_intent(intent)
    back = await account.provider.retrieve_refund(given["id"])
    shown = {"sync_intent": paid, "sync_refund": back}

    async def apply(name: str) -> bool:
        async with transaction(account.sessions) as session:
            snapshot: Any = shown[name]
            as_of = AsOf(at=snapshot.at + 1)
            follow: Callable[..., Any] = getattr(payment_rows, name)
            return bool(await follow(session, snapshot.object, as_of=as_of, origin=STRIPE))

    done = await asyncio.gather(*(apply(name) for name in (first, second) * 4))
    assert all(done)
    assert await balance(account) == (3, 16, 0)


async def test_the_catalogues_own_rules_say_when_a_balance_is_low(account: Account, database_url: str) -> None:
    """Taken back by Stripe's news, where nobody passes the catalogue on: the session knows it."""
    begun = await begin(account)
    intent = pay(account, begun)
    await account.deliver_and_process(account.events())
    refund(account, intent, 500)
    [given] = account.sandbox.rows("refund")
    shown = await account.provider.retrieve_refund(given["id"])
    engine = create_engine(database_url, pool_size=1)
    sessions = create_sessions(engine, credit_rules=lambda: Credits(low_at=5))
    async with transaction(sessions) as session:
        as_of = AsOf(at=shown.at, revision=NO_ROW)
        await payment_rows.sync_refund(session, shown.object, as_of=as_of, origin=STRIPE)
    await engine.dispose()
    [low] = [row for row in await account.all(models.OutboxMessage) if row.type == "credits.low"]
    assert low.data["available"] == 3


async def test_what_was_settled_by_others_comes_back_when_a_refund_fails(account: Account) -> None:
    begun = await begin(account)
    intent = pay(account, begun)
    await account.deliver_and_process(account.events())
    async with transaction(account.sessions) as session:
        book = await open_book(session, account.plans.credits, unix_now(), user_id="ada")
        assert book is not None
        book.spend(23, uuid4())
        await book.close()
    refund(account, intent, 500)
    await account.deliver_and_process(account.events())
    assert await balance(account) == (0, 0, 20)
    again = await begin(account)
    pay(account, again)
    await account.deliver_and_process(account.events())
    assert await balance(account) == (0, 0, 0)
    with account.sandbox.changing():
        refunds.fail(account.sandbox, account.sandbox.rows("refund")[0]["id"])
    await account.deliver_and_process(account.events())
    assert await balance(account) == (0, 20, 0)
    assert [(await purchase(account, one)).clawed for one in (begun, again)] == [0, 0]


def test_what_names_a_purchase_is_its_id() -> None:
    id = uuid4()
    assert settling.named_in({settling.METADATA: str(id)}) == id
    assert settling.named_in({settling.METADATA: "no id"}) is None
    assert settling.named_in({}) is None
