"""What the storefront's own server answers, asked without a browser."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest

SIGN_IN = "/demo/sign-in"


@pytest.fixture
async def client(dev: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    origin = urlsplit(dev["storefront_url"])
    async with httpx.AsyncClient(base_url=f"{origin.scheme}://{origin.netloc}") as client:
        yield client


async def test_signing_in_sets_a_cookie_that_scripts_cannot_read(client: httpx.AsyncClient) -> None:
    answer = await client.post(SIGN_IN, data={"user": "demo-1"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/demo")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Signed in as <strong>Ada</strong>" in (await client.get("/demo")).text


async def test_the_token_is_the_signed_in_users(client: httpx.AsyncClient) -> None:
    await client.post(SIGN_IN, data={"user": "demo-2"})
    answer = await client.get("/demo/token")
    claims = jwt.decode(answer.json()["token"], options={"verify_signature": False})
    assert (claims["sub"], claims["email"], claims["name"]) == ("demo-2", "grace@example.com", "Grace")
    assert answer.headers["cache-control"] == "no-store"


async def test_signing_out_takes_the_token_away(client: httpx.AsyncClient) -> None:
    await client.post(SIGN_IN, data={"user": "demo-1"})
    assert (await client.post("/demo/sign-out")).status_code == 303
    for path in ("/demo/token", "/demo/events"):
        refused = await client.get(path)
        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/demo/billing", "/demo/success?session_id=cs_test_1"])
async def test_pages_of_a_customer_send_strangers_to_sign_in(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/demo")


@pytest.mark.parametrize("user", ["demo-3", "", "demo-1\0", "é" * 300])
async def test_nobody_else_can_sign_in(client: httpx.AsyncClient, user: str) -> None:
    refused = await client.post(SIGN_IN, data={"user": user})
    assert refused.status_code in {404, 422}
    assert "set-cookie" not in refused.headers


@pytest.mark.parametrize("cookie", ["demo-3", "", '"', "\xff"])
async def test_a_made_up_cookie_signs_nobody_in(client: httpx.AsyncClient, cookie: str) -> None:
    headers = [(b"cookie", b"billhook_demo_user=" + cookie.encode("latin-1"))]
    assert (await client.get("/demo/token", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ],
)
@pytest.mark.parametrize("path", [SIGN_IN, "/demo/sign-out"])
async def test_forms_of_other_sites_are_refused(client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
    refused = await client.post(path, data={"user": "demo-1"}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "cross_site")
    assert "set-cookie" not in refused.headers


async def test_the_storefronts_own_forms_are_taken(client: httpx.AsyncClient) -> None:
    own = f"{client.base_url.scheme}://{client.base_url.netloc.decode()}"
    for headers in ({"Origin": own}, {"Sec-Fetch-Site": "same-origin", "Origin": own}):
        assert (await client.post(SIGN_IN, data={"user": "demo-1"}, headers=headers)).status_code == 303


async def test_pages_allow_nothing_inline_and_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    answer = await client.get("/demo")
    policy = answer.headers["content-security-policy"]
    for directive in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
        assert directive in policy
    assert "unsafe" not in policy
    assert "style=" not in answer.text
