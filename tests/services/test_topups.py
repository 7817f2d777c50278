"""Automatic top-ups: bought once when little is left, whoever crashes, and not again and again with a bad card."""

import asyncio
from typing import Any

import pytest
import time_machine
from billing import Account
from sqlalchemy import func, select, text, update
from topping_up import Changing, TopUps

from app import models
from app.db import transaction
from app.errors import BillingError, UnavailableError
from app.sandbox.resources import payment_methods
from app.services.catalog import Credits, Pack
from app.services.credits.book import open_book
from app.services.topups.tries import BREAKER, LEASE_SECONDS, PAUSES, WAIT_SECONDS
from app.values import unix_now

DECLINING = "pm_card_chargeCustomerFail"


@pytest.fixture
async def topups(account: Account) -> TopUps:
    """Ada pays by a good card, and has three uses."""
    topups = TopUps(account)
    await topups.open()
    return topups


async def decline(topups: TopUps, times: int = BREAKER) -> None:
    """Let a pack fall due, and so many tries be declined."""
    await topups.charge_to(DECLINING)
    await topups.put(threshold=3)
    for _ in range(times):
        await topups.run_later()


async def test_it_is_due_when_a_charge_leaves_few_enough(topups: TopUps) -> None:
    await topups.put(threshold=1)
    await topups.spend(1)
    await topups.run()
    assert (await topups.row()).due_at is None
    assert topups.payments() == []
    await topups.spend(1)
    assert (await topups.row()).due_at is not None
    await topups.run()
    assert await topups.balance() == 1 + 20
    assert await topups.purchases() == [("succeeded", None)]
    row = await topups.row()
    assert (row.due_at, row.failures, row.failure_code, row.purchase_id) == (None, 0, None, None)
    [intent] = topups.sandbox.rows("payment_intent")
    assert (intent["amount"], intent["currency"], intent["description"]) == (500, "usd", "Starter")
    [purchase] = await topups.account.all(models.CreditPurchase)
    assert intent["metadata"] == {"billhook_purchase": str(purchase.id)}
    assert (purchase.mode, purchase.payment_intent) == ("auto_topup", intent["id"])
    await topups.tell()
    await topups.run_later()
    assert await topups.balance() == 21
    assert topups.payments() == ["succeeded"]


async def test_it_is_due_at_once_when_few_are_left_already(topups: TopUps) -> None:
    await topups.put(threshold=3)
    await topups.run()
    assert await topups.balance() == 23


async def test_what_expires_makes_it_due(topups: TopUps) -> None:
    rules, now = topups.account.plans.credits, unix_now()
    async with transaction(topups.account.sessions) as session:
        book = await open_book(session, rules, now, user_id=topups.user_id)
        assert book is not None
        book.grant(10, expires_at=now + 60)
        await book.close()
    await topups.put(threshold=5)
    await topups.run()
    assert await topups.balance() == 13
    with time_machine.travel(now + 61):
        async with transaction(topups.account.sessions) as session:
            book = await open_book(session, rules, unix_now(), user_id=topups.user_id)
            assert book is not None
            await book.close()
        await topups.run()
    assert await topups.balance() == 3 + 20


async def test_it_is_bought_again_while_too_little_is_left(topups: TopUps) -> None:
    await topups.put(threshold=12)
    smaller = Pack(key="starter", name="Starter", currency="usd", amount=300, uses=8)
    topups.account.plans = topups.account.plans.model_copy(update={"packs": {"starter": smaller}})
    await topups.run()
    assert await topups.balance() == 3 + 2 * 8
    assert topups.payments() == ["succeeded"] * 2


async def test_nothing_is_bought_for_what_is_owed(topups: TopUps) -> None:
    async with transaction(topups.account.sessions) as session:
        owing = update(models.CreditAccount).values(owed=30, free=0, hand=0, hand_grant=None, hand_book=None)
        await session.execute(owing)
        await session.execute(text("UPDATE credit_grants SET remaining = 0, open = false"))
    await topups.put(threshold=1)
    await topups.run()
    assert topups.payments() == []
    await _rewrite(topups, models.CreditAccount, owed=0)
    await topups.run_later()
    assert await topups.balance() == 20


