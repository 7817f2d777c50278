"""Invoice items: made for an amount or a price, changed while their invoice can be, and taken back."""

from decimal import Decimal

from app.sandbox import catalog, discounts, invoice_lines, invoicing, taxes, totals
from app.sandbox.errors import ApiError, required
from app.sandbox.metadata import merge
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_PRICED = ("amount", "price_data", "pricing", "unit_amount_decimal")
_NO_LONGER = "that is attached to an invoice that is no longer editable"


def new(sandbox: Sandbox, params: Row, customer: Row, invoice: Row | None, *, at: str = "") -> Row:
    """Store an item, pending or at once on a draft, and emit invoiceitem.created. ``at`` is for errors."""
    price, amount = _priced(sandbox, params, at)
    quantity = params.get("quantity", 1)
    now = sandbox.now()
    if invoice is not None and price["currency"] != invoice["currency"]:
        raise ApiError(
            f"The currency of the item ({price['currency']}) does not match the currency of the invoice "
            f"({invoice['currency']}).",
            param=_inside(at, "currency"),
        )
    id = sandbox.new.mint("ii_")
    period = params.get("period", {"start": now, "end": now})
    if period["end"] < period["start"]:
        raise ApiError("The end of the period must be at or after its start.", param=_inside(at, "period[end]"))
    subscription = params.get("subscription")
    row: Row = {
        "id": id,
        "object": "invoiceitem",
        "amount": amount,
        "currency": price["currency"],
        "customer": customer["id"],
        "customer_account": None,
        "date": now,
        "description": params.get("description", sandbox.get("product", price["product"])["name"]),
        "discountable": params.get("discountable", amount >= 0),
        "discounts": [],
        "frozen_fields": [],
        "invoice": None,
        "invoicing_rules": [],
        "livemode": False,
        "metadata": {},
        "parent": subscription
        and {
            "subscription_details": {"subscription": subscription, "subscription_item": None},
            "type": "subscription_details",
        },
        "period": {"end": period["end"], "start": period["start"]},
        "pricing": _pricing(price),
        "proration": False,
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "tax_rates": taxes.chosen(sandbox, params.get("tax_rates"), at=_inside(at, "tax_rates")),
        "test_clock": customer["test_clock"],
        "_subscription": subscription,
        "_subscription_item": None,
    }
    row["discounts"] = _redeem(sandbox, row, params, at)
    merge(row, params)
    sandbox.insert(row)
    if invoice is not None:
        with sandbox.updating("invoice.updated", invoice):
            invoicing.add_lines(sandbox, invoice, [invoice_lines.of_item(sandbox, row)])
    sandbox.emit("invoiceitem.created", row)
    return row


def change(sandbox: Sandbox, row: Row, params: Row, *, at: str = "") -> None:
    """Change an item, and its line on a draft with it."""
    invoice = draft_of(sandbox, row, "update")
    for field, names in (("pricing", _PRICED), ("quantity", ("quantity",)), ("discounts", ("discounts",))):
        if field in row["frozen_fields"] and params.keys() & set(names):
            raise ApiError(f"You cannot change the {field} of a proration.", param=_inside(at, field))
    for name in ("description", "discountable"):
        if name in params:
            row[name] = params[name]
    if "period" in params:
        row["period"] = {"end": params["period"]["end"], "start": params["period"]["start"]}
    if params.keys() & {*_PRICED, "quantity"}:
        _reprice(sandbox, row, params, at)
    if "tax_rates" in params:
        row["tax_rates"] = taxes.chosen(sandbox, params["tax_rates"], at=_inside(at, "tax_rates"))
    if "discounts" in params:
        row["discounts"] = _redeem(sandbox, row, params, at)
    merge(row, params)
    if invoice is not None:
        with sandbox.updating("invoice.updated", invoice):
            line = line_of(invoice, row["id"])
            line.update({**invoice_lines.of_item(sandbox, row), "id": line["id"], "invoice": invoice["id"]})
            totals.recount(sandbox, invoice)


def remove(sandbox: Sandbox, row: Row) -> Row:
    """Delete an item, pending or on a draft; gives the stub."""
    invoice = draft_of(sandbox, row, "delete")
    if invoice is not None:
        with sandbox.updating("invoice.updated", invoice):
            invoice["lines"]["data"].remove(line_of(invoice, row["id"]))
            totals.recount(sandbox, invoice)
    return forget(sandbox, row)


def forget(sandbox: Sandbox, row: Row) -> Row:
    """Leave an item's stub."""
    sandbox.emit("invoiceitem.deleted", row)
    id, had_invoice = row["id"], row["invoice"] is not None
    row.clear()
    row.update({"id": id, "object": "invoiceitem", "deleted": True, "_had_invoice": had_invoice})
    return row


