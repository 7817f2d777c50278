"""What amounts a payment may have: Stripe's minimum per currency, its maximum, and what a hold leaves to capture."""

from app.sandbox.errors import ApiError
from app.sandbox.money import THREE_DECIMAL, written
from app.sandbox.rendering import public
from app.sandbox.store import Row

#: https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts, in minor units; others settle as a dollar's.
_MINIMUM = {
    "aed": 200,
    "czk": 1500,
    "dkk": 250,
    "gbp": 30,
    "hkd": 400,
    "huf": 17_500,
    "mxn": 1000,
    "myr": 200,
    "nok": 300,
    "pln": 200,
    "ron": 200,
    "sek": 300,
    "thb": 1000,
}
_MINIMUM_ELSEWHERE = 50
_MAXIMUM = 99_999_999
_TOO_SMALL = (
    "The amount must be greater than or equal to the minimum charge amount allowed for your account and the currency "
    "set (https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts). If you want to save a Customer's "
    "payment method without an immediate payment, use a Setup Intent instead: "
    "https://docs.stripe.com/payments/save-and-reuse"
)


def check(amount: int, currency: str) -> None:
    """Refuse a payment of that many minor units, where Stripe would."""
    if len(currency) != len("usd") or not currency.isascii() or not currency.isalpha():
        raise ApiError(f"Invalid currency: {currency}.", param="currency")
    if amount < 0:
        raise ApiError(
            "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
        )
    if amount == 0:
        raise ApiError(_TOO_SMALL, code="parameter_invalid_integer", param="amount")
    if currency in THREE_DECIMAL and amount % 10:
        raise ApiError(
            f"Amounts in {currency} must be a multiple of 10, as card networks know two of its three decimals.",
            code="parameter_invalid_integer",
            param="amount",
        )
    least = _MINIMUM.get(currency, _MINIMUM_ELSEWHERE)
    if amount < least:
        raise ApiError(
            f"Amount must be at least {written(least, currency)} {currency}", code="amount_too_small", param="amount"
        )
    if amount > _MAXIMUM:
        raise ApiError(
            f"Amount must be no more than {written(_MAXIMUM, currency)}", code="amount_too_large", param="amount"
        )


def to_capture(asked: int | None, intent: Row) -> int:
    """Say how much of a hold is captured, in minor units: what was asked, or all of it."""
    held: int = intent["amount_capturable"]
    if asked is None:
        return held
    if asked < 0:
        raise ApiError("Invalid non-negative integer", param="amount_to_capture")
    if asked == 0:
        raise ApiError(
            "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
        )
    if asked > held:
        raise ApiError(
            "The payment could not be captured because the requested capture amount is greater than the amount you "
            f"can capture for this charge. The amount you can capture is {written(held, intent['currency'])}.",
            code="amount_too_large",
            payment_intent=public(intent),
        )
    return asked
