"""The life of an invoice: drafted with its lines, finalized, collected, paid or voided."""

from typing import Any, Literal

from app.sandbox import customer_balance, discounts, payments, totals
from app.sandbox.errors import CardError
from app.sandbox.invoice_lines import item_of
from app.sandbox.lists import sublist
from app.sandbox.retry_schedule import next_attempt
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

HOUR = 3600  # seconds between drafting and collecting by itself

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
    **fields: Any,
) -> Row:
    """Store a draft with these lines (see ``invoice_lines``), take in their items, and emit invoice.created."""
    id = fields.pop("id", None) or sandbox.new.mint("in_")
    row = sandbox.insert(
        {
            **_NULLS,
            "id": id,
            "object": "invoice",
            "account_country": "US",
            "account_name": "Billhook sandbox",
            "amount_overpaid": 0,
            "amount_paid": 0,
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
            "customer_tax_ids": [
                {"type": held["type"], "value": held["value"]}
                for held in sandbox.rows("tax_id")
                if held["customer"] == customer["id"]
            ],
            "default_payment_method": None,
            "default_tax_rates": subscription["default_tax_rates"] if subscription else [],
            "description": subscription["description"] if subscription else None,
            "discounts": discounts.current(sandbox, subscription["discounts"]) if subscription else [],
            "issuer": {"type": "self"},
            "lines": sublist([], f"/v1/invoices/{id}/lines"),
            "livemode": False,
            "metadata": {},
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
            "status": "draft",
            "test_clock": customer["test_clock"],
            "status_transitions": dict.fromkeys(("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")),
            "webhooks_delivered_at": sandbox.now(),
            **fields,
        }
    )
    if subscription is not None and subscription["days_until_due"] is not None:
        row["due_date"] = sandbox.now() + subscription["days_until_due"] * 86_400
    add_lines(sandbox, row, lines)
    if subscription is not None:
        discounts.spend(sandbox, subscription, row)
    sandbox.emit("invoice.created", row)
    return row


def add_lines(sandbox: Sandbox, invoice: Row, lines: list[Row]) -> None:
    """Put lines on a draft and count it again; what they were made of is pending no longer."""
    for line in lines:
        line["invoice"] = invoice["id"]
        if (id := item_of(line)) is not None:
            sandbox.get("invoiceitem", id)["invoice"] = invoice["id"]
    invoice["lines"]["data"] += lines
    totals.recount(sandbox, invoice)


def advancing(sandbox: Sandbox, invoice: Row | None, collection_method: str, *, advances: bool) -> Row:
    """Say when a draft finalizes itself and is charged, as ``auto_advance`` has it.

    Recorded: the charge is a second before the finalization, and turning it off and on again gives the same instants.
    """
    created = invoice["created"] if invoice else sandbox.now()
    charged = collection_method == "charge_automatically"
    return {
        "auto_advance": advances,
        "automatically_finalizes_at": created + HOUR + 1 if advances else None,
        "next_payment_attempt": created + HOUR if advances and charged else None,
    }


