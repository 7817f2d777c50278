"""Drives a sandbox with the real SDK: a clock to move, transports, a receiver of webhooks, a record of answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typing_extensions import override

from app.sandbox.cards import Card
from app.sandbox.sandbox import Sandbox

SECRET = "whsec_a_secret_of_the_tests"
GOOD = Card("4242 4242 4242 4242", 12, 2034, "123")


def card(number: str) -> Card:
    return Card(number, 12, 2034, "123")


class ManualClock:
    """Time that moves when a test says so."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, *, days: float = 0, hours: float = 0, seconds: float = 0) -> None:
        self.now += days * 86_400 + hours * 3600 + seconds


class AsyncTransport(stripe.HTTPXClient):
    """The SDK's httpx client around a given AsyncClient; sends bytes as ``content``, which httpx asks for."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        super().__init__(timeout=10)
        self._client_async = client

    @override
    def _get_request_args_kwargs(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any
    ) -> tuple[list[Any], dict[str, Any]]:
        content = {} if post_data is None else {"content": post_data}
        return [method, url], {"headers": headers, "timeout": self._timeout, **content}


class Recorder(httpx.ASGITransport):
    """An ASGI transport that keeps every successful answer that says something."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(app)
        self.answers: list[dict[str, Any]] = []

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        body = await response.aread()
        if response.status_code == httpx.codes.OK and body != b"{}":
            self.answers.append(json.loads(body))
        return response


class Receiver:
    """A webhook endpoint that verifies as the SDK does and keeps what it got; ``status`` is what it answers."""

    def __init__(self) -> None:
        self.status = 200
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[bytes, dict[str, str]]] = []
        self.app = Starlette(routes=[Route("/hook", self._receive, methods=["POST"])])
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app))

    async def _receive(self, request: Request) -> Response:
        body = await request.body()
        self.requests.append((body, dict(request.headers)))
        stripe.WebhookSignature.verify_header(body, request.headers["Stripe-Signature"], SECRET, tolerance=300)
        self.events.append(json.loads(body))
        return Response(status_code=self.status)

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def last(self, type: str) -> dict[str, Any]:
        return next(event for event in reversed(self.events) if event["type"] == type)


@dataclass(frozen=True)
class Shop:
    """A sandbox with something to sell and someone to sell it to."""

    client: Any  # a StripeClient; its unions of id, object and None would make every assertion a cast
    sandbox: Sandbox
    clock: ManualClock
    customer: str
    basic: str
    pro: str

    async def session(self, **params: Any) -> Any:
        """Open a Checkout Session for the Pro plan, or for what ``params`` say."""
        defaults: Any = {
            "mode": "subscription",
            "customer": self.customer,
            "line_items": [{"price": self.pro, "quantity": 1}],
            "success_url": "http://app.test/ok?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "http://app.test/plans",
        }
        return await self.client.v1.checkout.sessions.create_async({**defaults, **params})

    async def subscribe(self, *, method: str = "pm_card_visa", **params: Any) -> Any:
        """Subscribe the customer to Pro by the API, with this card as their default."""
        await self.default_card(method)
        defaults: Any = {"customer": self.customer, "items": [{"price": self.pro}]}
        return await self.client.v1.subscriptions.create_async({**defaults, **params})

    async def default_card(self, method: str) -> str:
        attached = await self.client.v1.payment_methods.attach_async(method, {"customer": self.customer})
        await self.client.v1.customers.update_async(
            self.customer, {"invoice_settings": {"default_payment_method": attached.id}}
        )
        return str(attached.id)

    async def subscription(self, id: str) -> Any:
        return await self.client.v1.subscriptions.retrieve_async(id, {"expand": ["latest_invoice"]})
