"""One event of each kind that is sent, as the sandbox (and so Stripe) shows it, and what differs in another one."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from app.sandbox.app import create_sandbox
from app.sandbox.sandbox import Sandbox

SUBSCRIBED_AT = 1_790_000_000
"""Unix seconds; stands in every sample and is replaced."""
STEP = 1000


@dataclass(frozen=True, slots=True)
class Sample:
    """The text around `names`: what stands between two pieces is what another event has otherwise."""

    pieces: tuple[str, ...]
    names: tuple[str, ...]

    def event(self, words: Mapping[str, str]) -> bytes:
        """The body of an event of this kind with these ids, this user and this time in it."""
        filled = [self.pieces[0]]
        for name, piece in zip(self.names, self.pieces[1:], strict=True):
            filled += (words[name], piece)
        return "".join(filled).encode()


async def draw() -> dict[str, Sample]:
    """Samples of customer.created, customer.subscription.created, invoice.paid, and of `cancel` and `resume`.

    The last two are customer.subscription.updated: set to end with the period, and that taken back.
    """
    moment = SUBSCRIBED_AT
    app = create_sandbox(now=lambda: moment)
    sandbox: Sandbox = app.state.sandbox
    headers = {"Authorization": "Bearer sk_test_billhook"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://sandbox/v1/", headers=headers
    ) as client:

        async def post(path: str, **fields: str) -> dict[str, Any]:
            answer = await client.post(path, data=fields)
            answer.raise_for_status()
            made: dict[str, Any] = answer.json()
            return made

        product = await post("products", name="Pro", **{"metadata[plan]": "pro"})
        price = await post(
            "prices",
            product=product["id"],
            currency="usd",
            unit_amount="9900",
            **{"recurring[interval]": "month", "metadata[plan]": "pro"},
        )
        customer = await post(
            "customers",
            email="benchmark-user@example.com",
            name="Ada Lovelace",
            payment_method="pm_card_visa",
            **{"metadata[user_id]": "benchmark-user", "invoice_settings[default_payment_method]": "pm_card_visa"},
        )
        subscription = await post("subscriptions", customer=customer["id"], **{"items[0][price]": price["id"]})
        moment += STEP
        await post(f"subscriptions/{subscription['id']}", cancel_at_period_end="true")
        moment += STEP
        await post(f"subscriptions/{subscription['id']}", cancel_at_period_end="false")
        events = [sandbox.shown(row) for row in sandbox.rows("event")]
    await sandbox.aclose()
    wanted = ("customer.created", "customer.subscription.created", "invoice.paid", "customer.subscription.updated")
    created, subscribed, paid, canceled, resumed = (event for event in events if event["type"] in wanted)
    words = {
        "customer": customer["id"],
        "user": "benchmark-user",
        "subscription": subscription["id"],
        "item": subscription["items"]["data"][0]["id"],
        "invoice": subscription["latest_invoice"],
    }
    return {
        "customer.created": _sample(created, words),
        "customer.subscription.created": _sample(subscribed, words),
        "invoice.paid": _sample(paid, words),
        "cancel": _sample(canceled, words),
        "resume": _sample(resumed, words),
    }


def _sample(event: Mapping[str, Any], common: Mapping[str, str]) -> Sample:
    shown = event["data"]["object"]
    words = {**common, "event": event["id"], "request": event["request"]["id"], "time": str(event["created"])}
    if shown["object"] == "invoice":
        words |= {"line": shown["lines"]["data"][0]["id"], "number": shown["number"]}
    names = {word: name for name, word in words.items()}
    # Stripe sends its JSON indented by two.
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", json.dumps(event, indent=2))
    return Sample(pieces=tuple(parts[::2]), names=tuple(names[word] for word in parts[1::2]))