async def test_while_a_bank_holds_the_money_of_a_purchase_no_other_is_made(topups: TopUps) -> None:
    await topups.put(threshold=3)
    await topups.run()
    await _rewrite(topups, models.CreditPurchase, amount_disputed=500)
    await topups.spend(20)
    await topups.run()
    assert topups.payments() == ["succeeded"]
    due_at = (await topups.row()).due_at
    assert due_at is not None
    assert due_at > unix_now() + WAIT_SECONDS - 5
    await _rewrite(topups, models.CreditPurchase, amount_disputed=0)
    await topups.run_later()
    assert await topups.balance() == 23


async def test_a_refund_of_a_top_up_buys_no_other(topups: TopUps) -> None:
    await topups.put(threshold=3)
    await topups.run()
    async with topups.account.sessions() as session:
        paid = await session.scalar(select(models.CreditPurchase.payment_intent))
    await topups.account.provider.create_refund(
        charge=None, payment_intent=paid, amount=None, reason=None, idempotency_key="refund"
    )
    await topups.tell()
    assert await topups.balance() == 3
    await topups.run()
    assert topups.payments() == ["succeeded"]
    assert (await topups.row()).due_at is None


async def test_who_bought_a_pack_meanwhile_is_sold_no_other(topups: TopUps) -> None:
    await topups.put(threshold=3)
    async with transaction(topups.account.sessions) as session:
        book = await open_book(session, topups.account.plans.credits, unix_now(), user_id=topups.user_id)
        assert book is not None
        book.grant(1)
        await book.close()
    await topups.run()
    assert topups.payments() == []
    assert (await topups.row()).due_at is None


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_around_the_payment_buys_once(topups: TopUps, after: bool, told: bool) -> None:  # noqa: FBT001 - a case
    await topups.put(threshold=3)
    assert await topups.crash("create_payment_intent", after=after)
    [row] = await topups.account.all(models.CreditPurchase)
    assert ((await topups.row()).purchase_id, row.status) == (row.id, "pending")
    await topups.run()  # its lease lasts
    assert len(topups.payments()) == after
    if told:
        await topups.tell()
    await topups.run_later()
    await topups.tell()
    assert topups.payments() == ["succeeded"]
    assert await topups.purchases() == [("succeeded", None)]
    assert await topups.balance() == 23
    row = await topups.row()
    assert (row.due_at, row.purchase_id, row.failures) == (None, None, 0)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("operation", ["create_payment_intent", "list_payment_intents", "cancel_payment_intent"])
async def test_a_crash_around_a_decline_counts_it_once(topups: TopUps, operation: str, after: bool) -> None:  # noqa: FBT001 - a case
    await topups.charge_to(DECLINING)
    await topups.put(threshold=3)
    assert await topups.crash(operation, after=after)
    await topups.tell()
    await topups.run_later()
    await topups.tell()
    assert topups.payments() == ["canceled"]
    assert await topups.purchases() == [("failed", "generic_decline")]
    assert await topups.news() == [(1, "generic_decline", False)]
    assert (await topups.row()).failures == 1


async def test_a_crash_is_found_at_stripe_when_its_keys_are_forgotten(topups: TopUps) -> None:
    await topups.put(threshold=3)
    assert await topups.crash("create_payment_intent", after=True)
    with topups.sandbox.changing():
        for kept in topups.sandbox.rows("_idempotency_key"):
            topups.sandbox.forget("_idempotency_key", kept["id"])
    await topups.run_later()
    assert topups.payments() == ["succeeded"]
    assert await topups.balance() == 23


async def test_workers_share_what_is_due(account: Account) -> None:
    everybody = [TopUps(account, f"user-{number}") for number in range(12)]
    for topups in everybody:
        await topups.open()
        await topups.put(threshold=3)
    await asyncio.gather(*(everybody[0].run() for _ in range(3)))
    assert [topups.payments() for topups in everybody] == [["succeeded"]] * 12
    assert [await topups.balance() for topups in everybody] == [23] * 12


