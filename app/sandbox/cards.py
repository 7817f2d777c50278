"""Stripe's test cards: which number does what, and the checks a card form makes before any attempt."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from app.sandbox.errors import CardError

Authentication = Literal["never", "unless_set_up", "on_session", "always"]
Dispute = Literal["fraudulent", "product_not_received", "inquiry"]

_CENTURY = 2000
_SHORTEST_NUMBER = 13
_LONGEST_VALIDITY = 50  # years


@dataclass(frozen=True, slots=True)
class Decline:
    """How a network refuses: Stripe's codes and sentence."""

    code: str
    message: str = "Your card was declined."
    decline_code: str | None = None
    param: str | None = None
    advice_code: str | None = "try_again_later"
    network_decline_code: str | None = "01"
    network_advice_code: str | None = None

    def fields(self) -> dict[str, Any]:
        """Further keys of the card error; what does not apply is absent."""
        fields = {
            "decline_code": self.decline_code or self.code,
            "advice_code": self.advice_code,
            "network_advice_code": self.network_advice_code,
            "network_decline_code": self.network_decline_code,
            "param": self.param,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class TestCard:
    number: str
    names: tuple[str, ...]
    brand: str = "visa"
    funding: str = "credit"
    country: str = "US"
    decline: Decline | None = None
    attaches: bool = True
    authentication: Authentication = "never"
    dispute: Dispute | None = None  # what its owner does once they are charged
    refund: Literal["succeeds", "pends", "fails"] = "succeeds"
    risk: Literal["normal", "elevated", "highest"] = "normal"
    settles_at_once: bool = False


def _declining(number: str, *names: str, decline: Decline, attaches: bool = False) -> TestCard:
    return TestCard(number, names, decline=decline, attaches=attaches)


def _declined(decline_code: str, message: str = "Your card was declined.", **codes: Any) -> Decline:
    return Decline("card_declined", message, decline_code, **codes)


_EXPIRED = Decline(
    "expired_card",
    "Your card has expired.",
    param="exp_month",
    advice_code="confirm_card_data",
    network_decline_code="54",
    network_advice_code="03",
)
_CVC = Decline("incorrect_cvc", "Your card's security code is incorrect.", param="cvc", advice_code="confirm_card_data")
_PROCESSING = Decline("processing_error", "An error occurred while processing your card. Try again in a little bit.")
_NO_FUNDS = _declined("insufficient_funds", "Your card has insufficient funds.", network_decline_code="51")
# Radar blocks these before any network is asked.
_BLOCKED = _declined("fraudulent", advice_code=None, network_decline_code=None)

#: https://docs.stripe.com/testing; the names follow pm_card_ and tok_.
CARDS = (
    TestCard("4242424242424242", ("visa",)),
    TestCard("4000056655665556", ("visa_debit",), funding="debit"),
    TestCard("5555555555554444", ("mastercard",), "mastercard"),
    TestCard("5200828282828210", ("mastercard_debit",), "mastercard", "debit"),
    TestCard("378282246310005", ("amex",), "amex"),
    TestCard("6011111111111117", ("discover",), "discover"),
    TestCard("3056930009020004", ("diners",), "diners"),
    TestCard("3566002020360505", ("jcb",), "jcb"),
    TestCard("6200000000000005", ("unionpay",), "unionpay"),
    _declining("4000000000000002", "visa_chargeDeclined", "chargeDeclined", decline=_declined("generic_decline")),
    _declining(
        "4000000000009995",
        "visa_chargeDeclinedInsufficientFunds",
        "chargeDeclinedInsufficientFunds",
        decline=_NO_FUNDS,
    ),
    _declining(
        "4000000000009987",
        "visa_chargeDeclinedLostCard",
        "chargeDeclinedLostCard",
        decline=_declined("lost_card", advice_code="do_not_try_again", network_decline_code="41"),
    ),
    _declining(
        "4000000000009979",
        "visa_chargeDeclinedStolenCard",
        "chargeDeclinedStolenCard",
        decline=_declined("stolen_card", advice_code="do_not_try_again", network_decline_code="43"),
    ),
    _declining(
        "4000000000006975",
        "visa_chargeDeclinedVelocityLimitExceeded",
        "chargeDeclinedVelocityLimitExceeded",
        decline=_declined("card_velocity_exceeded"),
    ),
    _declining(
        "4000000000000069",
        "chargeDeclinedExpiredCard",
        "visa_chargeDeclinedExpiredCard",
        decline=_EXPIRED,
    ),
    _declining(
        "4000000000000127",
        "chargeDeclinedIncorrectCvc",
        "visa_chargeDeclinedIncorrectCvc",
        decline=_CVC,
    ),
    _declining(
        "4000000000000119",
        "chargeDeclinedProcessingError",
        "visa_chargeDeclinedProcessingError",
        decline=_PROCESSING,
    ),
    _declining("4000000000000341", "chargeCustomerFail", decline=_declined("generic_decline"), attaches=True),
    TestCard("4000002760003184", ("authenticationRequired",), authentication="always"),
    TestCard("4000002500003155", ("authenticationRequiredOnSetup",), authentication="unless_set_up"),
    TestCard("4000003800000446", ("authenticationRequiredSetupForOffSession",), authentication="on_session"),
    TestCard("4000000000003220", ("threeDSecure2Required",), country="IE", authentication="unless_set_up"),
    TestCard(
        "4000008400001629",
        ("threeDSecureRequiredChargeDeclined",),
        decline=_declined("generic_decline"),
        authentication="unless_set_up",
    ),
    TestCard(
        "4000008260003178",
        ("authenticationRequiredChargeDeclinedInsufficientFunds",),
        decline=_NO_FUNDS,
        authentication="unless_set_up",
    ),
    TestCard("4000000000003055", ("threeDSecureOptional",)),
    TestCard("4000000000000259", ("createDispute", "visa_createDispute"), dispute="fraudulent"),
    TestCard("4000000000002685", ("createDisputeProductNotReceived",), dispute="product_not_received"),
    TestCard("4000000000001976", ("createDisputeInquiry", "visa_createDisputeInquiry"), dispute="inquiry"),
    TestCard("4000000000007726", ("pendingRefund",), refund="pends"),
    TestCard("4000000000005126", ("refundFail",), refund="fails"),
    TestCard("4000000000000077", ("bypassPending",), settles_at_once=True),
    TestCard("4100000000000019", ("radarBlock",), decline=_BLOCKED, risk="highest"),
    TestCard("4000000000004954", ("riskLevelHighest",), decline=_BLOCKED, risk="highest"),
    TestCard("4000000000009235", ("riskLevelElevated",), risk="elevated"),
)
BY_NUMBER = {card.number: card for card in CARDS}
BY_NAME = {name: card for card in CARDS for name in card.names}


def by_token(token: str) -> TestCard | None:
    """Find the card of a ``pm_card_visa`` or ``tok_visa``."""
    for prefix in ("pm_card_", "tok_"):
        if token.startswith(prefix):
            return BY_NAME.get(token.removeprefix(prefix))
    return None


@dataclass(frozen=True, slots=True)
class Card:
    """What someone typed into a card form."""

    number: str
    exp_month: int
    exp_year: int
    cvc: str

    def check(self, now: int) -> TestCard:
        """Refuse what a card form refuses (CardError with Stripe's code), else say which test card it is."""
        number = "".join(self.number.split()).replace("-", "")
        _check_number(number)
        self._check_expiry(datetime.fromtimestamp(now, UTC))
        card = BY_NUMBER.get(number)
        _check_cvc(self.cvc, 4 if card is not None and card.brand == "amex" else 3)
        if card is None:
            # A real number has no place here, and Stripe's test mode declines it in these words.
            raise CardError(
                "Your card was declined. Your request was in test mode, but used a non test (live) card. For a list "
                "of valid test cards, visit: https://stripe.com/docs/testing.",
                code="card_declined",
                decline_code="live_mode_test_card",
                keep=False,
            )
        return card

    def _check_expiry(self, today: datetime) -> None:
        if not 1 <= self.exp_month <= 12:  # noqa: PLR2004 - months
            raise _invalid("invalid_expiry_month", "Your card's expiration month is invalid.", "exp_month")
        if not today.year <= self.year <= today.year + _LONGEST_VALIDITY:
            raise _invalid("invalid_expiry_year", "Your card's expiration year is invalid.", "exp_year")
        if (self.year, self.exp_month) < (today.year, today.month):
            raise _invalid("invalid_expiry_month", "Your card's expiration date is in the past.", "exp_month")

    @property
    def year(self) -> int:
        return self.exp_year + _CENTURY if self.exp_year < 100 else self.exp_year  # noqa: PLR2004 - "27"


def card_hash(card: TestCard, exp_month: int, exp_year: int) -> dict[str, Any]:
    """Build the ``card`` hash of a payment method."""
    return {
        "brand": card.brand,
        "checks": {
            "address_line1_check": None,
            "address_postal_code_check": None,
            "cvc_check": "unchecked",
        },
        "country": card.country,
        "display_brand": "american_express" if card.brand == "amex" else card.brand,
        "exp_month": exp_month,
        "exp_year": exp_year,
        "fingerprint": hashlib.sha256(card.number.encode()).hexdigest()[:16],
        "funding": card.funding,
        "generated_from": None,
        "last4": card.number[-4:],
        "networks": {"available": [card.brand], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }


def _check_number(number: str) -> None:
    if len(number) < _SHORTEST_NUMBER and (number.isdigit() or not number):
        raise _invalid("incomplete_number", "Your card number is incomplete.", "number")
    if not number.isascii() or not number.isdigit():
        raise _invalid("invalid_number", "Your card number is invalid.", "number")
    if not _luhn(number):
        raise _invalid("incorrect_number", "Your card number is incorrect.", "number")


def _check_cvc(cvc: str, digits: int) -> None:
    if len(cvc) < digits:
        raise _invalid("incomplete_cvc", "Your card's security code is incomplete.", "cvc")
    if not (cvc.isascii() and cvc.isdigit()) or len(cvc) > digits:
        raise _invalid("invalid_cvc", "Your card's security code is invalid.", "cvc")


def _luhn(number: str) -> bool:
    digits = [int(d) for d in reversed(number)]
    return (sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])) % 10 == 0


def _invalid(code: str, message: str, param: str) -> CardError:
    return CardError(message, code=code, param=param, keep=False)
