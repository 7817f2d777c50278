"""Buying credits in tests: the API's caller on one side, the buyer and their bank at Stripe on the other."""

from typing import Any

import httpx
from billing import Account, card
from serving import API, Bearer
from subscribing import StripeClock
from typing_extensions import override

from app.sandbox import checkout as hosted
from app.sandbox.errors import CardError
from app.sandbox.resources import disputes, payment_intents, refunds

BACK = "https://app.example.com/paid"
PAGE = {"success_url": "https://app.example.com/done?s={CHECKOUT_SESSION_ID}", "cancel_url": "https://app.example.com/"}


class HeldClock(StripeClock):
    """Stripe's time, which can be made to stand still until a test waits."""

    def __init__(self) -> None:
        super().__init__()
        self.held: float | None = None

    def hold(self) -> None:
        self.held = super().__call__()

    def wait(self, seconds: float) -> None:
        if self.held is None:
            self.ahead += seconds
        else:
            self.held += seconds

    @override
    def __call__(self) -> float:
        return super().__call__() if self.held is None else self.held


class Counter:
    """Where packs are bought: `client` calls the API, the rest happens at Stripe."""

    def __init__(self, client: httpx.AsyncClient, account: Account, clock: HeldClock) -> None:
        self.client, self.account, self.sandbox, self.clock = client, account, account.sandbox, clock
        self._keys = 0

    async def post(
        self, who: Bearer, path: str = "/purchases", *, key: str | None = None, **body: Any
    ) -> httpx.Response:
        headers = who if key is None else {**who, "Idempotency-Key": key}
        return await self.client.post(f"{API}{path}", headers=headers, json=body)

    async def begin(self, who: Bearer, *, key: str | None = None, status: int = 201, **body: Any) -> dict[str, Any]:
        answer = await self.post(who, key=key, **body)
        assert answer.status_code == status, answer.text
        begun: dict[str, Any] = answer.json()
        return begun

    async def read(self, who: Bearer, id: str) -> dict[str, Any]:
        answer = await self.client.get(f"{API}/purchases/{id}", headers=who)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def bought(self, who: Bearer, *, method: str = "pm_card_visa", **body: Any) -> dict[str, Any]:
        """A purchase that is paid, and whose uses are granted."""
        self._keys += 1
        begun = await self.begin(who, key=f"bought-{id(self)}-{self._keys}", **body)
        self.pay(begun["payment_id"], method)
        found = await self.read(who, begun["id"])
        assert found["status"] == "succeeded"
        return found

    async def refund(self, operator: Bearer, purchase: str, *, key: str, **body: Any) -> httpx.Response:
        return await self.post(operator, f"/purchases/{purchase}/refund", key=key, **body)

    async def balance(self, who: Bearer, account_id: str) -> dict[str, int]:
        answer = await self.client.get(f"{API}/accounts/{account_id}", headers=who)
        assert answer.status_code == 200, answer.text
        shown = answer.json()
        return {
            "free": shown["free_uses_remaining"],
            "paid": shown["credits_remaining"],
            "owed": shown["owed"],
            "used": shown["total_uses"],
        }

    def pay(self, intent: str, method: str = "pm_card_visa") -> None:
        """As the Payment Element does. A refusal is the intent's own story, and no error here."""
        with self.sandbox.changing():
            try:
                payment_intents.confirm(self.sandbox, {"payment_method": method, "return_url": BACK}, intent)
            except CardError:
                return

    def authenticate(self, intent: str, *, succeed: bool = True) -> None:
        with self.sandbox.changing():
            try:
                payment_intents.answer_challenge(self.sandbox, intent, succeed=succeed)
            except CardError:
                return

    def pay_page(self, session: str, number: str = "4242424242424242") -> None:
        hosted.pay(self.sandbox, session, card(number))

    def wait(self, seconds: float = 2) -> None:
        """What Stripe does a moment later is done."""
        self.clock.wait(seconds)
        self.sandbox.tick()

    def dispute(self, intent: str) -> str:
        """The test card's owner disputes the payment, as they do a moment later; its id."""
        self.wait()
        [found] = [row for row in self.sandbox.rows("dispute") if row["payment_intent"] == intent]
        return str(found["id"])

    def answer_dispute(self, id: str, evidence: str) -> None:
        with self.sandbox.changing():
            disputes.update(self.sandbox, {"evidence": {"uncategorized_text": evidence}}, id)
        self.wait()

    def refund_in_dashboard(self, intent: str, amount: int | None = None) -> None:
        wish: dict[str, Any] = {"payment_intent": intent} | ({} if amount is None else {"amount": amount})
        with self.sandbox.changing():
            refunds.create(self.sandbox, wish)

    async def tell(self) -> None:
        """Everything Stripe has to say is delivered (once more) and applied."""
        await self.account.deliver_and_process(self.account.events())
