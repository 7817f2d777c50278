"""Packs of credits through HTTP: bought once, granted once, taken back as the money is, and spendable in between."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from billing import Account
from purchasing import PAGE, Counter, HeldClock
from serving import API, PROBLEM, Bearer, CreateKey, serving
from sqlalchemy import select, update
from starlette.applications import Starlette

from app import models
from app.db import transaction
from app.main import create_app
from app.sandbox.app import create_sandbox
from app.sandbox.resources import checkout_sessions, customers, payment_intents
from app.settings import Settings

PUBLISHABLE = "pk_test_" + "1" * 8


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
async def sandbox_app(clock: HeldClock) -> AsyncIterator[Starlette]:
    app = create_sandbox(secret_key="sk_test_billhook", base_url="http://sandbox.test", now=clock)
    yield app
    await app.state.sandbox.aclose()


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    known = quiet.model_copy(update={"stripe_publishable_key": PUBLISHABLE})
    async with serving(create_app(known, provider=account.provider)) as client:
        yield client


@pytest.fixture
def counter(client: httpx.AsyncClient, account: Account, clock: HeldClock) -> Counter:
    return Counter(client, account, clock)


@pytest.fixture
async def key(create_key: CreateKey) -> Bearer:
    return await create_key("credits:read", "credits:write")


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, PROBLEM), answer.text
    assert answer.json()["code"] == code


async def told(counter: Counter, *types: str) -> list[tuple[str, Any]]:
    """What the outbox says of credits."""
    rows = await counter.account.all(models.OutboxMessage)
    return [
        (row.type, row.data) for row in rows if row.type in types or (not types and row.type.startswith("credits."))
    ]


async def charge(counter: Counter, who: Bearer, quantity: int, user_id: str = "ada") -> httpx.Response:
    body = {"user_id": user_id, "quantity": quantity}
    return await counter.post(who, "/charges", key=f"charge-{uuid4()}", **body)


async def test_a_pack_is_bought_with_a_payment_intent_and_can_be_spent(
    counter: Counter, ada: Bearer, key: Bearer
) -> None:
    answer = await counter.post(ada, pack="starter")
    assert answer.status_code == 201, answer.text
    begun = answer.json()
    assert answer.headers["Cache-Control"] == "no-store"
    assert begun["client_secret"].startswith(f"{begun['payment_id']}_secret_")
    assert {name: begun[name] for name in ("amount_minor", "currency", "uses_purchased", "status")} == {
        "amount_minor": 500,
        "currency": "usd",
        "uses_purchased": 20,
        "status": "pending",
    }
    assert (begun["publishable_key"], begun["url"], begun["checkout_session"]) == (PUBLISHABLE, None, None)
    assert (begun["uses_granted"], begun["pack"]) == (0, "starter")
    assert await counter.balance(ada, begun["account_id"]) == {"free": 3, "paid": 0, "owed": 0, "used": 0}
    counter.pay(begun["payment_id"])
    found = await counter.read(ada, begun["id"])  # before any webhook
    assert (found["status"], found["uses_granted"], found["failure_code"]) == ("succeeded", 20, None)
    assert found["granted_at"] >= found["created_at"]
    assert "client_secret" not in found
    assert await counter.balance(ada, begun["account_id"]) == {"free": 3, "paid": 20, "owed": 0, "used": 0}
    spent = await charge(counter, key, 23)
    assert spent.status_code == 201, spent.text
    assert await counter.balance(ada, begun["account_id"]) == {"free": 0, "paid": 0, "owed": 0, "used": 23}
    refused(await charge(counter, key, 1), 402, "insufficient_credits")


async def test_the_payer_of_c_can_spend_what_they_bought(counter: Counter, key: Bearer) -> None:
    who = {"oauth_provider": "oauth:google", "external_id": "user@example.com"}
    begun = await counter.begin(key, **who, customer_email="user@example.com")
    counter.pay(begun["payment_id"])
    await counter.tell()
    # 100 minor units of worth, and 20 uses: the two are never compared.
    answer = await counter.post(key, "/charges", key="worth", **who, amount_minor=100, currency="usd")
    assert answer.status_code == 201, answer.text
    assert answer.json()["balance_after"] == 22


async def test_a_pack_is_bought_on_stripes_page(counter: Counter, ada: Bearer) -> None:
    begun = await counter.begin(ada, pack="studio", **PAGE)
    assert begun["url"] == f"http://sandbox.test/c/pay/{begun['checkout_session']}"
    assert (begun["payment_id"], begun["client_secret"], begun["amount_minor"]) == (None, None, 2000)
    counter.pay_page(begun["checkout_session"])
    found = await counter.read(ada, begun["id"])
    assert (found["status"], found["uses_granted"], found["expires_days"]) == ("succeeded", 100, 365)
    assert found["payment_id"].startswith("pi_")
    await counter.tell()
    assert await counter.read(ada, begun["id"]) == found
    [grant] = [row for row in await counter.account.all(models.CreditGrant) if row.book == "paid"]
    assert grant.expires_at == found["granted_at"] + 365 * 86_400


@pytest.mark.parametrize("page", [False, True])
async def test_the_webhook_alone_grants_and_however_often(counter: Counter, ada: Bearer, *, page: bool) -> None:
    begun = await counter.begin(ada, **(PAGE if page else {}))
    if page:
        counter.pay_page(begun["checkout_session"])
    else:
        counter.pay(begun["payment_id"])
    for _ in range(3):
        await counter.tell()
    assert await counter.balance(ada, begun["account_id"]) == {"free": 3, "paid": 20, "owed": 0, "used": 0}
    [(type, data)] = await told(counter)
    assert (type, data["pack"], data["uses"], data["amount"]) == ("credits.purchased", "starter", 20, 500)
    async with counter.account.sessions() as session:
        recorded = (
            await session.scalars(
                select(models.AuditRow.action)
                .where(models.AuditRow.subject == begun["id"])
                .order_by(models.AuditRow.id)
            )
        ).all()
    assert recorded == ["credit_purchase.created", "credit_purchase.granted"]


async def test_two_deliveries_at_once_grant_once(counter: Counter, ada: Bearer) -> None:
    begun = await counter.begin(ada, **PAGE)
    counter.pay_page(begun["checkout_session"])
    for event in counter.account.events():
        await counter.account.deliver(event)
    keys = await counter.account.due_keys(most=100)
    reading = [counter.read(ada, begun["id"]) for _ in range(3)]
    await asyncio.gather(*(counter.account.inbox.process_key(key) for key in keys * 2), *reading)
    await counter.account.process()
    assert await counter.balance(ada, begun["account_id"]) == {"free": 3, "paid": 20, "owed": 0, "used": 0}


async def test_a_double_click_and_a_second_tab_buy_once(counter: Counter, ada: Bearer) -> None:
    answers = await asyncio.gather(*(counter.post(ada, pack="starter") for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({(a.json()["id"], a.json()["payment_id"], a.json()["client_secret"]) for a in answers}) == 1
    assert len(counter.sandbox.rows("payment_intent")) == 1
    pages = await asyncio.gather(*(counter.post(ada, pack="starter", **PAGE) for _ in range(4)))
    assert len({(a.json()["id"], a.json()["url"]) for a in pages}) == 1
    assert len(counter.sandbox.rows("customer")) == 1
    assert len(await counter.account.all(models.CreditPurchase)) == 2


async def test_without_redis_a_double_click_still_buys_once(counter: Counter, ada: Bearer, account: Account) -> None:
    await counter.begin(ada, pack="studio")  # so that customer and account are there
    async with account.redis.client() as redis:
        await redis.set("billhook:lock:purchase:ada", "somebody else's")
    answers = await asyncio.gather(*(counter.post(ada, pack="starter") for _ in range(4)))
    assert {answer.status_code for answer in answers} <= {200, 201}, [answer.text for answer in answers]
    assert len({answer.json()["payment_id"] for answer in answers}) == 1
    assert len(counter.sandbox.rows("payment_intent")) == 2


async def test_what_is_over_or_another_wish_is_bought_anew(counter: Counter, ada: Bearer) -> None:
    first = await counter.begin(ada)
    other = await counter.begin(ada, pack="studio")
    kept = await counter.begin(ada, save_payment_method=True)
    assert len({first["id"], other["id"], kept["id"]}) == 3
    assert (await counter.begin(ada, save_payment_method=True, status=200))["id"] == kept["id"]
    counter.pay(kept["payment_id"])
    await counter.read(ada, kept["id"])
    again = await counter.begin(ada, save_payment_method=True)
    assert again["id"] not in {first["id"], kept["id"]}
    page = await counter.begin(ada, **PAGE)
    with counter.sandbox.changing():
        checkout_sessions.expire(counter.sandbox, {}, page["checkout_session"])
    assert (await counter.begin(ada, **PAGE))["id"] != page["id"]


async def test_an_open_purchase_of_a_former_customer_is_not_offered_again(counter: Counter, ada: Bearer) -> None:
    begun = await counter.begin(ada)
    [customer] = counter.sandbox.rows("customer")
    with counter.sandbox.changing():
        customers.delete(counter.sandbox, {}, customer["id"])
    await counter.tell()
    again = await counter.begin(ada)
    assert again["id"] != begun["id"]
    assert again["account_id"] == begun["account_id"]
    counter.pay(again["payment_id"])
    assert (await counter.read(ada, again["id"]))["uses_granted"] == 20


async def test_each_idempotency_key_is_one_purchase(counter: Counter, ada: Bearer) -> None:
    first = await counter.begin(ada, key="one")
    assert (await counter.post(ada, key="one")).headers["Idempotent-Replayed"] == "true"
    second = await counter.begin(ada, key="two")
    assert first["id"] != second["id"]
    refused(await counter.post(ada, key="one", pack="studio"), 422, "idempotency_key_reused")


async def test_a_key_whose_answer_was_lost_finds_its_purchase_again(counter: Counter, ada: Bearer) -> None:
    first = await counter.begin(ada, key="one")
    async with transaction(counter.account.sessions) as session:
        await session.execute(models.IdempotencyKey.__table__.delete())
    again = await counter.begin(ada, key="one", status=200)
    assert (again["id"], again["client_secret"]) == (first["id"], first["client_secret"])
    async with transaction(counter.account.sessions) as session:
        await session.execute(models.IdempotencyKey.__table__.delete())
    refused(await counter.post(ada, key="one", pack="studio"), 422, "idempotency_key_reused")


async def test_a_key_never_gives_one_users_purchase_to_another(counter: Counter, key: Bearer) -> None:
    await counter.begin(key, key="one", user_id="ada")
    async with transaction(counter.account.sessions) as session:
        await session.execute(models.IdempotencyKey.__table__.delete())
    refused(await counter.post(key, key="one", user_id="grace"), 422, "idempotency_key_reused")


@pytest.mark.parametrize("given", ["a-key", None])
@pytest.mark.parametrize("page", [False, True])
async def test_a_crash_before_the_commit_leaves_nothing_twice(
    counter: Counter, ada: Bearer, *, given: str | None, page: bool
) -> None:
    """Everything of ours is lost, and Stripe's objects are there."""
    wish = PAGE if page else {}
    first = await counter.begin(ada, key=given, **wish)
    async with transaction(counter.account.sessions) as session:
        for table in ("credit_purchases", "payment_intents", "checkout_sessions", "idempotency_keys", "customers"):
            await session.execute(models.Base.metadata.tables[table].delete())
    again = await counter.begin(ada, key=given, **wish)
    assert (again["id"], again["payment_id"], again["url"]) == (first["id"], first["payment_id"], first["url"])
    assert len(counter.sandbox.rows("customer")) == 1


