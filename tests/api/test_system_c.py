"""The wire format of clients that were written for another credits service, request by request.

They name users by `oauth_provider` and `external_id`, send much that says nothing about credits, and put the
idempotency key into the body. What a use is worth (`amount_minor`) used to be compared with the number of uses left, so
that whoever had just bought a pack was refused: here it is recorded, and a charge spends one use.
"""

from typing import Any

import httpx
import pytest
from billing import Account
from crediting import audit
from serving import API, Bearer, CreateKey

from app.db import Sessions
from app.values import unix_now

USER = {"oauth_provider": "oauth:google", "external_id": "user@example.com", "wa_id": None, "tenant_id": None}
CHECK = {**USER, "context": {"agent_id": "agent-1", "channel_id": "channel-1", "request_id": "req-1"}}
NOTES = {"message_id": "msg-123", "agent_id": "agent-1", "channel_id": "channel-1", "request_id": "req-1"}
PURCHASE = {**USER, "customer_email": "user@example.com", "return_url": "https://app.example.com/billing"}


def charge(number: int, amount_minor: int = 100) -> dict[str, Any]:
    return {
        **USER,
        "amount_minor": amount_minor,
        "currency": "USD",
        "description": "Discord message",
        "idempotency_key": f"msg-{number}",
        "metadata": NOTES,
    }


class System:
    """A backend that was written for the other service."""

    def __init__(self, client: httpx.AsyncClient, key: Bearer, account: Account) -> None:
        self.client, self.key, self.account = client, key, account

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return await self.client.post(f"{API}{path}", json=body, headers=self.key)

    async def check(self) -> dict[str, Any]:
        answer = await self.post("/credits/check", CHECK)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def charged(self, number: int, amount_minor: int = 100) -> dict[str, Any]:
        answer = await self.post("/charges", charge(number, amount_minor))
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def use_up_what_is_free(self) -> None:
        for number in range(3):
            await self.charged(number)

    async def begin_purchase(self) -> dict[str, Any]:
        answer = await self.post("/purchases", PURCHASE)
        assert answer.status_code == 201, answer.text
        begun: dict[str, Any] = answer.json()
        return begun

    async def pay(self, payment_id: str) -> None:
        """As Stripe.js does with the client secret; the webhooks arrive."""
        await self.account.provider.confirm_payment_intent(
            payment_id,
            payment_method="pm_card_visa",
            return_url=PURCHASE["return_url"],
            idempotency_key=f"pay-{payment_id}",
        )
        await self.account.deliver_and_process(self.account.events())

    async def purchase(self, id: str) -> dict[str, Any]:
        answer = await self.client.get(f"{API}/purchases/{id}", headers=self.key)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
async def system(client: httpx.AsyncClient, create_key: CreateKey, account: Account) -> System:
    return System(client, await create_key("credits:write", "credits:read"), account)


