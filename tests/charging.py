"""Backends that ask about credits and charge them, as clients of the API."""

from typing import Any

import httpx
from serving import API, Bearer
from sqlalchemy import func, select, update

from app import models
from app.db import Sessions, transaction
from app.services.catalog import Catalog
from app.services.credits.accounts import Identity, open_or_create
from app.values import unix_now

CHECK, CHARGES = f"{API}/credits/check", f"{API}/charges"
GOOGLE = {"oauth_provider": "oauth:google", "external_id": "user@example.com"}
USER = "google:user@example.com"


async def check(client: httpx.AsyncClient, who: Bearer, **body: Any) -> httpx.Response:
    return await client.post(CHECK, json=body, headers=who)


async def checked(client: httpx.AsyncClient, who: Bearer, **body: Any) -> dict[str, Any]:
    answer = await check(client, who, **body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def charge(client: httpx.AsyncClient, who: Bearer, wish: str | None, **body: Any) -> httpx.Response:
    headers = who if wish is None else {**who, "Idempotency-Key": wish}
    return await client.post(CHARGES, json=body or GOOGLE, headers=headers)


async def give(sessions: Sessions, catalog: Catalog, uses: int, user_id: str = USER) -> None:
    async with transaction(sessions) as session:
        book, _ = await open_or_create(session, catalog.credits, Identity(user_id=user_id), unix_now())
        book.grant(uses)
        await book.close()


async def set_status(sessions: Sessions, status: str) -> None:
    async with transaction(sessions) as session:
        await session.execute(update(models.CreditAccount).values(status=status))


async def count(sessions: Sessions, model: Any) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(model)) or 0


async def sample(client: httpx.AsyncClient, name: str) -> float:
    """A metric's value."""
    metrics = (await client.get("/metrics")).text
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name + " "))
