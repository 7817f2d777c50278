"""Receiving Stripe's events: stored for good before they are acknowledged, many deliveries to one commit."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

import asyncpg
import structlog
from prometheus_client import Counter
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import BillingError, UnavailableError
from app.observability import batch_size, events_received
from app.provider.mapping.events import decode
from app.provider.objects import Envelope
from app.provider.protocol import WebhookVerifier
from app.services.event_types import kind_of
from app.values import unix_now

log = structlog.get_logger(__name__)

WAKE_CHANNEL = "billhook_events"

BATCH_ROWS = 256
BATCH_BYTES = 4 * 1024 * 1024
WAITING_ROWS = 4096
WAITING_BYTES = 16 * 1024 * 1024
STORE_SECONDS = 5
"""What the receiver's engine should allow a statement: nobody waits longer for a database that has fallen silent."""
CONNECT_SECONDS = 3
RETRY_AFTER_SECONDS = 5

Outcome = Literal["stored", "duplicate", "ignored"]
Identity = tuple[str, str]
"""The connected account (empty for our own) and the event's id."""

# Answers with those that were known before. Within a transaction Postgres wakes the worker once, however often told.
STORE = """
WITH stored AS (
    INSERT INTO stripe_events
           (account, event_id, type, key, created, livemode, api_version, payload, reason, status)
    SELECT *, CASE WHEN reason IS NULL THEN 'pending' ELSE 'ignored' END
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::boolean[], $7::text[], $8::text[],
                  $9::text[])
           AS delivered (account, event_id, type, key, created, livemode, api_version, payload, reason)
        ON CONFLICT (account, event_id) DO NOTHING
    RETURNING account, event_id, CASE WHEN status = 'pending' THEN pg_notify($10, '') END AS woken
)
SELECT account, event_id FROM unnest($1::text[], $2::text[]) AS delivered (account, event_id)
EXCEPT
SELECT account, event_id FROM stored
"""
# What Postgres says of a row that it will never take; anything else is the database's own trouble, or passes.
ROWS_FAULT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.PLPGSQLError,
)


class BadWebhookError(BillingError):
    """Not from Stripe, or not an event: nothing is stored, and sending it again won't help."""

    status = 400
    code = "webhook_refused"


class Receipt(NamedTuple):
    """What became of a delivery. Whatever it is, the sender need not send it again."""

    event_id: str
    type: str
    outcome: Outcome


