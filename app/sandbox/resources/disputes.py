"""Disputes: what a customer's bank takes back, the evidence against it, and who wins."""

from app.sandbox import charges, later, ledger, lists
from app.sandbox.errors import ApiError
from app.sandbox.metadata import merge
from app.sandbox.periods import DAY
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

RESPONSE_WITHIN = 8  # days, and to the end of the last one

_EVIDENCE = (
    "access_activity_log",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
)
_OPEN = {"needs_response", "under_review", "warning_needs_response", "warning_under_review"}
#: What the test card disputes with: reason, and the network's code for it.
_REASONS = {
    "fraudulent": ("fraudulent", "10.4"),
    "product_not_received": ("product_not_received", "13.1"),
    "inquiry": ("fraudulent", "10"),
}


def open_(sandbox: Sandbox, charge: str) -> None:
    """Have the charge's owner dispute it, as their test card says."""
    paid = sandbox.get("charge", charge)
    kind = charges.card_of(paid).dispute
    if kind is None or paid["refunded"] or paid["disputed"]:
        return
    reason, network_code = _REASONS[kind]
    inquiry = kind == "inquiry"
    due = (sandbox.now() // DAY + RESPONSE_WITHIN + 1) * DAY - 1
    card = paid["payment_method_details"]["card"]
    row = sandbox.insert(
        {
            "id": sandbox.new.mint("du_"),
            "object": "dispute",
            "amount": paid["amount_captured"],
            "balance_transaction": None,
            "balance_transactions": [],
            "charge": charge,
            "created": sandbox.now(),
            "currency": paid["currency"],
            "enhanced_eligibility_types": [],
            "evidence": {**dict.fromkeys(_EVIDENCE), **_known(sandbox, paid), "enhanced_evidence": {}},
            "evidence_details": {
                "due_by": due,
                "enhanced_eligibility": {},
                "has_evidence": False,
                "past_due": False,
                "submission_count": 0,
                "submission_method": "not_submitted",
            },
            "is_charge_refundable": inquiry,
            "livemode": False,
            "metadata": {},
            "payment_intent": paid["payment_intent"],
            "payment_method_details": {
                "card": {
                    "brand": card["brand"],
                    "case_type": "inquiry" if inquiry else "chargeback",
                    "network": card["network"],
                    "network_reason_code": network_code,
                },
                "type": "card",
            },
            "reason": reason,
            "status": "warning_needs_response" if inquiry else "needs_response",
        }
    )
    paid.update(disputed=True, dispute=row["id"])
    if not inquiry:
        _withdraw(sandbox, row)
    sandbox.emit("charge.dispute.created", row)
    if not inquiry:
        sandbox.emit("charge.dispute.funds_withdrawn", row)
    later.schedule(sandbox, "lapse_dispute", row["id"], after=due - sandbox.now())


def retrieve(sandbox: Sandbox, _params: Row, dispute: str) -> Row:
    return sandbox.get("dispute", dispute, param="dispute")


def list_(sandbox: Sandbox, params: Row) -> Row:
    found = lists.page(
        sandbox,
        "dispute",
        params,
        "/v1/disputes",
        lambda row: (
            lists.matches(row, params, "charge", "payment_intent")
            and lists.within(row["created"], params.get("created"))
        ),
    )
    if "charge" in params:
        found["count"] = sum(row["charge"] == params["charge"] for row in sandbox.rows("dispute"))
    return found


def update(sandbox: Sandbox, params: Row, dispute: str) -> Row:
    """Take evidence, which is handed in at once unless ``submit`` is false; metadata may change for ever."""
    row = sandbox.get("dispute", dispute, param="dispute")
    evidence = params.get("evidence")
    if evidence is not None or params.get("submit"):
        _check_open(row)
    with sandbox.updating("charge.dispute.updated", row):
        merge(row, params)
        if evidence is not None:
            row["evidence"].update(evidence)
            row["evidence_details"]["has_evidence"] = True
        if params.get("submit", evidence is not None):
            _submit(sandbox, row)
    return row


def close(sandbox: Sandbox, _params: Row, dispute: str) -> Row:
    """Give in: the bank keeps the money."""
    row = sandbox.get("dispute", dispute, param="dispute")
    _check_open(row)
    _end(sandbox, row, "warning_closed" if _is_inquiry(row) else "lost")
    return row


def decide(sandbox: Sandbox, dispute: str) -> None:
    """Have the bank answer what Stripe's magic evidence asks for; any other text stays under review."""
    row = sandbox.get("dispute", dispute)
    text = row["evidence"]["uncategorized_text"]
    if row["status"] not in _OPEN:
        return
    if text == "winning_evidence":
        _end(sandbox, row, "won")
    elif text == "losing_evidence":
        _end(sandbox, row, "warning_closed" if _is_inquiry(row) else "lost")
    elif text == "escalate_inquiry_evidence" and _is_inquiry(row):
        _escalate(sandbox, row)


def lapse(sandbox: Sandbox, dispute: str) -> None:
    """Lose a dispute that nobody answered in time; an inquiry without an answer just ends."""
    row = sandbox.get("dispute", dispute)
    if row["status"] not in {"needs_response", "warning_needs_response"}:
        return
    row["evidence_details"]["past_due"] = True
    _end(sandbox, row, "warning_closed" if _is_inquiry(row) else "lost")


def _submit(sandbox: Sandbox, row: Row) -> None:
    row["status"] = "warning_under_review" if _is_inquiry(row) else "under_review"
    row["evidence_details"]["submission_count"] += 1
    row["evidence_details"]["submission_method"] = "manual"
    later.schedule(sandbox, "decide_dispute", row["id"], after=1)


def _end(sandbox: Sandbox, row: Row, status: str) -> None:
    with sandbox.updating("charge.dispute.closed", row):
        row["status"] = status
        if status == "won":
            row["is_charge_refundable"] = True
            if row["balance_transactions"]:
                _reinstate(sandbox, row)
    if status == "won" and row["balance_transactions"]:
        sandbox.emit("charge.dispute.funds_reinstated", row)


def _escalate(sandbox: Sandbox, row: Row) -> None:
    """Turn an inquiry into a chargeback, which takes the money and wants evidence anew."""
    with sandbox.updating("charge.dispute.updated", row):
        row.update(status="needs_response", is_charge_refundable=False)
        row["payment_method_details"]["card"].update(case_type="chargeback", network_reason_code="10.4")
        row["evidence"]["uncategorized_text"] = None
        row["evidence_details"].update(has_evidence=False, submission_count=0, submission_method="not_submitted")
        _withdraw(sandbox, row)
    sandbox.emit("charge.dispute.funds_withdrawn", row)


def _withdraw(sandbox: Sandbox, row: Row) -> None:
    """Take the money and the fee; at once, unless the payment itself is not available yet."""
    charge = sandbox.get("charge", row["charge"])
    paid = sandbox.find("balance_transaction", charge["balance_transaction"] or "")
    settled = paid is not None and paid["status"] == "available"
    entry = ledger.book(
        sandbox,
        sandbox.new.mint("txn_"),
        amount=-row["amount"],
        fee=ledger.DISPUTE_FEE,
        fee_description="Dispute fee",
        currency=row["currency"],
        source=row["id"],
        kind=("adjustment", "dispute"),
        description=f"Chargeback withdrawal for {row['charge']}",
        available_on=sandbox.now() if settled else ledger.settlement_day(sandbox),
    )
    row["balance_transaction"] = entry["id"]
    row["balance_transactions"].append(entry)


def _reinstate(sandbox: Sandbox, row: Row) -> None:
    entry = ledger.book(
        sandbox,
        sandbox.new.mint("txn_"),
        amount=row["amount"],
        currency=row["currency"],
        source=row["id"],
        kind=("adjustment", "dispute_reversal"),
        description=f"Chargeback reversal for {row['charge']}",
        available_on=ledger.settlement_day(sandbox),
    )
    row["balance_transactions"].append(entry)


def _known(sandbox: Sandbox, charge: Row) -> Row:
    """Fill in what Stripe knows itself."""
    customer = sandbox.find("customer", charge["customer"] or "") or {}
    return {
        "customer_email_address": customer.get("email"),
        "customer_name": customer.get("name"),
        "product_description": charge["description"],
    }


def _is_inquiry(row: Row) -> bool:
    return bool(row["payment_method_details"]["card"]["case_type"] == "inquiry")


def _check_open(row: Row) -> None:
    if row["status"] not in _OPEN:
        raise ApiError("This dispute is already closed")


ROUTES = (
    route("GET /v1/disputes", list_, "DisputeListParams", "charge created payment_intent"),
    route("GET /v1/disputes/{dispute}", retrieve, "DisputeRetrieveParams"),
    route(
        "POST /v1/disputes/{dispute}",
        update,
        "DisputeUpdateParams",
        f"submit {' '.join(f'evidence.{name}' for name in _EVIDENCE)}",
    ),
    route("POST /v1/disputes/{dispute}/close", close, "DisputeCloseParams"),
)
