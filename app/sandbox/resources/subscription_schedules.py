"""Subscription schedules: phases that follow one another, made from a subscription or for a new one."""

from app.sandbox import lists, schedules, subscription_rows, subscriptions
from app.sandbox.errors import ApiError, missing, required, unsupported
from app.sandbox.metadata import merge
from app.sandbox.periods import boundary
from app.sandbox.resources import subscription_items as items
from app.sandbox.resources import subscriptions as api
from app.sandbox.route import route, under
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_OPEN = frozenset({"active", "not_started"})
_SETTINGS: Row = {
    "application_fee_percent": None,
    "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
    "billing_cycle_anchor": "automatic",
    "billing_thresholds": None,
    "collection_method": "charge_automatically",
    "default_payment_method": None,
    "description": None,
    "on_behalf_of": None,
    "transfer_data": None,
}
_INVOICE_SETTINGS: Row = {
    "account_tax_ids": None,
    "custom_fields": None,
    "days_until_due": None,
    "description": None,
    "footer": None,
    "issuer": {"type": "self"},
}


def create(sandbox: Sandbox, params: Row) -> Row:
    if "from_subscription" in params:
        return _from_subscription(sandbox, params)
    for name in ("customer", "phases"):
        if not params.get(name):
            raise required(name)
    customer = sandbox.get("customer", params["customer"], param="customer", status=400)
    start = params.get("start_date", "now")
    begins = sandbox.now() if start == "now" else int(start)
    if begins < sandbox.now():
        raise ApiError("`start_date` must be now or in the future; the sandbox does not backdate.", param="start_date")
    phases = _phases(sandbox, params["phases"], begins)
    row = _new(sandbox, customer, phases, params)
    sandbox.emit("subscription_schedule.created", row)
    if begins == sandbox.now():
        schedules.start(sandbox, row)
    return row


def _from_subscription(sandbox: Sandbox, params: Row) -> Row:
    """Take a subscription over: its one phase so far is its current period."""
    if others := params.keys() - {"from_subscription", "expand"}:
        raise ApiError(
            f"You cannot set `{min(others)}` if `from_subscription` is set. Please update the schedule afterwards.",
            param=min(others),
        )
    id = params["from_subscription"]
    subscription = sandbox.get("subscription", id, param="from_subscription", status=400)
    if subscription["status"] in subscriptions.TERMINAL:
        raise ApiError("You cannot migrate a subscription that is canceled.", param="from_subscription")
    if subscription["schedule"] is not None:
        raise ApiError(
            f"You cannot migrate a subscription that is already attached to a schedule: {subscription['schedule']}.",
            param="from_subscription",
        )
    start, end = subscription_rows.period(subscription)
    phase = {
        "items": [_item_of(item) for item in subscription["items"]["data"]],
        "end_date": end,
        "metadata": dict(subscription["metadata"]),
    }
    if subscription["status"] == "trialing":
        phase["trial_end"] = subscription["trial_end"]
    customer = sandbox.get("customer", subscription["customer"])
    row = _new(sandbox, customer, [_phase(phase, start, subscription["currency"])], {})
    row.update(status="active", subscription=id, current_phase={"end_date": end, "start_date": start})
    row["default_settings"]["collection_method"] = subscription["collection_method"]
    row["default_settings"]["invoice_settings"]["days_until_due"] = subscription["days_until_due"]
    if subscription["cancel_at"] is not None:
        row["end_behavior"] = "cancel"
    sandbox.emit("subscription_schedule.created", row)
    with sandbox.updating("customer.subscription.updated", subscription):
        subscription.update(schedule=row["id"], cancel_at_period_end=False)
    return row


def retrieve(sandbox: Sandbox, _params: Row, schedule: str) -> Row:
    return _get(sandbox, schedule)


def list_(sandbox: Sandbox, params: Row) -> Row:
    if "customer" in params:
        sandbox.get("customer", params["customer"], param="customer", status=400)
    moments = ("canceled_at", "completed_at", "created", "released_at")
    return lists.page(
        sandbox,
        "subscription_schedule",
        params,
        "/v1/subscription_schedules",
        lambda row: (
            lists.matches(row, params, "customer")
            and ("customer" in params or row["test_clock"] is None)
            and all(lists.within(row[name], params.get(name)) for name in moments)
            and (not params.get("scheduled") or row["status"] == "not_started")
        ),
    )


