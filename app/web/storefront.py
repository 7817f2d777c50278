"""The demo storefront: how a front end integrates, as pages over the real API; served on the sandbox alone."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Header, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.errors import NotFoundError, PermissionDeniedError, UnauthenticatedError
from app.services import identity, inbox
from app.services.credits.accounts import Identity
from app.services.credits.charges import Charger, Order
from app.settings import Settings
from app.values import THREE_DECIMAL, ZERO_DECIMAL

HOME = "/demo"
COOKIE = "billhook_demo_user"
EVENTS_SHOWN = 20
# Nothing inline, nothing from elsewhere. The browser also applies form-action to where a POST redirects to: here
# that is always this site, because going to Checkout and the portal is the script's `location.assign`.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

router = APIRouter(prefix=HOME, include_in_schema=False)
templates = Jinja2Templates(Path(__file__).with_name("templates"))


@dataclass(frozen=True, slots=True)
class DemoUser:
    """Somebody the pretended product knows; `id` is the `sub` of their tokens."""

    id: str
    name: str
    email: str


DEMO_USERS = {
    user.id: user
    for user in (DemoUser("demo-1", "Ada", "ada@example.com"), DemoUser("demo-2", "Grace", "grace@example.com"))
}


class Arrival(BaseModel):
    """An event Stripe sent about the signed-in customer, and how far we are with it."""

    id: str
    type: str
    object_id: str | None
    status: str
    received_at: int
    """Unix seconds."""
    applied_after_ms: int | None
    """From receipt to applied; None while it waits."""


class Answer(BaseModel):
    """What the pretended product answers, and how many uses that left."""

    answer: str
    balance_after: int


ANSWERS = (
    "Yes, but ask again with fewer adverbs.",
    "No. It was never about the ducks.",
    "Only on Thursdays, and only in minor units.",
    "The ledger knows. The ledger always knows.",
    "Try switching it to double entry and on again.",
)


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    """For reading only: nothing is ever committed here."""
    sessions: async_sessionmaker[AsyncSession] = request.state.sessions
    async with sessions() as session:
        yield session


async def _settings(request: Request) -> Settings:
    settings: Settings = request.state.settings
    return settings


async def _visitor(request: Request) -> DemoUser | None:
    """Who the cookie says is signed in. It proves nothing, and needn't: anybody may be any demo user."""
    return DEMO_USERS.get(request.cookies.get(COOKIE, ""))


async def _signed_in(visitor: Annotated[DemoUser | None, Depends(_visitor)]) -> DemoUser:
    if visitor is None:
        raise UnauthenticatedError("Sign in as a demo user first.")
    return visitor


async def _own_form(request: Request) -> None:
    """Refuses a form that another site's page sends with our visitor's cookie.

    Browsers put Sec-Fetch-Site on https and localhost only, so Origin decides elsewhere; what sends neither is no
    browser and carries nobody's cookie.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    same_host = origin is None or origin.partition("://")[2] == request.headers.get("host")
    if site != "same-origin" if site else not same_host:
        raise PermissionDeniedError("This form may only be sent from the storefront's own pages.", code="cross_site")


SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
SettingsDep = Annotated[Settings, Depends(_settings)]
VisitorDep = Annotated[DemoUser | None, Depends(_visitor)]
SignedInDep = Annotated[DemoUser, Depends(_signed_in)]


@router.get("")
async def show_pricing(request: Request, settings: SettingsDep, visitor: VisitorDep) -> Response:
    return _page(request, settings, "pricing", visitor)


@router.get("/success")
async def show_success(request: Request, settings: SettingsDep, visitor: VisitorDep) -> Response:
    return _page(request, settings, "success", visitor) if visitor else _go_home()


@router.get("/billing")
async def show_billing(request: Request, settings: SettingsDep, visitor: VisitorDep) -> Response:
    return _page(request, settings, "billing", visitor) if visitor else _go_home()


@router.get("/credits")
async def show_credits(request: Request, settings: SettingsDep, visitor: VisitorDep) -> Response:
    return _page(request, settings, "credits", visitor) if visitor else _go_home()


@router.post("/ask", dependencies=[Depends(_own_form)])
async def ask(
    request: Request, user: SignedInDep, idempotency_key: Annotated[str, Header(min_length=1, max_length=255)]
) -> Answer:
    """The product itself: what its backend does before it answers. Over HTTP that is `POST /charges`."""
    charger: Charger = request.state.charger
    who = Identity(user_id=user.id, email=user.email)
    charged = await charger.charge(Order(identity=who, key=f"demo-{idempotency_key}", description="A question"))
    return Answer(answer=ANSWERS[charged.id.int % len(ANSWERS)], balance_after=charged.balance_after)


@router.post("/sign-in", dependencies=[Depends(_own_form)])
async def sign_in(request: Request, user: Annotated[str, Form()]) -> Response:
    if user not in DEMO_USERS:
        raise NotFoundError("There is no such demo user.", param="user")
    response = _go_home()
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, user, path=HOME, httponly=True, samesite="lax", secure=secure)
    return response


@router.post("/sign-out", dependencies=[Depends(_own_form)])
async def sign_out() -> Response:
    response = _go_home()
    response.delete_cookie(COOKIE, path=HOME, httponly=True, samesite="lax")
    return response


@router.get("/token")
async def get_token(settings: SettingsDep, user: SignedInDep) -> dict[str, str]:
    """What a product's own login would give its front end: a fresh token of the signed-in user."""
    return {"token": identity.mint_development_token(settings, user.id, email=user.email, name=user.name)}


@router.get("/events")
async def list_arrivals(session: SessionDep, user: SignedInDep) -> list[Arrival]:
    """The last events about the signed-in customer, newest first. The API shows events to operators only."""
    events = await inbox.list_events(
        session, status=None, type=None, customer=user.id, limit=EVENTS_SHOWN, starting_after=None
    )
    return [
        Arrival(
            id=event.event_id,
            type=event.type,
            object_id=json.loads(event.payload or "{}").get("data", {}).get("object", {}).get("id"),
            status=event.status,
            received_at=int(event.received_at.timestamp()),
            applied_after_ms=_milliseconds(event.received_at, event.processed_at),
        )
        for event in events[:EVENTS_SHOWN]
    ]


def _milliseconds(start: datetime, end: datetime | None) -> int | None:
    return None if end is None else round((end - start).total_seconds() * 1000)


def _go_home() -> RedirectResponse:
    return RedirectResponse(HOME, status_code=303)


def _page(request: Request, settings: Settings, name: str, visitor: DemoUser | None) -> Response:
    return templates.TemplateResponse(
        request,
        f"storefront/{name}.html",
        {
            "here": name,
            "visitor": visitor,
            "demo_users": DEMO_USERS.values(),
            "api_prefix": settings.api_prefix,
            "free_uses": request.state.catalog.credits.free_uses,
            "zero_decimal": sorted(ZERO_DECIMAL),
            "three_decimal": sorted(THREE_DECIMAL),
        },
        headers={
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            # With `no-referrer` a browser sends `Origin: null` with our own forms.
            "Referrer-Policy": "same-origin",
        },
    )