async def test_a_worker_that_is_overtaken_buys_nothing_twice(topups: TopUps) -> None:
    await topups.put(threshold=3)
    asked, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            call = getattr(topups.account.provider, name)
            if name != "create_payment_intent":
                return call

            async def slow(**asking: Any) -> Any:
                asked.set()
                await go_on.wait()
                return await call(**asking)

            return slow

    slow = asyncio.create_task(topups.run(Slow()))
    await asked.wait()
    await topups.run_later()
    go_on.set()
    await slow
    await topups.tell()
    assert topups.payments() == ["succeeded"]
    assert await topups.purchases() == [("succeeded", None)]
    assert await topups.balance() == 23


async def test_declines_wait_longer_and_open_the_breaker(topups: TopUps) -> None:
    await topups.charge_to(DECLINING)
    await topups.put(threshold=3)
    with time_machine.travel(unix_now(), tick=False) as travel:
        for pause in PAUSES:
            await topups.run()
            due_at = (await topups.row()).due_at
            assert due_at == unix_now() + pause
            travel.shift(pause)
        await topups.run()
    row = await topups.row()
    assert (row.failures, row.failure_code, row.due_at, row.purchase_id) == (3, "generic_decline", None, None)
    assert topups.payments() == ["canceled"] * 3
    assert await topups.purchases() == [("failed", "generic_decline")] * 3
    assert await topups.news() == [
        (1, "generic_decline", False),
        (2, "generic_decline", False),
        (3, "generic_decline", True),
    ]
    await topups.spend(1)
    await topups.put(threshold=3)
    await topups.worker().notice_new_methods()
    await topups.run_later()
    assert len(topups.payments()) == 3


async def test_another_card_closes_the_breaker(topups: TopUps) -> None:
    await decline(topups)
    await topups.charge_to("pm_card_mastercard")
    await topups.worker().notice_new_methods()
    await topups.run()
    assert await topups.balance() == 23
    row = await topups.row()
    assert (row.failures, row.failure_code, row.due_at) == (0, None, None)


async def test_another_bad_card_is_counted_from_the_start(topups: TopUps) -> None:
    await decline(topups)
    await topups.charge_to("pm_card_authenticationRequired")
    for _ in range(2):
        await topups.worker().notice_new_methods()
        await topups.run()
    row = await topups.row()
    assert (row.failures, row.failure_code) == (1, "authentication_required")
    assert topups.payments() == ["canceled"] * 4


async def test_another_card_does_not_wait_out_the_pause(topups: TopUps) -> None:
    await decline(topups, 1)
    await topups.charge_to("pm_card_visa")
    await topups.worker().notice_new_methods()
    await topups.run()
    assert await topups.balance() == 23


async def test_a_card_that_closes_the_breaker_buys_nothing_that_is_not_needed(topups: TopUps) -> None:
    await decline(topups)
    async with transaction(topups.account.sessions) as session:
        book = await open_book(session, topups.account.plans.credits, unix_now(), user_id=topups.user_id)
        assert book is not None
        book.grant(5)
        await book.close()
    await topups.charge_to("pm_card_visa")
    await topups.worker().notice_new_methods()
    await topups.run()
    row = await topups.row()
    assert (row.failures, row.due_at) == (0, None)
    await topups.spend(5)
    await topups.run()
    assert await topups.balance() == 23


async def test_what_a_subscription_is_charged_to_counts_as_the_default(account: Account) -> None:
    topups = TopUps(account)
    await account.buy()
    await account.deliver_and_process(account.events())
    await topups.open(card=None)
    [subscription] = await account.all(models.Subscription)
    await topups.put(threshold=3)
    await topups.run()
    assert await topups.balance() == 23
    paid = [row for row in account.sandbox.rows("payment_intent") if row["metadata"]]
    assert [row["payment_method"] for row in paid] == [subscription.default_payment_method]
    async with transaction(account.sessions) as session:
        declined = {"failures": BREAKER, "payment_method": "pm_former"}
        await session.execute(update(models.CreditTopup).values(**declined))
    await topups.worker().notice_new_methods()
    assert (await topups.row()).due_at is not None


