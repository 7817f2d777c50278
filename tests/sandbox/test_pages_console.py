"""The sandbox's own pages: what it is, and what it sent."""

from collections.abc import AsyncIterator

import httpx
import pytest
from hosted_pages import BASE, Reader, Shop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def receive(request: Request) -> Response:
    body = await request.json()
    return Response(status_code=500 if body["type"] == "price.created" else 200)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    receiver = Starlette(routes=[Route("/hooks", receive, methods=["POST"])])
    shop = Shop(webhook_client=httpx.AsyncClient(transport=httpx.ASGITransport(receiver)))
    yield shop
    await shop.aclose()


async def test_the_index_says_how_to_connect(shop: Shop) -> None:
    page = await shop.get("/")
    said = Reader(page)
    assert f"API base {BASE}" in said.text
    assert "sk_test_billhook" in said.text
    assert "form-action 'self'" in page.headers["Content-Security-Policy"]
    assert said.links["Events and deliveries"] == f"{BASE}/events"


async def test_events_show_what_became_of_their_deliveries(shop: Shop) -> None:
    assert "Nothing has happened yet." in Reader(await shop.get("/events")).text
    await shop.customer()
    shop.sandbox.add_webhook_endpoint("http://shop.test/hooks")
    await shop.price()
    await shop.sandbox.drain()
    said = Reader(await shop.get("/events")).text
    assert said.index("price.created") < said.index("product.created") < said.index("customer.created")
    assert "pending: 500 http://shop.test/hooks" in said
    assert "succeeded: 200 http://shop.test/hooks" in said
    assert "none" in said[said.index("customer.created") :]
