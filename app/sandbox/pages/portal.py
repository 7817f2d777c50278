"""The customer portal: what a customer has, and cancelling, resuming and paying it."""

from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.sandbox import subscription_rows
from app.sandbox import subscriptions as engine
from app.sandbox.errors import ApiError, missing
from app.sandbox.money import written
from app.sandbox.pages import wording
from app.sandbox.pages.invoice import authentication_path
from app.sandbox.pages.layout import notice, page, see_other
from app.sandbox.periods import day
from app.sandbox.resources import invoices, subscriptions
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_LASTS = 3600  # seconds; Stripe's sessions end an hour after their last use at the latest
_DONE = {
    "canceled": "Your subscription has been canceled.",
    "canceling": "Your subscription ends with the current period.",
    "card": "Your card was saved. It is the one we charge from now on.",
    "paid": "The invoice is paid. Thank you.",
    "resumed": "Your subscription goes on.",
}
_REASONS = {
    "too_expensive": "It's too expensive",
    "missing_features": "I need more features",
    "switched_service": "I found an alternative",
    "unused": "I no longer need it",
    "customer_service": "Customer service was less than expected",
    "too_complex": "Ease of use was less than expected",
    "low_quality": "Quality was less than expected",
    "other": "Other reason",
}


def session_of(sandbox: Sandbox, request: Request) -> Row:
    """Find the portal session of the path; one that has expired is as good as unknown."""
    session = sandbox.get("billing_portal.session", request.path_params["session"])
    if sandbox.now() >= session["created"] + _LASTS:
        raise missing("billing_portal.session", session["id"])
    return session


def base(session: Row) -> str:
    return f"/p/session/{session['id']}"


def back(session: Row) -> str | None:
    """Give the link away from a form: a deep link leads out of the portal, not into it."""
    return session["return_url"] if session["flow"] else f"{base(session)}/home"


def features(sandbox: Sandbox, session: Row) -> Row:
    found: Row = sandbox.get("billing_portal.configuration", session["configuration"])["features"]
    return found


def leads_to(session: Row) -> list[str | None]:
    """List where the portal's forms may end up: inside, or where the flow's completion redirects."""
    return [_redirect(session)]


def finish(session: Row, flow: str, done: str) -> Response:
    """Leave a form that did its work; if the session was made for this very flow, as its after_completion says."""
    if session["flow"] and session["flow"]["type"] == flow:
        completion = session["flow"]["after_completion"]
        if (url := _redirect(session)) is not None:
            return see_other(url)
        if completion["type"] == "hosted_confirmation":
            return see_other(f"{base(session)}/done?done={done}")
    return see_other(f"{base(session)}/home?done={done}")


def _redirect(session: Row) -> str | None:
    redirect = session["flow"] and session["flow"]["after_completion"]["redirect"]
    url: str | None = redirect and redirect["return_url"]
    return url


async def enter(sandbox: Sandbox, request: Request) -> Response:
    """Open the portal, at the form that the session was made for."""
    session = session_of(sandbox, request)
    flow: Any = session["flow"] or {"type": None}
    match flow["type"]:
        case "payment_method_update":
            return see_other(f"{base(session)}/payment_method")
        case "subscription_cancel":
            return see_other(f"{base(session)}/subscriptions/{flow['subscription_cancel']['subscription']}/cancel")
        case _:
            return await home(sandbox, request)


async def done(sandbox: Sandbox, request: Request) -> Response:
    """Confirm a flow that ends here, in the words its session was given."""
    session = session_of(sandbox, request)
    completion = session["flow"] and session["flow"]["after_completion"]["hosted_confirmation"]
    message = (completion and completion["custom_message"]) or _DONE.get(request.query_params.get("done", ""), "")
    return notice("All done", message, link=session["return_url"], link_text="Return")


async def home(sandbox: Sandbox, request: Request) -> Response:
    session = session_of(sandbox, request)
    return _home(sandbox, session, done=_DONE.get(request.query_params.get("done", "")))


async def show_cancel(sandbox: Sandbox, request: Request) -> Response:
    session = session_of(sandbox, request)
    subscription = _subscription(sandbox, session, request)
    feature = _cancellation(sandbox, session)
    if feature["mode"] == "immediately":
        consequence = "It ends at once."
    else:
        end = day(subscription_rows.period(subscription)[1])
        consequence = f"You keep it until {end}. After that it ends, and nothing more is charged."
    reasons = feature["cancellation_reason"]
    return page(
        "portal_cancel.html",
        leads_to=leads_to(session),
        back=back(session),
        subscription={"name": _name(sandbox, subscription)},
        consequence=consequence,
        reasons=[(key, _REASONS[key]) for key in reasons["options"]] if reasons["enabled"] else [],
    )


async def cancel(sandbox: Sandbox, request: Request) -> Response:
    session = session_of(sandbox, request)
    subscription = _subscription(sandbox, session, request)
    async with request.form() as data:
        typed = {name: data.get(name) for name in ("feedback", "comment")}
    details = {name: value for name, value in typed.items() if isinstance(value, str) and value}
    if details.get("feedback", "other") not in _REASONS:
        del details["feedback"]
    at_once = _cancellation(sandbox, session)["mode"] == "immediately"
    with sandbox.changing(session["customer"]):
        if at_once:
            subscriptions.cancel(sandbox, {"cancellation_details": details}, subscription["id"])
        elif subscription["cancel_at"] is None:  # a second click changes nothing
            subscriptions.update(
                sandbox, {"cancel_at_period_end": True, "cancellation_details": details}, subscription["id"]
            )
    return finish(session, "subscription_cancel", "canceled" if at_once else "canceling")


