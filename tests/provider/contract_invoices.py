"""Invoices and credit notes: what the provider sends."""

from provider.contract import Case, Sent, case, page_of
from provider.contract_data import CREDIT_NOTE, INVOICE
from stripe import params

from app.provider.invoice_objects import LineWish

CASES: dict[str, Case] = {
    "retrieve_invoice": case(
        lambda p: p.retrieve_invoice("in_1Qabc"),
        INVOICE,
        "GET /v1/invoices/in_1Qabc",
        {},
        params.InvoiceRetrieveParams,
    ),
    "list_invoices": case(
        lambda p: p.list_invoices(since=1767225600, after="in_1Qabc"),
        page_of(INVOICE),
        "GET /v1/invoices",
        {"limit": "100", "created[gte]": "1767225600", "starting_after": "in_1Qabc"},
        params.InvoiceListParams,
    ),
    "list_invoices, all": case(
        lambda p: p.list_invoices(since=None, after=None),
        page_of(INVOICE),
        "GET /v1/invoices",
        {"limit": "100"},
        params.InvoiceListParams,
    ),
    "preview_upcoming_invoice": case(
        lambda p: p.preview_upcoming_invoice("cus_Qabc"),
        INVOICE | {"id": "upcoming_in_1Qabc"},
        "POST /v1/invoices/create_preview",
        {"customer": "cus_Qabc"},
        params.InvoiceCreatePreviewParams,
    ),
    "create_invoice": case(
        lambda p: p.create_invoice(
            customer="cus_Qabc",
            lines=[],
            include_pending=True,
            currency="jpy",
            collection_method="send_invoice",
            days_until_due=14,
            auto_advance=True,
            description="Setup",
            coupon="HALF",
            metadata={"order": "7"},
            idempotency_key="k-1",
        ),
        INVOICE,
        "POST /v1/invoices",
        {
            "customer": "cus_Qabc",
            "pending_invoice_items_behavior": "include",
            "currency": "jpy",
            "collection_method": "send_invoice",
            "days_until_due": "14",
            "auto_advance": "true",
            "description": "Setup",
            "discounts[0][coupon]": "HALF",
            "metadata[order]": "7",
        },
        params.InvoiceCreateParams,
    ),
    "finalize_invoice": case(
        lambda p: p.finalize_invoice("in_1Qabc", idempotency_key="k-1"),
        INVOICE,
        "POST /v1/invoices/in_1Qabc/finalize",
        {},
        params.InvoiceFinalizeInvoiceParams,
    ),
    "pay_invoice": case(
        lambda p: p.pay_invoice("in_1Qabc", payment_method="pm_1Qabc", paid_out_of_band=False, idempotency_key="k-1"),
        INVOICE,
        "POST /v1/invoices/in_1Qabc/pay",
        {"payment_method": "pm_1Qabc"},
        params.InvoicePayParams,
    ),
    "pay_invoice, elsewhere": case(
        lambda p: p.pay_invoice("in_1Qabc", payment_method=None, paid_out_of_band=True, idempotency_key="k-1"),
        INVOICE,
        "POST /v1/invoices/in_1Qabc/pay",
        {"paid_out_of_band": "true"},
        params.InvoicePayParams,
    ),
    "send_invoice": case(
        lambda p: p.send_invoice("in_1Qabc", idempotency_key="k-1"),
        INVOICE,
        "POST /v1/invoices/in_1Qabc/send",
        {},
        params.InvoiceSendInvoiceParams,
    ),
    "delete_invoice": case(
        lambda p: p.delete_invoice("in_1Qabc"),
        {"id": "in_1Qabc", "object": "invoice", "deleted": True},
        "DELETE /v1/invoices/in_1Qabc",
        {},
        params.InvoiceDeleteParams,
    ),
    "void_invoice": case(
        lambda p: p.void_invoice("in_1Qabc", idempotency_key="k-1"),
        INVOICE,
        "POST /v1/invoices/in_1Qabc/void",
        {},
        params.InvoiceVoidInvoiceParams,
    ),
    "mark_invoice_uncollectible": case(
        lambda p: p.mark_invoice_uncollectible("in_1Qabc", idempotency_key="k-1"),
        INVOICE,
        "POST /v1/invoices/in_1Qabc/mark_uncollectible",
        {},
        params.InvoiceMarkUncollectibleParams,
    ),
    "retrieve_credit_note": case(
        lambda p: p.retrieve_credit_note("cn_1Qabc"),
        CREDIT_NOTE,
        "GET /v1/credit_notes/cn_1Qabc",
        {},
        params.CreditNoteRetrieveParams,
    ),
    "list_credit_notes": case(
        lambda p: p.list_credit_notes(since=1767225600, after="cn_1Qabc"),
        page_of(CREDIT_NOTE),
        "GET /v1/credit_notes",
        {"limit": "100", "created[gte]": "1767225600", "starting_after": "cn_1Qabc"},
        params.CreditNoteListParams,
    ),
    "create_invoice, with lines": Case(
        lambda p: p.create_invoice(
            customer="cus_Qabc",
            lines=[LineWish(price="price_1Qabc", quantity=2), LineWish(amount=-100, description="For you")],
            promotion_code="SPRING",
            metadata={},
            idempotency_key="k-1",
        ),
        (page_of({"id": "promo_1Qabc"}), INVOICE, INVOICE),
        (
            Sent(
                "GET /v1/promotion_codes",
                {"code": "SPRING", "active": "true", "limit": "1"},
                params.PromotionCodeListParams,
            ),
            Sent(
                "POST /v1/invoices",
                {
                    "customer": "cus_Qabc",
                    "pending_invoice_items_behavior": "exclude",
                    "collection_method": "charge_automatically",
                    "auto_advance": "false",
                    "discounts[0][promotion_code]": "promo_1Qabc",
                },
                params.InvoiceCreateParams,
            ),
            Sent(
                f"POST /v1/invoices/{INVOICE['id']}/add_lines",
                {
                    "lines[0][pricing][price]": "price_1Qabc",
                    "lines[0][quantity]": "2",
                    "lines[1][amount]": "-100",
                    "lines[1][description]": "For you",
                },
                params.InvoiceAddLinesParams,
            ),
        ),
    ),
    "list_invoices, a customer's": case(
        lambda p: p.list_invoices(customer="cus_Qabc"),
        page_of(INVOICE),
        "GET /v1/invoices",
        {"limit": "100", "customer": "cus_Qabc"},
        params.InvoiceListParams,
    ),
}
