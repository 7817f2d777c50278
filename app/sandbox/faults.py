"""Faults on demand: requests that are refused or never answered, webhooks that come twice, late or not at all."""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, NotRequired, get_args

from starlette.requests import Request
from typing_extensions import TypedDict

from app.sandbox import params
from app.sandbox.errors import ApiError
from app.sandbox.store import Row

if TYPE_CHECKING:
    from app.sandbox.sandbox import Sandbox

RequestFault = Literal["error", "lock_timeout", "rate_limit", "timeout_after", "timeout_before"]
WebhookFault = Literal["bad_signature", "delay", "drop", "duplicate", "reorder"]

_KIND = "sandbox.fault"
_STRIKING_REQUESTS: tuple[str, ...] = get_args(RequestFault)
_STRIKING_WEBHOOKS: tuple[str, ...] = get_args(WebhookFault)
#: Seconds, where ``seconds`` says nothing: Retry-After of a 429, how late a webhook is, how long one lets others pass.
_SECONDS = {"rate_limit": 1.0, "lock_timeout": 1.0, "delay": 5.0, "reorder": 10.0}
_OF_REQUESTS = ("method", "path")
_OF_WEBHOOKS = ("event_type",)
_RATE_LIMIT = "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits."
_LOCK_TIMEOUT = (
    "This object cannot be accessed right now because another API request or Stripe process is currently accessing it. "
    "If you see this error intermittently, retry the request. If you see this error frequently and are making multiple "
    "concurrent requests to a single object, make your requests serially or at a lower rate. For more details, see "
    "https://stripe.com/docs/rate-limits#object-lock-timeouts."
)
#: Fault → status, type, code and message of the answer.
_REFUSALS: dict[str, tuple[int, str, str | None, str]] = {
    "error": (500, "api_error", None, "An unknown error occurred"),
    "lock_timeout": (429, "invalid_request_error", "lock_timeout", _LOCK_TIMEOUT),
    "rate_limit": (429, "invalid_request_error", "rate_limit", _RATE_LIMIT),
}


class FaultParams(TypedDict):
    """What `POST /_sandbox/faults` takes."""

    fault: RequestFault | WebhookFault
    event_type: NotRequired[str]
    method: NotRequired[Literal["DELETE", "GET", "POST"]]
    path: NotRequired[str]
    probability: NotRequired[float]
    seconds: NotRequired[float]
    seed: NotRequired[int]
    times: NotRequired[int]


class Faults:
    """The faults that were asked for, part of the sandbox's state. The first one that fits strikes."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    def add(
        self,
        fault: RequestFault | WebhookFault,
        *,
        times: int | None = None,
        probability: float | None = None,
        seed: int = 0,
        seconds: float | None = None,
        method: str | None = None,
        path: str | None = None,
        event_type: str | None = None,
    ) -> Row:
        """Have the next request or event that fits go wrong; ApiError if the parts don't go together.

        ``times``: so many of them. ``probability``: each with this chance, drawn from ``seed``, until ``times`` have
        been struck. ``path`` and ``event_type`` may hold "*" for anything. ``seconds``: Retry-After, or how late.
        """
        for name in _OF_WEBHOOKS if fault in _STRIKING_REQUESTS else _OF_REQUESTS:
            if {"method": method, "path": path, "event_type": event_type}[name] is not None:
                raise ApiError(f"A `{fault}` fault does not take `{name}`.", param=name)
        if seconds is not None and fault not in _SECONDS:
            raise ApiError(f"A `{fault}` fault does not take `seconds`.", param="seconds")
        if times is not None and times < 1:
            raise ApiError("This value must be greater than or equal to 1.", param="times")
        if probability is not None and not 0 < probability <= 1:
            raise ApiError("This value must be greater than 0 and at most 1.", param="probability")
        if seconds is not None and seconds < 0:
            raise ApiError("This value must be greater than or equal to 0.", param="seconds")
        with self._sandbox.transaction():
            return self._sandbox.insert(
                {
                    "id": f"fault_{len(self._sandbox.ids(_KIND)) + 1}",
                    "object": _KIND,
                    "event_type": event_type,
                    "fault": fault,
                    "method": method,
                    "path": path,
                    "probability": probability,
                    "seconds": _SECONDS.get(fault) if seconds is None else seconds,
                    "seed": seed,
                    "struck": 0,
                    "times": 1 if times is None and probability is None else times,
                    "_seen": 0,
                }
            )

    def create(self, tree: Row) -> Row:
        """Do as `POST /_sandbox/faults` says."""
        given: Any = params.typed(FaultParams, tree)
        for name in ("probability", "seconds"):
            if name in given:
                given[name] = float(given[name])
        return self.add(**given)

    def rows(self) -> list[Row]:
        """All of them, also those that have struck as often as they should."""
        return self._sandbox.rows(_KIND)

    def has(self, fault: RequestFault | WebhookFault) -> bool:
        return any(row["fault"] == fault for row in self.rows())

    def clear(self) -> None:
        with self._sandbox.transaction():
            for row in self.rows():
                self._sandbox.forget(_KIND, row["id"])

    @asynccontextmanager
    async def around(self, request: Request, headers: dict[str, str]) -> AsyncIterator[None]:
        """Do a request's work inside: it may be refused before, with ``headers``, or its answer never come."""
        fault = self._draw(_STRIKING_REQUESTS, {"method": request.method, "path": request.url.path})
        kind = fault and fault["fault"]
        if fault is not None and kind in _REFUSALS:
            status, type, code, message = _REFUSALS[kind]
            if fault["seconds"] is not None:
                headers["Retry-After"] = str(int(fault["seconds"]))
            raise ApiError(message, status=status, type=type, code=code)
        if kind == "timeout_before":
            await _silence(request)
            raise ApiError("Nobody waits for this answer any more.", status=500, type="api_error")
        yield
        if kind == "timeout_after":
            await _silence(request)

    def of_event(self, type: str) -> Row | None:
        """Draw what befalls the webhooks of an event of this type."""
        return self._draw(_STRIKING_WEBHOOKS, {"event_type": type})

    def _draw(self, kinds: tuple[str, ...], facts: Mapping[str, str]) -> Row | None:
        for row in self.rows():
            spent = row["times"] is not None and row["struck"] >= row["times"]
            fits = all(fnmatchcase(value, row[name] or "*") for name, value in facts.items())
            if row["fault"] not in kinds or spent or not fits:
                continue
            with self._sandbox.transaction():
                row = self._sandbox.get(_KIND, row["id"])  # noqa: PLW2901 - the same row, now under the transaction
                row["_seen"] += 1
                # From the seed and the count alone, so a restart goes on with the same luck.
                luck = random.Random(f"{row['seed']}:{row['_seen']}").random()  # noqa: S311 - no secret depends on it
                if row["probability"] is None or luck < row["probability"]:
                    row["struck"] += 1
                    return row
        return None


async def _silence(request: Request) -> None:
    """Wait until the client has given up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
