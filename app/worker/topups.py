"""Buys the packs that automatic top-ups are due for: Stripe is asked between the steps of `topups.tries`."""

import asyncio
from dataclasses import dataclass

import structlog

from app.db import Sessions, transaction
from app.errors import BillingError, ConflictError, InvalidRequestError, NotFoundError, PaymentFailedError
from app.provider.objects import Snapshot
from app.provider.payment_objects import PaymentIntent
from app.provider.protocol import BillingProvider
from app.services import payments
from app.services.catalog import Catalog
from app.services.credits import settling
from app.services.derived_keys import with_derived_key
from app.services.mirror import NO_ROW
from app.services.topups import tries
from app.services.topups.tries import Attempt, Claim
from app.values import unix_now

log = structlog.get_logger(__name__)

AT_ONCE = 8
CLOCKS_DIFFER_SECONDS = 3600
"""Stripe's list goes by its own clock."""
COLLECTED = frozenset({"succeeded", "processing"})

Shown = Snapshot[PaymentIntent]


@dataclass(slots=True, kw_only=True)
class TopupBuyer:
    """One per process."""

    sessions: Sessions
    provider: BillingProvider
    catalog: Catalog

    async def buy_due(self) -> None:
        """Buy, or go on buying, what is due and nobody else is at."""
        while True:
            async with transaction(self.sessions) as session:
                claimed = await tries.claim(session, now=unix_now(), most=AT_ONCE)
            if not claimed:
                return
            for outcome in await asyncio.gather(*map(self._buy, claimed), return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome  # the claim of that one ends by itself

    async def notice_new_methods(self) -> None:
        """Let what was declined be tried again once the customer is charged by something else."""
        async with transaction(self.sessions) as session:
            await tries.notice_new_methods(session, now=unix_now())

    async def _buy(self, claimed: Claim) -> None:
        async with transaction(self.sessions) as session:
            attempt = await tries.begin(session, self.catalog, claimed, now=unix_now())
        if attempt is None:
            return
        try:
            shown, failure_code = await self._collect(attempt)
            async with transaction(self.sessions) as session:
                if shown is not None:
                    await payments.store_intent(session, self.provider, shown, revision=NO_ROW, actor="system")
                await tries.conclude(
                    session,
                    self.catalog.credits,
                    attempt,
                    made=shown is not None,
                    failure_code=failure_code,
                    now=unix_now(),
                )
        except BillingError as error:
            log.warning("topup_delayed", account_id=str(attempt.account_id), error=error.code)
            async with transaction(self.sessions) as session:
                await tries.put_off(session, claimed, now=unix_now())

    async def _collect(self, attempt: Attempt) -> tuple[Shown | None, str | None]:
        """The payment, over or on its way, and why it was declined. None where Stripe has none, and makes none."""
        shown, failure_code = (await self._find(attempt) if attempt.resumed else None), None
        if shown is None and attempt.wanted:
            shown, failure_code = await self._ask(attempt)
        if shown is None or shown.object.status in COLLECTED:
            return shown, failure_code
        intent = shown.object
        declined = failure_code or intent.decline_code or intent.failure_code
        if declined is None:
            declined = "authentication_required" if intent.status == "requires_action" else intent.status
        if intent.status != "canceled":
            shown = await self._cancel(attempt, intent.id)
        return shown, None if shown.object.status in COLLECTED else declined

    async def _ask(self, attempt: Attempt) -> tuple[Shown | None, str | None]:
        """Have it paid. The keys are the purchase's own: whoever asks again is given the first answer."""
        repeated = False

        async def ask(key: str) -> tuple[Shown | None, str | None]:
            nonlocal repeated
            # Stripe said that it failed, which doesn't say that nothing was done.
            if repeated and (found := await self._find(attempt)) is not None:
                return found, None
            repeated = True
            try:
                made = await self.provider.create_payment_intent(
                    amount=attempt.amount,
                    currency=attempt.currency,
                    customer=attempt.customer,
                    payment_method=attempt.payment_method,
                    confirm=True,
                    off_session=True,
                    description=attempt.description,
                    metadata={settling.METADATA: str(attempt.purchase_id)},
                    idempotency_key=key,
                )
            except PaymentFailedError as error:
                return await self._find(attempt), error.decline_code or error.provider_code or error.code
            except (InvalidRequestError, NotFoundError, ConflictError) as error:
                if error.retryable or error.code == "idempotency_key_reused":
                    raise
                return None, error.provider_code or error.code  # e.g. the payment method is gone
            return made, None

        return await with_derived_key(f"billhook-topup-{attempt.purchase_id}", ask)

    async def _find(self, attempt: Attempt) -> Shown | None:
        """What Stripe has made for this purchase. Its keys are good for a day; its lists know longer."""
        if attempt.payment_intent is not None:
            return await self.provider.retrieve_payment_intent(attempt.payment_intent)
        if attempt.customer is None:
            return None
        since, after = attempt.created - CLOCKS_DIFFER_SECONDS, None
        while True:
            page = await self.provider.list_payment_intents(customer=attempt.customer, since=since, after=after)
            for intent in page.objects:
                if settling.named_in(intent.metadata) == attempt.purchase_id:
                    return Snapshot(object=intent, at=page.at)
            if (after := page.next) is None:
                return None

    async def _cancel(self, attempt: Attempt, id: str) -> Shown:
        """So that it can't be paid later, when nobody expects it."""

        async def cancel(key: str) -> Shown:
            return await self.provider.cancel_payment_intent(id, idempotency_key=key)

        try:
            return await with_derived_key(f"billhook-topup-{attempt.purchase_id}-cancel", cancel)
        except ConflictError as error:
            shown = await self.provider.retrieve_payment_intent(id)
            if shown.object.status not in COLLECTED | {"canceled"}:
                raise error from None
            return shown
