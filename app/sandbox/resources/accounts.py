"""Connected accounts, their capabilities, and the links by which their owners enter."""

from typing import Any

from app.sandbox import accounts, lists
from app.sandbox.authentication import no_access
from app.sandbox.errors import ApiError, required
from app.sandbox.metadata import merge
from app.sandbox.route import route, under
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

LINK_LASTS = 300  # seconds
_HASHES = ("business_profile", "settings")


def create(sandbox: Sandbox, params: Row) -> Row:
    platform = _platform(sandbox)
    if "type" in params and "controller" in params:
        raise ApiError("You may only specify one of these parameters: type, controller.", param="type")
    type = params.get("type", "none" if "controller" in params else "standard")
    row = accounts.create(
        platform,
        type=type,
        controller=accounts.controller(params.get("type"), params.get("controller") or {}),
        country=params.get("country", "US"),
        email=params.get("email"),
    )
    _apply(platform, row, {name: value for name, value in params.items() if name not in {"type", "controller"}})
    return row


def retrieve(sandbox: Sandbox, _params: Row, account: str) -> Row:
    return _accessible(sandbox, account)


def retrieve_own(sandbox: Sandbox, _params: Row) -> Row:
    """The account that the request works in: the platform's own, or a connected one."""
    return _accessible(sandbox, sandbox.account or sandbox.own_account)


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        _platform(sandbox),
        "account",
        params,
        "/v1/accounts",
        lambda row: row["_connected"] and lists.within(row["created"], params.get("created")),
    )


def update(sandbox: Sandbox, params: Row, account: str) -> Row:
    row = _accessible(sandbox, account)
    accounts.check_controlled(row)
    platform = sandbox.platform
    with platform.world(account).updating("account.updated", row):
        _apply(platform, row, params)
    return row


def delete(sandbox: Sandbox, _params: Row, account: str) -> Row:
    row = _accessible(sandbox, account)
    if row["controller"]["type"] == "account":
        raise ApiError("This application is not authorized to delete this account.", status=403)
    row.clear()
    row.update({"id": account, "object": "account", "deleted": True})
    return row


def list_capabilities(sandbox: Sandbox, _params: Row, account: str) -> Row:
    _accessible(sandbox, account)
    rows = sandbox.world(account).rows("capability")
    return lists.listing(rows, f"/v1/accounts/{account}/capabilities")


def retrieve_capability(sandbox: Sandbox, _params: Row, account: str, capability: str) -> Row:
    _accessible(sandbox, account)
    found = sandbox.world(account).find("capability", capability)
    if found is None:
        raise ApiError(f"No such capability: '{capability}'", status=404, code="resource_missing", param="capability")
    return found


def update_capability(sandbox: Sandbox, params: Row, account: str, capability: str) -> Row:
    row = _accessible(sandbox, account)
    accounts.check_controlled(row)
    with sandbox.world(account).updating("account.updated", row):
        asked = params.get("requested", account in sandbox.world(account).ids("capability"))
        return accounts.request_capability(sandbox.platform, row, capability, requested=asked)


def create_link(sandbox: Sandbox, params: Row) -> Row:
    """Lead an account's owner to the onboarding form, once and for five minutes."""
    platform = _platform(sandbox)
    row = _accessible(platform, params["account"])
    accounts.check_controlled(row)
    for name in ("refresh_url", "return_url"):
        if name not in params:
            raise required(name)
        if not params[name].startswith(("http://", "https://")):
            raise ApiError("Not a valid URL", code="url_invalid", param=name)
    if params["type"] == "account_update" and row["controller"]["requirement_collection"] != "application":
        raise ApiError("You cannot create `account_update` type Account Links for this account.", param="type")
    link = _link(platform, "_account_link", row, {name: params[name] for name in ("refresh_url", "return_url")})
    return {
        "object": "account_link",
        "created": link["created"],
        "expires_at": link["created"] + LINK_LASTS,
        "url": f"{platform.base_url}/setup/s/{row['id']}/{link['id']}",
    }


