"""Money is exact in every currency."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.values import THREE_DECIMAL, ZERO_DECIMAL, Money, charge_step, currency_exponent


@pytest.mark.parametrize(
    ("amount", "currency", "decimal"),
    [
        (9900, "usd", "99.00"),
        (500, "jpy", "500"),
        (12345, "kwd", "12.345"),
        (100, "isk", "1.00"),
        (100, "ugx", "1.00"),
        (1, "EUR", "0.01"),
        (-250, "usd", "-2.50"),
        (0, "bhd", "0.000"),
    ],
)
def test_minor_units_become_the_exact_decimal(amount: int, currency: str, decimal: str) -> None:
    assert str(Money(amount, currency).decimal) == decimal


@given(st.integers(-(10**15), 10**15), st.sampled_from(["usd", "jpy", "kwd"]))
def test_nothing_is_lost_on_the_way(amount: int, currency: str) -> None:
    assert Money(amount, currency).decimal * Decimal(10) ** currency_exponent(currency) == amount


def test_no_currency_is_in_two_tables() -> None:
    assert not ZERO_DECIMAL & THREE_DECIMAL


@pytest.mark.parametrize(
    ("currency", "step"), [("usd", 1), ("jpy", 1), ("kwd", 10), ("KWD", 10), ("isk", 100), ("ugx", 100)]
)
def test_stripe_charges_in_steps_that_card_networks_know(currency: str, step: int) -> None:
    assert charge_step(currency) == step
