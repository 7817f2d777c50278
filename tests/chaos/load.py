"""Deliveries as Stripe makes them: many at once, each sent again until it is acknowledged."""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
from serving import API
from signing import body, sign

SECRET = "whsec_dGVzdHMgc2lnbiB3aXRoIHRoaXMgc2VjcmV0"
PATIENCE = 20.0
"""Seconds that an answer may take: about what Stripe waits. Longer is a hang."""
PAUSE = 0.05


async def post(client: httpx.AsyncClient, event: Mapping[str, Any], *, base_url: str = "") -> httpx.Response:
    payload = body(event)
    headers = {"Stripe-Signature": sign(payload, SECRET)}
    return await client.post(f"{base_url}{API}/webhook", content=payload, headers=headers, timeout=PATIENCE)


class Load:
    """Sends to all of `urls` in turn, a list that may change meanwhile; each event `copies` times."""

    def __init__(self, urls: Sequence[str], *, connections: int, copies: int = 1) -> None:
        self.urls = urls
        self.acknowledged = set[str]()
        self.answers = Counter[int | str]()
        self.outcomes = Counter[tuple[str, str]]()
        self._turns = itertools.count()
        self._connections = connections
        self._copies = copies

    async def send(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Until each of `events` is acknowledged. Raises TimeoutError when an answer takes longer than a hang."""
        queue = deque(event for event in events for _ in range(self._copies))
        limits = httpx.Limits(max_keepalive_connections=self._connections)
        async with httpx.AsyncClient(limits=limits) as client, asyncio.TaskGroup() as group:
            for _ in range(self._connections):
                group.create_task(self._send(client, queue))

    async def _send(self, client: httpx.AsyncClient, queue: deque[Mapping[str, Any]]) -> None:
        while queue:
            event = queue.popleft()
            if not await self._attempt(client, event):
                queue.append(event)  # and meanwhile the others, as Stripe does
                await asyncio.sleep(PAUSE)

    async def _attempt(self, client: httpx.AsyncClient, event: Mapping[str, Any]) -> bool:
        url = self.urls[next(self._turns) % len(self.urls)]
        try:
            answer = await post(client, event, base_url=url)
        except httpx.TimeoutException as error:
            raise TimeoutError(f"{event['type']} was not answered in {PATIENCE} s: {error!r}") from error
        except httpx.TransportError as error:
            self.answers[type(error).__name__] += 1
            return False
        self.answers[answer.status_code] += 1
        if answer.is_success:
            self.acknowledged.add(event["id"])
            self.outcomes[event["id"], answer.json()["outcome"]] += 1
        return answer.is_success
