"""What Billhook asks of a payment provider about invoices and credit notes."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from app.provider.invoice_objects import CreditNote, LineWish
from app.provider.objects import Invoice, Page, Snapshot
from app.provider.subscription_objects import InvoicePreview
from app.provider.subscription_protocol import CollectionMethod


class InvoiceProvider(Protocol):
    async def retrieve_invoice(self, id: str) -> Snapshot[Invoice]: ...

    async def list_invoices(
        self, *, customer: str | None = None, since: int | None = None, after: str | None = None
    ) -> Page[Invoice]: ...

    async def preview_upcoming_invoice(self, customer: str) -> InvoicePreview:
        """The next invoice among the customer's subscriptions. Raises NotFoundError when none is to come."""
        ...

    async def create_invoice(
        self,
        *,
        customer: str,
        lines: Sequence[LineWish],
        include_pending: bool = False,
        currency: str | None = None,
        collection_method: CollectionMethod = "charge_automatically",
        days_until_due: int | None = None,
        auto_advance: bool = False,
        description: str | None = None,
        promotion_code: str | None = None,
        coupon: str | None = None,
        metadata: Mapping[str, str],
        idempotency_key: str,
    ) -> Snapshot[Invoice]:
        """Draft an invoice of these lines; with `include_pending` also of what waits to be billed.

        A line that Stripe refuses leaves no draft behind.
        """
        ...

    async def delete_invoice(self, id: str) -> None:
        """Raises ConflictError unless it is a draft."""
        ...

    async def finalize_invoice(self, id: str, *, idempotency_key: str) -> Snapshot[Invoice]:
        """Raises ConflictError unless it is a draft."""
        ...

    async def pay_invoice(
        self, id: str, *, payment_method: str | None, paid_out_of_band: bool, idempotency_key: str
    ) -> Snapshot[Invoice]:
        """Charge it, by its customer's default unless a `payment_method` is named, or note that it was paid elsewhere.

        Raises PaymentFailedError, and ConflictError where it can't be paid any more, or there is nothing to charge.
        """
        ...

    async def send_invoice(self, id: str, *, idempotency_key: str) -> Snapshot[Invoice]:
        """Have Stripe mail it; a draft is finalized first."""
        ...

    async def void_invoice(self, id: str, *, idempotency_key: str) -> Snapshot[Invoice]:
        """Raises ConflictError for a draft, and for one that is paid or void."""
        ...

    async def mark_invoice_uncollectible(self, id: str, *, idempotency_key: str) -> Snapshot[Invoice]:
        """Raises ConflictError unless it is open."""
        ...

    async def retrieve_credit_note(self, id: str) -> Snapshot[CreditNote]: ...

    async def list_credit_notes(self, *, since: int | None = None, after: str | None = None) -> Page[CreditNote]: ...
