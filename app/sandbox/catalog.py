"""Rows of products and prices, also of those that a ``price_data`` makes behind the scenes."""

from decimal import Decimal

from app.sandbox.errors import ApiError
from app.sandbox.metadata import merge
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_SETTABLE = (
    "active",
    "description",
    "images",
    "marketing_features",
    "name",
    "shippable",
    "statement_descriptor",
    "unit_label",
    "url",
)


def new_product(sandbox: Sandbox, params: Row) -> Row:
    """Store a product; the caller emits."""
    id = params.get("id") or sandbox.new.mint("prod_")
    if sandbox.find("product", id) is not None:
        raise ApiError("Product already exists.", code="resource_already_exists")
    row: Row = {
        "id": id,
        "object": "product",
        "active": True,
        "attributes": [],
        "created": sandbox.now(),
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": {},
        "name": params["name"],
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "tax_details": None,
        "type": params.get("type", "service"),
        "unit_label": None,
        "updated": sandbox.now(),
        "url": None,
    }
    set_product(row, params)
    return sandbox.insert(row)


def set_product(row: Row, params: Row) -> None:
    for name in _SETTABLE:
        if name in params:
            row[name] = params[name]
    merge(row, params)


def new_price(sandbox: Sandbox, params: Row, *, at: str = "") -> Row:
    """Build a price that is not stored yet. ``at`` is the place of its parameters, for errors."""
    if "unit_amount" not in params and "unit_amount_decimal" not in params:
        raise ApiError("Prices require an `unit_amount` or `unit_amount_decimal` parameter to be set.")
    if "product" in params:
        param = f"{at}[product]" if at else "product"
        sandbox.get("product", params["product"], param=param, status=400)
    recurring = params.get("recurring")
    if recurring is not None:
        _check_meter(sandbox, recurring)
    unit = Decimal(params.get("unit_amount_decimal") or params["unit_amount"])
    if unit < 0:
        raise ApiError(
            "This value must be greater than or equal to 0.",
            code="parameter_invalid_integer",
            param=f"{at}[unit_amount]" if at else "unit_amount",
        )
    whole = unit == unit.to_integral_value()
    return {
        "id": sandbox.new.mint("price_"),
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": sandbox.now(),
        "currency": params["currency"].lower(),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": {},
        "nickname": params.get("nickname"),
        "product": params.get("product"),
        "recurring": recurring
        and {
            "interval": recurring["interval"],
            "interval_count": recurring.get("interval_count", 1),
            "meter": recurring.get("meter"),
            "trial_period_days": None,
            "usage_type": recurring.get("usage_type", "licensed"),
        },
        "tax_behavior": params.get("tax_behavior", "unspecified"),
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring" if recurring else "one_time",
        "unit_amount": int(unit) if whole else None,
        "unit_amount_decimal": str(int(unit)) if whole else str(unit.normalize()),
    }


def _check_meter(sandbox: Sandbox, recurring: Row) -> None:
    """Hold a recurring price to its meter: the metered have one, the licensed have none."""
    metered = recurring.get("usage_type") == "metered"
    if metered and "meter" not in recurring:
        raise ApiError("Starting with Stripe version `2025-03-31.basil`, metered prices must be backed by meters.")
    if not metered and "meter" in recurring:
        raise ApiError(
            "You may only specify `recurring[meter]` for prices with `recurring[usage_type]=metered`.",
            param="recurring[meter]",
        )
    if metered:
        meter = sandbox.get("billing.meter", recurring["meter"], param="recurring[meter]", status=400)
        if meter["status"] != "active":
            raise ApiError(f"The meter {meter['id']} is inactive.", param="recurring[meter]")


def ad_hoc_price(sandbox: Sandbox, data: Row, *, at: str) -> Row:
    """Store the inactive price, and the product of a ``product_data``, that Stripe makes behind a ``price_data``."""
    if ("product" in data) == ("product_data" in data):
        raise ApiError("You must specify either `product` or `product_data` when creating a price.")
    row = new_price(sandbox, data, at=at)
    if "product_data" in data:
        product = new_product(sandbox, data["product_data"])
        sandbox.emit("product.created", product)
        row["product"] = product["id"]
    row["active"] = False
    sandbox.insert(row)
    sandbox.emit("price.created", row)
    return row


def chosen_price(sandbox: Sandbox, item: Row, *, at: str) -> Row:
    """Find the price of a line or subscription item, by id or made from its ``price_data``."""
    if "price_data" in item:
        return ad_hoc_price(sandbox, item["price_data"], at=f"{at}[price_data]")
    if "price" not in item:
        raise ApiError(
            f"You must specify either `price` or `price_data` in `{at}`.", code="parameter_missing", param=at
        )
    price = sandbox.get("price", item["price"], param=f"{at}[price]", status=400)
    if not price["active"]:
        raise ApiError("The price specified is inactive. This field only accepts active prices.", param=f"{at}[price]")
    return price


def amount(price: Row, quantity: int) -> int:
    """Give the minor units of ``quantity``; fractions of a unit price round half up on the line, as Stripe's do."""
    return int((Decimal(price["unit_amount_decimal"]) * quantity).quantize(Decimal(1), rounding="ROUND_HALF_UP"))
