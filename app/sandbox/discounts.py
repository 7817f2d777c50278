"""Discounts: a coupon redeemed on a subscription, an item, an invoice or in Checkout, and what it takes off."""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from app.sandbox.errors import ApiError, missing
from app.sandbox.periods import boundary
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_HOLDERS = ("checkout_session", "invoice", "invoice_item", "subscription", "subscription_item")


def redeem(
    sandbox: Sandbox,
    wanted: list[Row] | None,
    *,
    at: str,
    currency: str,
    customer: str | None,
    amount: int | None = None,
    reusable: Sequence[str] = (),
    **holder: str,
) -> list[str]:
    """Make a ``discounts`` parameter into ids of discounts; ``at`` is where it stands in the request.

    ``amount`` is what is bought, for codes with a minimum. ``reusable`` are discounts that {discount: id} may name,
    ``holder`` is what the new ones are on (invoice="in_…").
    """
    ids: list[str] = []
    for index, entry in enumerate(wanted or []):
        given = [name for name in ("coupon", "discount", "promotion_code") if name in entry]
        if len(given) != 1:
            raise ApiError(
                "You must specify exactly one of `coupon`, `promotion_code` or `discount` in each discount.",
                param=f"{at}[{index}]",
            )
        (name,) = given
        param = f"{at}[{index}][{name}]"
        if name == "discount":
            if entry["discount"] not in reusable:
                raise missing("discount", entry["discount"], param=param, status=400)
            ids.append(entry["discount"])
            continue
        code = None
        coupon_id: str = entry.get("coupon", "")
        if name == "promotion_code":
            code = redeemable(sandbox, entry[name], param=param, customer=customer, currency=currency, amount=amount)
            coupon_id = code["promotion"]["coupon"]
        coupon = check_coupon(sandbox, coupon_id, currency, param=param)
        ids.append(_new(sandbox, coupon, code, customer, holder)["id"])
    if len(ids) != len(set(ids)):
        raise ApiError("You cannot apply the same discount more than once.", param=at)
    return ids


def check_coupon(sandbox: Sandbox, id: str, currency: str, *, param: str) -> Row:
    """Find a coupon that can be redeemed now, for something priced in ``currency``."""
    coupon = sandbox.get("coupon", id, param=param, status=400)
    if not coupon["valid"]:
        raise ApiError(f"Coupon expired: {id}", code="coupon_expired", param=param)
    if coupon["amount_off"] is not None and amount_off(coupon, currency) is None:
        raise ApiError(
            f"The coupon `{id}` takes off an amount in {coupon['currency']}, which cannot be applied to {currency}.",
            param=param,
        )
    return coupon


def redeemable(
    sandbox: Sandbox, id: str, *, param: str, customer: str | None, currency: str, amount: int | None
) -> Row:
    """Find a promotion code that this customer may use for this purchase."""
    code = sandbox.get("promotion_code", id, param=param, status=400)
    rules = code["restrictions"]
    refusal = None
    if code["max_redemptions"] is not None and code["times_redeemed"] >= code["max_redemptions"]:
        refusal = "it has been used the maximum number of times"
    elif not code["active"]:
        refusal = "it is inactive"
    elif code["customer"] not in {None, customer}:
        refusal = "it is restricted to another customer"
    elif rules["first_time_transaction"] and customer is not None and _has_bought(sandbox, customer):
        refusal = "the associated customer has prior transactions"
    elif rules["minimum_amount"] is not None and (
        rules["minimum_amount_currency"] != currency or (amount is not None and amount < rules["minimum_amount"])
    ):
        refusal = "the associated purchase does not meet the minimum amount requirement"
    if refusal is not None:
        raise ApiError(f"This promotion code cannot be redeemed because {refusal}.", param=param)
    return code


def set_on(sandbox: Sandbox, row: Row, wanted: list[Row] | None, *, at: str, **context: Any) -> None:
    """Replace what a subscription or one of its items has, announcing what comes and what goes."""
    before = row["discounts"]
    row["discounts"] = redeem(sandbox, wanted, at=at, reusable=before, **context)
    for id in before:
        if id not in row["discounts"]:
            sandbox.emit("customer.discount.deleted", sandbox.get("discount", id))
    for id in row["discounts"]:
        if id not in before:
            sandbox.emit("customer.discount.created", sandbox.get("discount", id))


def drop(sandbox: Sandbox, row: Row, id: str) -> Row:
    """Take one discount off a subscription or item; gives the discount."""
    row["discounts"] = [kept for kept in row["discounts"] if kept != id]
    discount = sandbox.get("discount", id)
    sandbox.emit("customer.discount.deleted", discount)
    return discount


def current(sandbox: Sandbox, ids: Sequence[str]) -> list[str]:
    """Leave out the discounts whose months are over."""
    ends = {id: sandbox.get("discount", id)["end"] for id in ids}
    return [id for id in ids if ends[id] is None or ends[id] > sandbox.now()]


