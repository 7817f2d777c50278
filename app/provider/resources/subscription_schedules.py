"""Subscription schedules at Stripe: what a subscription will be."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.errors import ConflictError
from app.provider.mapping.reading import mapping_of, ref, rows, time
from app.provider.mapping.subscription_changes import map_subscription_schedule
from app.provider.objects import Page, Snapshot
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource, readable
from app.provider.resources.subscriptions import item_blame
from app.provider.stripe_client import Blame
from app.provider.subscription_objects import ItemWish, SubscriptionSchedule

if TYPE_CHECKING:
    from stripe.params import (
        SubscriptionScheduleCreateParams,
        SubscriptionScheduleListParams,
        SubscriptionScheduleUpdateParams,
        SubscriptionScheduleUpdateParamsPhase,
        SubscriptionScheduleUpdateParamsPhaseDiscount,
        SubscriptionScheduleUpdateParamsPhaseItem,
    )


SCHEDULE = Kind("/v1/subscription_schedules", map_subscription_schedule)

SCHEDULE_BLAME = Blame(
    params=item_blame("phases[1][items]"),
    conflict="The present state of the subscription does not allow this.",
)


class StripeSubscriptionSchedules(StripeResource):
    async def retrieve_subscription_schedule(self, id: str) -> Snapshot[SubscriptionSchedule]:
        return await self._retrieve(SCHEDULE, id)

    async def list_subscription_schedules(
        self, *, since: int | None = None, after: str | None = None
    ) -> Page[SubscriptionSchedule]:
        params: SubscriptionScheduleListParams = {"limit": PAGE_SIZE}
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page(SCHEDULE.path, map_subscription_schedule, params, after)

    async def schedule_change(
        self, subscription: str, *, items: Sequence[ItemWish], idempotency_key: str
    ) -> Snapshot[SubscriptionSchedule]:
        # Stripe takes no phases together with from_subscription; the schedule it makes shows the running period as one.
        adopt: SubscriptionScheduleCreateParams = {"from_subscription": subscription}
        key = f"{idempotency_key}-schedule"
        made = await self._client.send("post", SCHEDULE.path, adopt, idempotency_key=key, blame=SCHEDULE_BLAME)
        running = readable(_running_phase, made.data, request_id=made.request_id)
        following: SubscriptionScheduleUpdateParamsPhase = {
            "items": [_item(item.price, item.quantity) for item in items],
            "duration": {"interval": "day", "interval_count": 1},  # then it lets go: one day is as good as any
            "proration_behavior": "none",
        }
        if discounts := running.get("discounts"):
            following["discounts"] = discounts
        params: SubscriptionScheduleUpdateParams = {"end_behavior": "release", "phases": [running, following]}
        return await self._post(
            SCHEDULE, params, id=str(made.data["id"]), idempotency_key=idempotency_key, blame=SCHEDULE_BLAME
        )

    async def release_subscription_schedule(self, id: str, *, idempotency_key: str) -> Snapshot[SubscriptionSchedule]:
        try:
            return await self._post(
                SCHEDULE, id=id, action="/release", idempotency_key=idempotency_key, blame=SCHEDULE_BLAME
            )
        except ConflictError:
            # It may have let go by itself; whoever asks wants just that.
            snapshot = await self._retrieve(SCHEDULE, id)
            if snapshot.object.status in {"active", "not_started"}:
                raise
            return snapshot


def _running_phase(schedule: Mapping[str, Any]) -> "SubscriptionScheduleUpdateParamsPhase":
    """The phase a schedule has from its subscription, as it must be sent again so that it stays."""
    phase = rows({"data": schedule.get("phases")})[0]
    kept: SubscriptionScheduleUpdateParamsPhase = {
        "items": [_kept_item(item) for item in rows({"data": phase.get("items")})],
        "start_date": time(phase.get("start_date")),
        "end_date": time(phase.get("end_date")),
    }
    if phase.get("trial_end") is not None:
        kept["trial_end"] = time(phase["trial_end"])
    if discounts := _discounts(phase):
        kept["discounts"] = discounts
    return kept


def _kept_item(item: Mapping[str, Any]) -> "SubscriptionScheduleUpdateParamsPhaseItem":
    return _item(ref(item.get("price")), item.get("quantity"))


def _item(price: str, quantity: int | None) -> "SubscriptionScheduleUpdateParamsPhaseItem":
    wanted: SubscriptionScheduleUpdateParamsPhaseItem = {"price": price}
    if quantity is not None:  # a metered item has none
        wanted["quantity"] = quantity
    return wanted


def _discounts(phase: Mapping[str, Any]) -> "list[SubscriptionScheduleUpdateParamsPhaseDiscount]":
    found: list[SubscriptionScheduleUpdateParamsPhaseDiscount] = []
    for entry in rows({"data": phase.get("discounts") or []}):
        given = mapping_of(entry)
        if given.get("discount") is not None:
            found.append({"discount": ref(given["discount"])})
        elif given.get("coupon") is not None:
            found.append({"coupon": ref(given["coupon"])})
    return found
