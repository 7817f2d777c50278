"""What meets in the middle: purchases, deletions and bad objects, while events and other requests are under way."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from billing import ADA, STRIPE, Account, card
from sqlalchemy import func, select, update
from starlette.applications import Starlette
from typing_extensions import override

from app import models
from app.errors import ConflictError
from app.provider.objects import Customer, Invoice
from app.provider.stripe import StripeProvider
from app.redis import courtesy_lock, create_redis
from app.sandbox import checkout as hosted
from app.sandbox.resources import customers as sandbox_customers
from app.services import customers, invoices
from app.services.mirror import AsOf
from app.services.subscriptions import creating
from app.services.subscriptions.creating import NewItem, NewSubscription
from app.worker.inbox import Inbox


class Overtaken(httpx.AsyncBaseTransport):
    """The sandbox; but before it sees the first `method` on `path`, `meanwhile` happens."""

    def __init__(self, app: Starlette, method: str, path: str, meanwhile: Callable[[], Awaitable[Any]]) -> None:
        self._stripe = httpx.ASGITransport(app)
        self._awaited = (method, path)
        self._meanwhile = [meanwhile]

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if (request.method, request.url.path) == self._awaited and self._meanwhile:
            await self._meanwhile.pop()()
        return await self._stripe.handle_async_request(request)

    def provider(self, account: Account) -> StripeProvider:
        return StripeProvider("sk_test_billhook", base_url=account.sandbox.base_url, transport=self)


async def pay_and_apply(account: Account, session_id: str) -> None:
    hosted.pay(account.sandbox, session_id, card())
    await account.deliver_and_process(account.events())


async def open_while_the_lock_is_held(
    account: Account, meanwhile: Awaitable[Any], **asked: Any
) -> models.CheckoutSession:
    """Ask for a session as somebody else is at work for the same user, who does `meanwhile` before letting go."""
    async with courtesy_lock(account.redis, f"checkout:{ADA.user_id}", wait=1) as held:
        assert held
        waiting = asyncio.create_task(account.open_checkout(**asked))
        await asyncio.sleep(0.3)  # by now it has come as far as the lock lets it
        await meanwhile
        assert not waiting.done()
    return await waiting


async def test_who_waited_while_the_other_tab_paid_is_refused(account: Account) -> None:
    first = await account.open_checkout()
    with pytest.raises(ConflictError) as refused:
        await open_while_the_lock_is_held(account, pay_and_apply(account, first.stripe_id), plan="enterprise")
    assert refused.value.code == "already_subscribed"
    assert [row["status"] for row in account.sandbox.rows("checkout.session")] == ["complete"]


async def test_who_waited_while_the_trial_was_used_up_gets_no_second_one(account: Account) -> None:
    first = await account.open_checkout(plan="basic")

    async def use_up_the_trial() -> None:
        hosted.pay(account.sandbox, first.stripe_id, card())
        [subscription] = account.sandbox.rows("subscription")
        assert subscription["status"] == "trialing"
        await account.provider.cancel_subscription(subscription["id"], idempotency_key="1")
        await account.deliver_and_process(account.events())

    second = await open_while_the_lock_is_held(account, use_up_the_trial(), plan="basic", quantity=2)
    hosted.pay(account.sandbox, second.stripe_id, card())
    statuses = [row["status"] for row in account.sandbox.rows("subscription")]
    assert statuses == ["canceled", "active"]


async def test_a_session_made_while_the_other_tab_paid_is_not_handed_out(
    account: Account, sandbox_app: Starlette
) -> None:
    """Without Redis nobody waits: the first session comes, is paid and applied while Stripe makes the second one."""
    account.redis = create_redis("unix:///nowhere")
    hasty = Account(account.sessions, account.redis, account.provider, account.sandbox, account.plans)

    async def other_tab() -> None:
        await pay_and_apply(hasty, (await hasty.open_checkout(plan="pro")).stripe_id)

    transport = Overtaken(sandbox_app, "POST", "/v1/checkout/sessions", other_tab)
    async with transport.provider(account) as account.provider:
        with pytest.raises(ConflictError):
            await account.open_checkout(plan="enterprise")


async def test_a_tombstone_that_came_too_late_is_laid_again(account: Account, sandbox_app: Starlette) -> None:
    """Stripe says that the invoice is gone just after somebody stored an older look at it."""
    draft = Invoice(
        id="in_gone",
        customer="cus_1",
        status="draft",
        currency="usd",
        amount_due=0,
        amount_paid=0,
        amount_remaining=0,
        subtotal=0,
        total=0,
    )
    async with account.sessions.begin() as session:
        await customers.sync(session, Customer(id="cus_1"), as_of=AsOf(at=1), origin=STRIPE)
        await invoices.sync(session, draft, as_of=AsOf(at=10), origin=STRIPE)

    async def store_the_older_look() -> None:
        async with account.sessions.begin() as session:
            assert await invoices.sync(session, draft, as_of=AsOf(at=10, revision=1), origin=STRIPE)

    transport = Overtaken(sandbox_app, "GET", "/v1/invoices/in_gone", store_the_older_look)
    async with transport.provider(account) as provider:
        account.inbox = Inbox(sessions=account.sessions, redis=account.redis, provider=provider, max_attempts=12)
        await account.deliver_and_process([event("invoice.deleted", object="invoice", id="in_gone", customer="cus_1")])
    assert [row.deleted for row in await account.all(models.Invoice)] == [True]
    assert [row.status for row in await account.all(models.StripeEvent)] == ["processed"]


def event(type: str, **shown: Any) -> dict[str, Any]:
    base = {"object": "event", "id": f"evt_{type}", "api_version": None, "livemode": False, "created": 10}
    return {**base, "type": type, "data": {"object": shown}}


async def customer_of_ada(account: Account, key: str) -> str:
    made = await account.provider.create_customer(
        email=None, name=None, metadata={"user_id": "ada"}, idempotency_key=key
    )
    return made.object.id


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=lambda order: "".join(map(str, order)))
async def test_of_two_customers_for_one_user_the_living_one_is_theirs(account: Account, order: tuple[int, ...]) -> None:
    """Whatever order the news of one's creation and deletion and the other's creation comes in, and however often."""
    gone, living = await customer_of_ada(account, "1"), await customer_of_ada(account, "2")
    with account.sandbox.changing():
        sandbox_customers.delete(account.sandbox, {}, gone)
    story = account.events("customer.created", "customer.deleted")
    assert [event["data"]["object"]["id"] for event in story] == [gone, living, gone]
    for place in order:
        await account.deliver_and_process([story[place], story[place]])
    await account.deliver_and_process(story)
    found = {row.stripe_id: (row.user_id, row.deleted) for row in await account.all(models.Customer)}
    assert found[living] == ("ada", False)
    assert found[gone][1]


async def test_the_second_of_two_customers_inherits_the_user_when_the_first_is_deleted(account: Account) -> None:
    """As above, but each piece of news is applied before the next thing happens."""
    first = await customer_of_ada(account, "1")
    await account.deliver_and_process(account.events())
    second = await customer_of_ada(account, "2")
    await account.deliver_and_process(account.events())
    with account.sandbox.changing():
        sandbox_customers.delete(account.sandbox, {}, first)
    await account.deliver_and_process(account.events())
    assert {row.stripe_id: row.user_id for row in await account.all(models.Customer)}[second] == "ada"


async def test_a_customer_whom_stripe_shows_unreadably_stops_only_their_own_news(account: Account) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    [customer], [subscription] = account.sandbox.rows("customer"), account.sandbox.rows("subscription")
    await account.provider.cancel_subscription(subscription["id"], idempotency_key="1")
    customer["metadata"] = 7
    unreadable = event("customer.updated", object="customer", id=customer["id"], metadata=7)
    await account.deliver_and_process([unreadable, *account.events("customer.subscription.deleted")])

    states = {row.type: (row.status, row.attempts) for row in await account.all(models.StripeEvent)}
    assert states["customer.updated"] == ("pending", 1)
    assert states["customer.subscription.deleted"] == ("processed", 1)
    assert [row.status for row in await account.all(models.Subscription)] == ["canceled"]


async def test_an_event_of_a_type_no_longer_handled_dies_alone(account: Account) -> None:
    """Stored by a newer release, met by this one after a roll-back."""
    await account.buy()
    for event in account.events():
        await account.deliver(event)
    row = models.StripeEvent
    async with account.sessions.begin() as session:
        newer = func.replace(row.payload, "payment_method.attached", "payment_method.enchanted")
        await session.execute(
            update(row)
            .where(row.type == "payment_method.attached")
            .values(type="payment_method.enchanted", payload=newer)
        )
    account.inbox = Inbox(sessions=account.sessions, redis=account.redis, provider=account.provider, max_attempts=1)
    await account.process()
    async with account.sessions() as session:
        states = dict((await session.execute(select(row.type, row.status).where(row.status != "ignored"))).all())
    assert states.pop("payment_method.enchanted") == "dead"
    assert set(states.values()) == {"processed"}
    assert [found.status for found in await account.all(models.Subscription)] == ["active"]


async def test_a_trial_whose_answer_got_lost_is_found_by_the_same_request_alone(account: Account) -> None:
    await account.apply_plans()
    trial = NewSubscription(items=[NewItem(plan="pro")], trial_days=7)

    async def subscribe(key: str) -> str:
        async with account.sessions() as session:
            made = await creating.create(
                session,
                account.provider,
                account.plans,
                trial,
                user_id=ADA.user_id,
                customer=None,
                idempotency_key=key,
                actor="service",
            )
            return made.subscription.stripe_id  # the process dies here: nothing is committed

    first = await subscribe("once")
    await account.deliver_and_process(account.events())
    assert await subscribe("once") == first
    with pytest.raises(ConflictError) as refused:
        await subscribe("twice")
    assert refused.value.code == "trial_used"
    assert len(account.sandbox.rows("subscription")) == 1
