"""Webhook endpoints: where events are delivered, and the secret that signs them."""

from app.sandbox import lists
from app.sandbox.errors import ApiError, unsupported
from app.sandbox.metadata import merge
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_MAX_ENDPOINTS = 16


def create(sandbox: Sandbox, params: Row) -> Row:
    """Register an endpoint; its secret is shown in this answer alone."""
    if len(sandbox.rows("webhook_endpoint")) >= _MAX_ENDPOINTS:
        raise ApiError(f"You have reached the maximum of {_MAX_ENDPOINTS} test webhook endpoints.")
    if params.get("api_version") not in {None, sandbox.api_version}:
        raise unsupported(f"API versions other than {sandbox.api_version}", param="api_version")
    row = sandbox.add_webhook_endpoint(_url(params["url"]), enabled_events=params["enabled_events"])
    row["api_version"] = params.get("api_version")
    row["description"] = params.get("description")
    row["_connect"] = params.get("connect", False)
    merge(row, params)
    return {**row, "secret": row["_secret"]}


def retrieve(sandbox: Sandbox, _params: Row, webhook_endpoint: str) -> Row:
    return sandbox.get("webhook_endpoint", webhook_endpoint)


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(sandbox, "webhook_endpoint", params, "/v1/webhook_endpoints", lambda _: True)


def update(sandbox: Sandbox, params: Row, webhook_endpoint: str) -> Row:
    row = sandbox.get("webhook_endpoint", webhook_endpoint)
    for name in ("description", "enabled_events"):
        if name in params:
            row[name] = params[name]
    if "url" in params:
        row["url"] = _url(params["url"])
    if "disabled" in params:
        row["status"] = "disabled" if params["disabled"] else "enabled"
    if row["status"] == "disabled":
        _stop(sandbox, webhook_endpoint)
    merge(row, params)
    return row


def delete(sandbox: Sandbox, _params: Row, webhook_endpoint: str) -> Row:
    row = sandbox.get("webhook_endpoint", webhook_endpoint)
    _stop(sandbox, webhook_endpoint)
    row.clear()
    row.update({"id": webhook_endpoint, "object": "webhook_endpoint", "deleted": True})
    return row


def _stop(sandbox: Sandbox, endpoint: str) -> None:
    """End the retries to an endpoint that is no longer served."""
    for delivery in sandbox.pending_deliveries():
        if delivery["webhook_endpoint"] == endpoint:
            sandbox.drop(delivery)


def _url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ApiError("Invalid URL: An explicit scheme (such as https) must be provided.", param="url")
    return url
