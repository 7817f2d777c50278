"""Clients that spend over HTTP until everything they wanted is answered, and what the books must say afterwards."""

import asyncio
import itertools
import random
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
from crediting import audit
from serving import API, Bearer, bearer
from sqlalchemy import text

from app.db import Sessions
from app.services import identity

PATIENCE = 20.0
"""Seconds that an answer may take. Longer is a hang."""
PAUSE = 0.05


@dataclass(eq=False)
class Wish:
    """A charge; or a hold and what is to become of it: `captured` uses, or None if it is released."""

    user_id: str
    quantity: int
    hold: bool = False
    captured: int | None = None
    key: str = field(default_factory=lambda: uuid4().hex)
    made: dict[str, Any] | None = None
    """The first answer that it was made."""
    ended: dict[str, Any] | None = None
    """The first answer that what was held was captured, or released."""
    refused: bool = False

    @property
    def fulfilled(self) -> bool:
        return self.refused or (self.made is not None and (not self.hold or self.ended is not None))

    @property
    def left(self) -> tuple[str, int, int]:
        """Status, quantity and captured uses in the end."""
        if not self.hold:
            return "captured", self.quantity, self.quantity
        return ("released", self.quantity, 0) if self.captured is None else ("captured", self.quantity, self.captured)


def some_wishes(choose: random.Random, users: Sequence[str], most: int) -> list[Wish]:
    wishes = []
    for _ in range(most):
        quantity = choose.choice([1, 1, 1, 2, 5])
        end = choose.choice([None, *range(1, quantity + 1)])
        wishes.append(Wish(choose.choice(users), quantity, choose.random() < 0.3, end))
    return wishes


class Spending:
    """Asks all of `urls` in turn, a list that may change meanwhile."""

    def __init__(self, urls: Sequence[str], key: Bearer, *, connections: int) -> None:
        self.urls = urls
        self.answers = Counter[int | str]()
        self._key = key
        self._connections = connections
        self._turns = itertools.count()

    @property
    def done(self) -> int:
        """How many requests had success."""
        return self.answers[200] + self.answers[201]

    async def fulfil(self, wishes: Iterable[Wish]) -> None:
        """Ask again, with the same keys, until each is answered. Raises TimeoutError for an answer that hangs."""
        queue = deque(wishes)
        limits = httpx.Limits(max_keepalive_connections=self._connections)
        async with httpx.AsyncClient(limits=limits, headers=self._key) as client, asyncio.TaskGroup() as group:
            for _ in range(self._connections):
                group.create_task(self._work(client, queue))

    async def repeat(self, wishes: Iterable[Wish]) -> None:
        """Once more, though they are answered: as the first time."""
        async with httpx.AsyncClient(headers=self._key) as client:
            for wish in wishes:
                if (again := await self._create(client, wish)) is not None:
                    assert wish.made is not None
                    assert again.json() == wish.made
                    assert again.headers["idempotent-replayed"] == "true"

    async def _work(self, client: httpx.AsyncClient, queue: deque[Wish]) -> None:
        while queue:
            wish = queue.popleft()
            await self._try(client, wish)
            if not wish.fulfilled:
                queue.append(wish)
                await asyncio.sleep(PAUSE)

    async def _try(self, client: httpx.AsyncClient, wish: Wish) -> None:
        if wish.made is None:
            if (answer := await self._create(client, wish)) is None:
                return
            wish.made = answer.json()
        if wish.hold:
            verb, body = ("release", None) if wish.captured is None else ("capture", {"quantity": wish.captured})
            path = f"/charges/{wish.made['charge_id']}/{verb}"
            # A key whose request died is in use for a minute; but to capture or release again is harmless by itself.
            if (ended := await self._post(client, path, body, key=uuid4().hex)) is not None:
                assert ended.status_code == 200, ended.text
                wish.ended = ended.json()

    async def _create(self, client: httpx.AsyncClient, wish: Wish) -> httpx.Response | None:
        body = {"user_id": wish.user_id, "quantity": wish.quantity, "hold": wish.hold}
        answer = await self._post(client, "/charges", body, key=wish.key)
        if answer is not None and answer.status_code == 402:
            wish.refused = True
            return None
        assert answer is None or answer.status_code == 201, answer.text
        return answer

    async def _post(
        self, client: httpx.AsyncClient, path: str, body: dict[str, Any] | None, *, key: str
    ) -> httpx.Response | None:
        """None if it isn't known what came of it."""
        url = self.urls[next(self._turns) % len(self.urls)]
        headers = {"Idempotency-Key": key}
        try:
            answer = await client.post(f"{url}{API}{path}", json=body, headers=headers, timeout=PATIENCE)
        except httpx.TimeoutException as error:
            raise TimeoutError(f"{path} was not answered in {PATIENCE} s: {error!r}") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            self.answers[type(error).__name__] += 1
            return None
        self.answers[answer.status_code] += 1
        return answer if answer.status_code < 500 else None


async def service_key(sessions: Sessions) -> Bearer:
    async with sessions.begin() as session:
        _, token = await identity.create_key(
            session, name="test", scopes=["credits:write", "credits:read"], actor="cli"
        )
    return bearer(token)


async def lies(sessions: Sessions, wishes: Iterable[Wish]) -> list[Any]:
    """What was answered and isn't so, what is there and nobody asked for, and all that is wrong with the books."""
    found: list[Any] = []
    made = {wish.key: wish for wish in wishes if wish.made is not None}
    async with sessions() as session:
        rows = {
            row.key: row
            for row in await session.execute(
                text("""SELECT c.*, a.user_id FROM credit_charges c JOIN credit_accounts a ON a.id = c.account_id""")
            )
        }
    found += [("lost", made[key].made) for key in made.keys() - rows.keys()]
    found += [("not asked for", key) for key in rows.keys() - made.keys()]
    for key in made.keys() & rows.keys():
        wish, row = made[key], rows[key]
        assert wish.made is not None
        said = (wish.made["charge_id"], wish.made["quantity"], wish.made["balance_after"])
        if said != (str(row.id), row.quantity, row.balance_after) or row.user_id != wish.user_id:
            found.append(("told otherwise", wish.made, dict(row._mapping)))
        if wish.fulfilled and (row.status, row.quantity, row.captured) != wish.left:
            found.append(("ended otherwise", wish, dict(row._mapping)))
    return found + await audit(sessions)