def create_login_link(sandbox: Sandbox, _params: Row, account: str) -> Row:
    platform = _platform(sandbox)
    row = _accessible(platform, account)
    if row["controller"].get("stripe_dashboard", {}).get("type") != "express":
        raise ApiError("Cannot create a login link for an account that has no access to the Express Dashboard.")
    if not row["details_submitted"]:
        raise ApiError("Cannot create a login link for an account that has not completed onboarding.")
    link = _link(platform, "_login_link", row, {})
    return {
        "object": "login_link",
        "created": link["created"],
        "url": f"{platform.base_url}/express/{account}/{link['id']}",
    }


def _link(platform: Sandbox, kind: str, account: Row, fields: Row) -> Row:
    token = platform.new.text(12)
    facts = {"account": account["id"], "created": platform.now(), "used": False}
    return platform.insert({"id": token, "object": kind, **facts, **fields})


def _platform(sandbox: Sandbox) -> Sandbox:
    """Only platforms have accounts; a connected one that asks is told so."""
    if sandbox.account is not None:
        raise ApiError(
            "Only Stripe Connect platforms can work with other accounts. If you specified a client_id parameter, make "
            "sure it's correct. If you need to setup a Stripe Connect platform, you can do so at "
            "https://dashboard.stripe.com/account/applications/settings.",
            status=403,
            code="platform_account_required",
        )
    return sandbox


def _accessible(sandbox: Sandbox, account: str) -> Row:
    """Find an account that the platform may see, or the one that asks about itself."""
    if account == sandbox.own_account and sandbox.account is None:
        return accounts.own(sandbox)
    row = sandbox.platform.find("account", account)
    if row is None or not row.get("_connected") or sandbox.account not in {None, account}:
        raise no_access(account, "sk_test_****")
    return row


def _apply(platform: Sandbox, row: Row, params: Row) -> None:
    for name in ("business_type", "default_currency", "email"):
        if name in params:
            row[name] = params[name]
    for name in _HASHES:
        _deepen(row[name], params.get(name) or {})
    for name, asked in (params.get("capabilities") or {}).items():
        accounts.request_capability(platform, row, name, requested=asked.get("requested", False))
    merge(row, params)


def _deepen(row: Row, values: Row) -> None:
    """Set what is given, and leave what stands beside it."""
    for name, value in values.items():
        held: Any = row.get(name)
        if isinstance(value, dict) and isinstance(held, dict):
            _deepen(held, value)
        else:
            row[name] = value


_SETTINGS = under("settings", "branding.primary_color branding.secondary_color payments payouts card_payments")
_FIELDS = f"business_profile business_type capabilities default_currency email {_SETTINGS}"

ROUTES = (
    route("GET /v1/account", retrieve_own, "AccountRetrieveCurrentParams"),
    route("POST /v1/accounts", create, "AccountCreateParams", f"{_FIELDS} controller country type"),
    route("GET /v1/accounts", list_, "AccountListParams", "created"),
    route("GET /v1/accounts/{account}", retrieve, "AccountRetrieveParams"),
    route("POST /v1/accounts/{account}", update, "AccountUpdateParams", _FIELDS),
    route("DELETE /v1/accounts/{account}", delete, "AccountDeleteParams"),
    route("GET /v1/accounts/{account}/capabilities", list_capabilities, "AccountCapabilityListParams"),
    route(
        "GET /v1/accounts/{account}/capabilities/{capability}",
        retrieve_capability,
        "AccountCapabilityRetrieveParams",
    ),
    route(
        "POST /v1/accounts/{account}/capabilities/{capability}",
        update_capability,
        "AccountCapabilityUpdateParams",
        "requested",
    ),
    route(
        "POST /v1/account_links",
        create_link,
        "AccountLinkCreateParams",
        "account refresh_url return_url type collect collection_options",
    ),
    route("POST /v1/accounts/{account}/login_links", create_login_link, "AccountLoginLinkCreateParams"),
)
