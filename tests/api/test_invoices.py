"""Invoices through HTTP: users read theirs, operators make, change and collect everybody's."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import ADA, STRIPE, Account
from serving import API, PROBLEM, Bearer, CreateKey, bearer, serving

from app import models
from app.main import create_app
from app.sandbox.resources import coupons, credit_notes, payment_methods
from app.sandbox.resources import customers as sandbox_customers
from app.services import customers
from app.services.identity import mint_development_token
from app.services.mirror import NO_ROW, AsOf
from app.settings import Settings

_numbers = itertools.count()


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


@pytest.fixture
def owner(settings: Settings) -> Bearer:
    return bearer(mint_development_token(settings, ADA.user_id))


async def customer(account: Account, method: str | None = "pm_card_visa") -> str:
    """Ada's customer, known here and at Stripe, with a card to charge unless told otherwise."""
    made = await account.provider.create_customer(
        email=ADA.email, name=ADA.name, metadata={"user_id": ADA.user_id}, idempotency_key=f"customer-{next(_numbers)}"
    )
    async with account.sessions.begin() as session:
        await customers.sync(session, made.object, as_of=AsOf(at=made.at, revision=NO_ROW), origin=STRIPE)
    if method is not None:
        with account.sandbox.changing():
            attached = payment_methods.attach(account.sandbox, {"customer": made.object.id}, method)
            settings = {"invoice_settings": {"default_payment_method": attached["id"]}}
            sandbox_customers.update(account.sandbox, settings, made.object.id)
    return made.object.id


async def one_time_price(account: Account, cents: int) -> str:
    product = await account.provider.create_product(
        id=None, name="Training", description=None, metadata={}, idempotency_key="training"
    )
    price = await account.provider.create_price(
        product=product.object.id,
        currency="usd",
        unit_amount=cents,
        interval=None,
        lookup_key=None,
        transfer_lookup_key=False,
        metadata={},
        idempotency_key="training-price",
    )
    return price.object.id


async def post(client: httpx.AsyncClient, path: str, who: Bearer, body: dict[str, Any] | None = None) -> httpx.Response:
    """Each call with a key of its own."""
    headers = {**who, "Idempotency-Key": f"test-{next(_numbers)}"}
    return await client.post(f"{API}/invoices{path}", headers=headers, json=body)


