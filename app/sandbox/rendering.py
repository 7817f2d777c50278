"""What a client sees of a row: no private keys, Stripe's key order, and the references it asked to expand."""

from typing import TYPE_CHECKING, Any

from app.sandbox.errors import ApiError
from app.sandbox.store import Row

if TYPE_CHECKING:
    from app.sandbox.sandbox import Sandbox

_MAX_EXPANSION = 4  # levels; Stripe counts every step, "data" too

#: Field → the table its id refers to. Stripe names these fields alike on every object.
REFERENCES = {
    "balance_transaction": "balance_transaction",
    "charge": "charge",
    "credit_grant": "billing.credit_grant",
    "configuration": "billing_portal.configuration",
    "coupon": "coupon",
    "credit_note": "credit_note",
    "customer": "customer",
    "customer_balance_transaction": "customer_balance_transaction",
    "default_payment_method": "payment_method",
    "default_price": "price",
    "discount": "discount",
    "discounts": "discount",
    "dispute": "dispute",
    "failure_balance_transaction": "balance_transaction",
    "feature": "entitlements.feature",
    "invoice": "invoice",
    "latest_charge": "charge",
    "latest_invoice": "invoice",
    "payment_intent": "payment_intent",
    "payment_method": "payment_method",
    "pending_setup_intent": "setup_intent",
    "price": "price",
    "product": "product",
    "promotion_code": "promotion_code",
    "refund": "refund",
    "setup_intent": "setup_intent",
    "schedule": "subscription_schedule",
    "subscription": "subscription",
    "test_clock": "test_helpers.test_clock",
}

#: What a ``source`` refers to, by its id's prefix.
_SOURCES = {"ch_": "charge", "re_": "refund", "du_": "dispute"}


def public(value: Any) -> Any:
    """Copy without private keys; keys as Stripe sorts them: id, object, then the alphabet."""
    if isinstance(value, dict):
        names = sorted((n for n in value if not n.startswith("_")), key=lambda n: (n != "id", n != "object", n))
        # metadata's keys are the client's: any name, their own order.
        return {n: dict(value[n]) if n == "metadata" and value[n] else public(value[n]) for n in names}
    if isinstance(value, list):
        return [public(item) for item in value]
    return value


def expand(sandbox: "Sandbox", shown: Row, paths: list[str]) -> Row:
    """Replace ids by objects (and add includable fields) along each dotted path, in place."""
    for path in paths:
        steps = path.split(".")
        if len(steps) > _MAX_EXPANSION:
            raise ApiError(
                f"You cannot expand more than {_MAX_EXPANSION} levels of a property. Property: {path}",
                param="expand",
            )
        if steps == ["total_count"]:
            raise ApiError("This property cannot be expanded (total_count).", code="property_forbidden", param="expand")
        _expand(sandbox, shown, steps, path)
    return shown


def _expand(sandbox: "Sandbox", node: Any, steps: list[str], path: str) -> None:
    if isinstance(node, list):
        for item in node:
            _expand(sandbox, item, steps, path)
        return
    if not isinstance(node, dict):
        raise _refused(path)
    field, rest = steps[0], steps[1:]
    if (node.get("object"), field) in sandbox.includes:
        node.setdefault(field, public(sandbox.include(node, field)))
    elif field not in node:
        raise _refused(path, inside=node.get("object") == "list")
    elif field in REFERENCES or field == "source":
        node[field] = _resolved(sandbox, field, node[field])
    elif not rest and not isinstance(node[field], dict | list):
        raise _refused(path)
    if rest and node[field] is not None:
        _expand(sandbox, node[field], rest, path)


def _resolved(sandbox: "Sandbox", field: str, value: Any) -> Any:
    """Put objects in the place of an id or a list of ids; what is expanded already, or null, stays."""
    if isinstance(value, list):
        return [_resolved(sandbox, field, id) for id in value]
    if not isinstance(value, str):
        return value
    return public(sandbox.find(REFERENCES.get(field) or _SOURCES[value[:3]], value))


def _refused(path: str, *, inside: bool = False) -> ApiError:
    hint = f" You may want to try expanding 'data.{path}' instead." if inside else ""
    return ApiError(f"This property cannot be expanded ({path}).{hint}", param="expand")