def says(answer: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether `answer` has all of these; more than that does no client of theirs any harm."""
    assert {name: answer.get(name, KeyError) for name in expected} == expected
    return True


async def test_an_account_is_made_or_found(system: System) -> None:
    body = {**USER, "customer_email": "user@example.com", "display_name": "User", "marketing_opt_in": False}
    made, found = await system.post("/accounts", body), await system.post("/accounts", body)
    assert (made.status_code, found.status_code) == (201, 200)
    assert made.json() == found.json()
    assert says(made.json(), {"oauth_provider": "google", "external_id": "user@example.com", "status": "active"})


async def test_a_new_user_has_three_free_uses(system: System) -> None:
    assert says(
        await system.check(),
        {
            "has_credit": True,
            "credits_remaining": 0,
            "free_uses_remaining": 3,
            "total_uses": 0,
            "plan_name": "free",
            "reason": None,
            "purchase_required": False,
            "purchase_price_minor": None,
            "purchase_uses": None,
        },
    )


async def test_a_charge_spends_one_use_and_tells_of_it(system: System) -> None:
    before = unix_now()
    made = await system.charged(123)
    assert says(
        made,
        {
            "amount_minor": 100,
            "currency": "usd",
            "balance_after": 2,
            "description": "Discord message",
            "metadata": NOTES,
        },
    )
    assert before <= made["created_at"] <= unix_now()
    checked = await system.check()
    assert (checked["free_uses_remaining"], checked["total_uses"]) == (2, 1)
    assert checked["account_id"] == made["account_id"]
    found = await system.client.get(f"{API}/charges/{made['charge_id']}", headers=system.key)
    assert found.json() == made


async def test_the_same_message_is_charged_once(system: System) -> None:
    first = await system.charged(123)
    again = await system.post("/charges", charge(123))
    assert (again.status_code, again.json()) == (201, first)
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await system.post("/charges", charge(123, amount_minor=200))
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (await system.check())["total_uses"] == 1


async def test_metadata_may_leave_out_what_a_message_does_not_have(system: System) -> None:
    answer = await system.post("/charges", charge(1) | {"metadata": NOTES | {"channel_id": None}})
    assert answer.status_code == 201, answer.text
    assert answer.json()["metadata"] == {name: text for name, text in NOTES.items() if name != "channel_id"}
    none = await system.post("/charges", charge(2) | {"metadata": None, "description": None})
    assert (none.status_code, none.json()["metadata"]) == (201, None)


async def test_whoever_has_used_up_what_is_free_is_offered_a_pack(system: System) -> None:
    await system.use_up_what_is_free()
    offer = {
        "has_credit": False,
        "credits_remaining": 0,
        "free_uses_remaining": 0,
        "total_uses": 3,
        "plan_name": "free",
        "purchase_required": True,
        "purchase_price_minor": 500,
        "purchase_uses": 20,
    }
    checked = await system.check()
    assert says(checked, offer)
    assert checked["reason"].endswith(".")
    refused = await system.post("/charges", charge(4))
    assert refused.status_code == 402
    assert says(refused.json(), offer | {"code": "insufficient_credits", "retryable": True})


async def test_a_pack_is_bought_with_a_client_secret(system: System) -> None:
    await system.use_up_what_is_free()
    begun = await system.begin_purchase()
    assert says(begun, {"amount_minor": 500, "currency": "usd", "uses_purchased": 20, "status": "pending"})
    assert begun["payment_id"].startswith("pi_")
    assert begun["client_secret"].startswith(begun["payment_id"] + "_secret_")
    assert "publishable_key" in begun
    assert (await system.check())["has_credit"] is False
    await system.pay(begun["payment_id"])
    assert says(
        await system.purchase(begun["id"]),
        {
            "payment_id": begun["payment_id"],
            "status": "succeeded",
            "amount_minor": 500,
            "currency": "usd",
            "uses_purchased": 20,
            "uses_granted": 20,
        },
    )
    assert says(
        await system.check(),
        {"has_credit": True, "credits_remaining": 20, "free_uses_remaining": 0, "total_uses": 3, "reason": None},
    )


async def test_a_purchase_that_is_not_paid_brings_nothing(system: System) -> None:
    begun = await system.begin_purchase()
    assert says(await system.purchase(begun["id"]), {"status": "pending", "uses_granted": 0})
    assert (await system.check())["credits_remaining"] == 0


async def test_the_payer_can_spend_what_they_bought(system: System, sessions: Sessions) -> None:
    """The other service refused them: 100 is more than 20. Here each charge is one use, whatever it was worth."""
    await system.use_up_what_is_free()
    await system.pay((await system.begin_purchase())["payment_id"])
    for number, (amount_minor, left) in enumerate(((100, 19), (1000, 18), (99999, 17)), start=10):
        made = await system.charged(number, amount_minor)
        assert says(made, {"quantity": 1, "amount_minor": amount_minor, "balance_after": left})
    for number in (20, 21):
        await system.charged(number)
    assert says(
        await system.check(),
        {
            "has_credit": True,
            "credits_remaining": 15,
            "free_uses_remaining": 0,
            "total_uses": 8,
            "plan_name": "free",
            "purchase_required": False,
            "purchase_price_minor": None,
            "purchase_uses": None,
        },
    )
    assert await audit(sessions) == []


async def test_the_refused_message_goes_through_with_its_key_after_the_purchase(system: System) -> None:
    await system.use_up_what_is_free()
    assert (await system.post("/charges", charge(4))).status_code == 402
    await system.pay((await system.begin_purchase())["payment_id"])
    assert (await system.charged(4))["balance_after"] == 19


async def test_a_pack_whose_news_comes_twice_is_granted_once(system: System) -> None:
    begun = await system.begin_purchase()
    await system.pay(begun["payment_id"])
    await system.account.deliver_and_process(reversed(system.account.events()))
    await system.purchase(begun["id"])
    assert (await system.check())["credits_remaining"] == 20


async def test_other_payments_of_the_same_stripe_account_are_none_of_its_business(system: System) -> None:
    """The other service answered their webhooks with 400, so that Stripe went on sending them."""
    made = await system.account.provider.create_payment_intent(
        amount=500,
        currency="usd",
        customer=None,
        metadata={"account_id": "1"},
        payment_method="pm_card_visa",
        return_url=PURCHASE["return_url"],
        confirm=True,
        idempotency_key="shop",
    )
    assert made.object.status == "succeeded"
    await system.charged(1)
    await system.account.deliver_and_process(system.account.events())
    assert (await system.check())["credits_remaining"] == 0


async def test_the_service_says_how_it_is(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
