"""Comparing prepaid credits: payments that brought nothing, claw-backs that are missing, and books that are wrong."""

import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from billing import ADA, Account, card
from comparing import causes, compare, dump, found, listed
from sqlalchemy import select, text
from starlette.applications import Starlette

from app.db import transaction
from app.models import CreditPurchase
from app.sandbox import checkout as hosted
from app.sandbox.app import create_sandbox
from app.sandbox.resources import payment_intents, refunds
from app.services import customers
from app.services.catalog import Credits
from app.services.credits import accounts, verify
from app.services.credits.accounts import Identity
from app.services.purchases import creating
from app.services.purchases.creating import Wish
from app.services.reconcile import runs
from app.values import unix_now

PAID: dict[str, Any] = {
    "amount": 500,
    "currency": "usd",
    "confirm": True,
    "payment_method": "pm_card_visa",
    "return_url": "https://app.example.com/back",
}


@pytest.fixture
async def sandbox_app() -> AsyncIterator[Starlette]:
    """Its clock is an hour slow, so that nothing counts as being on its way to us."""
    app = create_sandbox(secret_key="sk_test_billhook", base_url="http://sandbox.test", now=lambda: time.time() - 3600)
    yield app
    await app.state.sandbox.aclose()


@pytest.fixture
async def ada(account: Account) -> str:
    """Ada's customer, whom we know, and who has an account."""
    async with transaction(account.sessions) as session:
        row, _ = await customers.ensure(session, account.provider, ADA, actor="key:operator")
    await account.deliver_and_process(account.events())
    async with transaction(account.sessions) as session:
        await accounts.ensure(session, Credits(), Identity(user_id=ADA.user_id), unix_now())
    return row.stripe_id


async def order(account: Account, customer: str) -> CreditPurchase:
    """A purchase of 20 uses, paid at Stripe; nothing of that has been delivered."""
    purchase_id = uuid4()
    with account.sandbox.changing():
        asked = {**PAID, "customer": customer, "metadata": {"billhook_purchase": str(purchase_id)}}
        intent = payment_intents.create(account.sandbox, asked)
    async with transaction(account.sessions) as session:
        hers = await accounts.get(session, user_id=ADA.user_id)
        purchase = CreditPurchase(
            id=purchase_id,
            account_id=hers.id,
            mode="payment_intent",
            status="pending",
            pack="starter",
            uses=20,
            amount=500,
            currency="usd",
            created=unix_now(),
            payment_intent=intent["id"],
        )
        session.add(purchase)
    return purchase


async def now(account: Account) -> CreditPurchase:
    async with account.sessions() as session:
        return (await session.scalars(select(CreditPurchase))).one()


async def paid(account: Account) -> int:
    async with account.sessions() as session:
        assert not [one async for piece in verify.slices(session) for one in piece.violations]
        return (await accounts.get(session, user_id=ADA.user_id)).paid


async def told(account: Account, run: Any) -> list[tuple[str, str, Any, bool]]:
    """What a run found of credits: (id, cause, fields, repaired)."""
    rows = [
        row for row in await found(account, run) if row.object.startswith("credit_") and row.object != "credit_note"
    ]
    return [(row.stripe_id, row.cause, row.fields, row.repaired) for row in rows]


async def test_where_all_is_granted_nothing_is_found(account: Account, ada: str) -> None:
    await order(account, ada)
    await account.deliver_and_process(account.events())
    assert await paid(account) == 20
    run = await compare(account)
    assert (run.drifted, run.compared) == (0, listed(account) + 1)


async def test_a_purchase_whose_webhooks_were_lost_is_found_and_granted_once(account: Account, ada: str) -> None:
    purchase = await order(account, ada)
    before = await dump(account)
    looked = await compare(account)
    assert await dump(account) == before, "a dry run changes nothing"
    expected = (purchase.payment_intent, "purchase_not_granted", {"status": ["pending", "succeeded"]})
    assert await told(account, looked) == [(*expected, False)]
    assert ("payment_intent", "event_missing") in await causes(account, looked)

    mended = await compare(account, repair=True)
    assert await told(account, mended) == [(*expected, True)]
    assert (await paid(account), (await now(account)).status) == (20, "succeeded")
    assert (await compare(account)).drifted == 0
    await account.process()  # the events that were fetched
    await account.deliver_and_process(account.events())
    assert await paid(account) == 20


@pytest.mark.parametrize("page", [False, True])
async def test_a_pack_that_was_sold_and_never_told_of_is_granted(account: Account, ada: str, *, page: bool) -> None:
    wish = Wish(
        identity=Identity(user_id=ADA.user_id),
        pack="starter",
        success_url="https://app.example.com/done" if page else None,
        cancel_url=None,
        save_payment_method=False,
    )
    async with transaction(account.sessions) as session:
        begun = await creating.create(
            session, account.provider, account.redis, account.plans, wish, idempotency_key="k", actor="user:demo-1"
        )
    assert (await compare(account)).drifted == 0, "nobody has paid it yet"
    if page:
        hosted.pay(account.sandbox, str(begun.row.checkout_session), card())
    else:
        with account.sandbox.changing():
            method = {"payment_method": "pm_card_visa", "return_url": "https://app.example.com/"}
            payment_intents.confirm(account.sandbox, method, str(begun.row.payment_intent))
    [intent] = account.sandbox.rows("payment_intent")
    assert intent["customer"] == ada
    for repair in (False, True):
        run = await compare(account, repair=repair)
        expected = (intent["id"], "purchase_not_granted", {"status": ["pending", "succeeded"]}, repair)
        assert await told(account, run) == [expected]
    assert (await paid(account), (await now(account)).status) == (20, "succeeded")
    await account.deliver_and_process(account.events())
    assert await told(account, await compare(account, repair=True)) == []
    assert await paid(account) == 20


