"""Invoices at Stripe."""

from typing import TYPE_CHECKING

from app.provider.mapping.subscriptions import map_invoice
from app.provider.objects import Invoice, Page, Snapshot
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource

if TYPE_CHECKING:
    from stripe.params import InvoiceListParams


INVOICE = Kind("/v1/invoices", map_invoice)


class StripeInvoices(StripeResource):
    async def retrieve_invoice(self, id: str) -> Snapshot[Invoice]:
        return await self._retrieve(INVOICE, id)

    async def list_invoices(self, *, since: int | None, after: str | None) -> Page[Invoice]:
        params: InvoiceListParams = {"limit": PAGE_SIZE}
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page("/v1/invoices", map_invoice, params, after)
