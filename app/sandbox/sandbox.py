"""The Sandbox: its state, clock, ids and events, which every endpoint and hosted page works with."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import httpx
import stripe

from app.sandbox import account_settings, clocks, events
from app.sandbox.delivery import RETRY_DELAYS, Deliveries
from app.sandbox.faults import Faults
from app.sandbox.ids import Ids
from app.sandbox.rendering import public
from app.sandbox.store import Row, Store

_ENDPOINTS = ("webhook_endpoint", "v2.core.event_destination")
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
        self._request = dict(_NO_REQUEST)
        self._passing_time = passing_time
        self.includes = includes
        self._seed = seed
        self.faults = Faults(self)
        #: The account whose world this is, None for the platform's own; and the platform's, which has the others.
        self.account: str | None = None
        self.platform = self
        self.own_account = "acct_1SandboxPlatform"
        self._worlds: dict[str | None, Sandbox] = {None: self}

    # Accounts

    def world(self, account: str | None) -> "Sandbox":
        """Give the state as this connected account has it: its own objects, events and keys, and nobody else's."""
        if account not in self._worlds:
            self._worlds[account] = world = copy(self.platform)
            world.account = account
            world._world, world._moment = f"{account}/", None  # noqa: SLF001 - the same class
        return self._worlds[account]

    def worlds(self) -> list["Sandbox"]:
        """The platform's, and that of each of its accounts."""
        return [self.platform, *(self.world(row["id"]) for row in self.platform.rows("account"))]

    def reset(self, *, seed: int | None = None, webhook_endpoints: bool = False) -> None:
        """Forget everything, also the faults; the platform's endpoints stay unless ``webhook_endpoints`` go as well.

        Ids begin anew from ``seed``, by default the first one's.
        """
        with self.platform.transaction():
            self.platform.clear(*(() if webhook_endpoints else _ENDPOINTS))
        self._seed = self._seed if seed is None else seed
        # Endpoints that stay keep their ids; the next ones must not be minted alike.
        kept = sum(len(self.platform.ids(kind)) for kind in _ENDPOINTS)
        self.new.reseed(None if self._seed is None else self._seed + kept)

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

    @contextmanager
    def at_clock_of(self, *subjects: Any) -> Iterator[None]:
        """Do something in the time of whoever is concerned: frozen if their customer is on a test clock.

        ``subjects`` are ids of any objects, or parameters that hold some.
        """
        clock = clocks.clock_of(self, *subjects)
        if clock is None:
            yield
            return
        with self.at(clock["frozen_time"]):
            yield

    def tick_soon(self) -> None:
        """Let time have its effects once more in this second, because a test clock has begun to advance."""
        self.platform._ticked_at = None  # noqa: SLF001 - the same class
        with suppress(RuntimeError):  # without a loop, whoever asks next makes it tick
            asyncio.get_running_loop().call_soon(self.tick)

    def tick(self) -> None:
        """Let time have its effects: sessions expire, trials end, periods roll over. At most once a second."""
        if self.platform is not self:
            self.platform.tick()
            return
        if self._ticked_at == self.now():
            return
        self._ticked_at = self.now()
        with self.transaction():
            for world in self.worlds():
                self._passing_time(world)
        self.deliveries.kick()

    # Requests and events

    @contextmanager
    def request(self, id: str, idempotency_key: str | None) -> Iterator[None]:
        """Name the API request that causes the events emitted inside."""
        self._request.update(id=id, idempotency_key=idempotency_key)  # in place: all worlds have the same
        try:
            yield
        finally:
            self._request.update(_NO_REQUEST)

    @contextmanager
    def changing(self, *subjects: str | None) -> Iterator[None]:
        """Wrap a change that comes from a hosted page: time first, then all or nothing, then the webhooks.

        ``subjects`` are ids of what it is about, which say whose time it is.
        """
        self.tick()
        try:
            with self.at_clock_of(subjects), self.transaction():
                yield
        finally:
            self.deliveries.kick()

    def emit(self, type: str, row: Row, previous: Row | None = None) -> Row:
        """Store the Event and queue it for every endpoint that wants it."""
        event = events.event(
            self.new.mint("evt_"), type, public(row), previous, created=self.now(), request=dict(self._request)
        )
        event["api_version"] = self.api_version
        if self.account is not None:
            event["account"] = self.account
        for endpoint in self._endpoints(type):
            if events.wanted(endpoint, type):
                event["pending_webhooks"] += 1
                self.enqueue(event, endpoint)
        return self.insert(event)

    def _endpoints(self, type: str) -> list[Row]:
        """The account's own endpoints, and those by which the platform listens to its accounts."""
        own = [row for row in self.rows("webhook_endpoint") if not row.get("_connect")]
        if self.account is None or not (self.platform.peek("account", self.account) or {}).get("_connected"):
            return own
        listening = [row for row in self.platform.rows("webhook_endpoint") if row.get("_connect")]
        return listening if type.startswith("account.application.") else own + listening

    def enqueue(self, event: Row, endpoint: Row) -> Row:
        """Queue an event for an endpoint: a snapshot for a webhook endpoint, a thin one for an event destination."""
        return self.insert(
            {
                "id": self.new.mint("_delivery_"),
                "object": "_delivery",
                "account": self.account,
                "event": event["id"],
                "event_object": event["object"],
                "webhook_endpoint": endpoint["id"],
                "endpoint_account": None if endpoint.get("_connect") else self.account,
                "endpoint_object": endpoint["object"],
                "status": "pending",
                "attempts": 0,
                "response_status": None,
                "next_attempt_at": self.time(),
                **self.deliveries.marks(event["type"]),
            }
        )

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

    @property
    def settings(self) -> Row:
        """What the account has set for failed payments; see ``account_settings.of``."""
        return account_settings.of(self)

    def configure(self, **values: Any) -> Row:
        """Change some of the ``settings``."""
        return account_settings.change(self, **values)

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
            self.world(delivery.get("account")).get("_delivery", delivery["id"])["status"] = "failed"

    async def aclose(self) -> None:
        await self.deliveries.aclose()