def update(sandbox: Sandbox, params: Row, schedule: str) -> Row:
    """Change what is to come; phases that are over may be left out, the current one may not."""
    row = _open(sandbox, schedule, "update")
    with sandbox.updating("subscription_schedule.updated", row):
        _set(row, params)
        if "phases" in params:
            _replace_phases(sandbox, row, params)
        if row["subscription"] is not None:
            subscription = sandbox.get("subscription", row["subscription"])
            with sandbox.updating("customer.subscription.updated", subscription):
                schedules.set_end(row, subscription)
    return row


def release(sandbox: Sandbox, params: Row, schedule: str) -> Row:
    row = _open(sandbox, schedule, "release")
    schedules.release(sandbox, row, keep_cancellation=params.get("preserve_cancel_date", False))
    return row


def cancel(sandbox: Sandbox, params: Row, schedule: str) -> Row:
    """Cancel the schedule, and its subscription at once."""
    row = _open(sandbox, schedule, "cancel")
    if row["subscription"] is not None:
        how = {name: params.get(name, True) for name in ("invoice_now", "prorate")}
        api.cancel(sandbox, how, row["subscription"])
        return row
    row.update(status="canceled", canceled_at=sandbox.now())
    sandbox.emit("subscription_schedule.canceled", row)
    return row


def _replace_phases(sandbox: Sandbox, row: Row, params: Row) -> None:
    wanted, now = params["phases"], sandbox.now()
    current = row["current_phase"]
    if "start_date" not in wanted[0] and current is not None:
        raise ApiError("The first phase must have a `start_date`.", param="phases[0][start_date]")
    begins = wanted[0].get("start_date", row["phases"][0]["start_date"])
    begins = now if begins == "now" else int(begins)
    past = [phase for phase in row["phases"] if phase["end_date"] <= begins]
    if current is not None and begins not in {phase["start_date"] for phase in row["phases"]}:
        raise ApiError(
            "You can not modify the start date of the current phase: the first phase has to begin when one of the "
            "schedule's does.",
            param="phases[0][start_date]",
        )
    row["phases"] = past + _phases(sandbox, wanted, begins)
    if current is None:
        return
    phase = schedules.phase_at(row, now)
    if phase is None:
        raise ApiError("The current phase must be one of the phases.", param="phases")
    row["current_phase"] = {"end_date": phase["end_date"], "start_date": phase["start_date"]}
    row["_warned"] = False
    subscription = sandbox.get("subscription", row["subscription"])
    with sandbox.updating("customer.subscription.updated", subscription):
        schedules.enter(sandbox, row, subscription, phase, params.get("proration_behavior", "create_prorations"))


def _new(sandbox: Sandbox, customer: Row, phases: list[Row], params: Row) -> Row:
    row: Row = {
        "id": sandbox.new.mint("sub_sched_"),
        "object": "subscription_schedule",
        "application": None,
        "billing_mode": {
            "flexible": {"proration_discounts": "included"},
            "type": "flexible",
            "updated_at": sandbox.now(),
        },
        "canceled_at": None,
        "completed_at": None,
        "created": sandbox.now(),
        "current_phase": None,
        "customer": customer["id"],
        "customer_account": None,
        "default_settings": {**_SETTINGS, "invoice_settings": dict(_INVOICE_SETTINGS)},
        "end_behavior": "release",
        "livemode": False,
        "metadata": {},
        "pause_schedules": [],
        "phases": phases,
        "released_at": None,
        "released_subscription": None,
        "status": "not_started",
        "subscription": None,
        "test_clock": customer["test_clock"],
    }
    _set(row, params)
    return sandbox.insert(row)


def _set(row: Row, params: Row) -> None:
    if "end_behavior" in params:
        if params["end_behavior"] == "renew":
            raise unsupported("schedules that renew", param="end_behavior")
        row["end_behavior"] = params["end_behavior"].replace("none", "release")  # two names of one thing
    given = dict(params.get("default_settings", {}))
    row["default_settings"]["invoice_settings"].update(given.pop("invoice_settings", {}))
    row["default_settings"].update(given)
    merge(row, params)


