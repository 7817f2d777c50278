"""Subscriptions: create, change, cancel, resume."""

from app.sandbox import (
    cancellations,
    catalog,
    discounts,
    invoicing,
    lists,
    pending_updates,
    prorations,
    subscription_rows,
    subscriptions,
    taxes,
)
from app.sandbox.errors import ApiError, CardError, missing, required, unsupported
from app.sandbox.metadata import merge
from app.sandbox.periods import DAY
from app.sandbox.resources import payment_methods, setup_intents
from app.sandbox.resources import subscription_items as items
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.subscription_lines import item_lines, usage_lines

_NO_CARD = (
    "This customer has no attached payment source or default payment method. Please consider adding a default payment "
    "method. For more information, visit https://stripe.com/docs/billing/subscriptions/payment-methods-setting"
    "#payment-method-priority."
)
_NEEDS_ACTION = (
    "Payment for this subscription requires additional user action before it can be completed successfully. Payment "
    "can be completed using the PaymentIntent associated with `latest_invoice`. For more details see: "
    "https://stripe.com/docs/billing/subscriptions/overview#requires-action"
)

#: What a pending update can be about (https://docs.stripe.com/billing/subscriptions/pending-updates-reference).
_PENDABLE = frozenset(
    {
        "billing_cycle_anchor",
        "items",
        "metadata",
        "off_session",
        "payment_behavior",
        "proration_behavior",
        "proration_date",
        "trial_end",
    }
)


def create(sandbox: Sandbox, params: Row) -> Row:
    if "customer" not in params:
        raise required("customer")
    if not params.get("items"):
        raise required("items")
    if params.get("billing_mode", {}).get("type") == "classic":
        raise unsupported("the classic billing mode", param="billing_mode[type]")
    customer = sandbox.get("customer", params["customer"], param="customer", status=400)
    chosen = items.choose(sandbox, params["items"], at="items")
    trial_end = trial_ends(sandbox, params)
    row = subscription_rows.new(sandbox, customer, chosen, trial_end=trial_end)
    _set(sandbox, row, params)
    for index, (item, wanted) in enumerate(zip(row["items"]["data"], params["items"], strict=True)):
        items.dress(sandbox, row, item, wanted, f"items[{index}]")
    created = sandbox.emit("customer.subscription.created", row)
    invoice = subscriptions.new_invoice(sandbox, row, "subscription_create", item_lines(sandbox, row))
    invoicing.finalize(sandbox, invoice)
    _first_payment(sandbox, row, invoice, params)
    # Stripe's snapshot shows how the first payment went, although the event is listed before the payment's.
    created["data"]["object"] = sandbox.shown(row)
    return row


def _first_payment(sandbox: Sandbox, row: Row, invoice: Row, params: Row) -> None:
    """Leave the new subscription trialing, active or incomplete, or raise where it must not come to be."""
    behavior = params.get("payment_behavior", "allow_incomplete")
    method = subscriptions.charging_method(sandbox, row)
    if invoice["status"] == "paid" or row["collection_method"] == "send_invoice":
        if row["status"] != "trialing":
            row["status"] = "active"
        if method is None and behavior == "default_incomplete":
            row["pending_setup_intent"] = setup_intents.create(sandbox, {"customer": row["customer"]})["id"]
        return
    if behavior == "default_incomplete":
        if row["payment_settings"]["save_default_payment_method"] == "on_subscription":
            invoicing.payment_intent(sandbox, invoice)["setup_future_usage"] = "off_session"
        return
    if method is None:
        raise ApiError(_NO_CARD, code="resource_missing")
    _charge_first(sandbox, row, invoice, method, params)


def _charge_first(sandbox: Sandbox, row: Row, invoice: Row, method: Row, params: Row) -> None:
    strictly = params.get("payment_behavior") == "error_if_incomplete"
    try:
        paid = invoicing.collect(sandbox, invoice, method, off_session=params.get("off_session", False))
    except CardError as error:
        if strictly:
            error.keep = False
            raise
        return
    if paid:
        row["status"] = "active"
    elif strictly:
        raise CardError(_NEEDS_ACTION, code="subscription_payment_intent_requires_action", keep=False)


def retrieve(sandbox: Sandbox, _params: Row, subscription: str) -> Row:
    return sandbox.get("subscription", subscription)


def list_(sandbox: Sandbox, params: Row) -> Row:
    """List by filters; without ``status`` the canceled ones stay out, as at Stripe."""
    if "customer" in params:
        sandbox.get("customer", params["customer"], param="customer", status=400)
    return lists.page(sandbox, "subscription", params, "/v1/subscriptions", lambda row: _listed(row, params))


