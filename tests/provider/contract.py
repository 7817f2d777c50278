"""One operation of the provider: what Stripe answers, and the requests that must have gone over the wire."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.provider.stripe import StripeProvider

Call = Callable[[StripeProvider], Awaitable[object]]


@dataclass(frozen=True)
class Sent:
    """`params` is the SDK's type of the operation's parameters."""

    operation: str  # verb and path
    form: Mapping[str, str]
    params: Any


@dataclass(frozen=True)
class Case:
    call: Call
    answers: Sequence[Any]
    sent: Sequence[Sent]


def case(call: Call, answer: Any, operation: str, form: Mapping[str, str], params: Any) -> Case:
    """An operation of one request."""
    return Case(call, (answer,), (Sent(operation, form, params),))


def page_of(*objects: Any, has_more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": list(objects), "has_more": has_more, "url": "/v1/somewhere"}
