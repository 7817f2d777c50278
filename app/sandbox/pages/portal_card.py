"""The portal's card form: sets up a new card, with 3D Secure where its bank asks, and makes it the default."""

from starlette.requests import Request
from starlette.responses import Response

from app.sandbox import payments
from app.sandbox import subscriptions as engine
from app.sandbox.errors import ApiError, missing
from app.sandbox.pages import portal
from app.sandbox.pages.card_form import CardForm, submission
from app.sandbox.pages.layout import page, see_other
from app.sandbox.resources import customers, setup_intents, subscriptions
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


async def show(sandbox: Sandbox, request: Request) -> Response:
    return _page(_session(sandbox, request), CardForm())


async def submit(sandbox: Sandbox, request: Request) -> Response:
    session = _session(sandbox, request)
    typed = await submission(request)
    try:
        with sandbox.changing(session["customer"]):
            method = payments.card_used(sandbox, typed.card())
            method["billing_details"]["name"] = typed.form.name or None
            intent = setup_intents.create(sandbox, {"customer": session["customer"]})
            if setup_intents.confirm_with(sandbox, intent, method):
                _make_default(sandbox, session, method["id"])
    except ApiError as error:
        return _page(session, typed.form.refused_by(error), status=error.status)
    if intent["status"] == "requires_action":
        return see_other(f"{portal.base(session)}/payment_method/{intent['id']}")
    return portal.finish(session, "payment_method_update", "card")


async def show_authentication(sandbox: Sandbox, request: Request) -> Response:
    session = _session(sandbox, request)
    if _intent(sandbox, session, request)["status"] != "requires_action":
        return see_other(f"{portal.base(session)}/payment_method")
    return page("authenticate.html", leads_to=portal.leads_to(session))


async def answer_authentication(sandbox: Sandbox, request: Request) -> Response:
    session = _session(sandbox, request)
    intent = _intent(sandbox, session, request)
    if intent["status"] == "succeeded":  # a second click
        return portal.finish(session, "payment_method_update", "card")
    if intent["status"] != "requires_action":
        return see_other(f"{portal.base(session)}/payment_method")
    async with request.form() as data:
        succeed = data.get("outcome") == "complete"
    try:
        with sandbox.changing(session["customer"]):
            intent = _intent(sandbox, session, request)
            setup_intents.authenticate(sandbox, intent, succeed=succeed)
            _make_default(sandbox, session, intent["payment_method"])
    except ApiError as error:
        return _page(session, CardForm().refused_by(error), status=error.status)
    return portal.finish(session, "payment_method_update", "card")


def _page(session: Row, form: CardForm, *, status: int = 200) -> Response:
    return page(
        "portal_card.html",
        status=status,
        leads_to=portal.leads_to(session),
        path=f"{portal.base(session)}/payment_method",
        back=portal.back(session),
        form=form,
    )


def _session(sandbox: Sandbox, request: Request) -> Row:
    session = portal.session_of(sandbox, request)
    if not portal.features(sandbox, session)["payment_method_update"]["enabled"]:
        raise missing("billing_portal.session", session["id"])
    return session


def _intent(sandbox: Sandbox, session: Row, request: Request) -> Row:
    intent = sandbox.get("setup_intent", request.path_params["setup_intent"])
    if intent["customer"] != session["customer"]:
        raise missing("setup_intent", intent["id"])
    return intent


def _make_default(sandbox: Sandbox, session: Row, method: str) -> None:
    """Charge this card from now on: the customer's default, and that of each subscription, which would override it."""
    customers.update(sandbox, {"invoice_settings": {"default_payment_method": method}}, session["customer"])
    for subscription in sandbox.rows("subscription"):
        if subscription["customer"] == session["customer"] and subscription["status"] not in engine.TERMINAL:
            subscriptions.update(sandbox, {"default_payment_method": method}, subscription["id"])