def _listed(row: Row, params: Row) -> bool:
    status = params.get("status")
    if status is None:
        wanted = row["status"] != "canceled"
    elif status == "ended":
        wanted = row["status"] in subscriptions.TERMINAL
    else:
        wanted = status in {"all", row["status"]}
    start, end = subscription_rows.period(row)
    prices = {item["price"]["id"] for item in row["items"]["data"]}
    return (
        wanted
        and (params.get("customer") is not None or row["test_clock"] == params.get("test_clock"))
        and lists.matches(row, params, "customer", "collection_method", "test_clock")
        and ("price" not in params or params["price"] in prices)
        and lists.within(row["created"], params.get("created"))
        and lists.within(start, params.get("current_period_start"))
        and lists.within(end, params.get("current_period_end"))
    )


def update(sandbox: Sandbox, params: Row, subscription: str) -> Row:
    row = sandbox.get("subscription", subscription)
    if row["status"] in subscriptions.TERMINAL and params.keys() - {"metadata", "cancellation_details", "expand"}:
        raise ApiError("A canceled subscription can only update its cancellation_details and metadata.")
    if params.get("payment_behavior") == "pending_if_incomplete" and (other := params.keys() - _PENDABLE):
        raise ApiError(
            f"You can't use `payment_behavior=pending_if_incomplete` together with `{min(other)}`.", param=min(other)
        )
    if row["schedule"] is not None and params.keys() & {"cancel_at", "cancel_at_period_end"}:
        raise ApiError(
            f"The subscription is managed by the subscription schedule `{row['schedule']}`, and updating any "
            "cancelation behavior directly is not allowed. Please update the schedule instead."
        )
    with (
        sandbox.updating("customer.subscription.updated", row),
        pending_updates.unless_paid(sandbox, row, params),
    ):
        _set(sandbox, row, params)
        if "pause_collection" in params:
            pause = params["pause_collection"]
            row["pause_collection"] = pause and {"resumes_at": None, **pause}
        if "trial_end" in params:
            _move_trial(sandbox, row, params)
        if params.get("billing_cycle_anchor", {}).get("type") == "now":
            _move_anchor(sandbox, row, params)
        if "items" in params:
            items.change(sandbox, row, params["items"], params)
    return row


def cancel(sandbox: Sandbox, params: Row, subscription: str) -> Row:
    row = sandbox.get("subscription", subscription)
    if row["status"] in subscriptions.TERMINAL:
        raise missing("subscription", subscription)
    _set_cancellation(sandbox, row, {"cancellation_details": params.get("cancellation_details", {})})
    if params.get("prorate") and row["status"] in subscriptions.BILLED:
        items.credit_all(sandbox, row)
    if params.get("invoice_now"):
        used = usage_lines(sandbox, row, row["items"]["data"], sandbox.now())
        if used or subscriptions.pending_items(sandbox, row):
            subscriptions.bill(sandbox, row, "subscription_update", used, on_failure="keep")
    subscriptions.end(sandbox, row, reason="cancellation_requested")
    return row


def trial_ends(sandbox: Sandbox, params: Row) -> int | None:
    """Say when the trial of a new subscription ends, None without one."""
    if "trial_end" in params and "trial_period_days" in params:
        raise ApiError("You may only specify one of these parameters: trial_end, trial_period_days.", param="trial_end")
    if params.get("trial_period_days"):
        if params["trial_period_days"] < 1:
            raise ApiError("Invalid trial_period_days: must be at least 1.", param="trial_period_days")
        return sandbox.now() + int(params["trial_period_days"]) * DAY
    trial_end: int | str | None = params.get("trial_end")
    if trial_end is None or trial_end == "now":
        return None
    return _future(sandbox, int(trial_end), "trial_end")


