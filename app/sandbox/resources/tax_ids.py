"""Customers' tax ids: shown on their invoices, verified where the value says so."""

import re

from app.sandbox import lists
from app.sandbox.errors import ApiError
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_MOST = 5
#: Stripe checks these with the authorities; the last digits decide here, as in Stripe's test mode
#: (https://docs.stripe.com/billing/testing#customer-tax-id-verfication).
_CHECKED = frozenset({"au_abn", "eu_vat", "gb_vat"})
_VERDICTS = {"000000000": "verified", "111111111": "unverified"}
_EU_VAT = re.compile(r"[A-Z]{2}[0-9A-Z+*]{2,12}")


def create(sandbox: Sandbox, params: Row, customer: str) -> Row:
    sandbox.get("customer", customer, param="customer")
    return add(sandbox, params, customer)


def add(sandbox: Sandbox, params: Row, customer: str, *, at: str = "") -> Row:
    """Store a tax id of ``tax_id_data`` or of its own request; ``at`` is where its parameters stand."""
    kind, value = params["type"], params["value"].replace(" ", "")
    if kind == "eu_vat" and not _EU_VAT.fullmatch(value):
        raise ApiError(f"Invalid value for {kind}.", code="tax_id_invalid", param=f"{at}[value]" if at else "value")
    if sum(row["customer"] == customer for row in sandbox.rows("tax_id")) >= _MOST:
        raise ApiError(f"You can add at most {_MOST} tax IDs to a customer.")
    verdict = next((word for digits, word in _VERDICTS.items() if digits in value), "pending")
    row = sandbox.insert(
        {
            "id": sandbox.new.mint("txi_"),
            "object": "tax_id",
            "country": value[:2] if kind == "eu_vat" else kind[:2].upper(),
            "created": sandbox.now(),
            "customer": customer,
            "customer_account": None,
            "livemode": False,
            "owner": {"customer": customer, "type": "customer"},
            "type": kind,
            "value": value,
            "verification": {
                "status": verdict if kind in _CHECKED else "unavailable",
                "verified_address": None,
                "verified_name": None,
            },
        }
    )
    sandbox.emit("customer.tax_id.created", row)
    return row


def retrieve(sandbox: Sandbox, _params: Row, customer: str, tax_id: str) -> Row:
    row = sandbox.get("tax_id", tax_id)
    if row["customer"] != customer:
        raise ApiError(f"No such tax_id: '{tax_id}'", status=404, code="resource_missing", param="id")
    return row


def delete(sandbox: Sandbox, params: Row, customer: str, tax_id: str) -> Row:
    row = retrieve(sandbox, params, customer, tax_id)
    sandbox.emit("customer.tax_id.deleted", row)
    row.clear()
    row.update({"id": tax_id, "object": "tax_id", "deleted": True})
    return row


def list_(sandbox: Sandbox, params: Row, customer: str) -> Row:
    sandbox.get("customer", customer, param="customer")
    return lists.page(
        sandbox, "tax_id", params, f"/v1/customers/{customer}/tax_ids", lambda row: row["customer"] == customer
    )


def of_customer(sandbox: Sandbox, customer: Row) -> Row:
    """Make a customer's includable ``tax_ids``."""
    held = [row for row in reversed(sandbox.rows("tax_id")) if row["customer"] == customer["id"]]
    return lists.sublist(held, f"/v1/customers/{customer['id']}/tax_ids")


ROUTES = (
    route("POST /v1/customers/{customer}/tax_ids", create, "CustomerTaxIdCreateParams", "type value"),
    route("GET /v1/customers/{customer}/tax_ids", list_, "CustomerTaxIdListParams"),
    route("GET /v1/customers/{customer}/tax_ids/{tax_id}", retrieve, "CustomerTaxIdRetrieveParams"),
    route("DELETE /v1/customers/{customer}/tax_ids/{tax_id}", delete, "CustomerTaxIdDeleteParams"),
)
