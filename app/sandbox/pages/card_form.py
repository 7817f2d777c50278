"""Card forms: what was typed, what may be shown again, and which field an error belongs to."""

import re
from dataclasses import dataclass, replace

from starlette.requests import Request

from app.sandbox.cards import Card
from app.sandbox.errors import ApiError, CardError

#: Stripe's parameter → the form's input.
_FIELDS = {"number": "number", "exp_month": "expiry", "exp_year": "expiry", "cvc": "cvc", "email": "email"}


@dataclass(frozen=True, slots=True)
class Problem:
    message: str
    field: str | None = None  # the input's name; None when no single one is to blame


@dataclass(frozen=True, slots=True)
class CardForm:
    """What a form shows again after a refusal. The card is not part of it, so no page can write it back."""

    email: str = ""
    name: str = ""
    promotion_code: str = ""
    error: Problem | None = None

    def refused(self, message: str, field: str | None = None) -> "CardForm":
        return replace(self, error=Problem(message, field))

    def refused_by(self, error: ApiError) -> "CardForm":
        return self.refused(error.message, _FIELDS.get(error.param or ""))


@dataclass(frozen=True, slots=True)
class Submission:
    form: CardForm
    number: str
    expiry: str
    cvc: str

    def card(self) -> Card:
        """Read the card; whether it is a valid one is for its ``check`` to say."""
        expiry = re.fullmatch(r"(\d{1,2})\s*[/-]\s*(\d{2}|\d{4})|(\d{2})(\d{2}|\d{4})", self.expiry, re.ASCII)
        if expiry is None and self.number:
            raise CardError(
                "Your card's expiration date is incomplete.", code="incomplete_expiry", param="exp_month", keep=False
            )
        month, year = [int(part) for part in expiry.groups() if part] if expiry else (0, 0)
        return Card(self.number, month, year, self.cvc)


async def submission(request: Request) -> Submission:
    async with request.form() as data:
        typed = {name: value.strip() for name, value in data.items() if isinstance(value, str)}
    form = CardForm(typed.get("email", ""), typed.get("name", ""), typed.get("promotion_code", ""))
    return Submission(form, typed.get("number", ""), typed.get("expiry", ""), typed.get("cvc", ""))