def _set(sandbox: Sandbox, row: Row, params: Row) -> None:
    """Store what needs no arithmetic."""
    _set_cancellation(sandbox, row, params)
    if params.get("default_payment_method") is not None:
        payment_methods.of_customer(
            sandbox, params["default_payment_method"], row["customer"], param="default_payment_method"
        )
    for name in ("default_payment_method", "description", "collection_method", "days_until_due"):
        if name in params:
            row[name] = params[name]
    for name in ("automatic_tax", "invoice_settings", "payment_settings"):
        row[name].update(params.get(name) or {})
    subscription_rows.set_trial_end_behavior(row, params.get("trial_settings"))
    if "default_tax_rates" in params:
        row["default_tax_rates"] = taxes.chosen(sandbox, params["default_tax_rates"], at="default_tax_rates")
    if "discounts" in params:
        bought = [catalog.amount(item["price"], item.get("quantity") or 0) for item in row["items"]["data"]]
        discounts.set_on(
            sandbox,
            row,
            params["discounts"],
            at="discounts",
            currency=row["currency"],
            customer=row["customer"],
            amount=sum(bought),
            subscription=row["id"],
        )
    if row["collection_method"] == "send_invoice" and row["days_until_due"] is None:
        raise ApiError(
            "If subscription collection method is 'send_invoice', you must specify 'days_until_due'.",
            param="days_until_due",
        )
    if row["collection_method"] == "charge_automatically" and row["days_until_due"] is not None:
        raise ApiError(
            "You can only specify 'days_until_due' if subscription collection method is 'send_invoice'.",
            param="days_until_due",
        )
    merge(row, params)


def _set_cancellation(sandbox: Sandbox, row: Row, params: Row) -> None:
    if "cancel_at" in params and params.get("cancel_at_period_end"):
        raise ApiError(
            "You may only specify one of these parameters: cancel_at, cancel_at_period_end.", param="cancel_at"
        )
    row["cancellation_details"].update(params.get("cancellation_details", {}))
    if "cancel_at" in params:
        cancel_at = params["cancel_at"]
        ends = [item["current_period_end"] for item in row["items"]["data"]]
        if cancel_at == "min_period_end":
            cancel_at = min(ends)
        elif cancel_at in {"max_period_end", "max_billed_until"}:
            cancel_at = max(ends)  # nothing is billed further than that here
        elif cancel_at is not None:
            cancel_at = _future(sandbox, int(cancel_at), "cancel_at")
    elif "cancel_at_period_end" in params:
        cancel_at = subscription_rows.period(row)[1] if params["cancel_at_period_end"] else None
    else:
        return
    if cancel_at != row["cancel_at"]:
        cancellations.take_back(sandbox, row)
    changed, row["cancel_at"] = cancel_at != row["cancel_at"], cancel_at
    row["cancel_at_period_end"] = bool(params.get("cancel_at_period_end"))
    if changed and row["status"] in subscriptions.BILLED and params.get("proration_behavior") != "none":
        cancellations.foresee(sandbox, row)
    row["canceled_at"] = cancel_at and (row["canceled_at"] or sandbox.now())
    row["cancellation_details"]["reason"] = "cancellation_requested" if cancel_at else None


def _move_trial(sandbox: Sandbox, row: Row, params: Row) -> None:
    """End the trial now, or let one run until a given time; unused paid time is given back unless told not to."""
    if params["trial_end"] == "now":
        if row["status"] == "trialing":
            row.update(trial_end=sandbox.now(), status="active")
            subscription_rows.restart_cycle(sandbox, row)
            items.collect(sandbox, row, item_lines(sandbox, row), params)
        return
    trial_end = _future(sandbox, int(params["trial_end"]), "trial_end")
    if row["status"] in subscriptions.BILLED and params.get("proration_behavior") != "none":
        items.credit_all(sandbox, row)
    if row["status"] != "trialing":
        row["trial_start"] = sandbox.now()
        subscription_rows.set_period(row, sandbox.now(), trial_end)
    row.update(status="trialing", trial_end=trial_end, billing_cycle_anchor=trial_end, _trial_warned=False)
    subscription_rows.set_period(row, subscription_rows.period(row)[0], trial_end)
    if row["cancel_at_period_end"]:
        row["cancel_at"] = trial_end


def _move_anchor(sandbox: Sandbox, row: Row, params: Row) -> None:
    """Begin a new period now. As recorded no invoice comes of it: what it costs is prorated like any other change."""
    behavior = params.get("proration_behavior", "create_prorations")
    prorates = behavior != "none" and row["status"] in subscriptions.BILLED
    if prorates:
        items.credit_all(sandbox, row)
    subscription_rows.restart_cycle(sandbox, row)
    if prorates:
        for item in row["items"]["data"]:
            prorations.charge(sandbox, row, item, sandbox.now())
        if behavior == "always_invoice":
            items.collect(sandbox, row, [], params)


def _future(sandbox: Sandbox, moment: int, param: str) -> int:
    if moment <= sandbox.now():
        raise ApiError(f"{param} must be a unix timestamp in the future", param=param)
    if moment > sandbox.now() + 5 * 366 * DAY:
        raise ApiError("Invalid timestamp: can be no more than five years in the future.", param=param)
    return moment
