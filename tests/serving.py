"""The application as a server runs it, but in this process: with its lifespan, and no socket."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

API = "/api/v1/billing"
PROBLEM = "application/problem+json"

Bearer = dict[str, str]
CreateKey = Callable[..., Awaitable[Bearer]]
"""Makes a service key with the given scopes."""


@asynccontextmanager
async def serving(app: FastAPI, *, base_url: str = "http://billhook.test") -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` while its lifespan lasts. Like a server, gives each request a copy of the lifespan's state."""
    async with app.router.lifespan_context(app) as state:

        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url=base_url) as client:
            yield client


def bearer(token: str) -> Bearer:
    return {"Authorization": f"Bearer {token}"}
