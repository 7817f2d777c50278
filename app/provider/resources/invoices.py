"""Invoices and credit notes at Stripe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.errors import BillingError
from app.provider.invoice_objects import CreditNote, LineWish
from app.provider.mapping.invoices import map_credit_note
from app.provider.mapping.subscription_changes import map_invoice_preview
from app.provider.mapping.subscriptions import map_invoice
from app.provider.objects import Invoice, Page, Snapshot
from app.provider.resources.promotion_codes import StripePromotionCodes
from app.provider.resources.resource import PAGE_SIZE, Kind, object_path, readable
from app.provider.stripe_client import Blame
from app.provider.subscription_objects import InvoicePreview
from app.provider.subscription_protocol import CollectionMethod

if TYPE_CHECKING:
    from stripe.params import (
        CreditNoteListParams,
        InvoiceAddLinesParams,
        InvoiceAddLinesParamsLine,
        InvoiceCreateParams,
        InvoiceCreatePreviewParams,
        InvoiceListParams,
        InvoicePayParams,
    )


INVOICE = Kind("/v1/invoices", map_invoice)
CREDIT_NOTE = Kind("/v1/credit_notes", map_credit_note)

MOST_LINES = 100
_LINE_PARAMS = {
    "[amount]": "amount_minor",
    "[currency]": "currency",
    "[pricing][price]": "price_id",
    "[quantity]": "quantity",
}
_DRAFT_BLAME = Blame(
    params={
        **{name: name for name in ("customer", "currency", "days_until_due", "collection_method", "description")},
        "discounts[0][coupon]": "coupon",
        "discounts[0][promotion_code]": "promotion_code",
        **{f"lines[{n}]{stripe}": ours for n in range(MOST_LINES) for stripe, ours in _LINE_PARAMS.items()},
    },
    conflict="Stripe does not accept this invoice as it stands.",
)
_STATE_BLAME = Blame(
    params={"id": "invoice", "invoice": "invoice", "payment_method": "payment_method"},
    conflict="The invoice's present state does not allow this.",
)


class StripeInvoices(StripePromotionCodes):
    async def retrieve_invoice(self, id: str) -> Snapshot[Invoice]:
        return await self._retrieve(INVOICE, id)

    async def list_invoices(
        self, *, customer: str | None = None, since: int | None = None, after: str | None = None
    ) -> Page[Invoice]:
        params: InvoiceListParams = {"limit": PAGE_SIZE}
        if customer is not None:
            params["customer"] = customer
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page("/v1/invoices", map_invoice, params, after)

    async def preview_upcoming_invoice(self, customer: str) -> InvoicePreview:
        params: InvoiceCreatePreviewParams = {"customer": customer}
        answer = await self._client.send("post", f"{INVOICE.path}/create_preview", params)
        return readable(map_invoice_preview, answer.data, request_id=answer.request_id)

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
        params: InvoiceCreateParams = {
            "customer": customer,
            "pending_invoice_items_behavior": "include" if include_pending else "exclude",
            "collection_method": collection_method,
            "auto_advance": auto_advance,
            "metadata": dict(metadata),
        }
        if currency is not None:
            params["currency"] = currency
        if days_until_due is not None:
            params["days_until_due"] = days_until_due
        if description is not None:
            params["description"] = description
        if promotion_code is not None:
            params["discounts"] = [{"promotion_code": await self.find_promotion_code(promotion_code)}]
        elif coupon is not None:
            params["discounts"] = [{"coupon": coupon}]
        made = await self._post(INVOICE, params, idempotency_key=idempotency_key, blame=_DRAFT_BLAME)
        return await self._add_lines(made, lines, idempotency_key) if lines else made

    async def delete_invoice(self, id: str) -> None:
        await self._client.send("delete", object_path(INVOICE.path, id), blame=_STATE_BLAME)

    async def finalize_invoice(self, id: str, *, idempotency_key: str) -> Snapshot[Invoice]:
        return await self._do(id, "/finalize", idempotency_key)

    async def pay_invoice(
        self, id: str, *, payment_method: str | None, paid_out_of_band: bool, idempotency_key: str
    ) -> Snapshot[Invoice]:
        params: InvoicePayParams = {}
        if payment_method is not None:
            params["payment_method"] = payment_method
        if paid_out_of_band:
            params["paid_out_of_band"] = True
        return await self._post(
            INVOICE, params, id=id, action="/pay", idempotency_key=idempotency_key, blame=_STATE_BLAME
        )

    async def send_invoice(self, id: str, *, idempotency_key: str) -> Snapshot[Invoice]:
        return await self._do(id, "/send", idempotency_key)

    async def void_invoice(self, id: str, *, idempotency_key: str) -> Snapshot[Invoice]:
        return await self._do(id, "/void", idempotency_key)

    async def mark_invoice_uncollectible(self, id: str, *, idempotency_key: str) -> Snapshot[Invoice]:
        return await self._do(id, "/mark_uncollectible", idempotency_key)

    async def retrieve_credit_note(self, id: str) -> Snapshot[CreditNote]:
        return await self._retrieve(CREDIT_NOTE, id)

    async def list_credit_notes(self, *, since: int | None = None, after: str | None = None) -> Page[CreditNote]:
        params: CreditNoteListParams = {"limit": PAGE_SIZE}
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page("/v1/credit_notes", map_credit_note, params, after)

    async def _do(self, id: str, action: str, idempotency_key: str) -> Snapshot[Invoice]:
        return await self._post(INVOICE, id=id, action=action, idempotency_key=idempotency_key, blame=_STATE_BLAME)

    async def _add_lines(
        self, draft: Snapshot[Invoice], lines: Sequence[LineWish], idempotency_key: str
    ) -> Snapshot[Invoice]:
        """Put the lines on the draft, or take it away again: a part of an invoice must not be billed."""
        params: InvoiceAddLinesParams = {"lines": [_line(wish) for wish in lines]}
        id = draft.object.id
        try:
            return await self._post(
                INVOICE,
                params,
                id=id,
                action="/add_lines",
                idempotency_key=f"{idempotency_key}-lines",
                blame=_DRAFT_BLAME,
            )
        except BillingError as error:
            if not error.retryable:
                await self.delete_invoice(id)
            raise


def _line(wish: LineWish) -> "InvoiceAddLinesParamsLine":
    line: InvoiceAddLinesParamsLine = {}
    if wish.price is not None:
        line["pricing"] = {"price": wish.price}
    if wish.quantity is not None:
        line["quantity"] = wish.quantity
    if wish.amount is not None:
        line["amount"] = wish.amount
    if wish.description is not None:
        line["description"] = wish.description
    return line
