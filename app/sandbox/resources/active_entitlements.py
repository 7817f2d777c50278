"""Active entitlements: which features a customer has, by the products of the subscriptions that are alive."""

from app.sandbox import events, lists
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_KIND = "entitlements.active_entitlement"
_ENTITLING = frozenset({"trialing", "active", "past_due"})
_SHOWN = 10  # entitlements in a summary; the others are on the list's further pages


def retrieve(sandbox: Sandbox, _params: Row, entitlement: str) -> Row:
    refresh(sandbox)
    return sandbox.get(_KIND, entitlement)


def list_(sandbox: Sandbox, params: Row) -> Row:
    customer = params["customer"]
    sandbox.get("customer", customer, param="customer", status=400)
    refresh(sandbox)
    url = "/v1/entitlements/active_entitlements"
    return lists.page(sandbox, _KIND, params, url, lambda row: row["_customer"] == customer)


def refresh(sandbox: Sandbox) -> None:
    """Bring the entitlements in line with subscriptions and products, and tell of every customer they changed for."""
    if not sandbox.rows("product_feature") and not sandbox.rows(_KIND):
        return
    held: dict[str, dict[str, str]] = {}
    for row in sandbox.rows(_KIND):
        held.setdefault(row["_customer"], {})[row["feature"]] = row["id"]
    wanted = _wanted(sandbox)
    for customer in {**held, **wanted}:
        if held.get(customer, {}).keys() != wanted.get(customer, {}).keys():
            _replace(sandbox, customer, held.get(customer, {}), list(wanted.get(customer, {})))


def _wanted(sandbox: Sandbox) -> dict[str, dict[str, None]]:
    """Give the features of each customer, in the order in which they came by them."""
    features: dict[str, list[str]] = {}
    for row in sandbox.rows("product_feature"):
        features.setdefault(row["_product"], []).append(row["_feature"])
    wanted: dict[str, dict[str, None]] = {}
    for subscription in sandbox.rows("subscription"):
        if subscription["status"] in _ENTITLING:
            for item in subscription["items"]["data"]:
                granted = dict.fromkeys(features.get(item["price"]["product"], ()))
                wanted.setdefault(subscription["customer"], {}).update(granted)
    return {customer: granted for customer, granted in wanted.items() if granted}


def _replace(sandbox: Sandbox, customer: str, held: dict[str, str], wanted: list[str]) -> None:
    before = sandbox.shown(_summary(sandbox, customer))
    for feature, id in held.items():
        if feature not in wanted:
            row = sandbox.get(_KIND, id)
            row.clear()
            row.update({"id": id, "object": _KIND, "deleted": True})
    for feature in wanted:
        if feature not in held:
            sandbox.insert(
                {
                    "id": sandbox.new.mint("ent_test_"),
                    "object": _KIND,
                    "feature": feature,
                    "livemode": False,
                    "lookup_key": sandbox.get("entitlements.feature", feature)["lookup_key"],
                    "_customer": customer,
                }
            )
    summary = _summary(sandbox, customer)
    previous = events.previous_attributes(before, sandbox.shown(summary))
    sandbox.emit("entitlements.active_entitlement_summary.updated", summary, previous)


def _summary(sandbox: Sandbox, customer: str) -> Row:
    rows = [row for row in reversed(sandbox.rows(_KIND)) if row["_customer"] == customer]
    return {
        "object": "entitlements.active_entitlement_summary",
        "customer": customer,
        "entitlements": lists.listing(
            rows[:_SHOWN], f"/v1/customer/{customer}/entitlements", has_more=len(rows) > _SHOWN
        ),
        "livemode": False,
    }


ROUTES = (
    route("GET /v1/entitlements/active_entitlements", list_, "entitlements.ActiveEntitlementListParams", "customer"),
    route(
        "GET /v1/entitlements/active_entitlements/{entitlement}",
        retrieve,
        "entitlements.ActiveEntitlementRetrieveParams",
    ),
)