async def test_the_card_may_be_kept_for_later(counter: Counter, ada: Bearer) -> None:
    begun = await counter.begin(ada, save_payment_method=True)
    counter.pay(begun["payment_id"])
    page = await counter.begin(ada, save_payment_method=True, **PAGE)
    counter.pay_page(page["checkout_session"])
    await counter.tell()
    methods = await counter.account.all(models.PaymentMethod)
    assert len([method for method in methods if method.customer_id is not None]) == 2
    assert {row["setup_future_usage"] for row in counter.sandbox.rows("payment_intent")} == {"off_session"}


async def test_a_declined_card_fails_the_try_and_another_one_pays(counter: Counter, ada: Bearer) -> None:
    begun = await counter.begin(ada)
    counter.pay(begun["payment_id"], "pm_card_visa_chargeDeclinedInsufficientFunds")
    await counter.tell()
    failed = await counter.read(ada, begun["id"])
    assert (failed["status"], failed["failure_code"], failed["uses_granted"]) == ("failed", "insufficient_funds", 0)
    assert (await counter.begin(ada, status=200))["client_secret"] == begun["client_secret"]
    counter.pay(begun["payment_id"])
    await counter.tell()
    found = await counter.read(ada, begun["id"])
    assert (found["status"], found["failure_code"], found["uses_granted"]) == ("succeeded", None, 20)


