"""Connect's pages: letting a platform into an account, telling Stripe what it asks for, and the Express dashboard."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.sandbox import accounts, oauth
from app.sandbox.errors import missing
from app.sandbox.pages.layout import notice, page, see_other
from app.sandbox.resources.accounts import LINK_LASTS
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


async def show_authorize(sandbox: Sandbox, request: Request) -> Response:
    """Ask a person whether the platform may have access, and to which of the accounts."""
    try:
        asked = oauth.Authorization.read(request.query_params)
    except oauth.OAuthError as error:
        return JSONResponse(error.body, error.status)
    return page(
        "authorize.html",
        leads_to=[asked.redirect_uri],
        may_write=asked.scope == "read_write",
        owned=[row["id"] for row in _owned(sandbox)],
    )


async def answer_authorize(sandbox: Sandbox, request: Request) -> Response:
    try:
        asked = oauth.Authorization.read(request.query_params)
    except oauth.OAuthError as error:
        return JSONResponse(error.body, error.status)
    async with request.form() as data:
        outcome, account = data.get("outcome"), str(data.get("account") or "")
    if outcome != "connect":
        return see_other(asked.denied())
    if account and account not in {row["id"] for row in _owned(sandbox)}:
        raise missing("account", account)
    with sandbox.changing():
        back = oauth.grant(sandbox, asked, account or None)
    return see_other(back)


async def show_onboarding(sandbox: Sandbox, request: Request) -> Response:
    link = _link(sandbox, request)
    if _is_spent(sandbox, link):
        return see_other(link["refresh_url"])
    account = sandbox.get("account", link["account"])
    return page(
        "onboarding.html",
        leads_to=[link["return_url"], link["refresh_url"]],
        account=account["id"],
        due=account["requirements"]["currently_due"],
    )


async def answer_onboarding(sandbox: Sandbox, request: Request) -> Response:
    """Finish the form, or leave it for later; both lead back to the platform, as with Stripe."""
    link = _link(sandbox, request)
    if _is_spent(sandbox, link):
        return see_other(link["refresh_url"])
    async with request.form() as data:
        finish = data.get("outcome") == "finish"
    with sandbox.changing():
        sandbox.get("_account_link", link["id"])["used"] = True
        if finish:
            accounts.finish_onboarding(sandbox, sandbox.get("account", link["account"]))
    return see_other(link["return_url"])


async def express(sandbox: Sandbox, request: Request) -> Response:
    """Open the Express dashboard once; the sandbox has nothing to show there."""
    account, token = request.path_params["account"], request.path_params["token"]
    link = sandbox.find("_login_link", token)
    if link is None or link["account"] != account or link["used"]:
        raise missing("login_link", token)
    with sandbox.transaction():
        sandbox.get("_login_link", token)["used"] = True
    return notice("Express Dashboard", f"This is where the owner of {account} would see payments and payouts.")


def _owned(sandbox: Sandbox) -> list[Row]:
    """Accounts that belong to their owners rather than to the platform."""
    return [row for row in sandbox.rows("account") if row["controller"]["type"] == "account"]


def _link(sandbox: Sandbox, request: Request) -> Row:
    link = sandbox.find("_account_link", request.path_params["token"])
    if link is None or link["account"] != request.path_params["account"]:
        raise missing("account_link", request.path_params["token"])
    sandbox.get("account", link["account"])
    return link


def _is_spent(sandbox: Sandbox, link: Row) -> bool:
    return bool(link["used"]) or link["created"] + LINK_LASTS <= sandbox.now()
