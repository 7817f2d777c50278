"""Refunds of charges: in part or in whole, never more than was paid; some arrive late, and some come back."""

from app.sandbox import charges, later, ledger, lists
from app.sandbox.errors import ApiError
from app.sandbox.metadata import merge
from app.sandbox.money import written
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_GIVEN = ("refund", "refund")  # type and reporting category
_CAME_BACK = ("refund_failure", "refund_failure")


def create(sandbox: Sandbox, params: Row) -> Row:
    """Give back ``amount``, or everything that is left. The invoice that was paid stays paid, as at Stripe."""
    charge = _charge(sandbox, params)
    amount = _amount(sandbox, charge, params)
    course = charges.card_of(charge).refund
    id = sandbox.new.sibling("re_", charge["payment_intent"])
    refund = sandbox.insert(
        {
            "id": id,
            "object": "refund",
            "amount": amount,
            "balance_transaction": _entry(sandbox, id, charge, -amount, kind=_GIVEN, what="REFUND FOR CHARGE"),
            "charge": charge["id"],
            "created": sandbox.now(),
            "currency": charge["currency"],
            "customer": charge["customer"],
            "customer_account": None,
            "destination_details": {
                "card": {
                    "reference_status": "pending",
                    "reference_type": "acquirer_reference_number",
                    "type": "refund",
                },
                "type": "card",
            },
            "metadata": {},
            "payment_intent": charge["payment_intent"],
            "payment_method": charge["payment_method"],
            "reason": params.get("reason"),
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": "pending" if course == "pends" else "succeeded",
            "transfer_reversal": None,
        }
    )
    merge(refund, params)
    if course == "pends":
        refund["pending_reason"] = "processing"
    deed = {"succeeds": "trace_refund", "pends": "finish_refund", "fails": "fail_refund"}[course]
    later.schedule(sandbox, deed, id, after=1)
    sandbox.emit("refund.created", refund)
    with sandbox.updating("charge.refunded", charge):
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
    return refund


def retrieve(sandbox: Sandbox, _params: Row, refund: str) -> Row:
    return sandbox.get("refund", refund, param="refund")


def update(sandbox: Sandbox, params: Row, refund: str) -> Row:
    row = sandbox.get("refund", refund, param="refund")
    with sandbox.updating("charge.refund.updated", row), sandbox.updating("refund.updated", row):
        merge(row, params)
    return row


def cancel(sandbox: Sandbox, _params: Row, refund: str) -> Row:
    """Refuse: only refunds that wait for the customer's bank details can be canceled, and cards have none."""
    sandbox.get("refund", refund, param="refund")
    raise ApiError("Canceling this refund is unsupported.")


def list_(sandbox: Sandbox, params: Row) -> Row:
    return page(sandbox, params, "/v1/refunds")


def page(sandbox: Sandbox, params: Row, url: str) -> Row:
    found = lists.page(
        sandbox,
        "refund",
        params,
        url,
        lambda row: (
            lists.matches(row, params, "charge", "payment_intent")
            and lists.within(row["created"], params.get("created"))
        ),
    )
    if "charge" in params:
        found["count"] = sum(row["charge"] == params["charge"] for row in sandbox.rows("refund"))
    return found


def trace(sandbox: Sandbox, refund: str) -> None:
    """Give the refund the number by which the customer's bank finds it."""
    row = sandbox.get("refund", refund)
    with sandbox.updating("charge.refund.updated", row), sandbox.updating("refund.updated", row):
        row["destination_details"]["card"].update(
            reference=sandbox.new.text(16, "0123456789"), reference_status="available"
        )


def finish(sandbox: Sandbox, refund: str) -> None:
    """Let a pending refund succeed."""
    row = sandbox.get("refund", refund)
    with sandbox.updating("charge.refund.updated", row), sandbox.updating("refund.updated", row):
        row["status"] = "succeeded"
        del row["pending_reason"]


def fail(sandbox: Sandbox, refund: str) -> None:
    """Have the customer's bank send the money back; the charge counts as not refunded by that much again."""
    row = sandbox.get("refund", refund)
    charge = sandbox.get("charge", row["charge"])
    entry = _entry(sandbox, row["id"], charge, row["amount"], kind=_CAME_BACK, what="REFUND FAILURE FOR CHARGE")
    with sandbox.updating("charge.refund.updated", row), sandbox.updating("refund.updated", row):
        row.update(status="failed", failure_balance_transaction=entry, failure_reason="expired_or_canceled_card")
    charge["amount_refunded"] -= row["amount"]
    charge["refunded"] = False
    sandbox.emit("refund.failed", row)


def _amount(sandbox: Sandbox, charge: Row, params: Row) -> int:
    """Say how much is to be given back, in minor units, or refuse in Stripe's words."""
    if charge["amount_captured"] == 0 and charge["paid"]:
        raise ApiError(
            f"This uncaptured Charge was created by a PaymentIntent ({charge['payment_intent']}). You must cancel the "
            "PaymentIntent to reverse the authorization instead of refunding the Charge directly."
        )
    if charge["dispute"] is not None and not sandbox.get("dispute", charge["dispute"])["is_charge_refundable"]:
        raise ApiError(f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    left: int = charge["amount_captured"] - charge["amount_refunded"]
    amount: int = params.get("amount", left)
    if left == 0:
        raise ApiError(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    if amount < 1:
        raise ApiError(
            "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
        )
    if amount > left:
        asked, unrefunded = written(amount, charge["currency"]), written(left, charge["currency"])
        raise ApiError(
            f"Refund amount ({asked}) is greater than unrefunded amount on charge ({unrefunded})", param="amount"
        )
    return amount


def _entry(sandbox: Sandbox, refund: str, charge: Row, amount: int, *, kind: tuple[str, str], what: str) -> str:
    """Enter a refund into the ledger, available on the same day as its charge; Stripe's fee is not given back."""
    paid = sandbox.find("balance_transaction", charge["balance_transaction"] or "")
    id: str = ledger.book(
        sandbox,
        sandbox.new.sibling("txn_", charge["payment_intent"]),
        amount=amount,
        currency=charge["currency"],
        source=refund,
        kind=kind,
        description=f"{what} ({charge['description']})" if charge["description"] else what,
        available_on=ledger.settlement_day(sandbox) if paid is None else paid["available_on"],
    )["id"]
    return id


def _charge(sandbox: Sandbox, params: Row) -> Row:
    """Find what is to be refunded: the charge itself, or the one that an intent succeeded with."""
    if "charge" in params:
        return sandbox.get("charge", params["charge"])
    if "payment_intent" not in params:
        raise ApiError("One of the following params should be provided for this request: payment_intent or charge.")
    intent = sandbox.get("payment_intent", params["payment_intent"], param="payment_intent")
    if intent["status"] not in {"succeeded", "requires_capture"}:
        raise ApiError(f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.")
    return sandbox.get("charge", intent["latest_charge"])


ROUTES = (
    route("POST /v1/refunds", create, "RefundCreateParams", "amount charge payment_intent reason"),
    route("GET /v1/refunds", list_, "RefundListParams", "charge created payment_intent"),
    route("GET /v1/refunds/{refund}", retrieve, "RefundRetrieveParams"),
    route("POST /v1/refunds/{refund}", update, "RefundUpdateParams"),
    route("POST /v1/refunds/{refund}/cancel", cancel, "RefundCancelParams"),
)
