"""Idempotency keys derived from what is done, so that everybody who races to do it is given one result.

Stripe keeps the first answer to a key for a day, also a failure (docs.stripe.com/api/idempotent_requests). With a key
that nobody chose, nobody could get past such an answer: so where Stripe only repeats itself, the next key is tried.
All racers walk the same keys in the same order.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import uuid4

from app.errors import BillingError

T = TypeVar("T")

TRIES = 10


async def with_derived_key(
    key: str, call: Callable[[str], Awaitable[T]], *, usable: Callable[[T], bool] = lambda _result: True
) -> T:
    """What `call` gives for `key`, or for the first of its successors that isn't an old failure or unusable by now."""
    for number in range(1, TRIES + 1):
        try:
            result = await call(f"{key}-{number}")
        except BillingError as error:
            # Parameters differ from the first time where a new release sends others.
            if not error.replayed and error.code != "idempotency_key_reused":
                raise
        else:
            if usable(result):
                return result
    # So many failures within a day: a key of its own gets past them. What two racers then make twice, the database's
    # unique indexes keep from being used twice.
    return await call(f"{key}-{uuid4().hex}")
