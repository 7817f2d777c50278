"""The sandbox's own two pages: what it is, and the events it sent."""

from datetime import UTC, datetime
from operator import itemgetter

from starlette.requests import Request
from starlette.responses import Response

from app.sandbox.pages.layout import page
from app.sandbox.pages.wording import tone
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_LIMIT = 100
_COUNTED = {
    "Customers": "customer",
    "Prices": "price",
    "Checkout sessions": "checkout.session",
    "Subscriptions": "subscription",
    "Invoices": "invoice",
    "Webhook endpoints": "webhook_endpoint",
}


async def index(sandbox: Sandbox, _request: Request) -> Response:
    return page(
        "index.html",
        api_version=sandbox.api_version,
        base_url=sandbox.base_url,
        counts=[(name, len(sandbox.rows(kind))) for name, kind in _COUNTED.items()],
    )


async def events(sandbox: Sandbox, _request: Request) -> Response:
    deliveries: dict[str, list[Row]] = {}
    for delivery in (row for world in sandbox.worlds() for row in world.rows("_delivery")):
        deliveries.setdefault(delivery["event"], []).append(_delivery(sandbox, delivery))
    everywhere = [row for world in sandbox.worlds() for row in world.rows("event")]
    latest = sorted(everywhere, key=itemgetter("created"))[: -_LIMIT - 1 : -1]
    shown = [
        {
            "id": event["id"],
            "time": f"{datetime.fromtimestamp(event['created'], UTC):%d %b %H:%M:%S}",
            "type": event["type"],
            "subject": " of ".join(filter(None, (event["data"]["object"].get("id"), event.get("account")))),
            "deliveries": deliveries.get(event["id"], []),
        }
        for event in latest
    ]
    return page("events.html", events=shown, limit=_LIMIT)


def _delivery(sandbox: Sandbox, row: Row) -> Row:
    owner = sandbox.world(row.get("endpoint_account"))
    endpoint = owner.find("webhook_endpoint", row["webhook_endpoint"]) or {}
    answer = row["response_status"] or ("no answer" if row["attempts"] else "not sent yet")
    tries = f", {row['attempts']} tries" if row["attempts"] > 1 else ""
    return {
        "text": f"{row['status']}: {answer}{tries}",
        "tone": tone(row["status"]),
        "url": endpoint.get("url", "deleted endpoint"),
    }
