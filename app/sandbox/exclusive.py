"""What Stripe does once at a time: a second request about the same is turned away, not queued."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from app.sandbox.errors import ApiError


class Exclusive:
    """Which subjects are being worked on now, in this process."""

    def __init__(self) -> None:
        self._held: set[Hashable] = set()

    @contextmanager
    def hold(self, subject: Hashable) -> Iterator[None]:
        """Work on ``subject`` alone; None is nobody's. ApiError 429 if somebody is at it."""
        if subject is None:
            yield
            return
        if subject in self._held:
            raise ApiError(
                "Too many concurrent requests: there may be one at a time for each customer and meter.",
                status=429,
                code="too_many_concurrent_requests",
            )
        self._held.add(subject)
        try:
            yield
        finally:
            self._held.discard(subject)