async def done(client: httpx.AsyncClient, path: str, who: Bearer, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await post(client, path, who, body)
    assert answer.status_code == (201 if not path else 200), answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def drafted(client: httpx.AsyncClient, who: Bearer, **body: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {"customer": ADA.user_id}
    if "include_pending" not in body:
        defaults |= {"currency": "usd", "lines": [{"amount_minor": 1000, "description": "Setup"}]}
    return await done(client, "", who, {**defaults, **body})


async def read(client: httpx.AsyncClient, path: str, who: Bearer, **query: str) -> Any:
    answer = await client.get(f"{API}/invoices{path}", headers=who, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def told(account: Account) -> None:
    """Everything Stripe has to say is delivered and applied."""
    await account.deliver_and_process(account.events())


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, PROBLEM), answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code, problem
    return problem


async def test_an_operator_drafts_finalizes_and_collects(
    client: httpx.AsyncClient, account: Account, operator: Bearer, owner: Bearer
) -> None:
    ada = await customer(account)
    price = await one_time_price(account, 2500)
    lines = [
        {"price_id": price, "quantity": 2},
        {"amount_minor": 1000, "description": "Travel"},
        {"amount_minor": -500, "description": "Sorry for the wait"},
    ]
    draft = await drafted(client, operator, lines=lines, currency="USD", description="Visit", metadata={"visit": "7"})
    assert (draft["status"], draft["number"], draft["customer"]) == ("draft", None, ada)
    assert (draft["total_minor"], draft["amount_due"], draft["description"]) == (5500, 55.0, "Visit")
    shown = [(line["description"], line["amount_minor"], line["quantity"]) for line in draft["lines"]]
    assert shown == [("Training", 5000, 2), ("Travel", 1000, 1), ("Sorry for the wait", -500, 1)]
    assert draft["lines"][0]["price_id"] == price
    opened = await done(client, f"/{draft['id']}/finalize", operator)
    assert (opened["status"], opened["attempt_count"], opened["amount_remaining_minor"]) == ("open", 0, 5500)
    assert opened["hosted_invoice_url"].startswith("http")
    paid = await done(client, f"/{draft['id']}/pay", operator)
    assert (paid["status"], paid["amount_paid"], paid["attempt_count"]) == ("paid", 55.0, 1)
    assert paid["paid_at"] is not None
    mine = await read(client, f"/{draft['id']}", owner)
    assert (mine["status"], mine["lines"]) == ("paid", paid["lines"])
    await told(account)  # the webhooks say the same
    assert await read(client, f"/{draft['id']}", owner) == mine
    [row] = account.sandbox.rows("invoice")
    assert row["metadata"] == {"visit": "7"}


async def test_what_is_pending_is_billed_too_with_a_coupon(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    ada = await customer(account)
    with account.sandbox.changing():
        coupons.create(account.sandbox, {"id": "TENTH", "percent_off": 10})
    first = await drafted(client, operator)
    assert (first["discount_minor"], first["tax_minor"]) == (0, 0)
    half = await drafted(client, operator, coupon="TENTH", lines=[{"amount_minor": 995, "description": "Setup"}])
    assert (half["subtotal_minor"], half["discount_minor"], half["total_minor"]) == (995, 100, 895)
    empty = await drafted(client, operator, include_pending=True)
    assert (empty["total_minor"], empty["lines"], empty["customer"]) == (0, [], ada)
    refused(
        await post(client, "", operator, {"customer": ada, "include_pending": True, "coupon": "NO"}), 404, "not_found"
    )


async def test_a_draft_is_deleted_and_nothing_else(
    client: httpx.AsyncClient, account: Account, operator: Bearer, owner: Bearer
) -> None:
    await customer(account)
    draft, other = [await drafted(client, operator) for _ in range(2)]
    url = f"{API}/invoices/{draft['id']}"
    refused(await client.delete(url, headers=owner), 403, "permission_denied")
    answer = await client.delete(url, headers=operator)
    assert (answer.status_code, answer.content) == (204, b"")
    refused(await client.get(url, headers=operator), 404, "invoice_not_found")
    refused(await client.delete(url, headers=operator), 404, "invoice_not_found")
    await done(client, f"/{other['id']}/finalize", operator)
    refused(await client.delete(f"{API}/invoices/{other['id']}", headers=operator), 409, "invoice_not_draft")
    await told(account)
    assert [row["id"] for row in await read(client, "", operator)] == [other["id"]]


async def test_a_draft_that_an_earlier_try_deleted_is_gone_here_too(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    await customer(account)
    draft = await drafted(client, operator)
    await account.provider.delete_invoice(draft["id"])
    assert (await client.delete(f"{API}/invoices/{draft['id']}", headers=operator)).status_code == 204
    assert await read(client, "", operator) == []


async def test_sent_voided_and_given_up(client: httpx.AsyncClient, account: Account, operator: Bearer) -> None:
    await customer(account, None)
    by_mail = {"collection_method": "send_invoice", "days_until_due": 14}
    sent = await done(client, f"/{(await drafted(client, operator, **by_mail))['id']}/send", operator)
    assert (sent["status"], sent["due_date"] - sent["created"]) == ("open", 14 * 86_400)
    lost = await done(client, f"/{sent['id']}/mark-uncollectible", operator)
    assert (lost["status"], lost["amount_remaining_minor"]) == ("uncollectible", 1000)
    voided = await done(client, f"/{sent['id']}/void", operator)
    assert voided["status"] == "void"
    elsewhere = await drafted(client, operator)
    paid = await done(client, f"/{elsewhere['id']}/pay", operator, {"paid_out_of_band": True})
    assert (paid["status"], paid["attempt_count"], paid["amount_paid_minor"]) == ("paid", 0, 1000)


async def test_what_the_state_forbids_is_a_conflict_that_says_so(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    await customer(account)
    id = (await drafted(client, operator))["id"]
    refused(await post(client, f"/{id}/void", operator), 409, "invoice_not_open")
    refused(await post(client, f"/{id}/mark-uncollectible", operator), 409, "invoice_not_open")
    await done(client, f"/{id}/pay", operator)
    refused(await post(client, f"/{id}/finalize", operator), 409, "invoice_not_draft")
    refused(await post(client, f"/{id}/pay", operator), 409, "invoice_not_payable")
    refused(await post(client, f"/{id}/void", operator), 409, "invoice_not_open")


async def test_a_payment_that_fails_says_why_and_can_be_tried_again(
    client: httpx.AsyncClient, account: Account, operator: Bearer, owner: Bearer
) -> None:
    await customer(account, "pm_card_chargeCustomerFail")
    id = (await drafted(client, operator))["id"]
    problem = refused(await post(client, f"/{id}/pay", operator), 402, "payment_failed")
    assert problem["decline_code"] == "generic_decline"
    await told(account)
    late = await read(client, f"/{id}", owner)
    assert (late["status"], late["attempt_count"]) == ("open", 1)
    assert late["hosted_invoice_url"] is not None
    strict = {"payment_method": "pm_card_authenticationRequired"}
    refused(await post(client, f"/{id}/pay", operator, strict), 402, "payment_action_required")
    problem = refused(
        await post(client, f"/{id}/pay", operator, {"payment_method": "pm_nope"}), 404, "payment_method_not_found"
    )
    assert [error["param"] for error in problem["errors"]] == ["payment_method"]
    paid = await done(client, f"/{id}/pay", operator, {"payment_method": "pm_card_visa"})
    assert paid["status"] == "paid"


async def test_nothing_to_charge_is_a_conflict(client: httpx.AsyncClient, account: Account, operator: Bearer) -> None:
    await customer(account, None)
    id = (await drafted(client, operator))["id"]
    refused(await post(client, f"/{id}/pay", operator), 409, "payment_method_missing")


async def test_the_next_invoice_is_previewed(
    client: httpx.AsyncClient, account: Account, owner: Bearer, ada: Bearer
) -> None:
    answer = await client.get(f"{API}/invoices/upcoming", headers=ada)
    refused(answer, 404, "customer_not_found")
    await account.buy()
    await told(account)
    shown = await read(client, "/upcoming", owner)
    assert (shown["currency"], shown["amount_due"], shown["total_minor"]) == ("usd", 99.0, 9900)
    [line] = shown["lines"]
    assert (line["amount"], line["quantity"], line["proration"], line["id"]) == (99.0, 1, False, None)
    assert len(await account.all(models.Invoice)) == 1


async def test_without_a_subscription_nothing_is_to_come(
    client: httpx.AsyncClient, account: Account, owner: Bearer
) -> None:
    await customer(account)
    refused(await client.get(f"{API}/invoices/upcoming", headers=owner), 404, "no_upcoming_invoice")


async def test_credit_notes_follow_stripe(
    client: httpx.AsyncClient, account: Account, operator: Bearer, owner: Bearer, ada: Bearer
) -> None:
    await customer(account)
    id = (await drafted(client, operator))["id"]
    await done(client, f"/{id}/finalize", operator)
    with account.sandbox.changing():
        first = credit_notes.create(account.sandbox, {"invoice": id, "amount": 300, "reason": "order_change"})
    await told(account)
    [note] = await read(client, f"/{id}/credit-notes", owner)
    assert (note["id"], note["status"], note["type"], note["total"]) == (first["id"], "issued", "pre_payment", 3.0)
    assert (note["number"], note["reason"], note["pdf"]) == (first["number"], "order_change", first["pdf"])
    assert (await read(client, f"/{id}", owner))["amount_remaining_minor"] == 700
    with account.sandbox.changing():
        credit_notes.void(account.sandbox, {}, first["id"])
    await told(account)
    assert [note["status"] for note in await read(client, f"/{id}/credit-notes", operator)] == ["void"]
    refused(await client.get(f"{API}/invoices/{id}/credit-notes", headers=ada), 404, "invoice_not_found")


async def test_operators_find_everybodys(
    client: httpx.AsyncClient, account: Account, operator: Bearer, owner: Bearer, create_key: CreateKey
) -> None:
    ada = await customer(account)
    draft, other = [await drafted(client, operator) for _ in range(2)]
    await done(client, f"/{other['id']}/finalize", operator)
    everything = {draft["id"], other["id"]}
    assert {row["id"] for row in await read(client, "", operator)} == everything
    for who in (ada, ADA.user_id):
        assert {row["id"] for row in await read(client, "", operator, customer=who)} == everything
    assert await read(client, "", operator, customer="cus_nobody") == []
    assert [row["id"] for row in await read(client, "", operator, status="open")] == [other["id"]]
    assert (await read(client, f"/{draft['id']}", operator, customer=ada))["id"] == draft["id"]
    answer = await client.get(f"{API}/invoices/{draft['id']}?customer=cus_nobody", headers=operator)
    refused(answer, 404, "invoice_not_found")
    refused(await client.get(f"{API}/invoices?customer={ada}", headers=owner), 403, "permission_denied")
    reader = await create_key("billing:read")
    refused(await client.get(f"{API}/invoices?customer={ada}", headers=reader), 403, "permission_denied")
    assert {row["id"] for row in await read(client, "", reader, user_id=ADA.user_id)} == everything
    for path in ("", f"/{draft['id']}", f"/{draft['id']}/credit-notes"):  # a reader has to say whose
        problem = refused(await client.get(f"{API}/invoices{path}", headers=reader), 422, "missing")
        assert [error["param"] for error in problem["errors"]] == ["user_id"]


async def test_another_users_invoice_does_not_exist(
    client: httpx.AsyncClient, account: Account, operator: Bearer, owner: Bearer, grace: Bearer
) -> None:
    await customer(account)
    id = (await drafted(client, operator))["id"]
    assert (await read(client, f"/{id}", owner))["id"] == id
    refused(await client.get(f"{API}/invoices/{id}", headers=grace), 404, "invoice_not_found")
    refused(await client.get(f"{API}/invoices/in_nope", headers=owner), 404, "invoice_not_found")
    refused(await post(client, "/in_nope/void", operator), 404, "invoice_not_found")
    for action in ("finalize", "pay", "send", "void", "mark-uncollectible"):
        refused(await post(client, f"/{id}/{action}", owner), 403, "permission_denied")


async def test_the_same_request_twice_makes_one_invoice(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    ada = await customer(account)
    body = {"customer": ada, "currency": "usd", "lines": [{"amount_minor": 5, "description": "x"}]}
    headers = {**operator, "Idempotency-Key": "once"}
    answers = [await client.post(f"{API}/invoices", headers=headers, json=body) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len(account.sandbox.rows("invoice")) == 1
    without = await client.post(f"{API}/invoices", headers=operator, json=body)
    assert without.status_code == 422


@pytest.mark.parametrize("money", [("jpy", 500, 500), ("kwd", 12_340, 12.34)])
async def test_any_currency_is_exact(
    client: httpx.AsyncClient, account: Account, operator: Bearer, money: tuple[str, int, float]
) -> None:
    currency, minor, major = money
    await customer(account)
    draft = await drafted(client, operator, currency=currency, lines=[{"amount_minor": minor, "description": "x"}])
    paid = await done(client, f"/{draft['id']}/pay", operator)
    assert (paid["currency"], paid["amount_paid_minor"], paid["amount_paid"]) == (currency, minor, major)
    assert paid["lines"][0]["amount"] == major


@pytest.mark.parametrize(
    "body",
    [
        {"lines": []},
        {"lines": [{}]},
        {"lines": [{"price_id": "price_1", "amount_minor": 5}]},
        {"lines": [{"amount_minor": 5, "quantity": 2}]},
        {"lines": [{"price_id": "price_1", "quantity": 0}]},
        {"lines": [{"amount_minor": 1.5}]},
        {"collection_method": "send_invoice"},
        {"days_until_due": 5},
        {"coupon": "A", "promotion_code": "B"},
        {"currency": "dollars"},
        {"promotion_code": "NOPE"},
        {"nonsense": 1},
    ],
)
async def test_a_senseless_invoice_is_refused(
    client: httpx.AsyncClient, account: Account, operator: Bearer, body: dict[str, Any]
) -> None:
    ada = await customer(account)
    lines = {"currency": "usd", "lines": [{"amount_minor": 5, "description": "x"}]}
    answer = await post(client, "", operator, {"customer": ada, **lines, **body})
    refused(answer, 422, "invalid_request")
    assert account.sandbox.rows("invoice") == []


@pytest.mark.parametrize("price", ["price_nope", "recurring"])
async def test_a_line_that_stripe_refuses_leaves_no_draft(
    client: httpx.AsyncClient, account: Account, operator: Bearer, price: str
) -> None:
    ada = await customer(account)
    recurring = next(row["id"] for row in account.sandbox.rows("price") if row["recurring"])
    body = {"customer": ada, "lines": [{"price_id": recurring if price == "recurring" else price}]}
    answer = await post(client, "", operator, body)
    assert answer.status_code == (422 if price == "recurring" else 404)
    assert [error["param"] for error in answer.json()["errors"]] == ["price_id"]
    assert account.sandbox.rows("invoice") == []
    assert await read(client, "", operator) == []


async def test_a_price_in_another_currency_is_refused(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    await customer(account)
    price = await one_time_price(account, 2500)
    body = {"customer": ADA.user_id, "currency": "eur", "lines": [{"price_id": price}]}
    answer = await post(client, "", operator, body)
    problem = refused(answer, 422, "invalid_request")
    assert [error["param"] for error in problem["errors"]] == ["currency"]
    assert account.sandbox.rows("invoice") == []


async def test_a_customer_who_is_gone_is_billed_nothing_more(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    refused(
        await post(client, "", operator, {"customer": "nobody", "include_pending": True}), 404, "customer_not_found"
    )
    ada = await customer(account)
    await account.provider.delete_customer(ada)
    await told(account)
    refused(await post(client, "", operator, {"customer": ada, "include_pending": True}), 409, "customer_deleted")
