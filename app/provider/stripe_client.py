"""One way of talking to Stripe: our HTTP pool, one deadline, retries, the breaker, and Stripe's errors as ours."""

import asyncio
import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Literal

import anyio.lowlevel
import httpx
import stripe
from typing_extensions import override

from app.errors import (
    BillingError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PaymentFailedError,
    ProviderError,
    RateLimitedError,
    UnavailableError,
)
from app.observability import provider_seconds
from app.provider.breaker import CircuitBreaker
from app.provider.throttle import Throttle

API_VERSION = "2026-10-28.endive"
FIRST_PAUSE = 0.5  # seconds before the first retry; doubles each time
CONNECT_TIMEOUT = 5  # seconds; short enough for a second try within the deadline

# The SDK's switch is a module global. Left on, the first request writes a file into the home directory and
# every request tells Stripe about this machine.
stripe.enable_telemetry = False

Verb = Literal["get", "post", "delete"]
NO_PARAMS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A success: its JSON, Stripe's clock (unix seconds), and whether it repeats the answer to an earlier request."""

    data: dict[str, Any]
    at: int
    replayed: bool
    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """What a refusal (400) by Stripe means to the caller of one operation; without any, it means a bug of ours.

    `params` maps Stripe's names of the parameters that came from the caller to the caller's own names. `conflict` is
    the sentence for a refusal that points at no parameter, where that can only be about the object's state.
    """

    params: Mapping[str, str] = field(default_factory=dict)
    conflict: str | None = None


OURS = Blame()


class StripeClient:
    """Sends requests; raises nothing but the kinds of `app.errors`. `livemode` says which world the key opens."""

    def __init__(
        self,
        secret_key: str,
        *,
        base_url: str | None,
        transport: httpx.AsyncBaseTransport | None,
        timeout: float,
        max_network_retries: int,
        api_version: str,
        breaker: CircuitBreaker,
        throttle: Throttle | None,
    ) -> None:
        """`timeout` is in seconds and covers an operation with its retries. `base_url` stands in for Stripe's hosts."""
        self.livemode = secret_key.startswith(("sk_live_", "rk_live_"))
        self._timeout = timeout
        self._max_network_retries = max_network_retries
        self._breaker = breaker
        self._throttle = throttle
        base = base_url.rstrip("/") if base_url else None
        self._http = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout)),
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=50, keepalive_expiry=55),
            # The way to Stripe may lead through the environment's proxy; a stand-in is always near.
            trust_env=base is None,
        )
        self._sdk = stripe.StripeClient(
            secret_key,
            stripe_version=api_version,
            http_client=_HTTPClient(self._http),
            base_addresses={"api": base, "connect": base, "files": base, "meter_events": base} if base else None,
        )

    async def warm(self) -> None:
        """Let anyio load what httpx would otherwise have it load inside the first request."""
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def send(
        self,
        verb: Verb,
        path: str,
        params: Mapping[str, object] = NO_PARAMS,
        *,
        idempotency_key: str | None = None,
        blame: Blame = OURS,
    ) -> Answer:
        """One operation: tried again while that can help, within the deadline and while the breaker is closed."""
        started, outcome = time.perf_counter(), "ok"
        try:
            return await self._send(verb, path, params, idempotency_key=idempotency_key, blame=blame)
        except BillingError as error:
            outcome = error.code
            raise
        finally:
            resource = path.split("/")[2]  # what follows may be an id, which must not become a label
            provider_seconds.labels(verb, resource, outcome).observe(time.perf_counter() - started)

    async def _send(
        self,
        verb: Verb,
        path: str,
        params: Mapping[str, object],
        *,
        idempotency_key: str | None,
        blame: Blame,
    ) -> Answer:
        # Without a caller's key the tries share one of ours, or a retry after a lost answer would do the work twice.
        key = {} if verb == "get" else {"idempotency_key": idempotency_key or str(uuid.uuid4())}
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timeout
        retries = 0
        while True:
            if self._throttle is not None:
                deadline += await self._throttle.turn()  # Stripe isn't to blame for this
            self._breaker.check()
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await self._try(verb, path, {**params, **key})
            except TimeoutError as error:
                self._breaker.failed()
                raise UnavailableError("Stripe took too long to answer.") from error
            except stripe.StripeError as error:
                failure = billing_error(error, blame)
                if isinstance(failure, UnavailableError) and not failure.replayed:
                    self._breaker.failed()
                else:
                    self._breaker.succeeded()
                pause = _backoff(retries) + (failure.retry_after or 0)
                too_late = clock() + pause >= deadline
                if too_late or retries == self._max_network_retries or not _retryable(failure, error):
                    raise failure from error
            else:
                self._breaker.succeeded()
                return answer
            retries += 1
            await asyncio.sleep(pause)

    async def _try(self, verb: Verb, path: str, params: Mapping[str, object]) -> Answer:
        try:
            # No object tree is built from a raw answer, which is half the cost of a call.
            response = await self._sdk.raw_request_async(verb, path, **params)
        except (AttributeError, UnicodeDecodeError) as error:
            # The SDK stumbles over {"error": "bad gateway"} and over bytes that are no text, which only something
            # between us and Stripe would say.
            raise stripe.APIError("the answer is not Stripe's") from error
        if not isinstance(response.data, dict):
            raise stripe.APIError("the answer is not Stripe's")
        return Answer(
            data=response.data,
            at=_clock(response.headers.get("date")),
            replayed=response.headers.get("idempotent-replayed") == "true",
            request_id=response.request_id,
        )