async def resume(sandbox: Sandbox, request: Request) -> Response:
    session = session_of(sandbox, request)
    subscription = _subscription(sandbox, session, request)
    with sandbox.changing(session["customer"]):
        subscriptions.update(sandbox, {"cancel_at_period_end": False}, subscription["id"])
    return see_other(f"{base(session)}/home?done=resumed")


async def pay_invoice(sandbox: Sandbox, request: Request) -> Response:
    session = session_of(sandbox, request)
    invoice = sandbox.get("invoice", request.path_params["invoice"])
    if invoice["customer"] != session["customer"]:
        raise missing("invoice", invoice["id"])
    if invoice["status"] == "open":  # a second click pays nothing
        try:
            with sandbox.changing(session["customer"]):
                invoices.pay(sandbox, {}, invoice["id"])
        except ApiError as error:
            if error.code == "invoice_payment_intent_requires_action":
                return see_other(authentication_path(invoice))
            return _home(sandbox, session, problem=error.message)
    return see_other(f"{base(session)}/home?done=paid")


def _home(sandbox: Sandbox, session: Row, *, done: str | None = None, problem: str | None = None) -> Response:
    customer = sandbox.get("customer", session["customer"])
    offered = features(sandbox, session)
    owned = [row for row in sandbox.rows("subscription") if row["customer"] == customer["id"]]
    current = [row for row in reversed(owned) if row["status"] not in engine.TERMINAL]
    issued = [row for row in sandbox.rows("invoice") if row["customer"] == customer["id"] and row["number"]]
    return page(
        "portal.html",
        status=HTTPStatus.PAYMENT_REQUIRED if problem else HTTPStatus.OK,
        base=base(session),
        return_url=session["return_url"],
        customer={name: customer[name] for name in ("id", "name", "email")},
        done=done,
        problem=problem,
        subscriptions=[
            _subscription_panel(sandbox, row, cancelable=offered["subscription_cancel"]["enabled"]) for row in current
        ],
        cards=_cards(sandbox, customer, current),
        cards_updatable=offered["payment_method_update"]["enabled"],
        invoices=[_invoice_row(row) for row in reversed(issued)] if offered["invoice_history"]["enabled"] else None,
    )


def _subscription(sandbox: Sandbox, session: Row, request: Request) -> Row:
    """Find the path's subscription among this customer's living ones; anybody else's doesn't exist."""
    row = sandbox.get("subscription", request.path_params["subscription"])
    if row["customer"] != session["customer"] or row["status"] in engine.TERMINAL:
        raise missing("subscription", row["id"])
    return row


def _cancellation(sandbox: Sandbox, session: Row) -> Row:
    feature: Row = features(sandbox, session)["subscription_cancel"]
    if not feature["enabled"]:
        raise missing("billing_portal.session", session["id"])
    return feature


def _name(sandbox: Sandbox, subscription: Row) -> str:
    products = (item["price"]["product"] for item in subscription["items"]["data"])
    return ", ".join(sandbox.get("product", product)["name"] for product in products)


def _subscription_panel(sandbox: Sandbox, row: Row, *, cancelable: bool) -> Row:
    method = engine.charging_method(sandbox, row)
    dates = [("Trial ends", day(row["trial_end"]))] if row["status"] == "trialing" else []
    if row["cancel_at"] is not None:
        dates.append(("Ends", day(row["cancel_at"])))
    elif row["status"] in engine.BILLED | {"trialing"}:
        dates.append(("Next payment", day(subscription_rows.period(row)[1])))
    return {
        "id": row["id"],
        "name": _name(sandbox, row),
        "status": wording.status(row["status"]),
        "tone": wording.tone(row["status"]),
        "prices": [wording.price_of(item["price"], item["quantity"]) for item in row["items"]["data"]],
        "dates": dates,
        "card": method and wording.card(method),
        "resumable": row["cancel_at"] is not None,
        "cancelable": cancelable,
    }


def _cards(sandbox: Sandbox, customer: Row, current: list[Row]) -> list[Row]:
    default = customer["invoice_settings"]["default_payment_method"]
    charged = [(engine.charging_method(sandbox, row) or {}, _name(sandbox, row)) for row in current]
    return [
        {
            "label": wording.card(row),
            "expires": f"{row['card']['exp_month']:02}/{row['card']['exp_year']}",
            "default": row["id"] == default,
            "pays": ", ".join(name for method, name in charged if method.get("id") == row["id"]),
        }
        for row in reversed(sandbox.rows("payment_method"))
        if row["customer"] == customer["id"]
    ]


def _invoice_row(row: Row) -> Row:
    return {
        "id": row["id"],
        "date": day(row["created"]),
        "number": row["number"],
        "url": row["hosted_invoice_url"],
        "pdf": row["invoice_pdf"],
        "amount": written(row["total"], row["currency"]),
        "status": wording.status(row["status"]),
        "tone": wording.tone(row["status"]),
        "payable": row["status"] == "open",
    }
