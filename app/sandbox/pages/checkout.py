"""The Checkout page: shows a session, takes a card, asks for 3D Secure, and sends the buyer on."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.sandbox import checkout as engine
from app.sandbox import checkout_totals
from app.sandbox.errors import ApiError
from app.sandbox.pages.bill import bill
from app.sandbox.pages.card_form import CardForm, submission
from app.sandbox.pages.layout import notice, page, see_other
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


async def show(sandbox: Sandbox, request: Request) -> Response:
    session = engine.view(sandbox, request.path_params["session"])
    if session["status"] != "open":
        return _closed(session)
    return _page(sandbox, session, _remembered(sandbox, session))


async def submit(sandbox: Sandbox, request: Request) -> Response:
    session = engine.view(sandbox, request.path_params["session"])
    if session["status"] != "open":
        return _too_late(session)
    typed = await submission(request)
    if session["allow_promotion_codes"] and typed.form.promotion_code.lower() != _code(sandbox, session).lower():
        return _apply_code(sandbox, session, typed.form)
    try:
        card = typed.card() if session["needs_card"] else None
        outcome = engine.pay(sandbox, session["id"], card, typed.form.email or None, typed.form.name or None)
    except ApiError as error:
        return _page(sandbox, session, typed.form.refused_by(error), status=error.status)
    if isinstance(outcome, engine.NeedsAuthentication):
        return see_other(f"{_path(session)}/authenticate")
    return see_other(outcome.redirect_url or _path(session))


async def show_authentication(sandbox: Sandbox, request: Request) -> Response:
    session = engine.view(sandbox, request.path_params["session"])
    if not session["awaits_authentication"]:
        return see_other(_path(session))
    return page("authenticate.html", leads_to=[session["success_url"]])


async def answer_authentication(sandbox: Sandbox, request: Request) -> Response:
    session = engine.view(sandbox, request.path_params["session"])
    if session["status"] != "open":
        return _too_late(session)
    if not session["awaits_authentication"]:
        return see_other(_path(session))
    async with request.form() as data:
        succeed = data.get("outcome") == "complete"
    try:
        paid = engine.complete_authentication(sandbox, session["id"], succeed=succeed)
    except ApiError as error:
        form = _remembered(sandbox, session).refused_by(error)
        return _page(sandbox, session, form, status=error.status)
    return see_other(paid.redirect_url or _path(session))


def _apply_code(sandbox: Sandbox, session: Row, form: CardForm) -> Response:
    """Show the new price, or why the code is refused; nothing is paid before the buyer has seen it."""
    try:
        with sandbox.changing(session["id"]):
            row = sandbox.get("checkout.session", session["id"])
            if not checkout_totals.typed(sandbox, row, form.promotion_code):
                return _page(sandbox, session, form.refused("This code is invalid.", "promotion_code"), status=400)
    except ApiError as error:
        return _page(sandbox, session, form.refused(error.message, "promotion_code"), status=error.status)
    session = engine.view(sandbox, session["id"])
    done = "The code is applied." if form.promotion_code else "The code is taken off."
    return _page(sandbox, session, form, done=f"{done} Nothing is charged yet: see the new total.")


def _code(sandbox: Sandbox, session: Row) -> str:
    code: str = sandbox.get("checkout.session", session["id"])["_code"]
    return code


def _page(sandbox: Sandbox, session: Row, form: CardForm, *, status: int = 200, done: str = "") -> Response:
    return page(
        "checkout.html",
        status=status,
        leads_to=[session["success_url"]],
        path=_path(session),
        bill=bill(sandbox, session),
        form=form,
        done=done,
        cancel_url=session["cancel_url"],
        email=_known_email(sandbox, session),
        asks_email=session["customer"] is None and not session["customer_email"],
        needs_card=session["needs_card"],
        promotion_codes=session["allow_promotion_codes"],
    )


def _path(session: Row) -> str:
    return f"/c/pay/{session['id']}"


def _known_email(sandbox: Sandbox, session: Row) -> str | None:
    customer: dict[str, Any] = sandbox.get("customer", session["customer"]) if session["customer"] else {}
    email: str | None = session["customer_email"] or customer.get("email")
    return email


def _remembered(sandbox: Sandbox, session: Row) -> CardForm:
    """Fill the form with what the buyer said at an earlier attempt."""
    buyer = sandbox.get("checkout.session", session["id"])["_buyer"] or {}
    code = _code(sandbox, session)
    return CardForm(email=buyer.get("email") or "", name=buyer.get("name") or "", promotion_code=code)


def _success_url(session: Row) -> str | None:
    url: str | None = session["success_url"]
    return url and url.replace("{CHECKOUT_SESSION_ID}", session["id"])


def _too_late(session: Row) -> Response:
    """Answer a form that comes after the end: the second click of a double click lands where the first one led."""
    url = _success_url(session) if session["status"] == "complete" else None
    return see_other(url) if url else _closed(session)


def _closed(session: Row) -> Response:
    if session["status"] == "complete":
        return notice(
            "You're all done here",
            "This checkout is complete. Nothing is left to pay on this page.",
            link=_success_url(session),
        )
    return notice(
        "This link has expired",
        "The checkout was not completed in time, or was replaced by a newer one. Nothing was charged.",
        status=410,
        link=session["cancel_url"],
        link_text="Go back",
    )
