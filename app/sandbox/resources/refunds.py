"""Refunds of charges: in part or in whole, at once, and never more than was paid."""

from app.sandbox import lists
from app.sandbox.errors import ApiError
from app.sandbox.metadata import merge
from app.sandbox.money import written
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def create(sandbox: Sandbox, params: Row) -> Row:
    """Give back ``amount``, or everything that is left. The invoice that was paid stays paid, as at Stripe."""
    charge = _charge(sandbox, params)
    left = charge["amount_captured"] - charge["amount_refunded"]
    amount = params.get("amount", left)
    if left == 0:
        raise ApiError(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    if amount > left:
        asked, unrefunded = written(amount, charge["currency"]), written(left, charge["currency"])
        raise ApiError(
            f"Refund amount ({asked}) is greater than unrefunded amount on charge ({unrefunded})", param="amount"
        )
    refund = sandbox.insert(
        {
            "id": sandbox.new.sibling("re_", charge["payment_intent"]),
            "object": "refund",
            "amount": amount,
            "balance_transaction": None,
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
            "status": "succeeded",
            "transfer_reversal": None,
        }
    )
    merge(refund, params)
    sandbox.emit("refund.created", refund)
    with sandbox.updating("charge.refunded", charge):
        charge["amount_refunded"] += amount
        charge["refunded"] = amount == left
    return refund


def retrieve(sandbox: Sandbox, _params: Row, refund: str) -> Row:
    return sandbox.get("refund", refund, param="refund")


def update(sandbox: Sandbox, params: Row, refund: str) -> Row:
    row = sandbox.get("refund", refund, param="refund")
    with sandbox.updating("refund.updated", row):
        merge(row, params)
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "refund",
        params,
        "/v1/refunds",
        lambda row: (
            lists.matches(row, params, "charge", "payment_intent")
            and lists.within(row["created"], params.get("created"))
        ),
    )


def _charge(sandbox: Sandbox, params: Row) -> Row:
    """Find what is to be refunded: the charge itself, or the one that an intent succeeded with."""
    if "charge" in params:
        return sandbox.get("charge", params["charge"])
    if "payment_intent" not in params:
        raise ApiError("One of the following params should be provided for this request: payment_intent or charge.")
    intent = sandbox.get("payment_intent", params["payment_intent"], param="payment_intent")
    if intent["status"] != "succeeded":
        raise ApiError(f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.")
    return sandbox.get("charge", intent["latest_charge"])