async def test_without_a_default_the_card_that_was_kept_last_is_charged(account: Account) -> None:
    topups = TopUps(account)
    await topups.open(card=None)
    with topups.sandbox.changing():
        whose = {"customer": topups.customer}
        kept = [payment_methods.attach(topups.sandbox, whose, "pm_card_visa")["id"] for _ in range(2)]
    await topups.tell()
    async with transaction(account.sessions) as session:
        method = models.PaymentMethod
        later = update(method).where(method.stripe_id == kept[1]).values(created=method.created + 1)
        await session.execute(later)
    await topups.put(threshold=3)
    await topups.run()
    [intent] = topups.sandbox.rows("payment_intent")
    assert (intent["payment_method"], await topups.balance()) == (kept[1], 23)
    for declined, due in ((kept[1], False), (kept[0], True)):
        await _rewrite(topups, models.CreditTopup, failures=BREAKER, payment_method=declined)
        await topups.worker().notice_new_methods()
        assert ((await topups.row()).due_at is not None) == due


async def test_a_card_that_is_gone_is_a_decline_without_a_payment(topups: TopUps) -> None:
    await topups.put(threshold=3)
    [method] = await topups.account.all(models.PaymentMethod)
    with topups.sandbox.changing():
        topups.sandbox.forget("payment_method", method.stripe_id)
    await topups.run()
    row = await topups.row()
    assert (row.failures, row.purchase_id) == (1, None)
    [(status, code)] = await topups.purchases()
    assert (status, code) == ("failed", row.failure_code)
    assert topups.payments() == []
    await _rewrite(topups, models.PaymentMethod, deleted=True)
    await topups.run_later()
    row = await topups.row()
    assert (row.failures, row.due_at is not None) == (1, True)
    await topups.charge_to("pm_card_visa")
    await topups.run_later()
    assert await topups.balance() == 23


async def test_a_payment_that_waits_for_the_customer_is_canceled(topups: TopUps) -> None:
    await topups.put(threshold=3)
    assert await topups.crash("create_payment_intent", after=True)
    with topups.sandbox.changing():
        [intent] = topups.sandbox.rows("payment_intent")
        row = topups.sandbox.get("payment_intent", intent["id"])
        row.update(status="requires_action", amount_received=0, latest_charge=None)
    await topups.run_later()
    assert topups.payments() == ["canceled"]
    assert (await topups.row()).failure_code == "authentication_required"


async def test_a_payment_under_way_is_waited_for(topups: TopUps) -> None:
    await topups.put(threshold=3)
    assert await topups.crash("create_payment_intent", after=True)
    [intent] = topups.sandbox.rows("payment_intent")
    with topups.sandbox.changing():
        topups.sandbox.get("payment_intent", intent["id"]).update(status="processing")
    await topups.run_later()
    assert await topups.purchases() == [("processing", None)]
    assert (await topups.row()).purchase_id is not None
    with topups.sandbox.changing():
        topups.sandbox.get("payment_intent", intent["id"]).update(status="succeeded")
    await topups.run_later()
    assert await topups.purchases() == [("succeeded", None)]
    assert (await topups.row()).purchase_id is None
    assert await topups.balance() == 23


