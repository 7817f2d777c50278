"""Idempotency keys of POSTs: the first answer again, a conflict for other parameters or a key still at work."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

from app.sandbox.errors import ApiError
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_MAX_LENGTH = 255


class Idempotency:
    """Each account has its own keys. Answers stay in its state for a day; this process alone knows what is at work."""

    def __init__(self) -> None:
        self._at_work: set[tuple[str | None, str]] = set()

    @contextmanager
    def claim(self, sandbox: Sandbox, key: str, fingerprint: str) -> Iterator[Row | None]:
        """Hold the key; gives the stored answer {status, body, request_id} if there is one."""
        if len(key) > _MAX_LENGTH:
            raise ApiError(f"Idempotency keys can be up to {_MAX_LENGTH} characters long.", type="idempotency_error")
        known = sandbox.find("_idempotency_key", key)
        if known is not None and known["fingerprint"] != fingerprint:
            raise ApiError(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"Try using a key other than '{key}' if you meant to execute a different request.",
                type="idempotency_error",
            )
        claimed = (sandbox.account, key)
        if claimed in self._at_work:
            raise ApiError(
                "There is currently another in-progress request using this Idempotent Key (that probably means you "
                f"submitted twice, and the other request is still going through): {key}. Please try again later.",
                status=409,
                type="idempotency_error",
                code="idempotency_key_in_use",
            )
        self._at_work.add(claimed)
        try:
            yield known
        finally:
            self._at_work.discard(claimed)

    @staticmethod
    def keep(sandbox: Sandbox, key: str, fingerprint: str, *, status: int, body: Row, request_id: str) -> None:
        sandbox.insert(
            {
                "id": key,
                "object": "_idempotency_key",
                "created": sandbox.now(),
                "fingerprint": fingerprint,
                "status": status,
                "body": body,
                "request_id": request_id,
            }
        )


def fingerprint(method: str, path: str, tree: Row) -> str:
    """Give what makes two requests the same: where they go and what they say, in any order."""
    canonical = json.dumps([method, path, tree], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
