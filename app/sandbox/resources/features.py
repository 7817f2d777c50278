"""Features: what products grant, and which of them a product has."""

from app.sandbox import lists
from app.sandbox.errors import ApiError, missing
from app.sandbox.metadata import merge
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_MAX_KEY = 80


def create(sandbox: Sandbox, params: Row) -> Row:
    key = params["lookup_key"]
    if len(key) > _MAX_KEY:
        raise ApiError(f"Invalid string: must be at most {_MAX_KEY} characters.", param="lookup_key")
    if any(feature["lookup_key"] == key for feature in sandbox.rows("entitlements.feature")):
        raise ApiError(f"A feature with lookup_key `{key}` already exists.", param="lookup_key")
    row: Row = {
        "id": sandbox.new.mint("feat_test_"),
        "object": "entitlements.feature",
        "active": True,
        "livemode": False,
        "lookup_key": key,
        "metadata": {},
        "name": params["name"],
    }
    merge(row, params)
    return sandbox.insert(row)


def retrieve(sandbox: Sandbox, _params: Row, feature: str) -> Row:
    return sandbox.get("entitlements.feature", feature)


def update(sandbox: Sandbox, params: Row, feature: str) -> Row:
    row = sandbox.get("entitlements.feature", feature)
    row.update({name: params[name] for name in ("active", "name") if name in params})
    merge(row, params)
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    """List the active ones, or with ``archived`` true the others."""
    active = not params.get("archived", False)
    return lists.page(
        sandbox,
        "entitlements.feature",
        params,
        "/v1/entitlements/features",
        lambda row: row["active"] == active and lists.matches(row, params, "lookup_key"),
    )


def attach(sandbox: Sandbox, params: Row, product: str) -> Row:
    sandbox.get("product", product, param="product")
    id = params["entitlement_feature"]
    feature = sandbox.get("entitlements.feature", id, param="entitlement_feature", status=400)
    if not feature["active"]:
        raise ApiError("Inactive features cannot be attached to products.", param="entitlement_feature")
    if any((row["_product"], row["_feature"]) == (product, id) for row in sandbox.rows("product_feature")):
        raise ApiError("This feature is already attached to this product.", param="entitlement_feature")
    row = sandbox.insert(
        {
            "id": sandbox.new.mint("prodft_"),
            "object": "product_feature",
            "livemode": False,
            "_feature": id,
            "_product": product,
        }
    )
    return _shown(sandbox, row)


def retrieve_attached(sandbox: Sandbox, _params: Row, product: str, product_feature: str) -> Row:
    return _shown(sandbox, _attached(sandbox, product, product_feature))


def list_attached(sandbox: Sandbox, params: Row, product: str) -> Row:
    sandbox.get("product", product, param="product")
    url = f"/v1/products/{product}/features"
    found = lists.page(sandbox, "product_feature", params, url, lambda row: row["_product"] == product)
    return {**found, "data": [_shown(sandbox, row) for row in found["data"]]}


def detach(sandbox: Sandbox, _params: Row, product: str, product_feature: str) -> Row:
    row = _attached(sandbox, product, product_feature)
    row.clear()
    row.update({"id": product_feature, "object": "product_feature", "deleted": True})
    return row


def _attached(sandbox: Sandbox, product: str, id: str) -> Row:
    row = sandbox.get("product_feature", id)
    if row["_product"] != product:
        raise missing("product_feature", id)
    return row


def _shown(sandbox: Sandbox, row: Row) -> Row:
    return {**row, "entitlement_feature": sandbox.get("entitlements.feature", row["_feature"])}


ROUTES = (
    route("POST /v1/entitlements/features", create, "entitlements.FeatureCreateParams", "lookup_key name"),
    route("GET /v1/entitlements/features", list_, "entitlements.FeatureListParams", "archived lookup_key"),
    route("GET /v1/entitlements/features/{feature}", retrieve, "entitlements.FeatureRetrieveParams"),
    route("POST /v1/entitlements/features/{feature}", update, "entitlements.FeatureUpdateParams", "active name"),
    route("POST /v1/products/{product}/features", attach, "ProductFeatureCreateParams", "entitlement_feature"),
    route("GET /v1/products/{product}/features", list_attached, "ProductFeatureListParams"),
    route("GET /v1/products/{product}/features/{product_feature}", retrieve_attached, "ProductFeatureRetrieveParams"),
    route("DELETE /v1/products/{product}/features/{product_feature}", detach, "ProductFeatureDeleteParams"),
)