@dataclass(slots=True, eq=False)
class _Delivery:
    identity: Identity
    type: str
    counted_as: str
    """Its type, or "other" for all the types that we don't act on."""
    row: tuple[Any, ...]
    """As STORE wants it."""
    bytes: int
    ignored: bool
    outcome: "asyncio.Future[Outcome | None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """None when it could not be stored."""


class Receiver:
    """Stores what is delivered; deliveries that come while one commit is under way share the next. One per process.

    `engine` should be its own, with a single connection, which is held until it fails.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        verifier: WebhookVerifier,
        secrets: Sequence[str],
        livemode: bool,
        pgbouncer: bool = False,
    ) -> None:
        self._engine = engine
        self._verifier = verifier
        self._secrets = [secret.encode() for secret in secrets]
        self._livemode = livemode
        self._pgbouncer = pgbouncer
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        self._queue: deque[_Delivery] = deque()
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False

    async def receive(self, payload: bytes, signature: str) -> Receipt:
        """Verify a delivery and make it durable; when this returns, the event can't be lost.

        Raises BadWebhookError for what isn't Stripe's, UnavailableError when it can't be stored (Stripe will retry).
        """
        full = self._waiting_rows >= WAITING_ROWS or self._waiting_bytes + len(payload) > WAITING_BYTES
        if full or self._closed:
            _received("other", "unavailable").inc()
            why = "This server is stopping." if self._closed else "More deliveries wait than can be stored now."
            raise UnavailableError(why, retry_after=RETRY_AFTER_SECONDS)
        try:
            delivery = self._read(payload, signature)
        except BadWebhookError:
            _received("other", "refused").inc()
            raise
        self._queue.append(delivery)
        self._waiting_rows += 1
        self._waiting_bytes += delivery.bytes
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        outcome = await delivery.outcome
        if outcome is None:
            raise UnavailableError("The event can't be stored now.", retry_after=RETRY_AFTER_SECONDS)
        return Receipt(delivery.identity[1], delivery.type, outcome)

    async def aclose(self) -> None:
        """Store what waits, refuse what still comes, and give the connection back."""
        self._closed = True
        if self._flusher is not None:
            await asyncio.wait([self._flusher])
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def _read(self, payload: bytes, signature: str) -> _Delivery:
        if not self._verifier.verify_signature(payload, signature, secrets=self._secrets, now=unix_now()):
            raise BadWebhookError("The signature doesn't match, or is too old.", code="invalid_signature")
        try:
            text = payload.decode()
            envelope = self._verifier.parse_envelope(decode(text))
        except (ValueError, RecursionError) as error:
            raise BadWebhookError("The body is not an event.", code="invalid_event") from error
        reason = why_ignored(envelope, livemode=self._livemode)
        account = envelope.account or ""
        return _Delivery(
            identity=(account, envelope.id),
            type=envelope.type,
            counted_as=envelope.type if kind_of(envelope.type) else "other",
            row=(
                account,
                envelope.id,
                envelope.type,
                key_of(envelope),
                envelope.created,
                envelope.livemode,
                envelope.api_version,
                text,
                reason,
            ),
            bytes=len(payload),
            ignored=reason is not None,
        )

    async def _flush(self) -> None:
        """Store what waits, batch by batch. Ends with nothing waiting, and lets nobody wait for ever."""
        while self._queue:
            batch = self._next_batch()
            try:
                await self._store(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, each caller must be answered
                batch += self._queue
                self._queue.clear()
                # Not its detail: Postgres puts whole rows there.
                log.warning("stripe_webhooks_not_stored", deliveries=len(batch), error=repr(error))
                self._settle(batch, known=set(), refused={delivery.identity for delivery in batch})
                await self._disconnect()
        self._flusher = None

    def _next_batch(self) -> list[_Delivery]:
        batch = [self._queue.popleft()]
        size = batch[0].bytes
        while self._queue and len(batch) < BATCH_ROWS and size + self._queue[0].bytes <= BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += batch[-1].bytes
        return batch

    async def _store(self, batch: list[_Delivery]) -> None:
        # Of copies the first is stored. In the order of their ids, so that two processes can't wait for each other.
        by_identity = {delivery.identity: delivery for delivery in reversed(batch)}
        rows = [by_identity[identity].row for identity in sorted(by_identity)]
        known, refused = await self._insert(rows)
        _batch_size.observe(len(batch))
        self._settle(batch, known=known, refused=refused)

    def _settle(self, batch: list[_Delivery], *, known: set[Identity], refused: set[Identity]) -> None:
        """Tell each caller what became of its own delivery."""
        for delivery in batch:
            self._waiting_rows -= 1
            self._waiting_bytes -= delivery.bytes
            outcome: Outcome | None
            if delivery.identity in refused:
                outcome = None
            elif delivery.identity in known:
                outcome = "duplicate"
            else:
                known.add(delivery.identity)  # now it is, to its copies in this batch
                outcome = "ignored" if delivery.ignored else "stored"
            _received(delivery.counted_as, outcome or "unavailable").inc()
            if not delivery.outcome.done():  # else its caller has given up
                delivery.outcome.set_result(outcome)

    async def _insert(self, rows: list[tuple[Any, ...]]) -> tuple[set[Identity], set[Identity]]:
        """Store `rows`. Gives those that were known before, and those that Postgres will not have."""
        try:
            known = await self._execute(*zip(*rows, strict=True), WAKE_CHANNEL)
        except ROWS_FAULT as error:
            if len(rows) == 1:
                [(account, event_id, *_)] = rows
                log.error("stripe_webhook_unstorable", event_id=event_id, account=account, error=repr(error))  # noqa: TRY400 - a traceback would say nothing more
                return set(), {(account, event_id)}
            half = len(rows) // 2
            known, refused = await self._insert(rows[:half])
            more_known, more_refused = await self._insert(rows[half:])
            return known | more_known, refused | more_refused
        return {(account, event_id) for account, event_id in known}, set()

    async def _execute(self, *arguments: Any) -> Any:
        if self._driver is None or self._driver.is_closed():
            await self._connect()
        if not self._pgbouncer:
            return await self._driver.fetch(STORE, *arguments)
        async with self._driver.transaction():  # an unnamed statement is prepared and run by the same server
            return await self._driver.fetch(STORE, *arguments)

    async def _connect(self) -> None:
        await self._disconnect()
        async with asyncio.timeout(CONNECT_SECONDS):
            self._connection = await self._engine.connect()
            self._driver = (await self._connection.get_raw_connection()).driver_connection

    async def _disconnect(self) -> None:
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            with suppress(SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await connection.invalidate()
                await connection.close()


def why_ignored(envelope: Envelope, *, livemode: bool) -> str | None:
    """Why an event is kept but not acted on; None for one that is."""
    if envelope.livemode != livemode:
        return "wrong_mode"
    if envelope.account:
        return "connected_account"
    return None if kind_of(envelope.type) else "unhandled_type"


def key_of(envelope: Envelope) -> str:
    """Events of one key are applied one after another."""
    return envelope.customer or envelope.object_id or envelope.id


_batch_size = batch_size.labels("receive")


@cache
def _received(type: str, outcome: str) -> Counter:
    """Looking a child up costs more than counting; there are no more of them than types we act on."""
    return events_received.labels(type, outcome)
