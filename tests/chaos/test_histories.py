"""Random histories of buyers, Stripe and the network at once: whatever happens, we end where Stripe ends.

BILLHOOK_SEED=<n> runs the one history that is named in a failure. It makes the same choices again, though not
always in the same order: two workers and their database keep no score.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from billing import Account, card, due_keys, process_batch
from chaos import promises
from redis.asyncio import Redis
from sqlalchemy import func, update

from app import models
from app.db import Sessions, transaction
from app.errors import ConflictError, NotFoundError
from app.provider.stripe import StripeProvider
from app.sandbox import checkout as hosted
from app.sandbox.app import create_sandbox
from app.sandbox.errors import ApiError
from app.sandbox.resources import customers, invoices, payment_methods, refunds
from app.sandbox.resources import subscriptions as sandbox_subscriptions
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.services import checkout
from app.services.catalog import Catalog
from app.services.customers import Buyer
from app.services.subscriptions import canceling, reading
from app.worker.inbox import Inbox

KEY = "sk_test_billhook"
URL = "http://sandbox.test"
SEEDS = [int(os.environ["BILLHOOK_SEED"])] if "BILLHOOK_SEED" in os.environ else range(8)
STEPS = 25
START = 1_790_000_000
DAY = 86_400
ENDED = {"canceled", "incomplete_expired"}
BUYERS = [Buyer(user_id="ada", email="ada@example.com"), Buyer(user_id="grace")]

Work = Coroutine[Any, Any, Any]


class History:
    """One account's life, `STEPS` steps long; each lets several things happen at once. `now` is Stripe's clock."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.now = START
        self.app = create_sandbox(secret_key=KEY, base_url=URL, now=lambda: self.now, seed=seed)
        self.sandbox: Sandbox = self.app.state.sandbox
        self.account: Account
        self.inboxes: list[Inbox]
        self.told: dict[str, dict[str, Any]] = {}  # events by id; Stripe itself forgets them after thirty days
        self.delivered = set[str]()
        self.dropped = set[str]()  # lost on the way, until somebody replays them
        self.shown = set[str]()  # sessions whose page a buyer has been sent to

    # What happens at Stripe: in the Dashboard, in the portal, on the Checkout page

    def happen_at_stripe(self) -> None:
        """One change, if there is anything to change."""
        box, choose = self.sandbox, self.choose
        changes: list[Callable[[], Any]] = []
        if opened := [row for row in box.rows("checkout.session") if row["id"] in self.shown & self._open()]:
            paid = choose.choice(opened)["id"]
            changes += [lambda: hosted.pay(box, paid, card())] * 4
        if living := [row for row in box.rows("subscription") if row["status"] not in ENDED]:
            changes += self._subscription_changes(choose.choice(living))
        if bills := [row for row in box.rows("invoice") if row["status"] == "open"]:
            changes += self._invoice_changes(choose.choice(bills)["id"]) * 2
        if charged := [row for row in box.rows("charge") if row["paid"] and not row["refunded"]]:
            charge = choose.choice(charged)
            half = {"charge": charge["id"], "amount": charge["amount"] // 2}
            changes += [partial(refunds.create, box, choose.choice([half, {"charge": charge["id"]}]))]
        if people := box.rows("customer"):
            person, name = choose.choice(people)["id"], str(choose.random())
            changes += [
                lambda: customers.update(box, {"name": name}, person),
                lambda: payment_methods.attach(box, {"customer": person}, "pm_card_visa"),
            ]
            changes += [lambda: customers.delete(box, {}, person)] * (choose.random() < 0.2)
        if cards := [row["id"] for row in box.rows("payment_method") if row["customer"]]:
            kept, month = choose.choice(cards), choose.randint(1, 12)
            changes += [
                lambda: payment_methods.update(box, {"card": {"exp_month": month}}, kept),
                lambda: payment_methods.detach(box, {}, kept),
            ]
        if changes:
            with box.changing():
                choose.choice(changes)()

    def _open(self) -> set[str]:
        return {row["id"] for row in self.sandbox.rows("checkout.session") if row["status"] == "open"}

    def _subscription_changes(self, row: Row) -> list[Callable[[], Any]]:
        box, update = self.sandbox, sandbox_subscriptions.update
        item = row["items"]["data"][0]["id"]
        prices = [price["id"] for price in box.rows("price") if price["active"] and price["recurring"]]
        prorate = self.choose.choice(["create_prorations", "always_invoice"])
        params: list[Row] = [
            {"cancel_at_period_end": True},
            {"cancel_at_period_end": False},
            {"metadata": {"note": str(self.choose.random())}},
            {"items": [{"id": item, "quantity": self.choose.randint(1, 9)}]},
            {"items": [{"id": item, "price": self.choose.choice(prices)}], "proration_behavior": prorate},
            {"items": [{"id": item, "price": self.choose.choice(prices)}], "proration_behavior": "none"},
        ]
        changes: list[Callable[[], Any]] = [partial(update, box, wanted, row["id"]) for wanted in params]
        changes += [partial(self._pay_by, name, row) for name in ("pm_card_chargeCustomerFail", "pm_card_mastercard")]
        return [*changes, lambda: sandbox_subscriptions.cancel(box, {}, row["id"])]

    def _pay_by(self, name: str, subscription: Row) -> None:
        """From now on this card is charged, or charged in vain."""
        method = payment_methods.attach(self.sandbox, {"customer": subscription["customer"]}, name)
        sandbox_subscriptions.update(self.sandbox, {"default_payment_method": method["id"]}, subscription["id"])

    def _invoice_changes(self, id: str) -> list[Callable[[], Any]]:
        box = self.sandbox
        return [
            lambda: invoices.pay(box, {}, id),
            lambda: invoices.pay(box, {"paid_out_of_band": True}, id),
            lambda: invoices.void(box, {}, id),
            lambda: invoices.mark_uncollectible(box, {}, id),
        ]

    # What happens between Stripe and us

    def events(self) -> list[dict[str, Any]]:
        """All that Stripe has told up to the last step, in any order."""
        events = list(self.told.values())
        self.choose.shuffle(events)
        return events

    def some_events(self) -> list[dict[str, Any]]:
        """Half of the news, but for what gets lost, and a few old ones again."""
        events = [event for event in self.events() if event["id"] not in self.dropped]
        news = [event for event in events if event["id"] not in self.delivered]
        self.dropped |= {event["id"] for event in news if self.choose.random() < 0.1}
        return [event for event in news[::2] + events[:3] if event["id"] not in self.dropped]

    async def deliver(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            await self.account.deliver(event)
            self.delivered.add(event["id"])

    async def work(self, inbox: Inbox, *, alone: bool) -> None:
        """What a worker does: a batch, and one at a time what that leaves; or `alone` from the start."""
        keys = await due_keys(inbox, most=5)
        for key in keys if alone else (await process_batch(inbox, keys)).left:
            await inbox.process_key(key)

    # What buyers do

    async def open_checkout(self, buyer: Buyer, plan: str) -> None:
        self.shown.add((await self.account.open_checkout(buyer, plan)).stripe_id)

    async def land(self, buyer: Buyer, session_id: str) -> None:
        async with transaction(self.account.sessions) as session:
            await checkout.get_session(
                session, self.account.provider, user_id=buyer.user_id, session_id=session_id, actor="user:test"
            )

    async def change_subscription(self, verb: Callable[..., Work], buyer: Buyer, **more: Any) -> None:
        key, actor = uuid4().hex, f"user:{buyer.user_id}"
        async with transaction(self.account.sessions) as session:
            mine = await reading.own_live(session, buyer.user_id, None)
            await verb(session, self.account.provider, mine, idempotency_key=key, actor=actor, **more)

    # All of it

    async def step(self) -> None:
        choose = self.choose
        self.now += choose.choice([0, 0, 0, 1, 1, 5, choose.choice([1, 1, DAY, 20 * DAY])])
        if choose.random() < 0.1:
            await self.account.redis.flushall()
        buyer, likely = choose.choice(BUYERS), choose.random
        cancel = {"at_period_end": likely() < 0.7, "reason": None}
        wishes: list[tuple[float, Callable[[], Work]]] = [
            (0.5, lambda: self.deliver(self.some_events())),
            (0.6, lambda: self.work(self.inboxes[0], alone=likely() < 0.3)),
            (0.4, lambda: self.work(self.inboxes[1], alone=likely() < 0.3)),
            (0.4, lambda: self.open_checkout(buyer, choose.choice(["basic", "pro"]))),
            (0.3 if self.shown else 0, lambda: self.land(buyer, choose.choice(sorted(self.shown)))),
            (0.15, lambda: self.change_subscription(canceling.cancel, buyer, **cancel)),
            (0.15, lambda: self.change_subscription(canceling.resume, buyer)),
        ]
        works = [make() for likelihood, make in wishes if likely() < likelihood]
        works += [self._at_stripe(likely() * 0.02) for _ in range(2)]
        choose.shuffle(works)
        await asyncio.gather(*(allow_refusals(work) for work in works))
        self.told |= {event["id"]: event for event in self.account.events()}
        living = [row["metadata"]["user_id"] for row in self.sandbox.rows("subscription") if row["status"] not in ENDED]
        assert len(living) == len(set(living)), "somebody pays twice"

    async def _at_stripe(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.happen_at_stripe()

    async def settle(self) -> None:
        """In the end everything arrives, once more, and is applied, also what had been put off."""
        await self.deliver(self.events())
        due = (
            update(models.StripeEvent).where(models.StripeEvent.status == "pending").values(next_attempt_at=func.now())
        )
        for _ in range(12):
            async with self.account.sessions.begin() as session:
                await session.execute(due)
            await self.account.process()

    # How it ended

    async def broken_promises(self) -> list[Any]:
        people = await self.account.all(models.Customer)
        orphans = [(row.stripe_id, "belongs to nobody") for row in people if not (row.deleted or row.user_id)]
        return orphans + await promises.broken(self.account, self.told.values())


async def allow_refusals(work: Work) -> None:
    """Buyers, and who works at Stripe, may be told no. Whatever else is raised is a bug."""
    with suppress(ApiError, ConflictError, NotFoundError):
        await work


@pytest.fixture(params=SEEDS, ids="seed {}".format)
async def history(
    request: pytest.FixtureRequest, sessions: Sessions, redis: Redis, catalog: Catalog
) -> AsyncIterator[History]:
    history = History(request.param)
    history.sandbox.hold_deliveries()
    async with StripeProvider(KEY, base_url=URL, transport=httpx.ASGITransport(history.app)) as provider:
        account = history.account = Account(sessions, redis, provider, history.sandbox, catalog)
        other = Inbox(sessions=sessions, redis=redis, provider=provider, max_attempts=12)
        history.inboxes = [account.inbox, other]
        await account.apply_plans()
        yield history
    await history.sandbox.aclose()


async def test_every_history_ends_as_stripe_has_it(history: History, request: pytest.FixtureRequest) -> None:
    for _ in range(STEPS):
        await history.step()
    await history.settle()
    seed = request.node.callspec.params["history"]
    assert await history.broken_promises() == [], f"BILLHOOK_SEED={seed}"
