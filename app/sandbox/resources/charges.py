"""Charges: read, described, and captured the old way. Only payment intents make them."""

from app.sandbox import amounts, lists, payments
from app.sandbox.errors import ApiError, missing
from app.sandbox.metadata import merge
from app.sandbox.resources import refunds
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def retrieve(sandbox: Sandbox, _params: Row, charge: str) -> Row:
    return sandbox.get("charge", charge)


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "charge",
        params,
        "/v1/charges",
        lambda row: (
            lists.matches(row, params, "customer", "payment_intent", "transfer_group")
            and lists.within(row["created"], params.get("created"))
        ),
    )


def update(sandbox: Sandbox, params: Row, charge: str) -> Row:
    row = sandbox.get("charge", charge)
    with sandbox.updating("charge.updated", row):
        merge(row, params)
        row.update({name: params[name] for name in ("description", "receipt_email", "shipping") if name in params})
        row["fraud_details"].update(params.get("fraud_details", {}))
    return row


def capture(sandbox: Sandbox, params: Row, charge: str) -> Row:
    row = sandbox.get("charge", charge)
    if row["captured"]:
        raise ApiError(f"Charge {row['id']} has already been captured.", code="charge_already_captured")
    intent = sandbox.get("payment_intent", row["payment_intent"])
    if intent["status"] != "requires_capture":
        raise ApiError(f"Charge {row['id']} can't be captured.", code="charge_not_capturable")
    payments.capture(sandbox, intent, amounts.to_capture(params.get("amount"), intent))
    return row


def list_refunds(sandbox: Sandbox, params: Row, charge: str) -> Row:
    sandbox.get("charge", charge)
    return refunds.page(sandbox, {**params, "charge": charge}, f"/v1/charges/{charge}/refunds")


def retrieve_refund(sandbox: Sandbox, _params: Row, charge: str, refund: str) -> Row:
    sandbox.get("charge", charge)
    row = sandbox.get("refund", refund, param="refund")
    if row["charge"] != charge:
        raise missing("refund", refund, param="refund")
    return row


def refunds_of(sandbox: Sandbox, charge: Row) -> Row:
    """Make the includable ``refunds``, newest first."""
    rows = [row for row in reversed(sandbox.rows("refund")) if row["charge"] == charge["id"]]
    return lists.sublist(rows, f"/v1/charges/{charge['id']}/refunds")


ROUTES = (
    route("GET /v1/charges", list_, "ChargeListParams", "created customer payment_intent transfer_group"),
    route("GET /v1/charges/{charge}", retrieve, "ChargeRetrieveParams"),
    route(
        "POST /v1/charges/{charge}",
        update,
        "ChargeUpdateParams",
        "description fraud_details receipt_email shipping",
    ),
    route("POST /v1/charges/{charge}/capture", capture, "ChargeCaptureParams", "amount"),
    route("GET /v1/charges/{charge}/refunds", list_refunds, "ChargeListRefundsParams"),
    route("GET /v1/charges/{charge}/refunds/{refund}", retrieve_refund, "ChargeRetrieveRefundParams"),
)
