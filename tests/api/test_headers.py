"""What every answer carries: its id, and orders to browsers."""

import re

import httpx
import pytest
from serving import API, PROBLEM, Bearer, serving

from app.main import create_app
from app.provider.protocol import BillingProvider
from app.settings import Settings

ORIGIN = "https://app.example.com"


async def test_a_harmless_request_id_is_kept(client: httpx.AsyncClient) -> None:
    for given in ("a", "Trace_1.2-3", "x" * 128):
        for path in (f"{API}/plans", f"{API}/subscription", "/nowhere", "/healthz"):
            response = await client.get(path, headers={"X-Request-ID": given})
            assert response.headers["x-request-id"] == given


async def test_any_other_request_id_is_replaced(client: httpx.AsyncClient) -> None:
    for given in ("", "x" * 129, "a b", "<script>", "a\tb", "\xe9"):
        response = await client.get("/healthz", headers={b"X-Request-ID": given.encode("latin-1")})
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"]), given


async def test_browsers_are_told_to_do_nothing_with_answers(client: httpx.AsyncClient, ada: Bearer) -> None:
    for path in (f"{API}/subscription/status", f"{API}/plans", "/nowhere", "/healthz", "/openapi.json"):
        headers = (await client.get(path, headers=ada)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert "server" not in headers
        if not path.startswith(API):  # those are in test_caching.py
            assert headers["cache-control"] == "no-store"


async def test_static_files_may_be_kept(client: httpx.AsyncClient) -> None:
    response = await client.get("/static/vendor/swagger-ui/swagger-ui.css")
    assert response.status_code == 200
    assert "cache-control" not in response.headers
    assert response.headers["x-content-type-options"] == "nosniff"
    again = await client.get(response.request.url, headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304


async def test_the_docs_load_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs")
    assert "script-src 'self';" in response.headers["content-security-policy"]
    assert "http" not in response.text
    links = re.findall(r'(?:href|src)="([^"]+)"', response.text)
    assert len(links) == 5
    for link in links:
        if not link.startswith("data:"):
            assert (await client.get(f"/{link}")).status_code == 200, link


@pytest.fixture
def open_to_app(quiet: Settings) -> Settings:
    return quiet.model_copy(update={"cors_origins": (ORIGIN,)})


async def test_pages_of_an_allowed_origin_may_call_and_read(
    open_to_app: Settings, provider: BillingProvider, ada: Bearer
) -> None:
    async with serving(create_app(open_to_app, provider=provider)) as client:
        preflight = await client.options(
            f"{API}/checkout/session",
            headers={
                "Origin": ORIGIN,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,x-request-id",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        # Errors too, or the page could not tell what went wrong.
        for path, status in ((f"{API}/plans", 200), (f"{API}/subscription", 404)):
            response = await client.get(path, headers=ada | {"Origin": ORIGIN})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert "access-control-allow-credentials" not in response.headers
            exposed = response.headers["access-control-expose-headers"]
            for header in ("X-Request-ID", "RateLimit", "Retry-After", "Link", "Idempotent-Replayed"):
                assert header in exposed


async def test_pages_of_any_other_origin_may_not(open_to_app: Settings, provider: BillingProvider) -> None:
    foreign = {"Origin": "https://evil.example.com"}
    async with serving(create_app(open_to_app, provider=provider)) as client:
        response = await client.get(f"{API}/plans", headers=foreign)
        assert "access-control-allow-origin" not in response.headers
        preflight = await client.options(f"{API}/plans", headers=foreign | {"Access-Control-Request-Method": "GET"})
        assert (preflight.status_code, preflight.headers["content-type"]) == (403, PROBLEM)
        assert preflight.json()["code"] == "cors_refused"
        assert "access-control-allow-origin" not in preflight.headers
