"""Subscriptions at Stripe."""

from typing import TYPE_CHECKING

from app.errors import ConflictError, NotFoundError
from app.provider.mapping.subscriptions import map_subscription
from app.provider.objects import Page, Snapshot, Subscription
from app.provider.resources.resource import PAGE_SIZE, Kind, StripeResource, object_path
from app.provider.stripe_client import Blame

if TYPE_CHECKING:
    from stripe.params import SubscriptionCancelParams, SubscriptionListParams, SubscriptionUpdateParams


SUBSCRIPTION = Kind("/v1/subscriptions", map_subscription)

SUBSCRIPTION_BLAME = Blame(
    params={"cancellation_details[comment]": "reason"},
    conflict="The present state of the subscription does not allow this.",
)


class StripeSubscriptions(StripeResource):
    async def retrieve_subscription(self, id: str) -> Snapshot[Subscription]:
        return await self._retrieve(SUBSCRIPTION, id)

    async def list_subscriptions(self, *, since: int | None, after: str | None) -> Page[Subscription]:
        params: SubscriptionListParams = {"limit": PAGE_SIZE, "status": "all"}  # else the canceled ones are left out
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page("/v1/subscriptions", map_subscription, params, after)

    async def set_cancel_at_period_end(
        self, id: str, *, cancel: bool, reason: str | None = None, idempotency_key: str
    ) -> Snapshot[Subscription]:
        params: SubscriptionUpdateParams = {"cancel_at_period_end": cancel}
        if reason:
            params["cancellation_details"] = {"comment": reason}
        snapshot = await self._post(
            SUBSCRIPTION, params, id=id, idempotency_key=idempotency_key, blame=SUBSCRIPTION_BLAME
        )
        if not cancel and snapshot.object.cancel_at is not None:
            # In flexible billing mode the portal cancels by date (docs.stripe.com/billing/subscriptions/billing-mode/
            # compare), and Stripe takes only one of the two parameters in a request.
            params = {"cancel_at": ""}
            snapshot = await self._post(
                SUBSCRIPTION, params, id=id, idempotency_key=f"{idempotency_key}-at", blame=SUBSCRIPTION_BLAME
            )
        return snapshot

    async def cancel_subscription(
        self, id: str, *, reason: str | None = None, idempotency_key: str
    ) -> Snapshot[Subscription]:
        params: SubscriptionCancelParams = {}
        if reason:
            params["cancellation_details"] = {"comment": reason}
        path = object_path(SUBSCRIPTION.path, id)
        try:
            answer = await self._client.send(
                "delete", path, params, idempotency_key=idempotency_key, blame=SUBSCRIPTION_BLAME
            )
        except (NotFoundError, ConflictError):
            # DELETE knows no idempotency key: Stripe refuses the second one, and the first may have been ours.
            snapshot = await self._retrieve(SUBSCRIPTION, id)
            if snapshot.object.status != "canceled":
                raise
            return snapshot
        return await self._snapshot(SUBSCRIPTION, answer)
