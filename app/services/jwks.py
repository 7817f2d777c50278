"""The identity provider's public keys: fetched when needed, kept for five minutes, never asked for in a hurry."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import structlog

from app.errors import UnavailableError

log = structlog.get_logger(__name__)

FRESH_SECONDS = 300.0
COOLDOWN_SECONDS = 30.0
"""After a fetch, whatever unknown key ids callers come up with: they can't make us flood the provider."""
RETRY_SECONDS = 5.0
"""After a fetch that failed."""
STALE_SECONDS = 3600.0
"""How long known keys are still believed while the provider is away."""
FETCH_SECONDS = 5.0


class Jwks:
    """Keys by id. `http` is shared, follows no redirects, and is closed by its owner; `clock` counts seconds."""

    def __init__(self, url: str, http: httpx.AsyncClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._http = http
        self._clock = clock
        self._keys: list[dict[str, Any]] = []
        self._fetched_at = self._next_fetch_at = float("-inf")
        self._failed = False
        self._fetching = asyncio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key called `kid`, or the only key for a token that names none. Raises UnavailableError.

        A key that says which algorithm it is for is for no other; one that doesn't (RFC 7517 leaves it open) is for
        any that fits its kind.
        """
        key = await self._find(kid)
        if key is None or key.get("alg", algorithm) != algorithm:
            return None
        try:
            return jwt.PyJWK(key, algorithm)
        except jwt.PyJWTError:
            return None

    async def _find(self, kid: str | None) -> dict[str, Any] | None:
        key = self._known(kid)
        if key is not None and self._age() < FRESH_SECONDS:
            return key
        async with self._fetching:
            if self._clock() >= self._next_fetch_at:
                await self._fetch()
        key = self._known(kid)
        if self._age() >= STALE_SECONDS or (key is None and self._failed):
            raise UnavailableError("The identity provider does not answer.", code="identity_provider_unavailable")
        return key

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    def _known(self, kid: str | None) -> dict[str, Any] | None:
        if kid is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.get("kid") == kid), None)

    async def _fetch(self) -> None:
        try:
            response = await self._http.get(self._url, timeout=FETCH_SECONDS)
            response.raise_for_status()
            keys = response.json()["keys"]
            usable = [key for key in keys if key.get("use", "sig") == "sig" and key.get("kty") != "oct"]
        except (httpx.HTTPError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("jwks_fetch_failed", url=self._url, error=repr(error))
            self._failed, self._next_fetch_at = True, self._clock() + RETRY_SECONDS
            return
        self._keys = usable
        self._fetched_at = self._clock()
        self._failed, self._next_fetch_at = False, self._fetched_at + COOLDOWN_SECONDS
