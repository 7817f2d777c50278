"""The customer portal at Stripe."""

from typing import TYPE_CHECKING

from app.errors import InvalidRequestError
from app.provider.mapping.checkout import map_url
from app.provider.protocol import PortalFlow
from app.provider.resources.resource import Kind, StripeResource, readable
from app.provider.stripe_client import Blame

if TYPE_CHECKING:
    from stripe.params.billing_portal import SessionCreateParams as PortalSessionCreateParams
    from stripe.params.billing_portal import SessionCreateParamsFlowData as PortalFlowData


PORTAL_SESSION = Kind("/v1/billing_portal/sessions", map_url)

PORTAL_BLAME = Blame(
    params={
        "customer": "customer",
        "return_url": "return_url",
        "flow_data[subscription_cancel][subscription]": "subscription",
        "flow_data[subscription_update][subscription]": "subscription",
    }
)


class StripePortal(StripeResource):
    async def create_portal_session(
        self, *, customer: str, return_url: str, flow: PortalFlow | None, subscription: str | None
    ) -> str:
        params: PortalSessionCreateParams = {"customer": customer, "return_url": return_url}
        if flow:
            params["flow_data"] = _flow_data(flow, subscription)
        answer = await self._client.send("post", PORTAL_SESSION.path, params, blame=PORTAL_BLAME)
        return readable(PORTAL_SESSION.read, answer.data, request_id=answer.request_id)


def _flow_data(flow: PortalFlow, subscription: str | None) -> "PortalFlowData":
    if flow == "payment_method_update":
        return {"type": flow}
    if subscription is None:
        raise InvalidRequestError("This page of the portal is about a subscription.", param="subscription")
    if flow == "subscription_cancel":
        return {"type": flow, "subscription_cancel": {"subscription": subscription}}
    return {"type": flow, "subscription_update": {"subscription": subscription}}