@pytest.mark.parametrize("succeed", [True, False])
async def test_a_bank_may_want_to_see_the_buyer_first(counter: Counter, ada: Bearer, *, succeed: bool) -> None:
    begun = await counter.begin(ada)
    counter.pay(begun["payment_id"], "pm_card_threeDSecure2Required")
    assert (await counter.read(ada, begun["id"]))["status"] == "pending"
    counter.authenticate(begun["payment_id"], succeed=succeed)
    await counter.tell()
    found = await counter.read(ada, begun["id"])
    wanted = ("succeeded", None) if succeed else ("failed", "payment_intent_authentication_failure")
    assert (found["status"], found["failure_code"]) == wanted


async def test_what_is_given_up_is_canceled_and_never_granted(counter: Counter, ada: Bearer) -> None:
    begun = await counter.begin(ada)
    with counter.sandbox.changing():
        payment_intents.cancel(counter.sandbox, {}, begun["payment_id"])
    page = await counter.begin(ada, **PAGE)
    counter.wait(86_400)
    await counter.tell()
    assert [(await counter.read(ada, id))["status"] for id in (begun["id"], page["id"])] == ["canceled", "canceled"]
    assert await counter.balance(ada, begun["account_id"]) == {"free": 3, "paid": 0, "owed": 0, "used": 0}


