"""Subscription items: what is subscribed to, and changing it."""

from dataclasses import dataclass

from app.sandbox import catalog, lists, prorations, subscriptions
from app.sandbox.errors import ApiError, missing, unsupported
from app.sandbox.metadata import merge
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_MAX_ITEMS = 20


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of ``items``: an existing item or None for a new one, and its price or None when it goes."""

    item: Row | None
    price: Row | None
    quantity: int
    params: Row


def create(sandbox: Sandbox, params: Row) -> Row:
    subscription = sandbox.get("subscription", params["subscription"], param="subscription", status=400)
    with sandbox.updating("customer.subscription.updated", subscription):
        change(sandbox, subscription, [params], params, at="")
    return _last(subscription)


def retrieve(sandbox: Sandbox, _params: Row, item: str) -> Row:
    return _find(sandbox, item)[1]


def update(sandbox: Sandbox, params: Row, item: str) -> Row:
    subscription, row = _find(sandbox, item)
    with sandbox.updating("customer.subscription.updated", subscription):
        change(sandbox, subscription, [{**params, "id": item}], params, at="")
    return row


def delete(sandbox: Sandbox, params: Row, item: str) -> Row:
    subscription, _ = _find(sandbox, item)
    with sandbox.updating("customer.subscription.updated", subscription):
        change(sandbox, subscription, [{"id": item, "deleted": True}], params, at="")
    return {"id": item, "object": "subscription_item", "deleted": True}


def list_(sandbox: Sandbox, params: Row) -> Row:
    subscription = sandbox.get("subscription", params["subscription"], param="subscription", status=400)
    return lists.embedded(subscription["items"]["data"], params, "/v1/subscription_items")


def choose(sandbox: Sandbox, wanted: list[Row], *, at: str) -> list[Row]:
    """Find the prices of a new subscription's items, which must share one currency and one interval."""
    chosen: list[Row] = []
    for index, item in enumerate(wanted):
        here = f"{at}[{index}]"
        price = _recurring(sandbox, item, here)
        chosen.append({"price": price, "quantity": _quantity(item, here), "metadata": item.get("metadata") or {}})
    check_alike([item["price"] for item in chosen])
    return chosen


def change(sandbox: Sandbox, subscription: Row, wanted: list[Row], params: Row, *, at: str = "items") -> None:
    """Change, add and remove items, prorated as ``proration_behavior`` says.

    A price of another interval begins a new period now, and that is billed at once.
    """
    data = subscription["items"]["data"]
    changes = [_read(sandbox, data, item, f"{at}[{n}]" if at else "") for n, item in enumerate(wanted)]
    touched = {change.item["id"] for change in changes if change.item is not None}
    prices: list[Row] = [item["price"] for item in data if item["id"] not in touched]
    prices += [change.price for change in changes if change.price is not None]
    check_alike(prices)
    behavior = params.get("proration_behavior", "create_prorations")
    date = params.get("proration_date", sandbox.now())
    period = subscriptions.period(subscription)
    if not period[0] <= date <= period[1]:
        raise ApiError(
            "Invalid `proration_date`: it must be within the subscription's current period.", param="proration_date"
        )
    restarts = _interval(prices[0]) != _interval(data[0]["price"])
    billed = subscription["status"] in subscriptions.BILLED
    for entry in changes:
        before = None if entry.item is None else (entry.item["price"], entry.item["quantity"])
        altered = _alters(entry)
        item = _apply(sandbox, subscription, entry, period)
        if billed and behavior != "none" and altered:
            prorations.prorate_change(
                sandbox,
                subscription,
                item["id"],
                before=before,
                after=None if restarts or entry.price is None else (entry.price, entry.quantity),
                period=period,
                date=date,
            )
    subscriptions.recount(subscription)
    raising = params.get("payment_behavior") == "error_if_incomplete"
    if restarts and billed:
        restart_cycle(sandbox, subscription)
        lines = subscriptions.item_lines(sandbox, subscription)
        subscriptions.bill(sandbox, subscription, "subscription_update", lines, raising=raising)
    elif behavior == "always_invoice" and subscriptions.pending_items(sandbox, subscription):
        subscriptions.bill(sandbox, subscription, "subscription_update", [], raising=raising)


