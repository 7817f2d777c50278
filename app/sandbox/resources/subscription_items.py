"""Subscription items: what is subscribed to, and changing it."""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from app.sandbox import (
    catalog,
    discounts,
    lists,
    metering,
    pending_updates,
    prorations,
    subscription_rows,
    subscriptions,
    taxes,
)
from app.sandbox.errors import ApiError, missing
from app.sandbox.metadata import merge
from app.sandbox.periods import divide
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.subscription_lines import item_lines, usage_lines

_MAX_ITEMS = 20
#: ``payment_behavior`` of a change → what happens when it can't be collected; by default it is past due.
_ON_FAILURE: dict[str, Literal["past_due", "raise", "keep"]] = {
    "error_if_incomplete": "raise",
    "pending_if_incomplete": "keep",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of ``items``: an existing item or None for a new one, and its price or None when it goes."""

    item: Row | None
    price: Row | None
    quantity: int | None
    params: Row
    at: str = ""  # where its parameters stand in the request, for errors


def create(sandbox: Sandbox, params: Row) -> Row:
    subscription = sandbox.get("subscription", params["subscription"], param="subscription", status=400)
    with (
        sandbox.updating("customer.subscription.updated", subscription),
        pending_updates.unless_paid(sandbox, subscription, params),
    ):
        change(sandbox, subscription, [params], params, at="")
    return _last(subscription)


def retrieve(sandbox: Sandbox, _params: Row, item: str) -> Row:
    return _find(sandbox, item)[1]


def update(sandbox: Sandbox, params: Row, item: str) -> Row:
    subscription, _ = _find(sandbox, item)
    with (
        sandbox.updating("customer.subscription.updated", subscription),
        pending_updates.unless_paid(sandbox, subscription, params),
    ):
        change(sandbox, subscription, [{**params, "id": item}], params, at="")
    return _find(sandbox, item)[1]


def delete(sandbox: Sandbox, params: Row, item: str) -> Row:
    subscription, _ = _find(sandbox, item)
    with (
        sandbox.updating("customer.subscription.updated", subscription),
        pending_updates.unless_paid(sandbox, subscription, params),
    ):
        change(sandbox, subscription, [{"id": item, "deleted": True}], params, at="")
    return {"id": item, "object": "subscription_item", "deleted": True}


def list_(sandbox: Sandbox, params: Row) -> Row:
    subscription = sandbox.get("subscription", params["subscription"], param="subscription", status=400)
    return lists.embedded(subscription["items"]["data"], params, "/v1/subscription_items")


def choose(sandbox: Sandbox, wanted: list[Row], *, at: str) -> list[Row]:
    """Find the prices of a new subscription's items, which must share one currency."""
    chosen: list[Row] = []
    for index, item in enumerate(wanted):
        here = f"{at}[{index}]"
        price = _recurring(sandbox, item, here)
        chosen.append(
            {"price": price, "quantity": _quantity(price, item, here), "metadata": item.get("metadata") or {}}
        )
    check_alike([item["price"] for item in chosen])
    return chosen


def change(sandbox: Sandbox, subscription: Row, wanted: list[Row], params: Row, *, at: str = "items") -> None:
    """Change, add and remove items as a request says."""
    data = subscription["items"]["data"]
    changes = [_read(sandbox, data, item, f"{at}[{n}]" if at else "") for n, item in enumerate(wanted)]
    apply(sandbox, subscription, changes, params)


def apply(sandbox: Sandbox, subscription: Row, changes: list[Change], params: Row) -> None:
    """Change, add and remove items, prorated as ``proration_behavior`` says.

    Prices of another interval for all items begin a new period now, and that is billed at once.
    """
    data = subscription["items"]["data"]
    touched = {change.item["id"] for change in changes if change.item is not None}
    prices: list[Row] = [item["price"] for item in data if item["id"] not in touched]
    prices += [change.price for change in changes if change.price is not None]
    check_alike(prices)
    behavior = params.get("proration_behavior", "create_prorations")
    date = params.get("proration_date", sandbox.now())
    start, end = subscription_rows.period(subscription)
    if not start <= date <= end:
        raise ApiError(
            "Invalid `proration_date`: it must be within the subscription's current period.", param="proration_date"
        )
    billed = subscription["status"] in subscriptions.BILLED
    restarts = billed and not {_interval(item["price"]) for item in data} & {_interval(price) for price in prices}
    used = usage_lines(sandbox, subscription, data, sandbox.now()) if restarts else []
    for entry in changes:
        before = None if entry.item is None else {**entry.item}
        altered = _alters(entry)
        item = _apply(sandbox, subscription, entry, over=end <= sandbox.now())
        if billed and behavior != "none" and altered:
            if entry.price is not None and not restarts:
                prorations.charge(sandbox, subscription, item, date)
            if before is not None:
                # The credit comes second: invoices show the newest first, and Stripe's show the credit first.
                prorations.credit(sandbox, subscription, before, date)
    subscription_rows.recount(subscription)
    if restarts:
        subscription_rows.restart_cycle(sandbox, subscription)
        collect(sandbox, subscription, [*item_lines(sandbox, subscription), *used], params)
    elif behavior == "always_invoice" and subscriptions.pending_items(sandbox, subscription):
        collect(sandbox, subscription, [], params)


def collect(sandbox: Sandbox, subscription: Row, lines: list[Row], params: Row) -> None:
    """Bill a change; what a failed payment means is up to the request's ``payment_behavior``."""
    on_failure = _ON_FAILURE.get(params.get("payment_behavior", ""), "past_due")
    subscriptions.bill(sandbox, subscription, "subscription_update", lines, on_failure=on_failure)


def credit_all(sandbox: Sandbox, subscription: Row) -> None:
    """Give back the unused time of every item, as canceling with ``prorate`` does."""
    for item in subscription["items"]["data"]:
        prorations.credit(sandbox, subscription, item, sandbox.now())


def _read(sandbox: Sandbox, data: list[Row], params: Row, at: str) -> Change:
    if params.get("id") is None:
        price = _recurring(sandbox, params, at)
        if any(item["price"]["id"] == price["id"] for item in data):
            raise ApiError(f"Cannot add multiple subscription items with the same plan: {price['id']}")
        return Change(None, price, _quantity(price, params, at), params, at)
    item = next((item for item in data if item["id"] == params["id"]), None)
    if item is None:
        raise missing("subscription_item", params["id"], param=f"{at}[id]", status=400)
    if params.get("deleted"):
        return Change(item, None, item.get("quantity"), params, at)
    if "price" in params or "price_data" in params:
        price = _recurring(sandbox, params, at)
        # Stripe: a new price sets the quantity to 1 unless one is given.
        kept = item.get("quantity") if price["id"] == item["price"]["id"] else None
        return Change(item, price, _quantity(price, {"quantity": kept, **params}, at), params, at)
    price = item["price"]
    return Change(item, price, _quantity(price, {"quantity": item.get("quantity"), **params}, at), params, at)


def _alters(change: Change) -> bool:
    if change.item is None or change.price is None:
        return True
    return (change.price["id"], change.quantity) != (change.item["price"]["id"], change.item.get("quantity"))


def _apply(sandbox: Sandbox, subscription: Row, change: Change, *, over: bool) -> Row:
    """Put the change into the subscription's items and give the item it concerns.

    If the period is ``over`` at this very moment, what begins now is billed with the next one.
    """
    item, price = change.item, change.price
    if price is None:
        subscription["items"]["data"].remove(item)
        return item or {}
    if item is None:
        item = subscription_rows.add_item(sandbox, subscription, price, change.quantity)
        kept = False
    else:
        kept = subscription["status"] == "trialing" or _interval(price) == _interval(item["price"])
        metering.refuse_credits(sandbox, subscription["customer"], price)
        subscription_rows.set_price(item, price, change.quantity)
        if not kept and not over:
            subscription_rows.begin_period(subscription, item, sandbox.now())
    if over and not kept:
        item["current_period_start"] = item["current_period_end"] = sandbox.now()
    dress(sandbox, subscription, item, change.params, change.at)
    merge(item, change.params)
    return item


def dress(sandbox: Sandbox, subscription: Row, item: Row, params: Row, at: str) -> None:
    """Give an item the tax rates and discounts of its own that a request names."""
    if "tax_rates" in params:
        item["tax_rates"] = taxes.chosen(sandbox, params["tax_rates"], at=f"{at}[tax_rates]" if at else "tax_rates")
    if "discounts" in params:
        discounts.set_on(
            sandbox,
            item,
            params["discounts"],
            at=f"{at}[discounts]" if at else "discounts",
            currency=subscription["currency"],
            customer=subscription["customer"],
            amount=catalog.amount(item["price"], item.get("quantity") or 0),
            subscription=subscription["id"],
            subscription_item=item["id"],
        )


def _recurring(sandbox: Sandbox, params: Row, at: str) -> Row:
    price = catalog.chosen_price(sandbox, params, at=at)
    if price["type"] != "recurring":
        raise ApiError(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.",
            param=f"{at}[price]" if at else "price",
        )
    return price


def _quantity(price: Row, params: Row, at: str) -> int | None:
    """Give the quantity asked for, by default 1; usage has none."""
    quantity: int | None = params.get("quantity")
    if price["recurring"]["usage_type"] == "metered":
        if quantity is not None:
            raise ApiError(
                f"You cannot set the quantity for metered plans. Please remove the quantity from the plan "
                f"`{price['id']}`.",
                param=f"{at}[quantity]" if at else "quantity",
            )
        return None
    if quantity is not None and quantity < 0:
        raise ApiError("Invalid non-negative integer", param=f"{at}[quantity]" if at else "quantity")
    return 1 if quantity is None else quantity


def check_alike(prices: list[Row]) -> None:
    """Hold what the items of one subscription have in common."""
    if not prices:
        raise ApiError("A subscription must have at least one active plan. To cancel it, cancel the subscription.")
    if len(prices) > _MAX_ITEMS:
        raise ApiError(f"Subscriptions can have at most {_MAX_ITEMS} items.", param="items")
    if len({price["currency"] for price in prices}) > 1:
        raise ApiError("All prices on a subscription must use the same currency.", param="items")
    recurring = [price["recurring"] for price in prices]
    if not all(divide(one, other) or divide(other, one) for one, other in combinations(recurring, 2)):
        raise ApiError("The billing intervals of a subscription's items must divide each other.", param="items")


def _interval(price: Row) -> tuple[str, int]:
    return price["recurring"]["interval"], price["recurring"]["interval_count"]


def _find(sandbox: Sandbox, id: str) -> tuple[Row, Row]:
    """Find an item and its subscription."""
    for subscription in sandbox.rows("subscription"):
        if any(item["id"] == id for item in subscription["items"]["data"]):
            row = sandbox.get("subscription", subscription["id"])
            return row, next(item for item in row["items"]["data"] if item["id"] == id)
    raise missing("subscription_item", id, param="item")


def _last(subscription: Row) -> Row:
    item: Row = subscription["items"]["data"][-1]
    return item
