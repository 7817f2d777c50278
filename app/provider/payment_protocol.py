"""What Billhook asks of a payment provider about payments, refunds, disputes and the account's own money."""

from collections.abc import Mapping
from typing import Literal, Protocol

from app.provider.objects import Page, Snapshot
from app.provider.payment_objects import Balance, BalanceTransaction, Charge, Dispute, PaymentIntent, Refund

CaptureMethod = Literal["automatic", "manual"]
FutureUsage = Literal["off_session", "on_session"]
CancellationReason = Literal["abandoned", "duplicate", "fraudulent", "requested_by_customer"]
RefundReason = Literal["duplicate", "fraudulent", "requested_by_customer"]


class PaymentProvider(Protocol):
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
        """`off_session` and `return_url` mean something only with `confirm`; one of the two is needed then.

        Raises PaymentFailedError when the payment is refused; the intent stays, and can be confirmed again.
        """
        ...

    async def confirm_payment_intent(
        self,
        id: str,
        *,
        payment_method: str | None = None,
        off_session: bool = False,
        return_url: str | None = None,
        idempotency_key: str,
    ) -> Snapshot[PaymentIntent]:
        """Try to collect. Raises PaymentFailedError as `create_payment_intent`, ConflictError for one that is over."""
        ...

    async def capture_payment_intent(
        self, id: str, *, amount: int | None = None, idempotency_key: str
    ) -> Snapshot[PaymentIntent]:
        """Take what is held, or a part of it: the rest is released."""
        ...

    async def cancel_payment_intent(
        self, id: str, *, reason: CancellationReason | None = None, idempotency_key: str
    ) -> Snapshot[PaymentIntent]: ...

    async def retrieve_payment_intent(self, id: str) -> Snapshot[PaymentIntent]: ...

    async def list_payment_intents(
        self, *, customer: str | None = None, since: int | None = None, after: str | None = None
    ) -> Page[PaymentIntent]: ...

    async def retrieve_charge(self, id: str) -> Snapshot[Charge]: ...

    async def list_charges(
        self, *, customer: str | None = None, since: int | None = None, after: str | None = None
    ) -> Page[Charge]: ...

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
        """Give back `amount`, or all that is left, of a charge or of what an intent collected.

        Raises ConflictError when nothing is left or the payment is disputed.
        """
        ...

    async def retrieve_refund(self, id: str) -> Snapshot[Refund]: ...

    async def list_refunds(self, *, since: int | None = None, after: str | None = None) -> Page[Refund]: ...

    async def retrieve_dispute(self, id: str) -> Snapshot[Dispute]: ...

    async def list_disputes(self, *, since: int | None = None, after: str | None = None) -> Page[Dispute]: ...

    async def retrieve_balance(self) -> Balance: ...

    async def list_balance_transactions(
        self, *, limit: int = 100, currency: str | None = None, source: str | None = None, after: str | None = None
    ) -> Page[BalanceTransaction]:
        """`source` is the charge, refund or payout that moved the money."""
        ...
