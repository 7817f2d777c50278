"""Coupons: what is taken off, for how long, of what, and how often it may be given."""

import re

from app.sandbox import lists
from app.sandbox.errors import ApiError
from app.sandbox.metadata import merge
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_ALL = 100  # percent


def create(sandbox: Sandbox, params: Row) -> Row:
    _check(sandbox, params)
    id = params.get("id") or sandbox.new.text(8)
    known = sandbox.find("coupon", id)
    if known is not None and not known.get("deleted"):
        raise ApiError("Coupon already exists.", code="resource_already_exists")
    percent = params.get("percent_off")
    row: Row = {
        "id": id,
        "object": "coupon",
        "amount_off": params.get("amount_off"),
        "created": sandbox.now(),
        "currency": params["currency"].lower() if "amount_off" in params else None,
        "duration": params.get("duration", "once"),
        "duration_in_months": params.get("duration_in_months"),
        "livemode": False,
        "max_redemptions": params.get("max_redemptions"),
        "metadata": {},
        "name": params.get("name"),
        "percent_off": percent and float(percent),
        "redeem_by": params.get("redeem_by"),
        "times_redeemed": 0,
        "valid": True,
        "_applies_to": params.get("applies_to"),
        "_currency_options": params.get("currency_options"),
    }
    merge(row, params)
    sandbox.insert(row)
    sandbox.emit("coupon.created", row)
    return row


def retrieve(sandbox: Sandbox, _params: Row, coupon: str) -> Row:
    return sandbox.get("coupon", coupon, param="coupon")


def update(sandbox: Sandbox, params: Row, coupon: str) -> Row:
    row = sandbox.get("coupon", coupon, param="coupon")
    _check_currencies(params.get("currency_options", {}))
    with sandbox.updating("coupon.updated", row):
        if "name" in params:
            row["name"] = params["name"]
        if "currency_options" in params:
            row["_currency_options"] = {**(row["_currency_options"] or {}), **params["currency_options"]}
        merge(row, params)
    return row


def delete(sandbox: Sandbox, _params: Row, coupon: str) -> Row:
    """Nobody can redeem it any more; who has, keeps the discount. Its promotion codes go inactive."""
    row = sandbox.get("coupon", coupon, param="coupon")
    for code in sandbox.rows("promotion_code"):
        if code["promotion"]["coupon"] == coupon and code["active"]:
            found = sandbox.get("promotion_code", code["id"])
            with sandbox.updating("promotion_code.updated", found):
                found["active"] = False
    row["valid"] = False
    sandbox.emit("coupon.deleted", row)
    row.clear()
    row.update({"id": coupon, "object": "coupon", "deleted": True})
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox, "coupon", params, "/v1/coupons", lambda row: lists.within(row["created"], params.get("created"))
    )


def applies_to(sandbox: Sandbox, shown: Row) -> Row:
    """Make the includable ``applies_to``; a coupon for everything names no products."""
    return sandbox.get("coupon", shown["id"])["_applies_to"] or {"products": []}


def currency_options(sandbox: Sandbox, shown: Row) -> Row:
    """Make the includable ``currency_options``: the amounts in all currencies, the coupon's own included."""
    row = sandbox.get("coupon", shown["id"])
    own = {row["currency"]: {"amount_off": row["amount_off"]}} if row["currency"] else {}
    return {**own, **(row["_currency_options"] or {})}


def _check(sandbox: Sandbox, params: Row) -> None:
    if "percent_off" in params and "amount_off" in params:
        raise ApiError("Received both percent_off and amount_off parameters. Please pass in only one.")
    if "percent_off" not in params and "amount_off" not in params:
        raise ApiError("Must provide percent_off or amount_off.", code="parameter_missing")
    if "amount_off" in params:
        if "currency" not in params:
            raise ApiError("You must pass currency when passing amount_off", param="currency")
        _at_least_one(params["amount_off"], "amount_off")
    else:
        _check_percent(float(params["percent_off"]))
        if "currency_options" in params:
            raise ApiError(
                "You may only specify one of these parameters: currency_options, percent_off.",
                param="currency_options",
            )
    _check_currencies(params.get("currency_options", {}))
    _check_duration(params)
    if "max_redemptions" in params:
        _at_least_one(params["max_redemptions"], "max_redemptions")
    check_future(sandbox, params, "redeem_by")
    for index, product in enumerate(params.get("applies_to", {}).get("products", [])):
        sandbox.get("product", product, param=f"applies_to[products][{index}]", status=400)


def _check_duration(params: Row) -> None:
    if params.get("duration") == "repeating" and "duration_in_months" not in params:
        raise ApiError(
            "The duration_in_months param must be set when creating a coupon with a repeating duration",
            param="duration",
        )
    if "duration_in_months" in params:
        if params.get("duration") != "repeating":
            raise ApiError(
                "The duration_in_months param can only be set when creating a coupon with a repeating duration",
                param="duration_in_months",
            )
        _at_least_one(params["duration_in_months"], "duration_in_months")


def check_future(sandbox: Sandbox, params: Row, name: str) -> None:
    if name in params and params[name] <= sandbox.now():
        # Stripe says redeem_by of a promotion code's expires_at too.
        raise ApiError(
            "The parameter `redeem_by` expects a unix timestamp representing a date and time in the future. You "
            f"specified the value `{params[name]}` which is in the past.",
            param=name,
        )


def _check_percent(percent: float) -> None:
    low, high = "greater than or equal to 0.01", "less than or equal to 100"
    if not 0.01 <= percent <= _ALL:  # noqa: PLR2004 - Stripe's own bound
        bound = low if percent < 1 else high
        raise ApiError(f"This value must be {bound} (it currently is '{percent}').", param="percent_off")


def _check_currencies(options: Row) -> None:
    for currency in options:
        if not re.fullmatch(r"[a-z]{3}", currency):
            raise ApiError(
                f"Currencies must be lowercase when used as keys in a map. Use `{currency.lower()}` instead of "
                f"`{currency}`.",
                param="currency_options",
            )
        _at_least_one(options[currency]["amount_off"], f"currency_options[{currency}][amount_off]")


def _at_least_one(value: int, param: str) -> None:
    if value < 1:
        raise ApiError("This value must be greater than or equal to 1.", code="parameter_invalid_integer", param=param)


ROUTES = (
    route(
        "POST /v1/coupons",
        create,
        "CouponCreateParams",
        "amount_off applies_to.products currency currency_options duration duration_in_months id max_redemptions name "
        "percent_off redeem_by",
    ),
    route("GET /v1/coupons", list_, "CouponListParams", "created"),
    route("GET /v1/coupons/{coupon}", retrieve, "CouponRetrieveParams"),
    route("POST /v1/coupons/{coupon}", update, "CouponUpdateParams", "currency_options name"),
    route("DELETE /v1/coupons/{coupon}", delete, "CouponDeleteParams"),
)
