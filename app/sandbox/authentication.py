"""Who asks: the platform by its key, an account by the token it was given, or the platform on an account's behalf."""

import base64
import binascii
import re

from starlette.requests import Request

from app.sandbox.errors import ApiError
from app.sandbox.sandbox import Sandbox

HELP = "or we can help at https://support.stripe.com/."
#: Tokens that OAuth gave out: {id: the token, account, scope, revoked}.
TOKEN = "_access_token"  # noqa: S105 - a table's name
_NO_KEY = (
    "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth "
    "(e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details, "
    f"{HELP}"
)
_SHOWN = 4  # last characters of a key that Stripe repeats


def enter(platform: Sandbox, secret_key: str, request: Request) -> Sandbox:
    """Give the world of the account that the request works in; ApiError 401 for a wrong key, 403 for another's."""
    key = given_key(request)
    asked = request.headers.get("Stripe-Account")
    if key == secret_key:
        world = platform if asked is None else connected(platform, asked, key)
        if world.account is not None:
            _check_scope(request, world.account, (platform.peek("account", world.account) or {}).get("_scope"))
        return world
    token = platform.find(TOKEN, key)
    if token is None:
        raise wrong_key(key)
    if token["revoked"]:
        raise ApiError(f"Expired API Key provided: {masked(key)}", status=401, code="api_key_expired")
    world = connected(platform, token["account"] if asked is None else asked, key)
    if world.account != token["account"]:
        raise no_access(str(asked), key)
    _check_scope(request, token["account"], token["scope"])
    return world


def given_key(request: Request) -> str:
    """Read the key, from Bearer or Basic authentication."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            given = ""
    elif scheme.lower() != "bearer":
        given = ""
    if not given.strip():
        raise ApiError(_NO_KEY, status=401)
    return given.strip()


def connected(platform: Sandbox, account: str, key: str) -> Sandbox:
    """Give the world of an account that the platform may work in."""
    if account == platform.own_account:
        return platform
    row = platform.find("account", account)
    if row is None or not row.get("_connected"):
        raise no_access(account, key)
    return platform.world(account)


def _check_scope(request: Request, account: str, scope: str | None) -> None:
    if scope == "read_only" and request.method != "GET":
        raise ApiError(
            f"This application does not have the required permissions for this endpoint on account '{account}'. "
            "Having the 'read_write' scope would allow this request to continue.",
            status=403,
        )


def no_access(account: str, key: str) -> ApiError:
    return ApiError(
        f"The provided key '{masked(key)}' does not have access to account '{account}' (or that account does not "
        "exist). Application access may have been revoked.",
        status=403,
        code="account_invalid",
    )


def wrong_key(given: str) -> ApiError:
    if "_live_" in _prefix(given):
        return ApiError(
            f"This is the Billhook sandbox, it refuses live keys ({_prefix(given)}****). Live keys belong to Stripe "
            "alone.",
            status=401,
        )
    return ApiError(f"Invalid API Key provided: {masked(given)}", status=401)


def masked(key: str) -> str:
    shown = _prefix(key)
    hidden = len(key) - len(shown) - _SHOWN
    return shown + ("*" * hidden + key[-_SHOWN:] if hidden > 0 else "****")


def _prefix(key: str) -> str:
    prefix = re.match(r"[a-z]+_(?:test|live)_", key)
    return prefix[0] if prefix else ""
