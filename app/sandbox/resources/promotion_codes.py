"""Promotion codes: the words customers type to redeem a coupon, and who may when."""

import re
import string

from app.sandbox import lists
from app.sandbox.errors import ApiError
from app.sandbox.metadata import merge
from app.sandbox.periods import DAY
from app.sandbox.resources.coupons import check_future
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_LONGEST = 5 * 366 * DAY


def create(sandbox: Sandbox, params: Row) -> Row:
    if "coupon" not in params["promotion"]:
        raise ApiError("You must pass promotion.coupon when passing promotion", param="promotion.coupon")
    coupon = sandbox.get("coupon", params["promotion"]["coupon"], param="promotion[coupon]", status=400)
    if not coupon["valid"]:
        raise ApiError(f"Coupon expired: {coupon['id']}", code="coupon_expired", param="promotion[coupon]")
    if "customer" in params:
        sandbox.get("customer", params["customer"], param="customer", status=400)
    check_future(sandbox, params, "expires_at")
    if params.get("expires_at", 0) > sandbox.now() + _LONGEST:
        raise ApiError("Invalid timestamp: can be no more than five years in the future.", param="expires_at")
    rules = params.get("restrictions", {})
    if "minimum_amount" in rules and "minimum_amount_currency" not in rules:
        raise ApiError(
            "You must pass restrictions[minimum_amount_currency] when passing restrictions[minimum_amount]",
            param="restrictions[minimum_amount_currency]",
        )
    row: Row = {
        "id": sandbox.new.mint("promo_"),
        "object": "promotion_code",
        "active": params.get("active", True),
        "code": _code(sandbox, params),
        "created": sandbox.now(),
        "customer": params.get("customer"),
        "customer_account": None,
        "expires_at": params.get("expires_at"),
        "livemode": False,
        "max_redemptions": params.get("max_redemptions"),
        "metadata": {},
        "promotion": {"coupon": coupon["id"], "type": "coupon"},
        "restrictions": {
            "first_time_transaction": rules.get("first_time_transaction", False),
            "minimum_amount": rules.get("minimum_amount"),
            "minimum_amount_currency": rules.get("minimum_amount_currency"),
        },
        "times_redeemed": 0,
    }
    merge(row, params)
    sandbox.insert(row)
    sandbox.emit("promotion_code.created", row)
    return row


def retrieve(sandbox: Sandbox, _params: Row, promotion_code: str) -> Row:
    return sandbox.get("promotion_code", promotion_code, param="promotion_code")


def update(sandbox: Sandbox, params: Row, promotion_code: str) -> Row:
    row = sandbox.get("promotion_code", promotion_code, param="promotion_code")
    if params.get("active") and not row["active"]:
        coupon = sandbox.get("coupon", row["promotion"]["coupon"], param="promotion[coupon]", status=400)
        if not coupon["valid"] or (row["expires_at"] is not None and row["expires_at"] <= sandbox.now()):
            raise ApiError("This promotion code cannot be reactivated.", param="active")
        _check_unused(sandbox, row["code"])
    with sandbox.updating("promotion_code.updated", row):
        if "active" in params:
            row["active"] = params["active"]
        merge(row, params)
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    code = params.get("code", "").lower()
    return lists.page(
        sandbox,
        "promotion_code",
        params,
        "/v1/promotion_codes",
        lambda row: (
            lists.matches(row, params, "active", "customer")
            and (not code or row["code"].lower() == code)
            and params.get("coupon") in {None, row["promotion"]["coupon"]}
            and lists.within(row["created"], params.get("created"))
        ),
    )


def find_active(sandbox: Sandbox, code: str) -> Row | None:
    """Find what somebody typed; upper and lower case are the same."""
    typed = code.strip().lower()
    return next((row for row in sandbox.rows("promotion_code") if row["active"] and row["code"].lower() == typed), None)


def _code(sandbox: Sandbox, params: Row) -> str:
    if "code" not in params:
        return sandbox.new.text(8, string.ascii_uppercase + string.digits)
    code: str = params["code"]
    if not re.fullmatch(r"[a-zA-Z0-9\-_]+", code):
        raise ApiError(
            r"This value must match the regex pattern. (/\A[a-zA-Z0-9\-_]+\z/ does not match for the value "
            f"{code}).",
            param="code",
        )
    if params.get("active", True):
        _check_unused(sandbox, code)
    return code


def _check_unused(sandbox: Sandbox, code: str) -> None:
    if find_active(sandbox, code) is not None:
        raise ApiError(f"An active promotion code with `code: {code}` already exists.")


ROUTES = (
    route(
        "POST /v1/promotion_codes",
        create,
        "PromotionCodeCreateParams",
        "active code customer expires_at max_redemptions promotion restrictions.first_time_transaction "
        "restrictions.minimum_amount restrictions.minimum_amount_currency",
    ),
    route("GET /v1/promotion_codes", list_, "PromotionCodeListParams", "active code coupon created customer"),
    route("GET /v1/promotion_codes/{promotion_code}", retrieve, "PromotionCodeRetrieveParams"),
    route("POST /v1/promotion_codes/{promotion_code}", update, "PromotionCodeUpdateParams", "active"),
)
