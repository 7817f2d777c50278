"""The fast lane: bare ASGI for what a product asks at every turn, ahead of the middleware, which would cost most of it.

Does itself what middleware does for all other routes, and leaves the same log line and metrics.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache, partial
from typing import Generic, NamedTuple, TypeVar

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api import headers, problems
from app.api.body_reader import BodyReader
from app.api.cors import OriginsMiddleware
from app.api.credit_schemas import Identified, identify, meant
from app.api.deps import require_scope
from app.api.gate import Gate, Visit
from app.api.request_id import HEADER as REQUEST_ID
from app.api.request_id import assign_request_id
from app.db import Sessions
from app.errors import InvalidRequestError
from app.observability import LineLog, http_requests, http_seconds, redact
from app.services import identity
from app.services.credits.accounts import Identity
from app.services.credits.reader import Looked
from app.services.identity import Caller, User

_HEADERS = [(name.lower().encode(), value.encode()) for name, value in headers.FOR_DATA.items()]
_JSON = (b"content-type", b"application/json")
_REQUEST_ID = REQUEST_ID.lower().encode()
_VARY = (b"vary", b"Origin")  # as the middleware says where there was none

Header = tuple[bytes, bytes]
Body = TypeVar("Body", bound=Identified)


class Answer(NamedTuple):
    """As it is sent; `headers` are those that not all answers have."""

    status: int
    headers: Sequence[Header]
    content: bytes


def answer_of(status: int, body: BaseModel, *more: Header) -> Answer:
    content = body.model_dump_json().encode()
    return Answer(status, [_JSON, (b"content-length", b"%d" % len(content)), *more], content)


def problem_of(response: Response) -> Answer:
    return Answer(response.status_code, response.raw_headers, bytes(response.body))


class Lane(ABC, Generic[Body]):
    """Answers what is posted to `path`. `scopes` are what a service key needs one of."""

    model: type[Body]
    scopes: tuple[identity.Scope, ...]
    for_users: bool
    """Whether users may ask with their own tokens, for themselves."""

    def __init__(self, path: str, *, bodies: BodyReader, gate: Gate, origins: Sequence[str], log: LineLog) -> None:
        self.log = log
        self._path = path
        self._bodies = bodies
        self._gate = gate
        self._from_pages = OriginsMiddleware(self._serve, origins=origins)
        self._seconds = http_seconds.labels("POST", path)
        self._requests = cache(partial(http_requests.labels, "POST", path))

    def about(self, asked: Body) -> str | None:  # noqa: ARG002 - for those who override it
        """Whose account is to be looked up beside the caller."""
        return None

    @abstractmethod
    async def answer(self, scope: Scope, caller: Caller, asked: Body, looked: Looked) -> Answer:
        """`looked` is what is known of the user that `about` named, or who asks themselves."""

    async def identity(self, scope: Scope, caller: Caller, asked: Body) -> Identity:
        """Whom it is about. Raises NotFoundError, InvalidRequestError, PermissionDeniedError."""
        if asked.customer is None:
            return meant(caller, asked, asked.named_user, *self.scopes)
        sessions: Sessions = scope["state"]["sessions"]
        async with sessions() as session:
            return await identify(session, caller, asked, *self.scopes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from_page = any(name == b"origin" for name, _ in scope["headers"])
        await (self._from_pages if from_page else self._serve)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        request_id = assign_request_id(scope)
        visit = Visit(scope)
        given: dict[bytes, bytes] = dict(scope["headers"])
        try:
            body = await self._bodies.read(given.get(b"content-length", b""), receive)
            if body is None:
                return
            answer = await self._answer(visit, body)
        except Exception as error:  # noqa: BLE001 - an unexpected one is logged and answered by `respond`
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                answer = problem_of(problems.respond(error, scope))
        head = [*answer.headers, *_HEADERS, (_REQUEST_ID, request_id.encode())]
        if visit.window is not None:
            head += visit.window.headers
        if b"origin" not in given:
            head.append(_VARY)
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        await send({"type": "http.response.body", "body": answer.content})
        seconds = time.perf_counter() - start
        self._requests(answer.status).inc()
        self._seconds.observe(seconds)
        self.log.info(
            "http_request",
            method="POST",
            route=self._path,
            status=answer.status,
            duration_ms=round(seconds * 1000, 2),
            caller=_shown(visit.caller),
            request_id=request_id,
        )

    async def _answer(self, visit: Visit, body: bytes) -> Answer:
        asked = self._read(visit.scope, body)
        about = None if isinstance(asked, Exception) else self.about(asked)
        # Who may not ask, and who asks too often, isn't told what is wrong with the question.
        caller, looked = await self._gate.admit(visit, about=about)
        if not self.for_users:
            require_scope(caller, *self.scopes)
        if isinstance(asked, Exception):
            raise asked
        return await self.answer(visit.scope, caller, asked, looked)

    def _read(self, scope: Scope, body: bytes) -> Body | Exception:
        if scope["query_string"]:
            return InvalidRequestError("The query parameters here are: none.", code="unknown_parameter")
        try:
            return self.model.model_validate_json(body or b"{}")
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            return RequestValidationError([{**wrong, "loc": ("body", *wrong["loc"])} for wrong in found])


def _shown(caller: Caller | None) -> str | None:
    """The caller as the log may have them: a user's id can be an address."""
    if isinstance(caller, User):
        return str(redact(caller.actor))
    return None if caller is None else caller.actor
