"""Conditional reads: what may be kept, by whom, and how a caller learns that it still holds."""

import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import ADA, Account
from fastapi.routing import iter_route_contexts
from serving import API, PROBLEM, Bearer, CreateKey, bearer, serving
from starlette.responses import StreamingResponse
from starlette.types import Message

from app.api.caching import ConditionalReadsMiddleware, never_stored
from app.main import create_app, openapi_document
from app.services.identity import mint_development_token
from app.settings import Settings

OWN = "private, no-cache"


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
def buyer(settings: Settings) -> Bearer:
    return bearer(mint_development_token(settings, ADA.user_id))


async def test_what_has_not_changed_is_not_sent_again(
    client: httpx.AsyncClient, account: Account, buyer: Bearer
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    for path in ("/subscription", "/invoices", "/payment-methods", "/entitlements", "/subscription/status"):
        first = await client.get(f"{API}{path}", headers=buyer)
        assert first.status_code == 200, first.text
        assert first.headers["cache-control"] == OWN
        again = await client.get(f"{API}{path}", headers=buyer | {"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b""), path
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["cache-control"] == OWN
        assert "content-length" not in again.headers
        assert "content-type" not in again.headers
        assert "x-request-id" in again.headers
        assert "ratelimit" in again.headers


async def test_what_has_changed_is_sent_with_another_tag(
    client: httpx.AsyncClient, account: Account, buyer: Bearer
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    first = await client.get(f"{API}/subscription", headers=buyer)
    await client.post(f"{API}/subscription/cancel", headers=buyer)
    again = await client.get(f"{API}/subscription", headers=buyer | {"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.json()["cancel_at_period_end"]) == (200, True)
    assert again.headers["etag"] != first.headers["etag"]


async def test_a_link_to_the_next_page_is_on_the_304_too(
    client: httpx.AsyncClient, account: Account, create_key: CreateKey
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    operator = await create_key("operator")
    first = await client.get(f"{API}/audit?limit=1", headers=operator)
    again = await client.get(
        f"{API}/audit?limit=1", headers=operator | {"If-None-Match": f'W/"other", W/{first.headers["etag"]}'}
    )
    assert again.status_code == 304
    assert again.headers["link"] == first.headers["link"]


@pytest.mark.parametrize("given", ['"other"', "nonsense", '""', 'W/"x", "y"'])
async def test_another_tag_matches_nothing(client: httpx.AsyncClient, buyer: Bearer, given: str) -> None:
    answer = await client.get(f"{API}/subscription/status", headers=buyer | {"If-None-Match": given})
    assert (answer.status_code, answer.json()["tier"]) == (200, "free")


async def test_a_star_matches_whatever_is_there(client: httpx.AsyncClient, buyer: Bearer) -> None:
    star = buyer | {"If-None-Match": "*"}
    assert (await client.get(f"{API}/subscription/status", headers=star)).status_code == 304
    assert (await client.get(f"{API}/subscription", headers=star)).status_code == 404  # there is nothing to match


async def test_a_tag_of_one_caller_shows_another_their_own(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, grace: Bearer
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    hers = await client.get(f"{API}/payment-methods", headers=buyer)
    other = await client.get(f"{API}/payment-methods", headers=grace | {"If-None-Match": hers.headers["etag"]})
    assert (other.status_code, other.json()) == (200, [])


async def test_plans_are_everybody_s(client: httpx.AsyncClient) -> None:
    first = await client.get(f"{API}/plans")
    assert first.headers["cache-control"] == "public, max-age=60"
    assert first.headers["vary"] == "Origin"  # or a shared cache would keep pages from it that CORS lets in
    again = await client.get(f"{API}/plans", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_errors_writes_and_secrets_are_never_kept(
    client: httpx.AsyncClient, account: Account, buyer: Bearer
) -> None:
    missing = await client.get(f"{API}/subscription", headers=buyer)
    assert (missing.status_code, missing.headers["content-type"]) == (404, PROBLEM)
    anonymous = await client.get(f"{API}/subscription")
    await account.buy()
    await account.deliver_and_process(account.events())
    canceled = await client.post(f"{API}/subscription/cancel", headers=buyer | {"If-None-Match": "*"})
    assert canceled.status_code == 200
    back = {"return_url": "https://app.example.com/"}
    portal = await client.get(f"{API}/portal", params=back, headers=buyer | {"If-None-Match": "*"})
    assert portal.status_code == 200
    for answer in (missing, anonymous, canceled, portal):
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers


def test_no_read_that_shows_a_secret_may_be_kept(settings: Settings) -> None:
    """Whoever adds a GET with a client secret, a new key or a hosted page to its answer marks it as never stored."""
    document = openapi_document()
    schemas = document["components"]["schemas"]

    def names(schema: Any, seen: set[str]) -> set[str]:
        """Of every property in it, however deep."""
        if isinstance(schema, list):
            return set().union(*(names(part, seen) for part in schema))
        if not isinstance(schema, dict):
            return set()
        found = set(schema.get("properties", {}))
        named = str(schema.get("$ref", "")).rsplit("/", 1)[-1]
        if named and named not in seen:
            seen.add(named)
            found |= names(schemas[named], seen)
        return found.union(*(names(part, seen) for part in schema.values()))

    marked = {
        context.path
        for context in iter_route_contexts(create_app(settings).routes)
        if "GET" in (context.methods or ()) and never_stored in _dependencies(context)
    }
    assert f"{API}/portal" in marked
    secret = {
        path
        for path, item in document["paths"].items()
        if {"client_secret", "token", "url"}
        & names(item.get("get", {}).get("responses", {}).get("200", {}).get("content", {}), set())
    }
    assert f"{API}/payments/intents/{{payment_intent_id}}" in secret
    never_told = {f"{API}/payments/intents"}  # the list is our own, and no secret is kept here
    assert secret - never_told <= marked


def _dependencies(context: Any) -> list[Any]:
    dependant = getattr(context, "dependant", None)
    return [] if dependant is None else [one.call for one in dependant.dependencies]


async def drive(app: Any, *, path: str = f"{API}/x", method: str = "GET", **headers: str) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw, "asgi": {"spec_version": "2.4"}}
    await ConditionalReadsMiddleware(app, prefix=API)(scope, receive, send)
    return sent


async def test_an_answer_in_parts_goes_through_untagged() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"[1,"
        yield b"2]"

    start, *bodies = await drive(StreamingResponse(parts()), if_none_match="*")
    assert start["status"] == 200
    assert b"".join(body["body"] for body in bodies) == b"[1,2]"
    names = {name for name, _ in start["headers"]}
    assert b"cache-control" in names
    assert b"etag" not in names


async def test_what_is_elsewhere_or_no_read_is_left_alone() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": gzip.compress(b"x")})

    for options in ({"path": "/healthz"}, {"method": "POST"}, {"path": f"{API}s"}):
        start, _ = await drive(app, **options)
        assert start["headers"] == []
    start, _ = await drive(app)
    assert {name for name, _ in start["headers"]} == {b"cache-control", b"etag"}


def test_conditional_reads_are_described() -> None:
    document = openapi_document()
    read = document["paths"][f"{API}/subscription"]["get"]
    assert read["responses"]["304"]["headers"].keys() >= {"ETag", "Cache-Control"}
    assert "content" not in read["responses"]["304"]
    assert "If-None-Match" in {parameter["name"] for parameter in read["parameters"]}
    assert "304" not in document["paths"][f"{API}/subscription/cancel"]["post"]["responses"]
    assert "304" not in document["paths"]["/healthz"]["get"]["responses"]
