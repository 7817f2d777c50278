"""Idempotency-Key: a repeated request is given the first one's answer, across processes and restarts.

The answer is stored after the route's transaction has committed, because as ASGI middleware this sees it only then.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import observability
from app.api import auth, problems
from app.api.deps import DERIVED_KEY, USER_MEANT
from app.db import Sessions, transaction
from app.errors import BillingError, ConflictError, InvalidRequestError, NotFoundError
from app.models import IdempotencyKey

log = structlog.get_logger(__name__)

METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
KEPT_FOR = timedelta(hours=24)
DEAD_AFTER = timedelta(seconds=60)
"""A request that runs for longer has lost its process; whoever repeats it takes it over."""

MAX_KEY_LENGTH = 255
_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_LENGTH}}}")
_REPLAYED_HEADERS = ("content-type", "location", "retry-after", "link")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to run one key's request and to store its answer."""

    caller: str
    key: str
    owner: str

    @property
    def mine(self) -> tuple[Any, ...]:
        """The condition for touching the row: still this request's, not that of a successor."""
        return (
            IdempotencyKey.caller == self.caller,
            IdempotencyKey.key == self.key,
            IdempotencyKey.owner == self.owner,
        )


class IdempotencyMiddleware:
    """For writes below `prefix` by callers that could be verified."""

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = prefix + "/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = Headers(scope=scope).getlist("idempotency-key") if self._concerns(scope) else []
        if not keys:
            await self._app(scope, receive, send)
            return
        key = key_of(keys)
        try:
            caller = (await auth.authenticate(scope)).actor
        except BillingError:
            # The route says so itself; without a caller there is nothing to remember.
            await self._app(scope, receive, send)
            return
        scope[DERIVED_KEY] = hashlib.sha256(f"{caller}\n{key}".encode()).hexdigest()
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        sessions: Sessions = scope["state"]["sessions"]
        claim = Claim(caller=caller, key=key, owner=uuid4().hex)
        first = await _claim(sessions, claim, _fingerprint(scope, body))
        if first is not None:
            observability.idempotent_replays.inc()
            await first(scope, receive, send)
            return
        await self._run(claim, scope, _repeating(body, receive), send)

    def _concerns(self, scope: Scope) -> bool:
        return scope["type"] == "http" and scope["method"] in METHODS and scope["path"].startswith(self._prefix)

    async def _run(self, claim: Claim, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request, and keep its answer before anybody sees it."""
        sessions: Sessions = scope["state"]["sessions"]
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        try:
            await self._app(scope, receive, collect)
        except Exception:
            await _release(sessions, claim)
            raise
        status = messages[0]["status"]
        # What passes by itself is no answer to keep: trying again must be possible.
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or scope.get(problems.RETRYABLE):
            await _release(sessions, claim)
        else:
            await _store(sessions, claim, messages, about=scope.get(USER_MEANT))
        for message in messages:
            await send(message)


def key_of(given: list[str]) -> str:
    """The header's value; the draft writes it in quotes, most clients don't."""
    key = given[0].removeprefix('"').removesuffix('"')
    if len(given) > 1 or not _KEY.fullmatch(key):
        raise InvalidRequestError(
            "Idempotency-Key must be one value of 1 to 255 visible ASCII characters.",
            code="invalid_idempotency_key",
            param="Idempotency-Key",
        )
    return key


def _fingerprint(scope: Scope, body: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _repeating(body: bytes, receive: Receive) -> Receive:
    """Gives the body that has been read once more, then what follows it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _claim(sessions: Sessions, claim: Claim, fingerprint: bytes) -> Response | None:
    """None when the request is ours to run, else the first request's answer.

    Raises InvalidRequestError when the key came with another request, ConflictError while the first one runs.
    """
    row = {"caller": claim.caller, "key": claim.key, "fingerprint": fingerprint, "owner": claim.owner}
    fresh = {
        "status": None,
        "headers": None,
        "body": None,
        "user_id": None,
        "created_at": func.now(),
        "locked_at": func.now(),
    }
    expired = IdempotencyKey.created_at < func.now() - KEPT_FOR
    abandoned = (
        IdempotencyKey.status.is_(None)
        & (IdempotencyKey.locked_at < func.now() - DEAD_AFTER)
        & (IdempotencyKey.fingerprint == fingerprint)
    )
    take = (
        insert(IdempotencyKey)
        .values(row)
        .on_conflict_do_update(index_elements=["caller", "key"], set_={**row, **fresh}, where=or_(expired, abandoned))
        .returning(IdempotencyKey.owner)
    )
    found = select(IdempotencyKey).where(IdempotencyKey.caller == claim.caller, IdempotencyKey.key == claim.key)
    async with transaction(sessions) as session:
        if await session.scalar(take) is not None:
            return None
        first = await session.scalar(found)
    if first is not None and first.fingerprint != fingerprint:
        raise InvalidRequestError(
            "This Idempotency-Key came with another request before.",
            code="idempotency_key_reused",
            param="Idempotency-Key",
        )
    if first is None or first.status is None:
        running = ConflictError("The first request with this key is still running.", code="idempotency_key_in_use")
        running.retryable = True
        raise running
    if first.body is None:
        raise NotFoundError("The answer was erased, with the customer it told of.", code="answer_erased")
    response = Response(first.body, first.status)
    response.raw_headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in first.headers or []]
    response.headers["Idempotent-Replayed"] = "true"
    return response


async def _store(sessions: Sessions, claim: Claim, messages: list[Message], *, about: str | None) -> None:
    """Keep the answer. If that fails the work is done all the same, and so is the answer: the claim times out."""
    start, *rest = messages
    headers = Headers(raw=start["headers"])
    kept = [[name, headers[name]] for name in _REPLAYED_HEADERS if name in headers]
    body = b"".join(message.get("body", b"") for message in rest)
    answer = {"status": start["status"], "headers": kept, "body": body, "user_id": about}
    statement = update(IdempotencyKey).where(*claim.mine).values(answer)
    try:
        async with transaction(sessions) as session:
            await session.execute(statement)
    except Exception:
        log.exception("idempotency_store_failed")


async def _release(sessions: Sessions, claim: Claim) -> None:
    """Let the next request with this key run. If that fails, the claim times out."""
    try:
        async with transaction(sessions) as session:
            await session.execute(delete(IdempotencyKey).where(*claim.mine))
    except Exception:
        log.exception("idempotency_release_failed")
