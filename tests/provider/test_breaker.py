"""The circuit breaker, on a clock of its own."""

import pytest

from app.errors import UnavailableError
from app.provider.breaker import CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def open_breaker(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(threshold=3, pause=10, clock=clock)
    for _ in range(3):
        breaker.check()
        breaker.failed()
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = open_breaker(Clock())
    with pytest.raises(UnavailableError) as raised:
        breaker.check()
    assert raised.value.retry_after == 10
    assert raised.value.retryable


def test_failures_with_a_success_between_do_not() -> None:
    breaker = CircuitBreaker(threshold=2, clock=Clock())
    for _ in range(5):
        breaker.failed()
        breaker.succeeded()
    breaker.check()


def test_after_the_pause_one_may_try_and_the_others_wait() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    clock.now += 10
    breaker.check()
    with pytest.raises(UnavailableError):
        breaker.check()


def test_a_trial_that_succeeds_closes_it() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    clock.now += 10
    breaker.check()
    breaker.succeeded()
    breaker.check()
    breaker.failed()
    breaker.check()


def test_a_trial_that_fails_keeps_it_open_for_another_pause() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    clock.now += 12
    breaker.check()
    clock.now += 5
    breaker.failed()
    clock.now += 9
    with pytest.raises(UnavailableError) as raised:
        breaker.check()
    assert raised.value.retry_after == 1
    clock.now += 1
    breaker.check()


def test_a_trial_that_never_reports_back_is_followed_by_another() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    for _ in range(3):
        clock.now += 10
        breaker.check()
