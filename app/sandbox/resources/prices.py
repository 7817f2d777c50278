"""Prices: per unit, one-time or recurring, with lookup keys that move."""

from app.sandbox import catalog, lists
from app.sandbox.errors import ApiError
from app.sandbox.metadata import merge
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def create(sandbox: Sandbox, params: Row) -> Row:
    if "product" in params and "product_data" in params:
        raise ApiError("You may only specify one of these parameters: product, product_data.", param="product")
    if "product" not in params and "product_data" not in params:
        raise ApiError("You must specify either `product` or `product_data` when creating a price.")
    row = catalog.new_price(sandbox, params)
    if "product_data" in params:
        product = catalog.new_product(sandbox, params["product_data"])
        sandbox.emit("product.created", product)
        row["product"] = product["id"]
    _claim_lookup_key(sandbox, row, params)
    row["active"] = params.get("active", True)
    merge(row, params)
    sandbox.insert(row)
    sandbox.emit("price.created", row)
    return row


def retrieve(sandbox: Sandbox, _params: Row, price: str) -> Row:
    return sandbox.get("price", price, param="price")


def update(sandbox: Sandbox, params: Row, price: str) -> Row:
    row = sandbox.get("price", price, param="price")
    product = sandbox.find("product", row["product"])
    if params.get("active") is False and product is not None and product.get("default_price") == price:
        raise ApiError("This price cannot be archived because it is the default price of its product.")
    with sandbox.updating("price.updated", row):
        for name in ("active", "nickname", "tax_behavior"):
            if name in params:
                row[name] = params[name]
        _claim_lookup_key(sandbox, row, params)
        merge(row, params)
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    recurring = params.get("recurring", {})
    return lists.page(
        sandbox,
        "price",
        params,
        "/v1/prices",
        lambda row: (
            not row.get("_hidden")
            and lists.matches(row, params, "active", "currency", "product", "type")
            and lists.within(row["created"], params.get("created"))
            and ("lookup_keys" not in params or row["lookup_key"] in params["lookup_keys"])
            and all((row["recurring"] or {}).get(name) == value for name, value in recurring.items())
        ),
    )


def _claim_lookup_key(sandbox: Sandbox, row: Row, params: Row) -> None:
    """Take over the key from its holder if asked to; a deactivated price holds on to its key."""
    if "lookup_key" not in params:
        return
    key = params["lookup_key"]
    holders = [p for p in sandbox.rows("price") if p["lookup_key"] == key and p["id"] != row["id"]]
    if key is not None and holders:
        holder = sandbox.get("price", holders[0]["id"])
        if not params.get("transfer_lookup_key"):
            raise ApiError(f"A price (`{holder['id']}`) already uses that lookup key.", param="lookup_key")
        with sandbox.updating("price.updated", holder):
            holder["lookup_key"] = None
    row["lookup_key"] = key