def draft_of(sandbox: Sandbox, row: Row, verb: str) -> Row | None:
    """Find the draft an item is on, None for a pending one; it can't be changed on any other invoice."""
    if row.get("deleted"):
        if verb == "update":
            raise ApiError("This invoice item has been deleted.")
        raise ApiError(f"Can't delete an invoice item {_NO_LONGER}")
    if row["invoice"] is None:
        return None
    invoice = sandbox.get("invoice", row["invoice"])
    if invoice["status"] != "draft":
        raise ApiError(f"Can't {verb} an invoice item {_NO_LONGER}")
    return invoice


def line_of(invoice: Row, item: str) -> Row:
    found: Row = next(line for line in invoice["lines"]["data"] if invoice_lines.item_of(line) == item)
    return found


def _priced(sandbox: Sandbox, params: Row, at: str) -> tuple[Row, int]:
    """Find or make the price of an item; gives it and the item's amount."""
    given = [name for name in _PRICED if name in params]
    if len(given) != 1:
        raise ApiError(
            f"You must specify exactly one of these parameters: {', '.join(_PRICED)}.",
            code=None if given else "parameter_missing",
            param=_inside(at, "amount"),
        )
    quantity = params.get("quantity", 1)
    if quantity < 0:
        raise ApiError("Invalid non-negative integer", param=_inside(at, "quantity"))
    if "pricing" in params or "price_data" in params:
        wanted = {"price": params["pricing"].get("price")} if "pricing" in params else params
        price = catalog.chosen_price(sandbox, wanted, at=_inside(at, "pricing") if "pricing" in params else at)
        if price["type"] != "one_time":
            raise ApiError(
                "The price specified is set to `type=recurring` but this field only accepts prices with "
                "`type=one_time`.",
                param=_inside(at, "pricing[price]"),
            )
        return price, catalog.amount(price, quantity)
    if "currency" not in params:
        raise required(_inside(at, "currency"))
    if "amount" in params and "quantity" in params:
        raise ApiError("You may only specify one of these parameters: amount, quantity.", param=_inside(at, "quantity"))
    unit = str(params["unit_amount_decimal"] if "unit_amount_decimal" in params else params["amount"])
    price = _behind_the_scenes(sandbox, params.get("description") or "Invoice item", unit, params["currency"].lower())
    return price, catalog.amount(price, quantity)


def _behind_the_scenes(sandbox: Sandbox, name: str, unit: str, currency: str) -> Row:
    """Give the hidden price and product that Stripe puts behind a bare amount; the same text and amount reuse them."""
    known = (row for row in sandbox.rows("product") if row.get("_hidden") and row["name"] == name)
    product = next(known, None) or sandbox.insert(
        {**catalog.new_product(sandbox, {"name": name, "active": False}), "_hidden": True}
    )
    for price in sandbox.rows("price"):
        if price["product"] == product["id"] and price["currency"] == currency and price.get("_behind") == unit:
            return price
    negative = Decimal(unit) < 0
    data = {"currency": currency, "product": product["id"], "unit_amount_decimal": unit.lstrip("-")}
    price = {**catalog.new_price(sandbox, data), "active": False, "_behind": unit, "_hidden": True}
    if negative:  # no price of its own can be negative, but what an invoice item shows can
        for field in ("unit_amount", "unit_amount_decimal"):
            price[field] = price[field] and type(price[field])(f"-{price[field]}")
    return sandbox.insert(price)


def _reprice(sandbox: Sandbox, row: Row, params: Row, at: str) -> None:
    if not params.keys() & set(_PRICED):
        params = {**params, "unit_amount_decimal": row["pricing"]["unit_amount_decimal"]}
    elif "amount" in params and "quantity" not in params:
        row["quantity"] = 1
    params = {"currency": row["currency"], "description": row["description"], **params}
    quantity = params.get("quantity", row["quantity"])
    if "amount" not in params:
        params["quantity"] = quantity
    price, amount = _priced(sandbox, params, at)
    row.update(amount=amount, pricing=_pricing(price), quantity=quantity, quantity_decimal=str(quantity))


def _pricing(price: Row) -> Row:
    return {
        "price_details": {"price": price["id"], "product": price["product"]},
        "type": "price_details",
        "unit_amount_decimal": price["unit_amount_decimal"],
    }


def _redeem(sandbox: Sandbox, row: Row, params: Row, at: str) -> list[str]:
    return discounts.redeem(
        sandbox,
        params.get("discounts"),
        at=_inside(at, "discounts"),
        currency=row["currency"],
        customer=row["customer"],
        amount=row["amount"],
        reusable=row["discounts"],
        invoice_item=row["id"],
    )


def _inside(at: str, name: str) -> str:
    first, bracket, rest = name.partition("[")
    return f"{at}[{first}]{bracket}{rest}" if at else name