def spend(sandbox: Sandbox, subscription: Row, invoice: Row) -> None:
    """Take off what was for one invoice only, and has had its effect on this one."""
    used = {entry["discount"] for entry in invoice["total_discount_amounts"] if entry["amount"]}
    for row in _discounted(subscription):
        for id in row["discounts"]:
            if id in used and sandbox.get("discount", id)["_coupon"]["duration"] == "once":
                drop(sandbox, row, id)


def ends(sandbox: Sandbox, discount: Row) -> int | None:
    """Say when a discount on a subscription goes by itself; None where it stays, or is gone."""
    subscription = sandbox.peek("subscription", discount["subscription"] or "")
    if discount["end"] is None or subscription is None or subscription["ended_at"] is not None:
        return None
    held = any(discount["id"] in row["discounts"] for row in _discounted(subscription))
    return discount["end"] if held else None


def end(sandbox: Sandbox, discount: Row) -> None:
    """Take a discount off whose months are over."""
    subscription = sandbox.get("subscription", discount["subscription"])
    with sandbox.updating("customer.subscription.updated", subscription):
        for row in _discounted(subscription):
            if discount["id"] in row["discounts"]:
                drop(sandbox, row, discount["id"])


def lapses(_sandbox: Sandbox, row: Row) -> int | None:
    """Say until when a coupon or promotion code can be redeemed."""
    date: int | None = row["redeem_by"] if row["object"] == "coupon" and row["valid"] else None
    if row["object"] == "promotion_code" and row["active"]:
        date = row["expires_at"]
    return date


def lapse(_sandbox: Sandbox, row: Row) -> None:
    row["valid" if row["object"] == "coupon" else "active"] = False


def take(sandbox: Sandbox, id: str, lines: Sequence[Row]) -> None:
    """Note on each line what this discount takes off it."""
    apply(sandbox.get("discount", id)["_coupon"], id, lines)


def apply(coupon: Row, id: str, lines: Sequence[Row]) -> None:
    """Note on each line what a coupon takes off it; a percentage of all of them is shared out to the unit."""
    products = coupon["_applies_to"] and coupon["_applies_to"]["products"]
    open_ones = [
        line
        for line in lines
        if line["discountable"]
        and net(line) > 0
        and (not products or line["pricing"]["price_details"]["product"] in products)
    ]
    amounts = [net(line) for line in open_ones]
    off = taken_off(coupon, sum(amounts), lines[0]["currency"]) if lines else 0
    for line, share in zip(open_ones, shares(off, amounts), strict=True):
        line["discount_amounts"].append({"amount": share, "discount": id})


def net(line: Row) -> int:
    """Give a line's amount after its discounts."""
    amount: int = line["amount"] - sum(entry["amount"] for entry in line["discount_amounts"])
    return amount


def taken_off(coupon: Row, base: int, currency: str) -> int:
    """Give the minor units that a coupon takes off ``base``: never more than there is."""
    if coupon["percent_off"] is None:
        return min(amount_off(coupon, currency) or 0, base)
    return int((base * Decimal(str(coupon["percent_off"])) / 100).quantize(Decimal(1), ROUND_HALF_UP))


def amount_off(coupon: Row, currency: str) -> int | None:
    """Give the amount in this currency; None where the coupon has none."""
    if coupon["currency"] == currency:
        found: int | None = coupon["amount_off"]
        return found
    option = (coupon["_currency_options"] or {}).get(currency)
    return option and option["amount_off"]


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Share ``total`` out in proportion, the odd units to the largest remainders, so that nothing is lost."""
    whole = sum(weights)
    if not whole:
        return [0 for _ in weights]
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda n: -(total * weights[n] % whole))
    for n in by_remainder[: total - sum(parts)]:
        parts[n] += 1
    return parts


def _new(sandbox: Sandbox, coupon: Row, code: Row | None, customer: str | None, holder: dict[str, str]) -> Row:
    """Store the discount, with the coupon's terms of now: deleting the coupon takes nobody's discount away."""
    for redeemed in (coupon, code):
        if redeemed is not None:
            redeemed["times_redeemed"] += 1
            if redeemed["times_redeemed"] == redeemed["max_redemptions"]:
                redeemed["valid" if redeemed is coupon else "active"] = False
    months = coupon["duration_in_months"] if coupon["duration"] == "repeating" else None
    return sandbox.insert(
        {
            **dict.fromkeys(_HOLDERS),
            "id": sandbox.new.mint("di_"),
            "object": "discount",
            "customer": customer,
            "customer_account": None,
            "end": months and boundary(sandbox.now(), "month", months),
            "promotion_code": code and code["id"],
            "source": {"coupon": coupon["id"], "type": "coupon"},
            "start": sandbox.now(),
            "_coupon": dict(coupon),
            **holder,
        }
    )


def _discounted(subscription: Row) -> list[Row]:
    """List what of a subscription can have discounts: itself and its items."""
    return [subscription, *subscription["items"]["data"]]


def _has_bought(sandbox: Sandbox, customer: str) -> bool:
    """Whether the customer had an invoice before, even an unpaid one, or paid anything."""
    return any(row["customer"] == customer and row["status"] != "draft" for row in sandbox.rows("invoice")) or any(
        row["customer"] == customer and row["paid"] for row in sandbox.rows("charge")
    )
