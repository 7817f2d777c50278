"""The hosted portal, where a customer changes cards, sees invoices and cancels."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import release
from app.errors import NotFoundError
from app.provider.protocol import PortalFlow, PortalProvider
from app.services import customers
from app.services.subscriptions import reading


async def create_session(
    session: AsyncSession, provider: PortalProvider, *, user_id: str, return_url: str, flow: PortalFlow | None
) -> str:
    """The URL to send the customer to. Raises NotFoundError before the first purchase."""
    customer = await customers.get_for_user(session, user_id)
    subscription = None
    if flow in {"subscription_cancel", "subscription_update"}:
        alive = await reading.live(session, user_id)
        if not alive:
            raise NotFoundError("There is no subscription.", code="subscription_not_found", param="flow")
        subscription = alive[0].stripe_id
    await release(session)
    return await provider.create_portal_session(
        customer=customer.stripe_id, return_url=return_url, flow=flow, subscription=subscription
    )
