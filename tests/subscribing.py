"""Subscribers as clients of the API, and what Stripe does to them meanwhile."""

import time
from typing import Any

import httpx
from billing import Account, card
from serving import API, Bearer

from app import models
from app.sandbox import checkout as hosted
from app.sandbox.resources import payment_methods, subscriptions
from app.sandbox.sandbox import Sandbox

DAY = 86_400
URLS = {"success_url": "https://app.example.com/done", "cancel_url": "https://app.example.com/"}


class StripeClock:
    """Stripe's time; ours goes on as it does."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Caller:
    """One caller of the API, with a new Idempotency-Key for every wish."""

    def __init__(self, client: httpx.AsyncClient, who: Bearer) -> None:
        self.client, self.who, self.wishes = client, who, 0

    async def post(self, path: str, body: Any = None, *, key: str | None = None) -> httpx.Response:
        self.wishes += 1
        headers = {**self.who, "Idempotency-Key": key or f"wish-{id(self)}-{self.wishes}"}
        return await self.client.post(f"{API}{path}", json=body, headers=headers)

    async def done(self, path: str, body: Any = None, *, key: str | None = None) -> Any:
        answer = await self.post(path, body, key=key)
        assert answer.status_code in {200, 201}, answer.text
        return answer.json()

    async def get(self, path: str) -> Any:
        answer = await self.client.get(f"{API}{path}", headers=self.who)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refusal(self, path: str, body: Any = None, *, key: str | None = None) -> tuple[int, str]:
        answer = await self.post(path, body, key=key)
        return answer.status_code, answer.json()["code"]

    async def preview(self, **wish: Any) -> Any:
        return await self.done("/subscription/change/preview", wish)


async def buy(
    client: httpx.AsyncClient, account: Account, who: Bearer, plan: str, *, number: str | None = None
) -> None:
    opened = await client.post(f"{API}/checkout/session", headers=who, json={"plan": plan, **URLS})
    assert opened.status_code == 200, opened.text
    session = opened.json()["session_id"]
    hosted.pay(account.sandbox, session, card(number) if number else card())
    landed = await client.get(f"{API}/checkout/session/{session}", headers=who)
    assert landed.json()["subscription"]["plan"] == plan
    await tell(account)


def pay_with(sandbox: Sandbox, method: str) -> None:
    """Have the one subscription charged to another of Stripe's test cards from now on."""
    [row] = sandbox.rows("subscription")
    with sandbox.changing():
        attached = payment_methods.attach(sandbox, {"customer": row["customer"]}, method)
        subscriptions.update(sandbox, {"default_payment_method": attached["id"]}, row["id"])


async def tell(account: Account) -> None:
    await account.deliver_and_process(account.events())


def invoices(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Oldest first."""
    return sorted(sandbox.rows("invoice"), key=lambda row: row["created"])


async def mirrored(account: Account) -> dict[str, Any]:
    """Our rows of what a change touches, without what tells how they came about. Payments come by webhook alone."""
    state = await account.state()
    return {name: state[name] for name in ("Customer", "Subscription", "Invoice")} | {
        "SubscriptionSchedule": [
            (row.stripe_id, row.status, row.subscription, row.phases)
            for row in await account.all(models.SubscriptionSchedule)
        ]
    }
