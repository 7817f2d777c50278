"""The bank's page of a payment or a set-up that the API confirmed: complete or fail, then back to the shop."""

from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from app.sandbox.errors import CardError
from app.sandbox.pages.layout import notice, page, see_other
from app.sandbox.resources import payment_intents, setup_intents
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


async def show(sandbox: Sandbox, request: Request) -> Response:
    intent = _intent(sandbox, request)
    if intent["status"] != "requires_action":
        return _leave(intent)
    return page("authenticate.html", leads_to=[intent.get("_return_url")])


async def answer(sandbox: Sandbox, request: Request) -> Response:
    intent = _intent(sandbox, request)
    if intent["status"] != "requires_action":  # a second click changes nothing
        return _leave(intent)
    async with request.form() as data:
        succeed = data.get("outcome") == "complete"
    try:
        with sandbox.changing(intent["id"]):
            if intent["object"] == "payment_intent":
                payment_intents.answer_challenge(sandbox, intent["id"], succeed=succeed)
            else:
                setup_intents.authenticate(sandbox, sandbox.get("setup_intent", intent["id"]), succeed=succeed)
    except CardError:
        pass  # the intent says what went wrong, and whoever waits for its return reads it there
    return _leave(_intent(sandbox, request))


def _intent(sandbox: Sandbox, request: Request) -> Row:
    id = request.path_params["intent"]
    return sandbox.get("setup_intent" if id.startswith("seti_") else "payment_intent", id)


def _leave(intent: Row) -> Response:
    """Go where the caller wanted, with the parameters that Stripe adds; else say that the page may be closed."""
    succeeded = intent["status"] in {"succeeded", "requires_capture"}
    return_url = intent.get("_return_url")
    if return_url is None:
        return notice(
            "Thank you" if succeeded else "That did not work",
            "You can close this page and go back to the shop.",
        )
    url = urlsplit(return_url)
    name = intent["object"]
    added = [
        (name, intent["id"]),
        (f"{name}_client_secret", intent["client_secret"]),
        ("redirect_status", "succeeded" if succeeded else "failed"),
    ]
    query = urlencode([*parse_qsl(url.query, keep_blank_values=True), *added])
    return see_other(url._replace(query=query).geturl())