async def test_a_price_changed_meanwhile_changes_no_purchase(
    counter: Counter, account: Account, quiet: Settings, ada: Bearer, tmp_path: Any
) -> None:
    begun = await counter.begin(ada)
    plans = tmp_path / "plans.yaml"
    plans.write_text(
        quiet.plans_file.read_text().replace("    amount: 500\n    uses: 20", "    amount: 700\n    uses: 7")
    )
    newer = quiet.model_copy(update={"plans_file": plans})
    async with serving(create_app(newer, provider=account.provider)) as client:
        later = Counter(client, account, counter.clock)
        refused(await later.post(ada, **PAGE), 409, "pack_not_applied")  # Stripe's page would take the old price
        other = await later.begin(ada)
        assert (other["amount_minor"], other["uses_purchased"]) == (700, 7)
        assert other["id"] != begun["id"]
        later.pay(begun["payment_id"])
        await later.tell()
        found = await later.read(ada, begun["id"])
    assert (found["amount_minor"], found["uses_granted"]) == (500, 20)


async def test_what_cannot_be_sold_is_refused(
    counter: Counter, account: Account, ada: Bearer, operator: Bearer, create_key: CreateKey
) -> None:
    refused(await counter.post(ada, pack="nope"), 404, "pack_not_found")
    refused(await counter.post(ada, success_url="https://evil.example.com/"), 422, "redirect_not_allowed")
    refused(await counter.post(ada, **{**PAGE, "cancel_url": "https://evil.example.com/"}), 422, "redirect_not_allowed")
    refused(await counter.post(ada, return_url="https://evil.example.com/"), 422, "redirect_not_allowed")
    refused(await counter.post(ada, cancel_url=PAGE["cancel_url"]), 422, "invalid_request")
    refused(await counter.post(ada, user_id="grace"), 404, "user_not_found")
    refused(await counter.post(await create_key("credits:write")), 422, "missing")
    refused(await counter.post(await create_key("credits:read"), user_id="ada"), 403, "permission_denied")
    async with transaction(account.sessions) as session:
        await session.execute(update(models.Price).values(lookup_key=None))
    refused(await counter.post(ada, **PAGE), 409, "pack_not_applied")
    begun = await counter.begin(ada)
    suspended = await counter.client.patch(
        f"{API}/accounts/{begun['account_id']}", headers=operator, json={"status": "suspended"}
    )
    assert suspended.status_code == 200, suspended.text
    refused(await counter.post(ada), 403, "account_suspended")
    assert len(counter.sandbox.rows("payment_intent")) == 1