def finalize(sandbox: Sandbox, invoice: Row, *, intent: Row | None = None) -> Row:
    """Number the invoice and open it, with the PaymentIntent that will collect it; a zero one is paid at once.

    ``intent`` is one that has collected already, as Checkout's.
    """
    customer = sandbox.get("customer", invoice["customer"])
    totals.weigh(sandbox, invoice)
    before = invoice["starting_balance"]
    ending = min(invoice["total"] + before, 0)
    with sandbox.updating("customer.updated", customer):
        number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04}"
        customer["next_invoice_sequence"] += 1
        customer["currency"] = customer["currency"] or invoice["currency"]
        if ending != before:
            _apply_balance(sandbox, customer, invoice, ending - before, "applied_to_invoice")
    invoice.update(
        number=number,
        status="open",
        automatically_finalizes_at=None,
        effective_at=invoice["effective_at"] or sandbox.now(),
        ending_balance=ending,
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
                **payments.made_for(invoice),
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


def collect(sandbox: Sandbox, invoice: Row, method: Row, *, off_session: bool, automatic: bool = False) -> bool:
    """Charge an open invoice; True when paid, False when the customer has to authenticate. Refusals raise CardError.

    ``automatic`` is what Stripe does by itself: those attempts count, and are followed by the next one.
    """
    intent = payment_intent(sandbox, invoice)
    try:
        paid = payments.confirm(sandbox, intent, method, off_session=off_session)
    except CardError:
        note_failure(sandbox, invoice, automatic=automatic)
        raise
    if not paid:
        note_failure(sandbox, invoice, automatic=automatic)
        sandbox.emit("invoice.payment_action_required", invoice)
        return False
    mark_paid(sandbox, invoice, attempts=int(automatic or not invoice["attempt_count"]))
    return True


def note_failure(sandbox: Sandbox, invoice: Row, *, automatic: bool = False) -> None:
    """Record a failed attempt. Any counts as the first one; after that only those by the retry schedule count."""
    with sandbox.updating("invoice.updated", invoice):
        invoice["attempted"] = True
        invoice["_attempted_at"] = sandbox.now()
        if automatic or not invoice["attempt_count"]:
            invoice["attempt_count"] += 1
            invoice["next_payment_attempt"] = next_attempt(sandbox, invoice)
    sandbox.emit("invoice.payment_failed", invoice)


def mark_paid(sandbox: Sandbox, invoice: Row, *, attempts: int = 1, out_of_band: bool = False) -> None:
    """Record that the open invoice is paid, by its PaymentIntent, by nothing to pay, or outside Stripe."""
    with sandbox.updating("invoice.updated", invoice):
        invoice.update(
            status="paid",
            amount_paid=invoice["amount_due"],
            amount_remaining=0,
            next_payment_attempt=None,
            attempt_count=invoice["attempt_count"] + attempts,
            attempted=not out_of_band,
        )
        if out_of_band:
            invoice["auto_advance"] = False
        invoice["status_transitions"]["paid_at"] = sandbox.now()
    payment = default_payment(sandbox, invoice["id"])
    if payment is not None and payment["status"] == "open" and not out_of_band:
        payment = sandbox.get("invoice_payment", payment["id"])
        payment["status"] = "paid"
        payment["amount_paid"] = payment["amount_requested"]
        payment["status_transitions"]["paid_at"] = sandbox.now()
        sandbox.emit("invoice_payment.paid", payment)
    elif payment is not None and payment["status"] == "open":
        cancel_payment(sandbox, invoice)
    sandbox.emit("invoice.paid", invoice)
    if not out_of_band:
        sandbox.emit("invoice.payment_succeeded", invoice)


def credit(sandbox: Sandbox, invoice: Row, amount: int) -> None:
    """Ask less of an open invoice, as a credit note has it; more again where that is voided (negative ``amount``)."""
    with sandbox.updating("invoice.updated", invoice):
        invoice["pre_payment_credit_notes_amount"] += amount
        invoice["amount_due"] -= amount
        invoice["amount_remaining"] -= amount
    if invoice["amount_remaining"] == 0:
        cancel_payment(sandbox, invoice)
        mark_paid(sandbox, invoice, attempts=0)
        return
    payment_intent(sandbox, invoice)["amount"] = invoice["amount_remaining"]
    payment = default_payment(sandbox, invoice["id"])
    if payment is not None:
        sandbox.get("invoice_payment", payment["id"])["amount_requested"] = invoice["amount_remaining"]


def close(
    sandbox: Sandbox, invoice: Row, status: Literal["void", "uncollectible"], reason: str = "user_forgiven"
) -> None:
    """Void an open invoice, or give up on it (``reason`` is its status_details'); its amounts stay as they were."""
    event, stamp = {
        "void": ("invoice.voided", "voided_at"),
        "uncollectible": ("invoice.marked_uncollectible", "marked_uncollectible_at"),
    }[status]
    invoice.update(status=status, next_payment_attempt=None)
    invoice["status_transitions"][stamp] = sandbox.now()
    if status == "uncollectible":
        invoice["status_details"] = {"uncollectible": {"reason": reason}}
    else:
        cancel_payment(sandbox, invoice)
        _return_balance(sandbox, invoice)
    sandbox.emit(event, invoice)


def _apply_balance(sandbox: Sandbox, customer: Row, invoice: Row, amount: int, type: str) -> None:
    customer_balance.move(sandbox, customer, amount, type=type, currency=invoice["currency"], invoice=invoice["id"])


def _return_balance(sandbox: Sandbox, invoice: Row) -> None:
    """Give back what the customer's balance had paid of a voided invoice, and take back what it had been given."""
    applied = invoice["ending_balance"] - invoice["starting_balance"]
    if applied:
        customer = sandbox.get("customer", invoice["customer"])
        with sandbox.updating("customer.updated", customer):
            _apply_balance(sandbox, customer, invoice, -applied, "unapplied_from_invoice")


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