def credit_all(sandbox: Sandbox, subscription: Row) -> None:
    """Give back the unused time of every item, as canceling with ``prorate`` does."""
    period = subscriptions.period(subscription)
    for item in subscription["items"]["data"]:
        prorations.prorate_change(
            sandbox,
            subscription,
            item["id"],
            before=(item["price"], item["quantity"]),
            after=None,
            period=period,
            date=sandbox.now(),
        )


def restart_cycle(sandbox: Sandbox, subscription: Row) -> None:
    """Begin a new period now."""
    now = sandbox.now()
    subscription["billing_cycle_anchor"] = now
    subscriptions.set_period(subscription, now, subscriptions.following_end(subscription, now))


def _read(sandbox: Sandbox, data: list[Row], params: Row, at: str) -> Change:
    if params.get("id") is None:
        price = _recurring(sandbox, params, at)
        if any(item["price"]["id"] == price["id"] for item in data):
            raise ApiError(f"Cannot add multiple subscription items with the same plan: {price['id']}")
        return Change(None, price, _quantity(params, at), params)
    item = next((item for item in data if item["id"] == params["id"]), None)
    if item is None:
        raise missing("subscription_item", params["id"], param=f"{at}[id]", status=400)
    if params.get("deleted"):
        return Change(item, None, item["quantity"], params)
    if "price" in params or "price_data" in params:
        price = _recurring(sandbox, params, at)
        # Stripe: a new price sets the quantity to 1 unless one is given.
        kept = item["quantity"] if price["id"] == item["price"]["id"] else 1
        return Change(item, price, _quantity({"quantity": kept, **params}, at), params)
    return Change(item, item["price"], _quantity({"quantity": item["quantity"], **params}, at), params)


def _alters(change: Change) -> bool:
    if change.item is None or change.price is None:
        return True
    return (change.price["id"], change.quantity) != (change.item["price"]["id"], change.item["quantity"])


def _apply(sandbox: Sandbox, subscription: Row, change: Change, period: tuple[int, int]) -> Row:
    """Put the change into the subscription's items and give the item it concerns."""
    item = change.item
    if item is None:
        price = change.price or {}
        item = subscriptions.add_item(sandbox, subscription, price, change.quantity, period=period)
    elif change.price is None:
        subscription["items"]["data"].remove(item)
    else:
        subscriptions.set_price(item, change.price, change.quantity)
    merge(item, change.params)
    return item


def _recurring(sandbox: Sandbox, params: Row, at: str) -> Row:
    price = catalog.chosen_price(sandbox, params, at=at)
    if price["type"] != "recurring":
        raise ApiError(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.",
            param=f"{at}[price]" if at else "price",
        )
    return price


def _quantity(params: Row, at: str) -> int:
    quantity: int = params.get("quantity", 1)
    if quantity < 0:
        raise ApiError("Invalid non-negative integer", param=f"{at}[quantity]" if at else "quantity")
    return quantity


def check_alike(prices: list[Row]) -> None:
    """Hold what the items of one subscription have in common."""
    if not prices:
        raise ApiError("A subscription must have at least one active plan. To cancel it, cancel the subscription.")
    if len(prices) > _MAX_ITEMS:
        raise ApiError(f"Subscriptions can have at most {_MAX_ITEMS} items.", param="items")
    if len({price["currency"] for price in prices}) > 1:
        raise ApiError("All prices on a subscription must use the same currency.", param="items")
    if len({_interval(price) for price in prices}) > 1:
        raise unsupported("items of different billing intervals on one subscription", param="items")


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
