"""Webhook deliveries: signed afresh at each attempt, retried until a 2xx or until the delays are used up.

A delivery is a row beside its event, in the world of the account it happened in. A fault leaves its mark on the row:
``copies`` to send at once, ``forged`` for an attempt with a wrong signature, ``overtaken`` for one that waits until
a later one to the same endpoint has gone out.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import httpx
import stripe

from app.sandbox.store import Row

if TYPE_CHECKING:
    from app.sandbox.sandbox import Sandbox

#: Seconds until the next attempt. Real test mode gives up after three; someone restarting a server wants more.
RETRY_DELAYS = (1, 2, 5, 15, 60, 300, 900, 3600)
_TIMEOUT = 10  # seconds for one attempt
_FETCHED = frozenset({"changes", "data", "snapshot_event"})  # what a thin event shows only when it is retrieved
_WRONG_SECRET = "whsec_this_is_not_the_endpoints_secret"  # noqa: S105 - it signs what has to be refused
_USER_AGENT = "Stripe/1.0 (+https://stripe.com/docs/webhooks)"


class Deliveries:
    """Sends what ``Sandbox.emit`` queued. One task at most; it exists only while something is due."""

    def __init__(self, sandbox: "Sandbox", client: httpx.AsyncClient | None, retry_delays: Sequence[float]) -> None:
        self._sandbox = sandbox
        self._client = client
        self._owns_client = client is None
        self._retry_delays = retry_delays
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.held = False

    def pending(self) -> list[Row]:
        """Deliveries that will be attempted (again), each account's in the order their events were emitted."""
        rows = (row for world in self._sandbox.worlds() for row in world.rows("_delivery"))
        return [row for row in rows if row["status"] == "pending"]

    def marks(self, type: str) -> Row:
        """What the faults asked for make of a delivery of such an event that is about to be queued."""
        fault = self._sandbox.faults.of_event(type)
        if fault is None:
            return {}
        if fault["fault"] in {"delay", "reorder"}:
            late: Row = {"next_attempt_at": self._sandbox.time() + fault["seconds"]}
            return late | ({"overtaken": True} if fault["fault"] == "reorder" else {})
        marks: dict[str, Row] = {
            "bad_signature": {"forged": True},
            "drop": {"status": "failed"},
            "duplicate": {"copies": 2},
        }
        return marks[fault["fault"]]

    def kick(self) -> None:
        """Start sending if something is due and a loop runs; a task already at work sees it by itself."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self.held or not self._due() or (self._task is not None and not self._task.done()):
            return
        self._task = loop.create_task(self._send_due())

    async def drain(self) -> None:
        """Return when all that is deliverable now has been attempted, and what that caused as well."""
        while self._due() and not self.held:
            self.kick()
            if self._task is not None:
                await self._task

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._owns_client and self._client is not None:
            await self._client.aclose()

    async def attempt(self, delivery: Row) -> int | None:
        """Send one delivery now, also one that succeeded before (a duplicate). Gives the status, None if no answer."""
        world = self._sandbox.world(delivery.get("account"))
        event = world.get(delivery.get("event_object", "event"), delivery["event"])
        endpoint = self._sandbox.world(delivery.get("endpoint_account")).get(
            delivery.get("endpoint_object", "webhook_endpoint"), delivery["webhook_endpoint"]
        )
        secret = _WRONG_SECRET if delivery.get("forged") else endpoint["_secret"]
        status: int | None = None
        for _ in range(delivery.get("copies", 1)):
            try:
                answer = await self._http().post(
                    endpoint.get("url") or endpoint["_url"],
                    content=(body := self.body(event, endpoint)),
                    headers=self.headers(body, secret),
                    timeout=_TIMEOUT,
                )
                status = answer.status_code
            except httpx.HTTPError:
                status = None
        with world.transaction():
            if (row := world.find("_delivery", delivery["id"])) is not None:  # a reset may have come between
                self._record(world, row, status)
        return status

    @staticmethod
    def body(event: Row, endpoint: Row) -> str:
        """Render what is posted: Stripe indents by two, and shows the endpoint's API version, or no data at all."""
        if event["object"] == "event":
            shown = {**event, "api_version": endpoint["api_version"] or event["api_version"]}
        else:
            shown = {name: value for name, value in event.items() if name not in _FETCHED}
        return json.dumps(shown, indent=2, ensure_ascii=False)

    @staticmethod
    def headers(body: str, secret: str) -> dict[str, str]:
        # The receiver holds the timestamp against its own clock, so it is the wall's, whatever time the sandbox plays.
        signature = stripe.WebhookSignature.generate_signature_header(body, secret, int(time.time()))
        return {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature,
            "User-Agent": _USER_AGENT,
        }

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient()
        return self._client

    def _due(self) -> list[Row]:
        now = self._sandbox.time()
        return [row for row in self.pending() if row["next_attempt_at"] <= now]

    async def _send_due(self) -> None:
        """Attempt in order within an endpoint; a slow endpoint doesn't keep the others waiting."""
        while (due := self._due()) and not self.held:
            queues: dict[str, list[Row]] = {}
            for delivery in due:
                queues.setdefault(delivery["webhook_endpoint"], []).append(delivery)
            await asyncio.gather(*(self._send_queue(queue) for queue in queues.values()))
        if waiting := self.pending():
            delay = max(0.0, min(row["next_attempt_at"] for row in waiting) - self._sandbox.time())
            self._timer = asyncio.get_running_loop().call_later(delay, self.kick)

    async def _send_queue(self, queue: list[Row]) -> None:
        for delivery in queue:
            if not self.held and self._sandbox.world(delivery.get("account")).find("_delivery", delivery["id"]):
                await self.attempt(delivery)

    def _record(self, world: "Sandbox", delivery: Row, status: int | None) -> None:
        delivery["attempts"] += 1
        delivery["response_status"] = status
        for mark in ("copies", "forged"):
            delivery.pop(mark, None)
        if not delivery.pop("overtaken", False) and self._sandbox.faults.has("reorder"):
            for waiting in self.pending():
                if waiting.get("overtaken") and waiting["webhook_endpoint"] == delivery["webhook_endpoint"]:
                    self._sandbox.world(waiting.get("account")).get("_delivery", waiting["id"])["next_attempt_at"] = 0
        if delivery["status"] == "succeeded":
            return
        if status is not None and httpx.codes.is_success(status):
            delivery["status"] = "succeeded"
            if delivery.get("event_object", "event") == "event":
                world.get("event", delivery["event"])["pending_webhooks"] -= 1
        elif delivery["attempts"] > len(self._retry_delays):
            delivery["status"] = "failed"
        else:
            delivery["next_attempt_at"] = self._sandbox.time() + self._retry_delays[delivery["attempts"] - 1]
