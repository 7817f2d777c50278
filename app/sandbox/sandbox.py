"""The Sandbox: its state, clock, ids and events, which every endpoint and hosted page works with."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import stripe

from app.sandbox import events
from app.sandbox.delivery import RETRY_DELAYS, Deliveries
from app.sandbox.ids import Ids
from app.sandbox.rendering import public
from app.sandbox.store import Row, Store

_NO_REQUEST: Row = {"id": None, "idempotency_key": None}


class Sandbox(Store):
    """One Stripe test account. Single-threaded: a request's work never awaits, so it is atomic."""

    def __init__(
        self,
        *,
        base_url: str,
        state_file: Path | None = None,
        webhook_client: httpx.AsyncClient | None = None,
        seed: int | None = None,
        retry_delays: Sequence[float] = RETRY_DELAYS,
        now: Callable[[], float] = time.time,
        passing_time: Callable[["Sandbox"], None],
        includes: Mapping[tuple[str, str], Callable[["Sandbox", Row], Any]],
    ) -> None:
        super().__init__(state_file)
        self.base_url = base_url.rstrip("/")
        self.api_version: str = stripe.api_version
        # A restarted sandbox with the same seed must not mint the ids of its first life again.
        grown = len(self.ids("event")) if state_file else 0
        self.new = Ids(seed if seed is None else seed + grown)
        self.deliveries = Deliveries(self, webhook_client, retry_delays)
        self._clock = now
        self._moment: int | None = None
        self._ticked_at: int | None = None
        self._request: Row = _NO_REQUEST
        self._passing_time = passing_time
        self.includes = includes

    # Time

    def time(self) -> float:
        return self._clock()

    def now(self) -> int:
        """Seconds since the epoch, as the account's clock has it."""
        return int(self._clock()) if self._moment is None else self._moment

    @contextmanager
    def at(self, moment: int) -> Iterator[None]:
        """Do something as of a moment that has just passed, such as a renewal at the period's end."""
        before, self._moment = self._moment, moment
        try:
            yield
        finally:
            self._moment = before

    def tick(self) -> None:
        """Let time have its effects: sessions expire, trials end, periods roll over. At most once a second."""
        if self._ticked_at == self.now():
            return
        self._ticked_at = self.now()
        with self.transaction():
            self._passing_time(self)
        self.deliveries.kick()

    # Requests and events

    @contextmanager
    def request(self, id: str, idempotency_key: str | None) -> Iterator[None]:
        """Name the API request that causes the events emitted inside."""
        self._request = {"id": id, "idempotency_key": idempotency_key}
        try:
            yield
        finally:
            self._request = _NO_REQUEST

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Wrap a change that comes from a hosted page: time first, then all or nothing, then the webhooks."""
        self.tick()
        try:
            with self.transaction():
                yield
        finally:
            self.deliveries.kick()

    def emit(self, type: str, row: Row, previous: Row | None = None) -> Row:
        """Store the Event and queue it for every endpoint that wants it."""
        event = events.event(
            self.new.mint("evt_"), type, public(row), previous, created=self.now(), request=dict(self._request)
        )
        event["api_version"] = self.api_version
        for endpoint in self.rows("webhook_endpoint"):
            if events.wanted(endpoint, type):
                event["pending_webhooks"] += 1
                self.insert(
                    {
                        "id": self.new.mint("_delivery_"),
                        "object": "_delivery",
                        "event": event["id"],
                        "webhook_endpoint": endpoint["id"],
                        "status": "pending",
                        "attempts": 0,
                        "response_status": None,
                        "next_attempt_at": self.time(),
                    }
                )
        return self.insert(event)

    @contextmanager
    def updating(self, type: str, row: Row) -> Iterator[Row]:
        """Emit ``type`` with the previous attributes if the block changed anything visible of ``row``."""
        before = public(row)
        yield row
        previous = events.previous_attributes(before, public(row))
        if previous:
            self.emit(type, row, previous)

    @staticmethod
    def shown(row: Row) -> Row:
        """Copy a row as clients see it."""
        copy: Row = public(row)
        return copy

    def include(self, shown: Row, field: str) -> Any:
        """Make a field that an object shows only when it is expanded."""
        return deepcopy(self.includes[shown["object"], field](self, shown))

    # For tests and `billhook dev`

    def add_webhook_endpoint(self, url: str, secret: str | None = None, enabled_events: Sequence[str] = ("*",)) -> Row:
        """Register an endpoint without an API request; its ``_secret`` signs (a fresh one unless given)."""
        with self.transaction():
            return self.insert(
                {
                    "id": self.new.mint("we_"),
                    "object": "webhook_endpoint",
                    "api_version": None,
                    "application": None,
                    "created": self.now(),
                    "description": None,
                    "enabled_events": list(enabled_events),
                    "livemode": False,
                    "metadata": {},
                    "status": "enabled",
                    "url": url,
                    "_secret": secret or self.new.mint("whsec_"),
                }
            )

    async def drain(self) -> None:
        """Let time pass, then wait until every delivery that is due has been attempted."""
        self.tick()
        await self.deliveries.drain()

    def hold_deliveries(self) -> None:
        """Stop sending: from now on a test delivers by hand, in the order it likes, twice or never."""
        self.deliveries.held = True

    def release_deliveries(self) -> None:
        self.deliveries.held = False
        self.deliveries.kick()

    def pending_deliveries(self) -> list[Row]:
        return self.deliveries.pending()

    async def deliver(self, delivery: Row) -> int | None:
        """Send one delivery, held or not; gives the receiver's status, None if there was no answer."""
        return await self.deliveries.attempt(delivery)

    def drop(self, delivery: Row) -> None:
        """Lose a delivery for good, as a network may."""
        with self.transaction():
            self.get("_delivery", delivery["id"])["status"] = "failed"

    async def aclose(self) -> None:
        await self.deliveries.aclose()