async def test_purchases_are_their_buyers(
    counter: Counter, ada: Bearer, grace: Bearer, key: Bearer, create_key: CreateKey
) -> None:
    begun = await counter.begin(ada)
    url = f"{API}/purchases/{begun['id']}"
    refused(await counter.client.get(url, headers=grace), 404, "purchase_not_found")
    refused(await counter.client.get(f"{API}/purchases/{uuid4()}", headers=key), 404, "purchase_not_found")
    refused(await counter.client.get(url, headers=await create_key("billing:read")), 403, "permission_denied")
    refused(await counter.refund(ada, begun["id"], key="r"), 403, "permission_denied")
    assert (await counter.client.get(url, headers=key)).status_code == 200
    assert (await counter.client.get(f"{API}/purchases", headers=grace)).json() == []
    refused(await counter.client.get(f"{API}/purchases?user_id=ada", headers=grace), 404, "user_not_found")
    other = f"{API}/purchases?starting_after={begun['id']}"
    refused(await counter.client.get(other, headers=grace), 404, "purchase_not_found")
    for odd in (f"{API}/purchases?starting_after=x", f"{API}/purchases/x"):
        refused(await counter.client.get(odd, headers=ada), 404, "purchase_not_found")


@pytest.mark.parametrize("page", [False, True])
async def test_what_stripe_calls_it_names_a_purchase_too(
    counter: Counter, ada: Bearer, grace: Bearer, operator: Bearer, *, page: bool
) -> None:
    begun = await counter.begin(ada, **(PAGE if page else {}))
    if page:
        counter.pay_page(begun["checkout_session"])
        found = await counter.read(ada, begun["checkout_session"])
    else:
        counter.pay(begun["payment_id"])
        found = await counter.read(ada, begun["payment_id"])
    assert (found["id"], found["status"]) == (begun["id"], "succeeded")
    for number, name in enumerate(filter(None, (found["payment_id"], found["checkout_session"]))):
        assert await counter.read(ada, name) == found
        refused(await counter.client.get(f"{API}/purchases/{name}", headers=grace), 404, "purchase_not_found")
        answer = await counter.refund(operator, name, key=f"r{number}", amount_minor=100)
        assert (answer.status_code, answer.json()["id"]) == (201, begun["id"])
        found = await counter.read(ada, begun["id"])
    for odd in ("pi_unknown", "cs_unknown"):
        refused(await counter.client.get(f"{API}/purchases/{odd}", headers=ada), 404, "purchase_not_found")
        refused(await counter.refund(operator, odd, key=odd), 404, "purchase_not_found")


async def test_purchases_are_listed_page_by_page_newest_first(counter: Counter, ada: Bearer, key: Bearer) -> None:
    made = {(await counter.begin(ada, key=f"k{number}"))["id"] for number in range(5)}
    seen: list[str] = []
    url = f"{API}/purchases?user_id=ada&limit=2"
    while url:
        answer = await counter.client.get(url, headers=key)
        page = answer.json()
        seen += [row["id"] for row in page]
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    assert len(seen) == 5
    assert set(seen) == made
    rows = {str(row.id): row.created for row in await counter.account.all(models.CreditPurchase)}
    assert [rows[id] for id in seen] == sorted(rows.values(), reverse=True)


