"""Events at Stripe, listed; and webhooks, verified and read."""

from collections.abc import Mapping, Sequence
from time import time
from typing import TYPE_CHECKING, Any

from app.errors import InvalidRequestError
from app.provider.mapping.events import decode, map_envelope, map_event
from app.provider.objects import Envelope, Event, Page
from app.provider.resources.resource import PAGE_SIZE, StripeResource
from app.provider.stripe_signature import is_signed

if TYPE_CHECKING:
    from stripe.params import EventListParams


class StripeEvents(StripeResource):
    async def list_events(
        self, *, types: Sequence[str], since: int, until: int, after: str | None
    ) -> Page[Mapping[str, Any]]:
        params: EventListParams = {
            "limit": PAGE_SIZE,
            "types": list(types),
            "created": {"gte": since, "lte": until},
        }
        return await self._page("/v1/events", dict, params, after)

    def verify_signature(self, payload: bytes, header: str, *, secrets: Sequence[bytes], now: int) -> bool:
        return is_signed(payload, header, secrets=secrets, now=now)

    def construct_event(self, payload: bytes, header: str, *secrets: str, now: int | None = None) -> Event:
        moment = int(time()) if now is None else now
        if not is_signed(payload, header, secrets=[secret.encode() for secret in secrets], now=moment):
            raise InvalidRequestError("The signature doesn't match, or is too old.", code="invalid_signature")
        try:
            return map_event(decode(payload.decode()))
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError("The body is not an event.", code="invalid_event") from error

    def parse_envelope(self, payload: Mapping[str, Any]) -> Envelope:
        return map_envelope(payload)

    def parse_event(self, payload: Mapping[str, Any]) -> Event:
        return map_event(payload)
