"""Histories at the sandbox, and our side of them: what buyers and Stripe do in tests."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from signing import body, sign
from sqlalchemy import select

from app import models
from app.db import Sessions, driver_connection, transaction
from app.models.mirror import Mirrored
from app.provider.stripe import StripeProvider
from app.sandbox import checkout as hosted
from app.sandbox.cards import Card
from app.sandbox.sandbox import Sandbox
from app.services import checkout, plans_apply
from app.services.catalog import Catalog
from app.services.customers import Buyer
from app.services.mirror import Origin
from app.services.receiver import Receipt, Receiver
from app.worker import batch
from app.worker.inbox import Inbox

SECRET = "whsec_dGVzdHMgc2lnbiB3aXRoIHRoaXMgc2VjcmV0"
STRIPE = Origin(actor="stripe")
ADA = Buyer(user_id="demo-1", email="ada@example.com", name="Ada")
URLS = {"success_url": "https://app.example.com/done", "cancel_url": "https://app.example.com/"}


def card(number: str = "4242424242424242") -> Card:
    return Card(number=number, exp_month=12, exp_year=2040, cvc="123")


class Account:
    """One Stripe account (the sandbox) and one Billhook over it, without HTTP between test and services."""

    def __init__(
        self, sessions: Sessions, redis: Redis, provider: StripeProvider, sandbox: Sandbox, plans: Catalog
    ) -> None:
        self.sessions = sessions
        self.redis = redis
        self.provider = provider
        self.sandbox = sandbox
        self.plans = plans
        self._receiver: Receiver | None = None
        self._deliveries = 0
        self.inbox = Inbox(sessions=sessions, redis=redis, provider=provider, max_attempts=12)

    async def apply_plans(self) -> list[plans_apply.Change]:
        async with transaction(self.sessions) as session:
            return await plans_apply.apply(session, self.provider, self.plans)

    async def open_checkout(self, buyer: Buyer = ADA, plan: str = "pro", **more: Any) -> models.CheckoutSession:
        asked = {
            "plan": plan,
            "price_id": None,
            "quantity": 1,
            "promotion_code": None,
            "actor": f"user:{buyer.user_id}",
            **URLS,
            **more,
        }
        async with transaction(self.sessions) as session:
            return await checkout.create_session(session, self.provider, self.redis, self.plans, user=buyer, **asked)

    async def buy(self, buyer: Buyer = ADA, plan: str = "pro") -> str:
        """Subscribe at Stripe; returns the session's id. No webhook is delivered by this."""
        opened = await self.open_checkout(buyer, plan)
        hosted.pay(self.sandbox, opened.stripe_id, card())
        return opened.stripe_id

    def events(self, *types: str) -> list[dict[str, Any]]:
        """What Stripe has to tell so far, oldest first; only of these types if any are given."""
        shown = [self.sandbox.shown(row) for row in self.sandbox.rows("event")]
        return [event for event in shown if not types or event["type"] in types]

    async def deliver(self, event: Mapping[str, Any]) -> Receipt:
        payload = body(event)
        async with self.receiving() as receiver:
            return await receiver.receive(payload, sign(payload, SECRET))

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[Receiver]:
        """The receiver, shared by those who deliver at the same time; closed after the last of them."""
        self._deliveries += 1
        if self._receiver is None:
            self._receiver = Receiver(
                self.sessions.kw["bind"], verifier=self.provider, secrets=["whsec_other", SECRET], livemode=False
            )
        try:
            yield self._receiver
        finally:
            self._deliveries -= 1
            if not self._deliveries:
                receiver, self._receiver = self._receiver, None
                await receiver.aclose()

    async def due_keys(self, *, most: int, busy: Collection[str] = ()) -> list[str]:
        return await due_keys(self.inbox, most=most, busy=busy)

    async def process_batch(self, keys: Sequence[str]) -> batch.Outcome:
        return await process_batch(self.inbox, keys)

    async def process(self) -> None:
        """Apply everything that is due, as a worker does: in batches, and alone what these leave."""
        while keys := await self.due_keys(most=100):
            for key in (await self.process_batch(keys)).left:
                await self.inbox.process_key(key)

    async def process_alone(self) -> None:
        """Apply everything that is due, one customer at a time."""
        while keys := await self.due_keys(most=100):
            for key in keys:
                await self.inbox.process_key(key)

    async def deliver_and_process(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            await self.deliver(event)
        await self.process()

    async def all(self, model: type[Any]) -> list[Any]:
        async with self.sessions() as session:
            order = model.stripe_id if issubclass(model, Mirrored) else model.id
            return list((await session.scalars(select(model).order_by(order))).all())

    async def state(self) -> dict[str, list[dict[str, Any]]]:
        """All mirrored rows without what tells how they came about."""
        hidden = {"id", "customer_id", "synced_at", "revision"}
        mirrored = (
            *(models.Customer, models.Subscription, models.Invoice, models.PaymentMethod, models.CheckoutSession),
            *(models.PaymentIntent, models.Charge, models.Refund, models.Dispute),
        )
        return {
            model.__name__: [
                {c.key: getattr(row, c.key) for c in model.__table__.columns if c.key not in hidden}
                for row in await self.all(model)
            ]
            for model in mirrored
        }


async def due_keys(inbox: Inbox, *, most: int, busy: Collection[str] = ()) -> list[str]:
    async with driver_connection(inbox.sessions) as connection:
        return await inbox.due_keys(connection, most=most, busy=busy)


async def process_batch(inbox: Inbox, keys: Sequence[str]) -> batch.Outcome:
    async with driver_connection(inbox.sessions) as connection:
        return await batch.process(connection, inbox.provider, keys)