async def test_a_payment_that_fails_while_it_is_looked_at_is_canceled(topups: TopUps) -> None:
    await topups.put(threshold=3)
    assert await topups.crash("create_payment_intent", after=True)
    [intent] = topups.sandbox.rows("payment_intent")
    with topups.sandbox.changing():
        topups.sandbox.get("payment_intent", intent["id"]).update(
            status="processing", amount_received=0, latest_charge=None
        )
    await topups.run_later()

    def fail() -> None:
        error = {"type": "card_error", "code": "card_declined", "decline_code": "generic_decline", "message": "No."}
        with topups.sandbox.changing():
            topups.sandbox.get("payment_intent", intent["id"]).update(
                status="requires_payment_method", last_payment_error=error
            )

    await topups.run_later(Changing(topups.account.provider, "retrieve_payment_intent", fail))
    assert await topups.purchases() == [("failed", "generic_decline")]
    await topups.run_later()
    assert topups.payments() == ["canceled"]
    row = await topups.row()
    assert (row.failures, row.failure_code, row.purchase_id) == (1, "generic_decline", None)


@pytest.mark.parametrize("fault", ["error", "rate_limit", "lock_timeout"])
async def test_stripes_absence_is_no_decline(topups: TopUps, fault: Any) -> None:
    await topups.put(threshold=3)
    topups.sandbox.faults.add(fault, method="POST", path="/v1/payment_intents", times=20)
    await topups.run()
    row = await topups.row()
    assert (row.failures, row.purchase_id is not None) == (0, True)
    assert row.due_at is not None
    assert row.due_at < unix_now() + LEASE_SECONDS
    assert await topups.purchases() == [("pending", None)]
    topups.sandbox.faults.clear()
    await topups.run_later()
    await topups.tell()
    assert topups.payments() == ["succeeded"]
    assert await topups.balance() == 23


@pytest.mark.parametrize("done", [False, True])
async def test_a_failure_that_stripe_only_repeats_is_got_past(topups: TopUps, done: bool) -> None:  # noqa: FBT001 - a case
    keys: list[str] = []

    class Stuck:
        """Stripe, which failed with the first key, before or after it did the work, and says so for a day."""

        def __getattr__(self, name: str) -> Any:
            call = getattr(topups.account.provider, name)
            if name != "create_payment_intent":
                return call

            async def stuck(*, idempotency_key: str, **asking: Any) -> Any:
                keys.append(idempotency_key)
                if idempotency_key != keys[0]:
                    return await call(idempotency_key=idempotency_key, **asking)
                if done and len(keys) == 1:
                    await call(idempotency_key=idempotency_key, **asking)
                error = UnavailableError("Stripe is not reachable.")
                error.replayed = len(keys) > 1
                raise error

            return stuck

    await topups.put(threshold=3)
    await topups.run(Stuck())
    assert (await topups.row()).failures == 0
    await topups.run_later(Stuck())
    assert len(set(keys)) == (1 if done else 2)
    assert topups.payments() == ["succeeded"]
    assert await topups.balance() == 23


async def test_who_is_suspended_is_sold_nothing(topups: TopUps) -> None:
    await topups.put(threshold=3)
    await _rewrite(topups, models.CreditAccount, status="suspended")
    await topups.run()
    assert topups.payments() == []
    due_at = (await topups.row()).due_at
    assert due_at is not None
    assert due_at > unix_now() + WAIT_SECONDS - 5
    await _rewrite(topups, models.CreditAccount, status="active")
    await topups.run_later()
    assert topups.payments() == ["succeeded"]


@pytest.mark.parametrize("after", [False, True])
async def test_who_is_suspended_while_a_try_is_cut_off_is_asked_for_nothing_new(topups: TopUps, after: bool) -> None:  # noqa: FBT001 - a case
    await topups.put(threshold=3)
    assert await topups.crash("create_payment_intent", after=after)
    await _rewrite(topups, models.CreditAccount, status="suspended")
    await topups.run_later()
    assert topups.payments() == ["succeeded"] * after
    assert await topups.purchases() == [("succeeded" if after else "canceled", None)]
    assert (await topups.row()).failures == 0


@pytest.mark.parametrize("gone", [{"deleted": True}, {"erased_at": 1}])
async def test_a_customer_who_is_gone_is_sold_nothing(topups: TopUps, gone: dict[str, Any]) -> None:
    await topups.put(threshold=3)
    await _rewrite(topups, models.Customer, **gone)
    await topups.run()
    assert await topups.purchases() == []
    assert topups.payments() == []


