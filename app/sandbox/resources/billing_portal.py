"""Billing portal: sessions that lead to the page, and what the page may offer."""

from typing import Any

from app.sandbox import lists
from app.sandbox.errors import ApiError, required
from app.sandbox.metadata import merge
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_FLOWS = ("subscription_cancel", "subscription_update", "subscription_update_confirm")


def create_session(sandbox: Sandbox, params: Row) -> Row:
    if "customer" not in params:
        raise required("customer")
    customer = sandbox.get("customer", params["customer"], param="customer", status=400)
    if "configuration" in params:
        chosen = sandbox.get("billing_portal.configuration", params["configuration"], param="configuration", status=400)
    else:
        chosen = default_configuration(sandbox)
    id = sandbox.new.mint("bps_")
    return sandbox.insert(
        {
            "id": id,
            "object": "billing_portal.session",
            "after_expiration": None,
            "configuration": chosen["id"],
            "created": sandbox.now(),
            "customer": customer["id"],
            "customer_account": None,
            "flow": _flow(sandbox, customer, params["flow_data"]) if "flow_data" in params else None,
            "livemode": False,
            "locale": params.get("locale"),
            "on_behalf_of": None,
            "return_url": params.get("return_url", chosen["default_return_url"]),
            "url": f"{sandbox.base_url}/p/session/{id}",
        }
    )


def create_configuration(sandbox: Sandbox, params: Row) -> Row:
    return _new_configuration(sandbox, params, is_default=not sandbox.rows("billing_portal.configuration"))


def retrieve_configuration(sandbox: Sandbox, _params: Row, configuration: str) -> Row:
    return sandbox.get("billing_portal.configuration", configuration, param="configuration")


def list_configurations(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "billing_portal.configuration",
        params,
        "/v1/billing_portal/configurations",
        lambda row: lists.matches(row, params, "active", "is_default"),
    )


def default_configuration(sandbox: Sandbox) -> Row:
    """Find the account's default configuration; the first use makes it."""
    for row in sandbox.rows("billing_portal.configuration"):
        if row["is_default"]:
            return row
    return _new_configuration(sandbox, {}, is_default=True)


def _new_configuration(sandbox: Sandbox, params: Row, *, is_default: bool) -> Row:
    row: Row = {
        "id": sandbox.new.mint("bpc_"),
        "object": "billing_portal.configuration",
        "active": True,
        "application": None,
        "business_profile": {
            "headline": None,
            "privacy_policy_url": None,
            "terms_of_service_url": None,
            **(params.get("business_profile") or {}),
        },
        "created": sandbox.now(),
        "default_return_url": params.get("default_return_url"),
        "features": _merged(_FEATURES, params.get("features", {})),
        "is_default": is_default,
        "livemode": False,
        "login_page": {"enabled": False, "url": None},
        "metadata": {},
        "name": params.get("name"),
        "updated": sandbox.now(),
    }
    merge(row, params)
    sandbox.insert(row)
    sandbox.emit("billing_portal.configuration.created", row)
    return row


_FEATURES: Row = {
    "customer_update": {"allowed_updates": ["email", "address", "phone"], "enabled": True},
    "invoice_history": {"enabled": True},
    "payment_method_update": {"enabled": True, "payment_method_configuration": None},
    "subscription_cancel": {
        "cancellation_reason": {
            "enabled": False,
            "options": ["too_expensive", "missing_features", "switched_service", "unused", "other"],
        },
        "enabled": True,
        "mode": "at_period_end",
        "proration_behavior": "none",
    },
    "subscription_pause": {"duration": {"interval_options": [], "type": "indefinite"}, "enabled": False},
    "subscription_update": {
        "billing_cycle_anchor": None,
        "default_allowed_updates": [],
        "enabled": False,
        "products": [],
        "proration_behavior": "none",
        "schedule_at_period_end": {"conditions": []},
        "trial_update_behavior": "end_trial",
    },
}


def _merged(defaults: Row, given: Row) -> Row:
    merged: dict[str, Any] = {}
    for name, default in defaults.items():
        value = given.get(name, default)
        merged[name] = _merged(default, value) if isinstance(default, dict) and isinstance(value, dict) else value
    return merged


def _flow(sandbox: Sandbox, customer: Row, data: Row) -> Row:
    kind = data["type"]
    flow: Row = {
        "after_completion": {
            "hosted_confirmation": None,
            "redirect": None,
            "type": "portal_homepage",
            **data.get("after_completion", {}),
        },
        **dict.fromkeys(_FLOWS),
        "type": kind,
    }
    if kind in _FLOWS:
        if kind not in data:
            raise required(f"flow_data[{kind}]")
        id = data[kind]["subscription"]
        param = f"flow_data[{kind}][subscription]"
        subscription = sandbox.get("subscription", id, param=param, status=400)
        if subscription["customer"] != customer["id"]:
            raise ApiError(f"The subscription {id} does not belong to the customer {customer['id']}.", param=param)
        flow[kind] = data[kind]
    return flow
