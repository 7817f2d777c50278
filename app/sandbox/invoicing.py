"""The life of an invoice: drafted with its lines, finalized, collected, paid or voided."""

from typing import Any, Literal

from app.sandbox import payments
from app.sandbox.errors import CardError
from app.sandbox.lists import sublist
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

#: Keys of an Invoice that nothing here sets, and Stripe shows as null.
_NULLS = dict.fromkeys(
    (
        "account_tax_ids",
        "amount_paid_off_stripe",
        "application",
        "automatically_finalizes_at",
        "custom_fields",
        "customer_account",
        "default_source",
        "due_date",
        "effective_at",
        "ending_balance",
        "footer",
        "from_invoice",
        "hosted_invoice_url",
        "invoice_pdf",
        "last_finalization_error",
        "latest_revision",
        "next_payment_attempt",
        "number",
        "on_behalf_of",
        "parent",
        "receipt_number",
        "shipping_cost",
        "shipping_details",
        "statement_descriptor",
        "status_details",
        "test_clock",
        "threshold_reason",
    )
)


def draft(
    sandbox: Sandbox,
    customer: Row,
    lines: list[Row],
    *,
    currency: str,
    reason: str,
    period: tuple[int, int],
    subscription: Row | None = None,
    metadata: Row | None = None,
) -> Row:
    """Store a draft with these lines (see ``line``) and emit invoice.created."""
    id = sandbox.new.mint("in_")
    total = sum(line["amount"] for line in lines)
    owed = total + customer["balance"]
    for line in lines:
        line["invoice"] = id
    row = sandbox.insert(
        {
            **_NULLS,
            "id": id,
            "object": "invoice",
            "account_country": "US",
            "account_name": "Billhook sandbox",
            "amount_due": max(owed, 0),
            "amount_overpaid": 0,
            "amount_paid": 0,
            "amount_remaining": max(owed, 0),
            "amount_shipping": 0,
            "attempt_count": 0,
            "attempted": False,
            "auto_advance": reason != "manual",
            "automatic_tax": {
                "disabled_reason": None,
                "enabled": bool(subscription and subscription["automatic_tax"]["enabled"]),
                "liability": None,
                "provider": None,
                "status": None,
            },
            "billing_reason": reason,
            "collection_method": subscription["collection_method"] if subscription else "charge_automatically",
            "created": sandbox.now(),
            "currency": currency,
            "customer": customer["id"],
            "customer_address": customer["address"],
            "customer_email": customer["email"],
            "customer_name": customer["name"],
            "customer_phone": customer["phone"],
            "customer_shipping": customer["shipping"],
            "customer_tax_exempt": customer["tax_exempt"],
            "customer_tax_ids": [],
            "default_payment_method": None,
            "default_tax_rates": [],
            "description": subscription["description"] if subscription else None,
            "discounts": [],
            "issuer": {"type": "self"},
            "lines": sublist(lines, f"/v1/invoices/{id}/lines"),
            "livemode": False,
            "metadata": metadata or {},
            "parent": subscription
            and {
                "quote_details": None,
                "subscription_details": {
                    "metadata": dict(subscription["metadata"]),
                    "subscription": subscription["id"],
                },
                "type": "subscription_details",
            },
            "payment_settings": {
                "default_mandate": None,
                "payment_method_options": None,
                "payment_method_types": None,
            },
            "period_end": period[1],
            "period_start": period[0],
            "post_payment_credit_notes_amount": 0,
            "pre_payment_credit_notes_amount": 0,
            "rendering": {
                "amount_tax_display": None,
                "pdf": {"page_size": "auto"},
                "template": None,
                "template_version": None,
            },
            "starting_balance": customer["balance"],
            "status": "draft",
            "status_transitions": dict.fromkeys(("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")),
            "subtotal": total,
            "subtotal_excluding_tax": total,
            "total": total,
            "total_discount_amounts": [],
            "total_excluding_tax": total,
            "total_pretax_credit_amounts": [],
            "total_taxes": [],
            "webhooks_delivered_at": sandbox.now(),
        }
    )
    if subscription is not None and subscription["days_until_due"] is not None:
        row["due_date"] = sandbox.now() + subscription["days_until_due"] * 86_400
    sandbox.emit("invoice.created", row)
    return row


def line(
    sandbox: Sandbox,
    *,
    amount: int,
    currency: str,
    description: str,
    period: tuple[int, int],
    price: Row,
    quantity: int,
    parent: Row | None,
    subscription: str | None = None,
    unit_amount_decimal: str | None = None,
    metadata: Row | None = None,
) -> Row:
    return {
        "id": sandbox.new.mint("il_"),
        "object": "line_item",
        "amount": amount,
        "currency": currency,
        "description": description,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": metadata or {},
        "parent": parent,
        "period": {"end": period[1], "start": period[0]},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": unit_amount_decimal,
        },
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subscription": subscription,
        "subtotal": amount,
        "taxes": [],
    }


