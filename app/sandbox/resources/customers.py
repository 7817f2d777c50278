"""Customers: who buys, with what they are charged by default; a deleted one stays as a stub."""

import re

from app.sandbox import clocks, customer_balance, lists, subscriptions
from app.sandbox.errors import ApiError, missing
from app.sandbox.metadata import merge
from app.sandbox.resources import payment_methods, tax_ids
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_SETTABLE = ("description", "email", "name", "phone", "preferred_locales", "shipping", "tax_exempt")
_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))


def create(sandbox: Sandbox, params: Row) -> Row:
    row: Row = {
        "id": sandbox.new.mint("cus_"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": sandbox.now(),
        "currency": None,
        "customer_account": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": sandbox.new.invoice_prefix(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": _clock(sandbox, params),
    }
    sandbox.insert(row)
    method = params.get("payment_method")
    settings = params.get("invoice_settings", {})
    if method is None or settings.get("default_payment_method") != method:
        _set(sandbox, row, params)
        sandbox.emit("customer.created", row)
        _add_tax_ids(sandbox, row, params)
        if method is not None:
            payment_methods.attach(sandbox, {"customer": row["id"]}, method)
        return row
    # The new default becomes attached in this same request, so it can't be checked before.
    _set(sandbox, row, params | {"invoice_settings": {}})
    sandbox.emit("customer.created", row)
    _add_tax_ids(sandbox, row, params)
    attached = payment_methods.attach(sandbox, {"customer": row["id"]}, method)
    with sandbox.updating("customer.updated", row):
        row["invoice_settings"]["default_payment_method"] = attached["id"]
    return row


def retrieve(sandbox: Sandbox, _params: Row, customer: str) -> Row:
    """Give the customer; a deleted one is a 200 with its stub."""
    row = sandbox.find("customer", customer)
    if row is None:
        raise missing("customer", customer)
    return row


def update(sandbox: Sandbox, params: Row, customer: str) -> Row:
    row = sandbox.get("customer", customer)
    with sandbox.updating("customer.updated", row):
        _set(sandbox, row, params)
    return row


def delete(sandbox: Sandbox, _params: Row, customer: str) -> Row:
    """End the customer's subscriptions, detach the cards, and leave the stub."""
    row = sandbox.get("customer", customer)
    for subscription in sandbox.rows("subscription"):
        if subscription["customer"] == customer and subscription["status"] not in subscriptions.TERMINAL:
            subscriptions.end(sandbox, sandbox.get("subscription", subscription["id"]), reason="cancellation_requested")
    for held in sandbox.rows("tax_id"):
        if held["customer"] == customer:
            tax_ids.delete(sandbox, {}, customer, held["id"])
    for method in sandbox.rows("payment_method"):
        if method["customer"] == customer:
            payment_methods.detach(sandbox, {}, method["id"])
    sandbox.emit("customer.deleted", row)
    row.clear()
    row.update({"id": customer, "object": "customer", "deleted": True})
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "customer",
        params,
        "/v1/customers",
        lambda row: (
            lists.matches(row, params, "email")
            and row["test_clock"] == params.get("test_clock")
            and lists.within(row["created"], params.get("created"))
        ),
    )


def subscriptions_of(sandbox: Sandbox, customer: Row) -> Row:
    """Make the includable ``subscriptions``: the live ones."""
    live = [
        row
        for row in reversed(sandbox.rows("subscription"))
        if row["customer"] == customer["id"] and row["status"] not in subscriptions.TERMINAL
    ]
    return lists.sublist(live, f"/v1/customers/{customer['id']}/subscriptions")


def _clock(sandbox: Sandbox, params: Row) -> str | None:
    if "test_clock" not in params:
        return None
    clock: str = sandbox.get(clocks.KIND, params["test_clock"], param="test_clock", status=400)["id"]
    return clock


def _add_tax_ids(sandbox: Sandbox, row: Row, params: Row) -> None:
    for index, entry in enumerate(params.get("tax_id_data", [])):
        tax_ids.add(sandbox, entry, row["id"], at=f"tax_id_data[{index}]")


def _set(sandbox: Sandbox, row: Row, params: Row) -> None:
    for name in _SETTABLE:
        if name in params:
            row[name] = params[name]
    if params.get("balance", row["balance"]) != row["balance"]:
        customer_balance.move(
            sandbox,
            row,
            params["balance"] - row["balance"],
            type="adjustment",
            currency=row["currency"] or "usd",
        )
    row["tax_exempt"] = row["tax_exempt"] or "none"  # which is what emptying it means
    if "address" in params:
        row["address"] = None if params["address"] is None else {**_ADDRESS, **params["address"]}
    if "next_invoice_sequence" in params:
        row["next_invoice_sequence"] = params["next_invoice_sequence"]
    if "invoice_prefix" in params:
        row["invoice_prefix"] = _prefix(sandbox, row, params["invoice_prefix"])
    settings = params.get("invoice_settings") or {}
    if settings.get("default_payment_method") is not None:
        payment_methods.of_customer(
            sandbox, settings["default_payment_method"], row["id"], param="invoice_settings[default_payment_method]"
        )
    row["invoice_settings"].update(settings)
    merge(row, params)


def _prefix(sandbox: Sandbox, row: Row, prefix: str) -> str:
    if not re.fullmatch(r"[A-Z0-9]{1,12}", prefix):
        raise ApiError("Invoice number prefix must be 1–12 uppercase letters or numbers.")  # noqa: RUF001 - Stripe's dash
    for other in sandbox.rows("customer"):
        if other["invoice_prefix"] == prefix and other["id"] != row["id"]:
            raise ApiError(
                f"This invoice number prefix is taken by customer: {other['id']}. Please enter a different prefix.",
                param="invoice_prefix",
            )
    return prefix
