"""What a payment provider tells and is told of customers besides the customer: addresses, tax ids, setup intents."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict


class Address(TypedDict, total=False):
    """`country` is ISO 3166-1 alpha-2."""

    line1: str
    line2: str
    city: str
    state: str
    postal_code: str
    country: str


class CustomerChanges(TypedDict, total=False):
    """What is given is set, and None takes it away; what is not given stays as it is.

    `metadata` is merged into what is there; a key with None is removed.
    """

    email: str | None
    name: str | None
    phone: str | None
    address: Address | None
    metadata: Mapping[str, str | None]
    default_payment_method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxId:
    """`verification` is pending, verified, unverified or unavailable; None where Stripe doesn't say."""

    id: str
    type: str  # eu_vat, gb_vat, us_ein, …
    value: str
    country: str | None = None
    verification: str | None = None
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupIntent:
    """A payment method being saved. With `client_secret` the customer's browser finishes it: never log or keep it.

    `next_action` is what the customer has to do (redirect_to_url, use_stripe_sdk, …), `redirect_url` where.
    """

    id: str
    status: str
    client_secret: str | None
    customer: str | None
    payment_method: str | None = None
    next_action: str | None = None
    redirect_url: str | None = None
    created: int = 0