async def test_a_closed_account_has_nothing_due(topups: TopUps) -> None:
    await topups.put(threshold=3)
    await _rewrite(topups, models.CreditAccount, status="closed")
    await topups.run()
    assert (await topups.row()).due_at is None
    assert await topups.purchases() == []
    with pytest.raises(BillingError) as refusal:
        await topups.put()
    assert refusal.value.code == "account_closed"


async def test_a_pack_that_is_gone_is_not_bought(topups: TopUps) -> None:
    await topups.put(threshold=3)
    topups.account.plans = topups.account.plans.model_copy(update={"packs": {}})
    await topups.run()
    assert await topups.purchases() == []
    row = await topups.row()
    assert (row.due_at, row.failures) == (None, 0)


async def test_price_and_uses_are_those_of_the_day(topups: TopUps) -> None:
    await topups.put(threshold=3)
    dearer = Pack(key="starter", name="Starter", currency="eur", amount=700, uses=10)
    topups.account.plans = topups.account.plans.model_copy(update={"packs": {"starter": dearer}})
    await topups.run()
    [intent] = topups.sandbox.rows("payment_intent")
    assert (intent["amount_received"], intent["currency"]) == (700, "eur")
    assert await topups.balance() == 13


async def test_what_is_removed_is_bought_no_more(topups: TopUps) -> None:
    await topups.put(threshold=3)
    await topups.remove()
    await topups.spend(3)
    await topups.run()
    assert await topups.found() is None
    assert await topups.purchases() == []


@pytest.mark.parametrize("after", [False, True])
async def test_what_is_removed_while_a_try_is_cut_off_is_still_brought_to_its_end(topups: TopUps, after: bool) -> None:  # noqa: FBT001 - a case
    await topups.put(threshold=3)
    assert await topups.crash("create_payment_intent", after=after)
    await topups.remove()
    await topups.run_later()
    assert topups.payments() == ["succeeded"] * after
    assert await topups.purchases() == [("succeeded" if after else "canceled", None)]
    assert await topups.found() is None


async def test_what_is_set_and_removed_is_in_the_audit_log_once(topups: TopUps) -> None:
    for _ in range(2):
        await topups.put("starter", 1)
    await topups.put("studio", 2)
    await topups.remove()
    entries = [row for row in await topups.account.all(models.AuditRow) if row.action.startswith("credits.topup")]
    assert [(row.action, row.before, row.after) for row in entries] == [
        ("credits.topup_set", None, {"pack": "starter", "threshold": 1}),
        ("credits.topup_set", {"pack": "starter", "threshold": 1}, {"pack": "studio", "threshold": 2}),
        ("credits.topup_removed", {"pack": "studio", "threshold": 2}, None),
    ]
    async with topups.account.sessions() as session:
        assert await session.scalar(select(func.count(models.AuditRow.customer_id.distinct()))) == 1


async def test_charges_and_workers_at_once_neither_deadlock_nor_buy_too_much(topups: TopUps) -> None:
    rules = Credits(free_uses=3, low_at=-1)
    topups.account.plans = topups.account.plans.model_copy(update={"credits": rules})
    await topups.put(threshold=19)

    async def work() -> None:
        for _ in range(6):
            await topups.run()
            await topups.worker().notice_new_methods()

    async def spend() -> None:
        for _ in range(10):
            await asyncio.sleep(0.01)
            if await topups.balance():
                await topups.spend(1)

    await asyncio.gather(work(), work(), spend(), topups.tell())
    await topups.run_later()
    await topups.tell()
    bought = len(topups.payments())
    assert topups.payments() == ["succeeded"] * bought
    assert await topups.purchases() == [("succeeded", None)] * bought
    assert 19 < await topups.balance() <= 39


async def _rewrite(topups: TopUps, model: type[Any], **values: Any) -> None:
    async with transaction(topups.account.sessions) as session:
        await session.execute(update(model).values(**values))