async def test_refunds_take_back_as_much_as_they_give(counter: Counter, ada: Bearer, operator: Bearer) -> None:
    found = await counter.bought(ada)
    answer = await counter.refund(operator, found["id"], key="r1", amount_minor=130, reason="requested_by_customer")
    assert answer.status_code == 201, answer.text
    part = answer.json()
    assert (part["refund"]["amount_minor"], part["refund"]["reason"]) == (130, "requested_by_customer")
    assert (part["uses_clawed_back"], part["amount_refunded_minor"], part["status"]) == (5, 130, "succeeded")  # 5.2
    again = await counter.refund(operator, found["id"], key="r1", amount_minor=130, reason="requested_by_customer")
    assert again.headers["Idempotent-Replayed"] == "true"
    second = (await counter.refund(operator, found["id"], key="r2", amount_minor=120)).json()
    assert second["uses_clawed_back"] == 10
    await counter.tell()
    assert await counter.balance(ada, found["account_id"]) == {"free": 3, "paid": 10, "owed": 0, "used": 0}
    full = (await counter.refund(operator, found["id"], key="r3")).json()
    assert (full["uses_clawed_back"], full["amount_refunded_minor"]) == (20, 500)
    for _ in range(2):
        await counter.tell()
    assert await counter.balance(ada, found["account_id"]) == {"free": 3, "paid": 0, "owed": 0, "used": 0}
    taken = [data["changed"] for _, data in await told(counter, "credits.clawed_back")]
    assert taken == [5, 5, 10]
    refused(await counter.refund(operator, found["id"], key="r4"), 409, "conflict")


async def test_only_what_is_paid_is_refunded_and_with_a_key(counter: Counter, ada: Bearer, operator: Bearer) -> None:
    begun = await counter.begin(ada)
    refused(await counter.refund(operator, begun["id"], key="r1"), 409, "purchase_not_paid")
    refused(await counter.refund(operator, str(uuid4()), key="r2"), 404, "purchase_not_found")
    answer = await counter.client.post(f"{API}/purchases/{begun['id']}/refund", headers=operator, json={})
    refused(answer, 422, "invalid_request")


async def test_a_refund_after_the_uses_were_spent_is_owed_and_a_new_purchase_settles_it(
    counter: Counter, ada: Bearer, key: Bearer, operator: Bearer
) -> None:
    found = await counter.bought(ada)
    assert (await charge(counter, key, 18)).status_code == 201
    await counter.refund(operator, found["id"], key="r1")
    assert await counter.balance(ada, found["account_id"]) == {"free": 0, "paid": 0, "owed": 15, "used": 18}
    refused(await charge(counter, key, 1), 402, "insufficient_credits")
    again = await counter.bought(ada)
    assert await counter.balance(ada, again["account_id"]) == {"free": 0, "paid": 5, "owed": 0, "used": 18}
    assert (await charge(counter, key, 5)).status_code == 201
    refused(await charge(counter, key, 1), 402, "insufficient_credits")


async def test_a_refund_in_the_dashboard_counts_with_ours(counter: Counter, ada: Bearer, operator: Bearer) -> None:
    found = await counter.bought(ada)
    await counter.refund(operator, found["id"], key="r1", amount_minor=100)
    counter.refund_in_dashboard(found["payment_id"], 150)
    await counter.tell()
    shown = await counter.read(ada, found["id"])
    assert (shown["amount_refunded_minor"], shown["uses_clawed_back"]) == (250, 10)


async def test_a_refund_that_the_bank_sends_back_gives_the_uses_back(
    counter: Counter, ada: Bearer, operator: Bearer
) -> None:
    counter.clock.hold()
    found = await counter.bought(ada, method="pm_card_refundFail")
    await counter.refund(operator, found["id"], key="r1")
    assert (await counter.balance(ada, found["account_id"]))["paid"] == 0
    counter.wait()
    await counter.tell()
    assert (await counter.balance(ada, found["account_id"]))["paid"] == 20
    shown = await counter.read(ada, found["id"])
    assert (shown["uses_clawed_back"], shown["amount_refunded_minor"]) == (0, 0)
    assert [type for type, _ in await told(counter)] == ["credits.purchased", "credits.clawed_back", "credits.restored"]


