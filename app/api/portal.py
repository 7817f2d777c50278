"""The hosted portal, where customers change cards, read invoices and cancel."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from app.api import problems, redirects
from app.api.caching import never_stored
from app.api.deps import ProviderDep, SessionDep, SettingsDep, WriteUserDep
from app.api.schemas import Input, Output
from app.provider.protocol import PortalFlow
from app.services import portal

router = APIRouter(
    prefix="/portal",
    tags=["Portal"],
    responses={
        404: {"description": "`customer_not_found`: before the first purchase"},
        **problems.FROM_STRIPE,
    },
)

RETURN_URL = "Where the portal's way back leads"


class PortalSessionCreate(Input):
    return_url: str = Field(description=RETURN_URL, examples=["https://app.example.com/billing"])
    flow: PortalFlow | None = Field(default=None, description="Open the portal at this one task")


class PortalSessionCreated(Output):
    url: str = Field(description="Send the browser there; good for one visit soon")


@router.get("", dependencies=[Depends(never_stored)])
async def get_portal(
    session: SessionDep,
    provider: ProviderDep,
    settings: SettingsDep,
    user: WriteUserDep,
    return_url: Annotated[str, Query(description=RETURN_URL)],
) -> PortalSessionCreated:
    """A visit to the portal; 404 `customer_not_found` before the first purchase."""
    redirects.require_allowed(settings, return_url=return_url)
    url = await portal.create_session(session, provider, user_id=user.user_id, return_url=return_url, flow=None)
    return PortalSessionCreated(url=url)


@router.post("")
async def create_portal_session(
    session: SessionDep, provider: ProviderDep, settings: SettingsDep, user: WriteUserDep, body: PortalSessionCreate
) -> PortalSessionCreated:
    """The same, with the choice of one task; 404 `customer_not_found` before the first purchase."""
    redirects.require_allowed(settings, return_url=body.return_url)
    url = await portal.create_session(
        session, provider, user_id=user.user_id, return_url=body.return_url, flow=body.flow
    )
    return PortalSessionCreated(url=url)
