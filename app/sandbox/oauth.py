"""Stripe Connect's OAuth: a person lets the platform into an account, for a code that becomes a token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.sandbox import accounts, authentication, forms
from app.sandbox.errors import ApiError
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

CODE_LASTS = 300  # seconds
SCOPES = ("read_only", "read_write")
_CODE, _REFRESH = "_authorization_code", "_refresh_token"
_BAD_REQUEST, _UNAUTHORIZED = 400, 401


class OAuthError(Exception):
    """A refusal in OAuth's own words rather than in Stripe's envelope."""

    def __init__(self, error: str, description: str, *, status: int = _BAD_REQUEST) -> None:
        super().__init__(description)
        self.status = status
        self.body = {"error": error, "error_description": description}


@dataclass(frozen=True)
class Authorization:
    """What a platform asks a person for."""

    client_id: str
    redirect_uri: str
    scope: str
    state: str | None

    @classmethod
    def read(cls, query: Any) -> "Authorization":
        """Check the query of /oauth/authorize; OAuthError where nobody can be sent back anywhere."""
        client_id, redirect_uri = query.get("client_id", ""), query.get("redirect_uri", "")
        scope = query.get("scope", "read_only")
        if not client_id.startswith("ca_"):
            raise OAuthError("invalid_client", f"No such application: '{client_id}'", status=_UNAUTHORIZED)
        if not redirect_uri.startswith(("http://", "https://")):
            raise OAuthError("invalid_redirect_uri", f"Invalid redirect URI '{redirect_uri}'.")
        if query.get("response_type") != "code":
            raise OAuthError("unsupported_response_type", "Response type must be 'code'.")
        if scope not in SCOPES:
            raise OAuthError("invalid_scope", f"Invalid scope provided: {scope}.")
        return cls(client_id, redirect_uri, scope, query.get("state"))

    def back(self, **outcome: str) -> str:
        """Give the URL that the person is sent back to."""
        if self.state is not None:
            outcome["state"] = self.state
        return f"{self.redirect_uri}{'&' if '?' in self.redirect_uri else '?'}{urlencode(outcome)}"

    def denied(self) -> str:
        return self.back(error="access_denied", error_description="The user denied your request")


def grant(platform: Sandbox, asked: Authorization, account: str | None) -> str:
    """Let the platform into the account, or into a new one; gives the URL to go back to, with the code."""
    if account is None:
        row = accounts.create(platform, type="standard", controller={"type": "account"})
        row["_connected"] = False  # until the code is exchanged
        accounts.finish_onboarding(platform, row)
    else:
        row = platform.get("account", account)
    code = platform.insert(
        {
            "id": platform.new.mint("ac_"),
            "object": _CODE,
            "account": row["id"],
            "client_id": asked.client_id,
            "scope": asked.scope,
            "expires_at": platform.now() + CODE_LASTS,
            "used": False,
        }
    )
    return asked.back(scope=asked.scope, code=code["id"])


def _token(platform: Sandbox, form: Row) -> Row:
    kind = form.get("grant_type")
    if kind == "authorization_code":
        return _exchange(platform, form.get("code", ""))
    if kind == "refresh_token":
        return _refresh(platform, form)
    if kind is None:
        raise OAuthError("invalid_request", "No grant type specified")
    raise OAuthError("unsupported_grant_type", f"Unsupported grant type: {kind}")


def _exchange(platform: Sandbox, given: str) -> Row:
    code = platform.find(_CODE, given)
    if code is None:
        raise OAuthError("invalid_grant", f"Authorization code does not exist: {given}")
    account = platform.get("account", code["account"])
    if code["used"]:
        # Somebody else has the code as well, so what it gave out can't be trusted any more.
        _revoke(platform, account["id"])
        raise OAuthError(
            "invalid_grant",
            "This authorization code has already been used. All tokens issued with this code have been revoked.",
        )
    if code["expires_at"] <= platform.now():
        raise OAuthError("invalid_grant", f"Authorization code expired: {given}")
    code["used"] = True
    account["_connected"], account["_client_id"], account["_scope"] = True, code["client_id"], code["scope"]
    refresh = platform.insert(
        {"id": platform.new.mint("rt_"), "object": _REFRESH, "account": account["id"], "scope": code["scope"]}
    )
    platform.world(account["id"]).emit("account.application.authorized", accounts.application(account))
    return _issued(platform, refresh, code["scope"])


def _refresh(platform: Sandbox, form: Row) -> Row:
    given = form.get("refresh_token", "")
    refresh = platform.find(_REFRESH, given)
    if refresh is None:
        raise OAuthError("invalid_grant", f"Refresh token does not exist: {given}")
    scope = form.get("scope", refresh["scope"])
    if scope not in SCOPES or (scope, refresh["scope"]) == ("read_write", "read_only"):
        raise OAuthError("invalid_scope", f"Invalid scope provided: {scope}.")
    return _issued(platform, refresh, scope)


def _issued(platform: Sandbox, refresh: Row, scope: str) -> Row:
    token = platform.insert(
        {
            "id": platform.new.mint("sk_test_"),
            "object": authentication.TOKEN,
            "account": refresh["account"],
            "scope": scope,
            "revoked": False,
        }
    )
    return {
        "access_token": token["id"],
        "livemode": False,
        "refresh_token": refresh["id"],
        "scope": scope,
        "stripe_publishable_key": platform.new.mint("pk_test_"),
        "stripe_user_id": refresh["account"],
        "token_type": "bearer",
    }


def _deauthorize(platform: Sandbox, form: Row) -> Row:
    client_id, id = form.get("client_id", ""), form.get("stripe_user_id", "")
    if not client_id.startswith("ca_"):
        raise OAuthError("invalid_client", f"No such application: '{client_id}'", status=_UNAUTHORIZED)
    account = platform.find("account", id)
    if account is None or not account.get("_connected") or account.get("_client_id") != client_id:
        raise OAuthError(
            "invalid_client",
            f"This application is not connected to stripe account {id}, or that account does not exist.",
            status=_UNAUTHORIZED,
        )
    _revoke(platform, id)
    accounts.deauthorize(platform, account)
    return {"stripe_user_id": id}


def _revoke(platform: Sandbox, account: str) -> None:
    for row in platform.rows(authentication.TOKEN):
        if row["account"] == account:
            platform.get(authentication.TOKEN, row["id"])["revoked"] = True
    for row in platform.rows(_REFRESH):
        if row["account"] == account:
            platform.forget(_REFRESH, row["id"])


class OAuth:
    """Answers /oauth/token and /oauth/deauthorize, which take the platform's key and no other."""

    def __init__(self, platform: Sandbox, secret_key: str) -> None:
        self._platform = platform
        self._secret_key = secret_key

    async def token(self, request: Request) -> Response:
        return await self._answer(request, _token)

    async def deauthorize(self, request: Request) -> Response:
        return await self._answer(request, _deauthorize)

    async def _answer(self, request: Request, act: Callable[[Sandbox, Row], Row]) -> Response:
        platform = self._platform
        platform.tick()
        headers = {"Request-Id": platform.new.mint("req_")}
        try:
            form = forms.parse((await request.body()).decode("utf-8", "replace"))
            self._authenticate(request, form)
            async with platform.faults.around(request, headers):
                body, status = self._outcome(act, form)
        except ApiError as error:
            body, status = error.envelope(headers["Request-Id"]), error.status
        except OAuthError as error:
            body, status = error.body, error.status
        platform.deliveries.kick()
        return JSONResponse(body, status, headers)

    def _outcome(self, act: Callable[[Sandbox, Row], Row], form: Row) -> tuple[Row, int]:
        """Run it; what a refusal has revoked stays revoked."""
        with self._platform.transaction():
            try:
                return act(self._platform, form), 200
            except OAuthError as error:
                return error.body, error.status

    def _authenticate(self, request: Request, form: Row) -> None:
        given = form.get("client_secret")
        if given is None:
            given = authentication.given_key(request)
        if given != self._secret_key:
            raise OAuthError("invalid_client", authentication.wrong_key(given).message, status=_UNAUTHORIZED)