@pytest.mark.parametrize("evidence", ["winning_evidence", "losing_evidence"])
async def test_a_dispute_takes_the_uses_until_it_is_won(
    counter: Counter, ada: Bearer, key: Bearer, *, evidence: str
) -> None:
    counter.clock.hold()
    found = await counter.bought(ada, method="pm_card_createDispute")
    assert (await charge(counter, key, 8)).status_code == 201
    dispute = counter.dispute(found["payment_id"])
    await counter.tell()
    assert await counter.balance(ada, found["account_id"]) == {"free": 0, "paid": 0, "owed": 5, "used": 8}
    shown = await counter.read(ada, found["id"])
    assert (shown["amount_disputed_minor"], shown["uses_clawed_back"]) == (500, 20)
    counter.answer_dispute(dispute, evidence)
    for _ in range(2):
        await counter.tell()
    won = evidence == "winning_evidence"
    after = {"free": 0, "paid": 15, "owed": 0, "used": 8} if won else {"free": 0, "paid": 0, "owed": 5, "used": 8}
    assert await counter.balance(ada, found["account_id"]) == after
    assert [type for type, _ in await told(counter, "credits.restored")] == ["credits.restored"] * won


async def test_an_inquiry_takes_nothing_unless_it_escalates(counter: Counter, ada: Bearer) -> None:
    counter.clock.hold()
    found = await counter.bought(ada, method="pm_card_createDisputeInquiry")
    dispute = counter.dispute(found["payment_id"])
    await counter.tell()
    assert (await counter.balance(ada, found["account_id"]))["paid"] == 20
    counter.answer_dispute(dispute, "escalate_inquiry_evidence")
    await counter.tell()
    assert (await counter.balance(ada, found["account_id"]))["paid"] == 0


async def test_a_partial_refund_and_a_dispute_take_no_more_than_there_was(
    counter: Counter, ada: Bearer, operator: Bearer
) -> None:
    counter.clock.hold()
    found = await counter.bought(ada, method="pm_card_createDispute")
    await counter.refund(operator, found["id"], key="r1", amount_minor=200)
    counter.dispute(found["payment_id"])
    await counter.tell()
    shown = await counter.read(ada, found["id"])
    assert (shown["amount_refunded_minor"], shown["amount_disputed_minor"]) == (200, 500)
    assert shown["uses_clawed_back"] == 20
    assert await counter.balance(ada, found["account_id"]) == {"free": 3, "paid": 0, "owed": 0, "used": 0}


async def test_an_erased_buyers_money_still_comes_and_goes_by_the_book(
    counter: Counter, ada: Bearer, operator: Bearer
) -> None:
    found = await counter.bought(ada)
    waiting = await counter.begin(ada, pack="studio")
    [customer] = counter.sandbox.rows("customer")
    answer = await counter.client.delete(
        f"{API}/customers/{customer['id']}", headers={**operator, "Idempotency-Key": "gone"}
    )
    assert answer.status_code in {200, 202, 204}, answer.text
    counter.pay(waiting["payment_id"])
    await counter.tell()
    await counter.refund(operator, found["id"], key="r1")
    await counter.tell()
    rows = {str(row.id): row for row in await counter.account.all(models.CreditPurchase)}
    assert rows[found["id"]].clawed == 20
    assert rows[waiting["id"]].status == "succeeded"


@pytest.mark.parametrize("paid", [False, True])
async def test_who_comes_back_after_being_erased_meets_no_former_purchase(
    counter: Counter, ada: Bearer, operator: Bearer, *, paid: bool
) -> None:
    former = await counter.begin(ada)
    if paid:
        counter.pay(former["payment_id"])
    [customer] = counter.sandbox.rows("customer")
    answer = await counter.client.delete(
        f"{API}/customers/{customer['id']}", headers={**operator, "Idempotency-Key": "gone"}
    )
    assert answer.status_code in {200, 202, 204}, answer.text
    begun = await counter.begin(ada)
    assert begun["payment_id"] != former["payment_id"]
    assert begun["account_id"] != former["account_id"]
    counter.pay(begun["payment_id"])
    await counter.tell()
    assert await counter.balance(ada, begun["account_id"]) == {"free": 3, "paid": 20, "owed": 0, "used": 0}


async def test_who_is_being_erased_is_sold_nothing(counter: Counter, ada: Bearer) -> None:
    await counter.begin(ada)
    async with transaction(counter.account.sessions) as session:
        await session.execute(update(models.Customer).values(erased_at=1))
        await session.execute(update(models.CreditAccount).values(status="closed"))
    refused(await counter.post(ada, key="k"), 409, "customer_deleted")
    assert len(counter.sandbox.rows("payment_intent")) == 1