def finalize(sandbox: Sandbox, invoice: Row, *, intent: Row | None = None) -> Row:
    """Number the invoice and open it, with the PaymentIntent that will collect it; a zero one is paid at once.

    ``intent`` is one that has collected already, as Checkout's.
    """
    customer = sandbox.get("customer", invoice["customer"])
    owed = invoice["total"] + customer["balance"]
    with sandbox.updating("customer.updated", customer):
        number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04}"
        customer["next_invoice_sequence"] += 1
        customer["balance"] = min(owed, 0)
        customer["currency"] = customer["currency"] or invoice["currency"]
    invoice.update(
        number=number,
        status="open",
        effective_at=sandbox.now(),
        ending_balance=min(owed, 0),
        hosted_invoice_url=f"{sandbox.base_url}/i/{invoice['id']}",
        invoice_pdf=f"{sandbox.base_url}/pdf/{invoice['id']}",
    )
    invoice["rendering"]["pdf"]["page_size"] = "letter"
    invoice["status_transitions"]["finalized_at"] = sandbox.now()
    if invoice["amount_due"] > 0:
        if intent is None:
            intent = payments.new_intent(
                sandbox,
                amount=invoice["amount_due"],
                currency=invoice["currency"],
                customer=invoice["customer"],
                description=_DESCRIPTIONS.get(invoice["billing_reason"], "Payment for Invoice"),
            )
        _new_payment(sandbox, invoice, intent)
    sandbox.emit("invoice.finalized", invoice)
    if invoice["amount_due"] == 0:
        mark_paid(sandbox, invoice, attempts=0)
    return invoice


_DESCRIPTIONS = {
    "subscription_create": "Subscription creation",
    "subscription_cycle": "Subscription update",
    "subscription_update": "Subscription update",
}


def collect(sandbox: Sandbox, invoice: Row, method: Row, *, off_session: bool) -> bool:
    """Charge an open invoice; True when paid, False when the customer has to authenticate. Refusals raise CardError."""
    intent = payment_intent(sandbox, invoice)
    try:
        paid = payments.confirm(sandbox, intent, method, off_session=off_session)
    except CardError:
        note_failure(sandbox, invoice)
        raise
    if not paid:
        note_failure(sandbox, invoice)
        sandbox.emit("invoice.payment_action_required", invoice)
        return False
    mark_paid(sandbox, invoice)
    return True


def note_failure(sandbox: Sandbox, invoice: Row) -> None:
    with sandbox.updating("invoice.updated", invoice):
        invoice["attempt_count"] += 1
        invoice["attempted"] = True
    sandbox.emit("invoice.payment_failed", invoice)


def mark_paid(sandbox: Sandbox, invoice: Row, *, attempts: int = 1, out_of_band: bool = False) -> None:
    """Record that the open invoice is paid, by its PaymentIntent, by nothing to pay, or outside Stripe."""
    with sandbox.updating("invoice.updated", invoice):
        invoice.update(
            status="paid",
            amount_paid=invoice["amount_due"],
            amount_remaining=0,
            attempt_count=invoice["attempt_count"] + attempts,
            attempted=not out_of_band,
        )
        if out_of_band:
            invoice["auto_advance"] = False
        invoice["status_transitions"]["paid_at"] = sandbox.now()
    payment = default_payment(sandbox, invoice["id"])
    if payment is not None and not out_of_band:
        payment = sandbox.get("invoice_payment", payment["id"])
        payment["status"] = "paid"
        payment["amount_paid"] = payment["amount_requested"]
        payment["status_transitions"]["paid_at"] = sandbox.now()
        sandbox.emit("invoice_payment.paid", payment)
    elif payment is not None:
        cancel_payment(sandbox, invoice)
    sandbox.emit("invoice.paid", invoice)
    if not out_of_band:
        sandbox.emit("invoice.payment_succeeded", invoice)


def close(sandbox: Sandbox, invoice: Row, status: Literal["void", "uncollectible"]) -> None:
    """Void an open invoice, or give up on it; its amounts stay as they were."""
    event, stamp = {
        "void": ("invoice.voided", "voided_at"),
        "uncollectible": ("invoice.marked_uncollectible", "marked_uncollectible_at"),
    }[status]
    invoice["status"] = status
    invoice["status_transitions"][stamp] = sandbox.now()
    if status == "void":
        cancel_payment(sandbox, invoice)
    sandbox.emit(event, invoice)


def cancel_payment(sandbox: Sandbox, invoice: Row) -> None:
    payment = default_payment(sandbox, invoice["id"])
    if payment is None:
        return
    payment = sandbox.get("invoice_payment", payment["id"])
    payment["status"] = "canceled"
    payment["status_transitions"]["canceled_at"] = sandbox.now()
    payments.cancel(sandbox, payment_intent(sandbox, invoice), "void_invoice")


def default_payment(sandbox: Sandbox, invoice: str) -> Row | None:
    found = (row for row in sandbox.rows("invoice_payment") if row["invoice"] == invoice and row["is_default"])
    return next(found, None)


def payment_intent(sandbox: Sandbox, invoice: Row) -> Row:
    """Find the intent that collects this invoice; only finalized ones with something to pay have it."""
    payment = default_payment(sandbox, invoice["id"])
    if payment is None:
        raise LookupError(f"{invoice['id']} has no payment")
    return sandbox.get("payment_intent", payment["payment"]["payment_intent"])


def payments_of(sandbox: Sandbox, invoice: Row) -> Row:
    """Make the includable ``payments``."""
    rows = [row for row in sandbox.rows("invoice_payment") if row["invoice"] == invoice["id"]]
    return sublist(rows, f"/v1/invoice_payments?invoice={invoice['id']}")


def confirmation_secret(sandbox: Sandbox, invoice: Row) -> Row | None:
    """Make the includable ``confirmation_secret``; null where there is nothing to confirm."""
    if invoice["status"] in {"draft", "void"} or default_payment(sandbox, invoice["id"]) is None:
        return None
    return {"client_secret": payment_intent(sandbox, invoice)["client_secret"], "type": "payment_intent"}


def _new_payment(sandbox: Sandbox, invoice: Row, intent: Row) -> Row:
    payment: dict[str, Any] = {
        "id": sandbox.new.mint("inpay_"),
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": invoice["amount_due"],
        "created": sandbox.now(),
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"payment_intent": intent["id"], "type": "payment_intent"},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }
    return sandbox.insert(payment)