class _HTTPClient(stripe.HTTPClient):
    """The SDK's requests over our own httpx client, whose pool and transport the SDK's does not let us choose."""

    name = "httpx"

    def __init__(self, client: httpx.AsyncClient) -> None:
        super().__init__()
        self._client = client

    @override
    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            response = await self._client.request(method, url, headers=headers, content=post_data)
        except httpx.HTTPError as error:
            # The SDK left this one constructor without types.
            raise stripe.APIConnectionError(type(error).__name__) from error  # type: ignore[no-untyped-call]
        return response.content, response.status_code, response.headers


def billing_error(error: stripe.StripeError, blame: Blame = OURS) -> BillingError:
    """Stripe's error as one of ours. Stripe's own words reach the caller only where they are meant for a buyer."""
    body = error.json_body
    detail = body.get("error") if isinstance(body, dict) else None
    detail = detail if isinstance(detail, dict) else {}
    code = detail.get("code")
    status = error.http_status

    failure: BillingError
    if isinstance(error, stripe.RateLimitError) or code == "lock_timeout":
        failure = RateLimitedError("Stripe asks for fewer requests.", retry_after=_retry_after(error) or 1)
    elif isinstance(error, stripe.CardError):
        failure = PaymentFailedError(
            error.user_message or "The payment was declined.", decline_code=detail.get("decline_code")
        )
    elif isinstance(error, stripe.IdempotencyError):
        failure = ConflictError("This idempotency key was used with other parameters.", code="idempotency_key_reused")
    elif isinstance(error, stripe.InvalidRequestError):
        failure = _refusal(error, blame)
    elif status == httpx.codes.CONFLICT:
        failure = ConflictError("Stripe is still working on the same request.", code="idempotency_key_in_use")
        failure.retryable = True
    elif isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        failure = ProviderError("Stripe refuses our key, or refuses it this.")
    elif status is not None and httpx.codes.is_client_error(status):
        failure = ProviderError("Stripe refuses our request.")
    else:
        failure = UnavailableError("Stripe is not reachable.", retry_after=_retry_after(error))
    failure.replayed = (error.headers or {}).get("idempotent-replayed") == "true"
    failure.provider_code = code
    failure.provider_request_id = error.request_id
    return failure


def _refusal(error: stripe.InvalidRequestError, blame: Blame) -> BillingError:
    param = blame.params.get(error.param or "")
    code = error.code or ""
    if error.http_status == httpx.codes.NOT_FOUND or code == "resource_missing":
        return NotFoundError("Stripe knows no such object.", param=param)
    if param:
        return InvalidRequestError(f"Stripe does not accept this {param}.", param=param)
    if code == "resource_already_exists":
        return ConflictError("Stripe has one already.")
    if blame.conflict and not code.startswith("parameter_"):
        return ConflictError(blame.conflict)
    return ProviderError("Stripe refuses our request.")


def _retryable(failure: BillingError, error: stripe.StripeError) -> bool:
    if failure.replayed:
        return False  # it would only be repeated once more
    advice = (error.headers or {}).get("stripe-should-retry")
    return advice == "true" or (failure.retryable and advice != "false")


def _backoff(retries: int) -> float:
    """Seconds to wait before the next try: doubling, with jitter so that callers who failed together part ways."""
    return FIRST_PAUSE * 2.0**retries * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards no secret


def _retry_after(error: stripe.StripeError) -> int | None:
    value = (error.headers or {}).get("retry-after", "")
    return int(value) if value.isascii() and value.isdigit() else None


def _clock(date: str | None) -> int:
    """The `Date` header as unix seconds; our own clock where there is none or it can't be read."""
    try:
        moment = parsedate_to_datetime(date or "")
    except ValueError:
        return int(time.time())
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
