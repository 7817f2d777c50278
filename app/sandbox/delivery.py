"""Webhook deliveries: signed afresh at each attempt, retried until a 2xx or until the delays are used up."""

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
        """Deliveries that will be attempted (again), in the order their events were emitted."""
        return [row for row in self._sandbox.rows("_delivery") if row["status"] == "pending"]

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
        sandbox = self._sandbox
        event = sandbox.get("event", delivery["event"])
        endpoint = sandbox.get("webhook_endpoint", delivery["webhook_endpoint"])
        status: int | None
        try:
            answer = await self._http().post(
                endpoint["url"],
                content=(body := self.body(event, endpoint)),
                headers=self.headers(body, endpoint),
                timeout=_TIMEOUT,
            )
            status = answer.status_code
        except httpx.HTTPError:
            status = None
        with sandbox.transaction():
            self._record(sandbox.get("_delivery", delivery["id"]), status)
        return status

    @staticmethod
    def body(event: Row, endpoint: Row) -> str:
        """Render what is posted: Stripe indents by two, and shows the endpoint's API version."""
        shown = {**event, "api_version": endpoint["api_version"] or event["api_version"]}
        return json.dumps(shown, indent=2, ensure_ascii=False)

    @staticmethod
    def headers(body: str, endpoint: Row) -> dict[str, str]:
        # The receiver holds the timestamp against its own clock, so it is the wall's, whatever time the sandbox plays.
        signature = stripe.WebhookSignature.generate_signature_header(body, endpoint["_secret"], int(time.time()))
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
            if not self.held:
                await self.attempt(delivery)

    def _record(self, delivery: Row, status: int | None) -> None:
        delivery["attempts"] += 1
        delivery["response_status"] = status
        if delivery["status"] == "succeeded":
            return
        if status is not None and httpx.codes.is_success(status):
            delivery["status"] = "succeeded"
            self._sandbox.get("event", delivery["event"])["pending_webhooks"] -= 1
        elif delivery["attempts"] > len(self._retry_delays):
            delivery["status"] = "failed"
        else:
            delivery["next_attempt_at"] = self._sandbox.time() + self._retry_delays[delivery["attempts"] - 1]