def _phases(sandbox: Sandbox, wanted: list[Row], begins: int) -> list[Row]:
    """Lay the phases end to end from ``begins`` (unix seconds)."""
    phases: list[Row] = []
    for index, given in enumerate(wanted):
        at = f"phases[{index}]"
        start = phases[-1]["end_date"] if phases else begins
        if "start_date" in given and index and given["start_date"] not in {start, "now"}:
            raise ApiError("A phase must begin when the one before it ends.", param=f"{at}[start_date]")
        if "duration" in given and "end_date" in given:
            raise ApiError("You may only specify one of these parameters: duration, end_date.", param=f"{at}[end_date]")
        chosen = items.choose(sandbox, given["items"], at=f"{at}[items]")
        lasting = given.get("duration", chosen[0]["price"]["recurring"])
        end = given.get("end_date", boundary(start, lasting["interval"], lasting.get("interval_count", 1)))
        end = sandbox.now() if end == "now" else int(end)
        if end <= start:
            raise ApiError("A phase must end after it begins.", param=f"{at}[end_date]")
        trial_end = end if given.get("trial") else given.get("trial_end")
        if trial_end is not None and (index or not start < trial_end <= end):
            raise ApiError(
                "The sandbox has trials in the first phase alone, and they end within it.", param=f"{at}[trial_end]"
            )
        entries = [
            {"metadata": item["metadata"], "price": item["price"]["id"], "quantity": item["quantity"]}
            for item in chosen
        ]
        phase = {**given, "items": entries, "end_date": end, "trial_end": trial_end}
        phases.append(_phase(phase, start, chosen[0]["price"]["currency"]))
    return phases


def _phase(given: Row, start: int, currency: str) -> Row:
    invoice_settings = given.get("invoice_settings")
    return {
        "add_invoice_items": [],
        "application_fee_percent": None,
        "automatic_tax": None,
        "billing_cycle_anchor": given.get("billing_cycle_anchor"),
        "billing_thresholds": None,
        "collection_method": given.get("collection_method"),
        "currency": currency,
        "default_payment_method": given.get("default_payment_method"),
        "default_tax_rates": [],
        "description": given.get("description"),
        "discounts": [],
        "end_date": given["end_date"],
        "invoice_settings": invoice_settings and {**_INVOICE_SETTINGS, "issuer": None, **invoice_settings},
        "items": [_item(item) for item in given["items"]],
        "metadata": given.get("metadata") or {},
        "on_behalf_of": None,
        "proration_behavior": given.get("proration_behavior", "create_prorations"),
        "start_date": start,
        "transfer_data": None,
        "trial_end": given.get("trial_end"),
    }


def _item_of(item: Row) -> Row:
    return {
        "metadata": dict(item["metadata"]),
        "price": item["price"]["id"],
        "quantity": item.get("quantity"),
    }


def _item(given: Row) -> Row:
    item = {
        "billing_thresholds": None,
        "discounts": [],
        "metadata": given["metadata"],
        "plan": given["price"],
        "price": given["price"],
        "tax_rates": [],
    }
    return item if given["quantity"] is None else {**item, "quantity": given["quantity"]}


def _open(sandbox: Sandbox, id: str, verb: str) -> Row:
    row = _get(sandbox, id)
    if row["status"] not in _OPEN:
        raise ApiError(
            f"You cannot {verb} a subscription schedule that is currently in the `{row['status']}` status. Its status "
            "has to be one of `not_started` or `active`."
        )
    return row


def _get(sandbox: Sandbox, id: str) -> Row:
    row = sandbox.find("subscription_schedule", id)
    if row is None:
        raise missing("subscription_schedule", id, param="schedule")
    return row


_ITEM = "price quantity metadata " + under(
    "price_data", "currency product recurring unit_amount unit_amount_decimal tax_behavior"
)
_DEFAULTS = under(
    "default_settings",
    "billing_cycle_anchor collection_method default_payment_method description invoice_settings.days_until_due",
)
_PHASE = under(
    "phases",
    "billing_cycle_anchor collection_method currency default_payment_method description duration end_date "
    f"invoice_settings.days_until_due metadata proration_behavior trial trial_end {under('items', _ITEM)}",
)
_PATH = "/v1/subscription_schedules"
ROUTES = (
    route(
        f"POST {_PATH}",
        create,
        "SubscriptionScheduleCreateParams",
        f"customer end_behavior from_subscription start_date {_DEFAULTS} {_PHASE}",
    ),
    route(
        f"GET {_PATH}",
        list_,
        "SubscriptionScheduleListParams",
        "canceled_at completed_at created customer released_at scheduled",
    ),
    route(f"GET {_PATH}/{{schedule}}", retrieve, "SubscriptionScheduleRetrieveParams"),
    route(
        f"POST {_PATH}/{{schedule}}",
        update,
        "SubscriptionScheduleUpdateParams",
        f"end_behavior proration_behavior {_DEFAULTS} {_PHASE} phases.start_date",
    ),
    route(f"POST {_PATH}/{{schedule}}/release", release, "SubscriptionScheduleReleaseParams", "preserve_cancel_date"),
    route(f"POST {_PATH}/{{schedule}}/cancel", cancel, "SubscriptionScheduleCancelParams", "invoice_now prorate"),
)
