"""Payment intents, charges, refunds, disputes and the balance at Stripe."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from app.provider.mapping.payments import (
    map_balance,
    map_balance_transaction,
    map_charge,
    map_dispute,
    map_payment_intent,
    map_refund,
)
from app.provider.objects import Page, Snapshot
from app.provider.payment_objects import Balance, BalanceTransaction, Charge, Dispute, PaymentIntent, Refund
from app.provider.payment_protocol import CancellationReason, CaptureMethod, FutureUsage, RefundReason
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource, readable
from app.provider.stripe_client import Blame

if TYPE_CHECKING:
    from stripe.params import (
        BalanceTransactionListParams,
        ChargeListParams,
        PaymentIntentCancelParams,
        PaymentIntentCaptureParams,
        PaymentIntentConfirmParams,
        PaymentIntentCreateParams,
        RefundCreateParams,
    )


PAYMENT_INTENT = Kind("/v1/payment_intents", map_payment_intent)
CHARGE = Kind("/v1/charges", map_charge)
DISPUTE = Kind("/v1/disputes", map_dispute)

INTENT_BLAME = Blame(
    params={
        "amount": "amount_minor",
        "amount_to_capture": "amount_minor",
        "currency": "currency",
        "customer": "user_id",
        "payment_method": "payment_method",
        "receipt_email": "receipt_email",
        "return_url": "return_url",
        "source": "payment_method",  # what Stripe calls it where it belongs to a customer that is not named
    },
    conflict="The present state of the payment does not allow this.",
)
REFUND_BLAME = Blame(
    params={"amount": "amount_minor", "charge": "payment_id", "payment_intent": "payment_id", "id": "payment_id"},
    conflict="Nothing of this payment can be refunded now.",
)


class StripePayments(StripeResource):
    async def create_payment_intent(
        self,
        *,
        amount: int,
        currency: str,
        customer: str | None,
        capture_method: CaptureMethod = "automatic",
        payment_method: str | None = None,
        confirm: bool = False,
        off_session: bool = False,
        return_url: str | None = None,
        setup_future_usage: FutureUsage | None = None,
        receipt_email: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, str],
        idempotency_key: str,
    ) -> Snapshot[PaymentIntent]:
        params: PaymentIntentCreateParams = {
            "amount": amount,
            "currency": currency,
            "capture_method": "manual" if capture_method == "manual" else "automatic_async",
            "metadata": dict(metadata),
        }
        if customer is not None:
            params["customer"] = customer
        if payment_method is not None:
            params["payment_method"] = payment_method
        if confirm:
            params["confirm"] = True
            if off_session:
                params["off_session"] = True
            if return_url is not None:
                params["return_url"] = return_url
        if setup_future_usage is not None:
            params["setup_future_usage"] = setup_future_usage
        if receipt_email is not None:
            params["receipt_email"] = receipt_email
        if description is not None:
            params["description"] = description
        return await self._post(PAYMENT_INTENT, params, idempotency_key=idempotency_key, blame=INTENT_BLAME)

    async def confirm_payment_intent(
        self,
        id: str,
        *,
        payment_method: str | None = None,
        off_session: bool = False,
        return_url: str | None = None,
        idempotency_key: str,
    ) -> Snapshot[PaymentIntent]:
        params: PaymentIntentConfirmParams = {}
        if payment_method is not None:
            params["payment_method"] = payment_method
        if off_session:
            params["off_session"] = True
        if return_url is not None:
            params["return_url"] = return_url
        return await self._act(id, "/confirm", params, idempotency_key)

    async def capture_payment_intent(
        self, id: str, *, amount: int | None = None, idempotency_key: str
    ) -> Snapshot[PaymentIntent]:
        params: PaymentIntentCaptureParams = {}
        if amount is not None:
            params["amount_to_capture"] = amount
        return await self._act(id, "/capture", params, idempotency_key)

    async def cancel_payment_intent(
        self, id: str, *, reason: CancellationReason | None = None, idempotency_key: str
    ) -> Snapshot[PaymentIntent]:
        params: PaymentIntentCancelParams = {}
        if reason is not None:
            params["cancellation_reason"] = reason
        return await self._act(id, "/cancel", params, idempotency_key)

    async def retrieve_payment_intent(self, id: str) -> Snapshot[PaymentIntent]:
        return await self._retrieve(PAYMENT_INTENT, id)

    async def list_payment_intents(
        self, *, customer: str | None = None, since: int | None = None, after: str | None = None
    ) -> Page[PaymentIntent]:
        return await self._page(PAYMENT_INTENT.path, map_payment_intent, _of(customer, since), after)

    async def retrieve_charge(self, id: str) -> Snapshot[Charge]:
        return await self._retrieve(CHARGE, id)

    async def list_charges(
        self, *, customer: str | None = None, since: int | None = None, after: str | None = None
    ) -> Page[Charge]:
        return await self._page(CHARGE.path, map_charge, _of(customer, since), after)

    async def create_refund(
        self,
        *,
        charge: str | None = None,
        payment_intent: str | None = None,
        amount: int | None = None,
        reason: RefundReason | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str,
    ) -> Snapshot[Refund]:
        params: RefundCreateParams = {}
        if charge is not None:
            params["charge"] = charge
        if payment_intent is not None:
            params["payment_intent"] = payment_intent
        if amount is not None:
            params["amount"] = amount
        if reason is not None:
            params["reason"] = reason
        if metadata is not None:
            params["metadata"] = dict(metadata)
        return await self._post(self._refunds, params, idempotency_key=idempotency_key, blame=REFUND_BLAME)

    async def retrieve_refund(self, id: str) -> Snapshot[Refund]:
        return await self._retrieve(self._refunds, id)

    async def list_refunds(self, *, since: int | None = None, after: str | None = None) -> Page[Refund]:
        kind = self._refunds
        return await self._page(kind.path, kind.read, _since(since), after)

    async def retrieve_dispute(self, id: str) -> Snapshot[Dispute]:
        return await self._retrieve(DISPUTE, id)

    async def list_disputes(self, *, since: int | None = None, after: str | None = None) -> Page[Dispute]:
        return await self._page(DISPUTE.path, map_dispute, _since(since), after)

    async def retrieve_balance(self) -> Balance:
        answer = await self._client.send("get", "/v1/balance")
        return readable(map_balance, answer.data, request_id=answer.request_id)

    async def list_balance_transactions(
        self,
        *,
        limit: int = PAGE_SIZE,
        currency: str | None = None,
        source: str | None = None,
        after: str | None = None,
    ) -> Page[BalanceTransaction]:
        params: BalanceTransactionListParams = {"limit": limit}
        if currency is not None:
            params["currency"] = currency
        if source is not None:
            params["source"] = source
        return await self._page("/v1/balance_transactions", map_balance_transaction, params, after)

    @property
    def _refunds(self) -> Kind[Refund]:
        return Kind("/v1/refunds", partial(map_refund, livemode=self._client.livemode))

    async def _act(
        self, id: str, action: str, params: Mapping[str, object], idempotency_key: str
    ) -> Snapshot[PaymentIntent]:
        return await self._post(
            PAYMENT_INTENT, params, id=id, action=action, idempotency_key=idempotency_key, blame=INTENT_BLAME
        )


def _of(customer: str | None, since: int | None) -> Mapping[str, object]:
    return _since(since) if customer is None else {**_since(since), "customer": customer}


def _since(since: int | None) -> Mapping[str, object]:
    """All of these lists take the same."""
    params: ChargeListParams = {"limit": PAGE_SIZE}
    if since is not None:
        params["created"] = {"gte": since}
    return params
