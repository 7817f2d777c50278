"""The pages that a browser sees: Checkout, the portal, invoices, and the sandbox's own."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from app.sandbox.errors import ApiError
from app.sandbox.pages import checkout, connect, console, invoice, portal, portal_card, receipt, three_d_secure
from app.sandbox.pages.layout import notice
from app.sandbox.sandbox import Sandbox

Handler = Callable[[Sandbox, Request], Awaitable[Response]]

# All handlers are coroutines, also those that await nothing: Starlette runs plain functions in threads, and the
# sandbox's state belongs to one.
_PAGES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", console.index),
    ("GET", "/events", console.events),
    ("GET", "/c/pay/{session}", checkout.show),
    ("POST", "/c/pay/{session}", checkout.submit),
    ("GET", "/c/pay/{session}/authenticate", checkout.show_authentication),
    ("POST", "/c/pay/{session}/authenticate", checkout.answer_authentication),
    ("GET", "/p/session/{session}", portal.enter),
    ("GET", "/p/session/{session}/home", portal.home),
    ("GET", "/p/session/{session}/done", portal.done),
    ("GET", "/p/session/{session}/subscriptions/{subscription}/cancel", portal.show_cancel),
    ("POST", "/p/session/{session}/subscriptions/{subscription}/cancel", portal.cancel),
    ("POST", "/p/session/{session}/subscriptions/{subscription}/resume", portal.resume),
    ("POST", "/p/session/{session}/invoices/{invoice}/pay", portal.pay_invoice),
    ("GET", "/p/session/{session}/payment_method", portal_card.show),
    ("POST", "/p/session/{session}/payment_method", portal_card.submit),
    ("GET", "/p/session/{session}/payment_method/{setup_intent}", portal_card.show_authentication),
    ("POST", "/p/session/{session}/payment_method/{setup_intent}", portal_card.answer_authentication),
    ("GET", "/i/{invoice}", invoice.show),
    ("POST", "/i/{invoice}", invoice.pay),
    ("GET", "/i/{invoice}/authenticate", invoice.show_authentication),
    ("POST", "/i/{invoice}/authenticate", invoice.answer_authentication),
    ("GET", "/3ds/{intent}", three_d_secure.show),
    ("POST", "/3ds/{intent}", three_d_secure.answer),
    ("GET", "/receipts/{charge}", receipt.show),
    ("GET", "/pdf/{invoice}", invoice.pdf),
    ("GET", "/credit_notes/{credit_note}/pdf", invoice.credit_note_pdf),
    ("GET", "/oauth/authorize", connect.show_authorize),
    ("POST", "/oauth/authorize", connect.answer_authorize),
    ("GET", "/setup/s/{account}/{token}", connect.show_onboarding),
    ("POST", "/setup/s/{account}/{token}", connect.answer_onboarding),
    ("GET", "/express/{account}/{token}", connect.express),
)


def page_routes(sandbox: Sandbox) -> list[BaseRoute]:
    return [
        *(Route(path, _guarded(sandbox, handler), methods=[method]) for method, path, handler in _PAGES),
        Mount("/assets", StaticFiles(directory=Path(__file__).with_name("static"))),
    ]


def _home(sandbox: Sandbox, request: Request) -> Sandbox:
    """Find whose session, intent or invoice the page is about: ids are nobody's twice."""
    holders = (sandbox.holder(id) for id in request.path_params.values())
    return sandbox.world(next((account for account in holders if account), None))


def _guarded(sandbox: Sandbox, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Let time pass first, and answer what the engine refuses with a page rather than Stripe's JSON."""

    async def answer(request: Request) -> Response:
        sandbox.tick()
        try:
            return await handler(_home(sandbox, request), request)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return notice(
                    "There is nothing here",
                    "This link is wrong, or it has expired. Go back to where you came from and start again.",
                    status=error.status,
                )
            return notice("That did not work", error.message, status=error.status)

    return answer
