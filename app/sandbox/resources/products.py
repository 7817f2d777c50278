"""Products: what is sold, priced by prices; one that has prices can be archived, not deleted."""

from app.sandbox import catalog, lists
from app.sandbox.errors import ApiError
from app.sandbox.resources import prices
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def create(sandbox: Sandbox, params: Row) -> Row:
    row = catalog.new_product(sandbox, params)
    if "default_price_data" in params:
        price = prices.create(sandbox, {**params["default_price_data"], "product": row["id"]})
        row["default_price"] = price["id"]
    sandbox.emit("product.created", row)
    return row


def retrieve(sandbox: Sandbox, _params: Row, product: str) -> Row:
    return sandbox.get("product", product)


def update(sandbox: Sandbox, params: Row, product: str) -> Row:
    row = sandbox.get("product", product)
    with sandbox.updating("product.updated", row):
        catalog.set_product(row, params)
        if "default_price" in params:
            price = sandbox.get("price", params["default_price"], param="default_price", status=400)
            row["default_price"] = price["id"]
        row["updated"] = sandbox.now()
    return row


def delete(sandbox: Sandbox, _params: Row, product: str) -> Row:
    row = sandbox.get("product", product)
    if any(price["product"] == product for price in sandbox.rows("price")):
        raise ApiError("This product cannot be deleted because it has one or more user-created prices.")
    row["active"] = False
    sandbox.emit("product.deleted", row)
    row.clear()
    row.update({"id": product, "object": "product", "deleted": True})
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "product",
        params,
        "/v1/products",
        lambda row: (
            not row.get("_hidden")
            and lists.matches(row, params, "active", "shippable", "url", "type")
            and lists.within(row["created"], params.get("created"))
            and ("ids" not in params or row["id"] in params["ids"])
        ),
    )
