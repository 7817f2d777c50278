"""Meters at Stripe: what usage is counted by."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.errors import ConflictError
from app.provider.mapping.catalog import map_meter
from app.provider.objects import Meter
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource
from app.provider.stripe_client import Blame

if TYPE_CHECKING:
    from stripe.params.billing import MeterCreateParams, MeterListParams, MeterUpdateParams

METER = Kind("/v1/billing/meters", map_meter)

AWAKE = Blame(conflict="The meter can't be reactivated: another may have its event name.")


class StripeMeters(StripeResource):
    async def list_meters(self) -> Sequence[Meter]:
        meters: list[Meter] = []
        params: MeterListParams = {"limit": PAGE_SIZE}
        after: str | None = None
        while True:
            page = await self._page(METER.path, map_meter, params, after)
            meters += page.objects
            if (after := page.next) is None:
                return meters

    async def create_meter(self, *, display_name: str, event_name: str, formula: str, idempotency_key: str) -> Meter:
        params: MeterCreateParams = {
            "display_name": display_name,
            "event_name": event_name,
            "default_aggregation": {"formula": formula},
        }
        return (await self._post(METER, params, idempotency_key=idempotency_key)).object

    async def rename_meter(self, id: str, *, display_name: str) -> Meter:
        params: MeterUpdateParams = {"display_name": display_name}
        return (await self._post(METER, params, id=id)).object

    async def reactivate_meter(self, id: str) -> Meter:
        try:
            return (await self._post(METER, id=id, action="/reactivate", blame=AWAKE)).object
        except ConflictError:
            meter = (await self._retrieve(METER, id)).object
            if meter.status != "active":
                raise
            return meter