async def test_what_waits_in_the_inbox_is_no_drift(account: Account, ada: str) -> None:
    await order(account, ada)
    for event in account.events():
        await account.deliver(event)
    run = await compare(account)
    assert (run.drifted, await told(account, run)) == (0, [])


async def test_a_purchase_that_lags_behind_our_own_rows_is_settled(account: Account, ada: str) -> None:
    purchase = await order(account, ada)
    hidden = {"id": purchase.id, "other": uuid4()}
    async with transaction(account.sessions) as session:  # as if nobody had thought of it when the webhook came
        await session.execute(text("UPDATE credit_purchases SET id = :other, payment_intent = NULL"), hidden)
    await account.deliver_and_process(account.events())
    async with transaction(account.sessions) as session:
        back = {**hidden, "intent": purchase.payment_intent}
        await session.execute(text("UPDATE credit_purchases SET id = :id, payment_intent = :intent"), back)
    assert await paid(account) == 0
    run = await compare(account)
    assert await causes(account, run) == {("credit_purchase", "purchase_not_granted")}
    run = await compare(account, repair=True)
    assert [(cause, repaired) for _, cause, _, repaired in await told(account, run)] == [("purchase_not_granted", True)]
    assert (run.drifted, run.repaired, await paid(account)) == (1, 1, 20)


async def test_a_claw_back_that_never_came_is_made(account: Account, ada: str) -> None:
    purchase = await order(account, ada)
    await account.deliver_and_process(account.events())
    with account.sandbox.changing():
        refunds.create(account.sandbox, {"payment_intent": purchase.payment_intent, "amount": 260})
    async with transaction(account.sessions) as session:
        await session.execute(text("UPDATE credit_purchases SET payment_intent = NULL"))
    await account.deliver_and_process(account.events())
    async with transaction(account.sessions) as session:
        intent = {"intent": purchase.payment_intent}
        await session.execute(text("UPDATE credit_purchases SET payment_intent = :intent"), intent)
    before = await dump(account)
    fields = {"amount_refunded": [0, 260], "clawed": [0, 10]}
    run = await compare(account)
    assert await told(account, run) == [(purchase.payment_intent, "claw_back_missing", fields, False)]
    assert await dump(account) == before, "a dry run changes nothing"
    run = await compare(account, repair=True)
    assert await told(account, run) == [(purchase.payment_intent, "claw_back_missing", fields, True)]
    assert await paid(account) == 10
    assert (await compare(account, repair=True)).drifted == 0


async def test_money_that_bought_nothing_is_shown_until_it_is_given_back(account: Account, ada: str) -> None:
    with account.sandbox.changing():
        asked = {**PAID, "customer": ada}
        lost = payment_intents.create(account.sandbox, {**asked, "metadata": {"billhook_purchase": str(uuid4())}})
        payment_intents.create(account.sandbox, {**asked, "metadata": {"order": "7"}})
    purchase = await order(account, ada)
    with account.sandbox.changing():
        twice = payment_intents.create(account.sandbox, {**asked, "metadata": {"billhook_purchase": str(purchase.id)}})
    await account.deliver_and_process(account.events())
    run = await compare(account, repair=True)
    assert sorted(await told(account, run)) == sorted(
        [
            (lost["id"], "purchase_unknown", {"payment_intent": [None, lost["id"]]}, False),
            (twice["id"], "purchase_unknown", {"payment_intent": [purchase.payment_intent, twice["id"]]}, False),
        ]
    )
    assert await paid(account) == 20
    with account.sandbox.changing():
        for intent in (lost, twice):
            refunds.create(account.sandbox, {"payment_intent": intent["id"]})
    await account.deliver_and_process(account.events())
    run = await compare(account)
    assert await told(account, run) == []
    assert await paid(account) == 20


async def test_wrong_books_are_shown_and_left(account: Account, ada: str) -> None:
    async with transaction(account.sessions) as session:
        await session.execute(text("UPDATE credit_accounts SET used = 7"))
        hers = await accounts.get(session, user_id=ADA.user_id)
    run = await compare(account, repair=True)
    [row] = await found(account, run)
    assert (row.object, row.stripe_id, row.customer) == ("credit_account", f"{hers.id}/consumed", ada)
    assert (row.cause, row.fields, row.repaired) == ("ledger_differs", {"consumed": ["7", "0"]}, False)
    assert (run.drifted, run.repaired) == (1, 0)


async def test_accounts_are_compared_slice_by_slice(
    account: Account, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify.look, "__kwdefaults__", {"most": 3})
    for number in range(9):
        async with transaction(account.sessions) as session:
            await accounts.ensure(session, Credits(), Identity(user_id=f"user-{number}"), unix_now())
    purchase = await order(account, ada)
    seen = []
    run = await compare(account, repair=True, watch=lambda run: seen.append(runs.Progress.of(run).place.after))
    assert [place.split(":")[0] for place in seen if place and ":" in place] == ["account"] * 3 + ["charge"]
    assert (run.compared, await paid(account)) == (listed(account) + 10, 20)
    assert [id for id, *_ in await told(account, run)] == [purchase.payment_intent]
