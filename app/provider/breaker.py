"""A circuit breaker: while the other side is down, callers hear so at once instead of waiting for it."""

import math
import time
from collections.abc import Callable

from app.errors import UnavailableError


class CircuitBreaker:
    """Opens after `threshold` failures in a row; then lets one call through every `pause` seconds until one succeeds.

    One per event loop: it counts without locks.
    """

    def __init__(self, *, threshold: int = 5, pause: float = 10, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` answers in seconds and never goes back."""
        self._threshold = threshold
        self._pause = pause
        self._clock = clock
        self._failures = 0
        self._next_trial = 0.0

    def check(self) -> None:
        """Pass, or raise UnavailableError with the seconds to wait. A pass through an open breaker is the one trial."""
        if self._failures < self._threshold:
            return
        now = self._clock()
        if now < self._next_trial:
            raise UnavailableError(
                "The payment provider is not reachable.", retry_after=math.ceil(self._next_trial - now)
            )
        self._next_trial = now + self._pause

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._next_trial = self._clock() + self._pause
