"""Money that comes later than the subscription, or not at all, and what the buyer may use meanwhile."""

import json
from typing import Any

import pytest
from billing import ADA, STRIPE, Account

from app import models
from app.provider.objects import Customer, Invoice, Price, Subscription, SubscriptionItem
from app.services import access, customers, invoices
from app.services.access import Entitlements
from app.services.mirror import AsOf
from app.services.subscriptions import following
from app.values import unix_now

DAY = 86_400
MONTH = 30 * DAY
START = 1_760_000_000


async def entitlements(account: Account, *, now: int | None = None) -> Entitlements:
    async with account.sessions() as session:
        return await access.entitlements(session, account.plans, user_id=ADA.user_id, now=now or unix_now())


class BankDebit:
    """A purchase of Pro by a method that takes days: complete and active at once, paid later or never.

    The sandbox knows only cards, so what differs is changed in its rows (docs.stripe.com/payments/checkout/
    fulfill-orders): the session says `unpaid`, the invoice stays open.
    """

    def __init__(self, account: Account) -> None:
        self.account = account

    async def buy(self) -> None:
        await self.account.buy(plan="pro")
        self._set("checkout.session", payment_status="unpaid")
        self._set("invoice", status="open", amount_paid=0, amount_remaining=9900)
        later = {"invoice.paid", "invoice.payment_succeeded"}
        await self.tell(*(event for event in self.account.events() if event["type"] not in later))

    async def succeed(self) -> None:
        self._set("checkout.session", payment_status="paid")
        self.pay_invoice()
        await self.tell(self._news("checkout.session.async_payment_succeeded", "checkout.session"))

    async def fail(self) -> None:
        await self.tell(self._news("checkout.session.async_payment_failed", "checkout.session"))

    async def become(self, status: str) -> None:
        self._set("subscription", status=status)
        await self.tell(self._news("customer.subscription.updated", "subscription"))

    async def pay_by_another_method(self) -> None:
        """On the invoice's own page; no more is heard of the session."""
        self.pay_invoice()
        await self.tell(self._news("invoice.paid", "invoice"))

    def pay_invoice(self) -> None:
        self._set("invoice", status="paid", amount_paid=9900, amount_remaining=0)

    async def tell(self, *events: dict[str, Any]) -> None:
        """The events, each showing its object as it is by now."""
        for event in events:
            shown = event["data"]["object"]
            if shown["object"] in {"checkout.session", "invoice"}:
                event["data"]["object"] = self._row(shown["object"])
        await self.account.deliver_and_process(events)

    def _row(self, kind: str) -> dict[str, Any]:
        [row] = self.account.sandbox.rows(kind)
        return row

    def _set(self, kind: str, **values: Any) -> None:
        self._row(kind).update(values)

    def _news(self, type: str, kind: str) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(json.dumps(self.account.events("checkout.session.completed")[0]))
        shown = self.account.sandbox.shown(self._row(kind))
        return event | {"id": f"evt_{type}", "type": type, "data": {"object": shown}}


@pytest.fixture
async def debit(account: Account) -> BankDebit:
    debit = BankDebit(account)
    await debit.buy()
    return debit


async def test_a_purchase_whose_money_is_under_way_gives_no_access_yet(debit: BankDebit) -> None:
    held = await entitlements(debit.account)
    assert (held.plan.key, held.status, held.rule) == ("free", "active", "active:payment_pending")
    [session] = await debit.account.all(models.CheckoutSession)
    assert (session.status, session.payment_status) == ("complete", "unpaid")


async def test_access_begins_when_the_money_has_come(debit: BankDebit) -> None:
    await debit.succeed()
    held = await entitlements(debit.account)
    assert (held.plan.key, held.rule) == ("pro", "active:grant")


async def test_access_stays_denied_when_the_money_never_came(debit: BankDebit) -> None:
    await debit.fail()
    held = await entitlements(debit.account)
    assert (held.plan.key, held.rule) == ("free", "active:payment_pending")


async def test_who_never_paid_anything_has_no_days_of_grace(debit: BankDebit) -> None:
    await debit.fail()
    await debit.become("past_due")
    assert (await entitlements(debit.account)).plan.key == "free"


async def test_a_first_invoice_that_is_paid_in_another_way_gives_access(debit: BankDebit) -> None:
    await debit.fail()
    await debit.pay_by_another_method()
    assert [row.status for row in await debit.account.all(models.Invoice)] == ["paid"]
    assert (await entitlements(debit.account)).plan.key == "pro"


async def renew(account: Account, period: int, *, paid: int | None = None, status: str = "past_due") -> None:
    """Period number `period` begins with an unpaid invoice; the invoice of period `paid` has been paid meanwhile."""
    start = START + period * MONTH
    price = Price(
        id="price_pro",
        product="prod_1",
        active=True,
        currency="usd",
        unit_amount=9900,
        interval="month",
        metadata={"billhook_plan": "pro"},
    )
    item = SubscriptionItem(
        id="si_1", price=price, quantity=1, current_period_start=start, current_period_end=start + MONTH
    )
    subscription = Subscription(
        id="sub_1",
        customer="cus_1",
        status=status,
        items=[item],
        currency="usd",
        current_period_start=start,
        current_period_end=start + MONTH,
        cancel_at_period_end=False,
        latest_invoice=f"in_{period}",
        created=START,
    )
    owner = Customer(id="cus_1", metadata={"user_id": ADA.user_id})
    async with account.sessions.begin() as session:
        await customers.sync(session, owner, as_of=AsOf(at=start), origin=STRIPE)
        for number, state in ((period, "open"), *([] if paid is None else [(paid, "paid")])):
            invoice = bill(number, state)
            assert await invoices.sync(session, invoice, as_of=AsOf(at=start), origin=STRIPE)
        assert await following.sync(session, subscription, as_of=AsOf(at=start), origin=STRIPE)


def bill(period: int, status: str) -> Invoice:
    return Invoice(
        id=f"in_{period}",
        customer="cus_1",
        status=status,
        currency="usd",
        amount_due=9900,
        amount_paid=0,
        amount_remaining=9900,
        subtotal=9900,
        total=9900,
        subscription="sub_1",
        created=START + period * MONTH,
    )


async def test_grace_does_not_begin_anew_with_every_unpaid_period(account: Account) -> None:
    await renew(account, 0)
    assert (await entitlements(account, now=START + 6 * DAY)).rule == "past_due:grace"
    assert (await entitlements(account, now=START + 7 * DAY)).rule == "past_due:grace_over"
    await renew(account, 1)
    assert (await entitlements(account, now=START + MONTH + DAY)).rule == "past_due:grace_over"


async def test_grace_begins_anew_once_the_old_debt_is_paid(account: Account) -> None:
    await renew(account, 0)
    await renew(account, 1, paid=0)
    held = await entitlements(account, now=START + MONTH + DAY)
    assert (held.rule, held.grace_until) == ("past_due:grace", START + MONTH + 7 * DAY)


async def test_a_debt_given_up_long_ago_takes_no_grace_from_later_ones(account: Account) -> None:
    """The operator marked an invoice uncollectible; the customer has paid ever since."""
    await renew(account, 0)
    async with account.sessions.begin() as session:
        await invoices.sync(session, bill(0, "uncollectible"), as_of=AsOf(at=START + DAY), origin=STRIPE)
    await renew(account, 1)
    await renew(account, 2, paid=1)
    held = await entitlements(account, now=START + 2 * MONTH + DAY)
    assert (held.rule, held.grace_until) == ("past_due:grace", START + 2 * MONTH + 7 * DAY)
