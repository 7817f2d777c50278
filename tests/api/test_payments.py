"""Payments through HTTP: collected by a backend, given back by an operator, questioned by banks."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import Account
from serving import API, PROBLEM, Bearer, CreateKey, serving
from sqlalchemy import update

from app import models
from app.main import create_app
from app.sandbox.resources import customers, disputes, payment_intents
from app.settings import Settings

BACK = "https://app.example.com/paid"
CARD = {"confirm": True, "payment_method": "pm_card_visa", "return_url": BACK}
_numbers = itertools.count()


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def key(create_key: CreateKey) -> Bearer:
    return await create_key("billing:read", "billing:write")


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


async def post(
    client: httpx.AsyncClient, path: str, who: Bearer, body: dict[str, Any] | None = None, **query: str
) -> httpx.Response:
    """Each call with a key of its own."""
    headers = {**who, "Idempotency-Key": f"test-{next(_numbers)}"}
    return await client.post(f"{API}{path}", headers=headers, json=body or {}, params=query)


async def created(client: httpx.AsyncClient, who: Bearer, **body: Any) -> dict[str, Any]:
    answer = await post(client, "/payments/intents", who, {"amount_minor": 6500, "currency": "usd", **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def read(client: httpx.AsyncClient, path: str, who: Bearer, **query: str) -> Any:
    answer = await client.get(f"{API}{path}", headers=who, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def told(account: Account) -> None:
    """Everything Stripe has to say is delivered and applied."""
    await account.deliver_and_process(account.events())


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, PROBLEM), answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code
    return problem


async def test_a_payment_is_made_confirmed_and_read(client: httpx.AsyncClient, account: Account, key: Bearer) -> None:
    await account.buy()
    await told(account)
    answer = await post(
        client,
        "/payments/intents",
        key,
        {"amount_minor": 6500, "currency": "USD", "description": "Setup", "metadata": {"order": "7"}},
        user_id="demo-1",
    )
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["status"], made["amount"], made["amount_minor"], made["currency"]) == (
        "requires_payment_method",
        65.0,
        6500,
        "usd",
    )
    assert made["client_secret"].startswith(f"{made['id']}_secret_")
    assert answer.headers["Cache-Control"] == "no-store"
    assert (made["customer"], made["metadata"]) == (account.sandbox.rows("customer")[0]["id"], {"order": "7"})
    paid = await post(
        client,
        f"/payments/intents/{made['id']}/confirm",
        key,
        {"payment_method": "pm_card_visa", "return_url": BACK},
        user_id="demo-1",
    )
    assert paid.status_code == 200, paid.text
    assert (paid.json()["status"], paid.json()["amount_received_minor"]) == ("succeeded", 6500)
    assert (paid.json()["client_secret"], paid.json()["next_action"]) == (None, None)
    found = await read(client, f"/payments/intents/{made['id']}", key, user_id="demo-1")
    assert found == paid.json()
    # The subscription's own payment came by its webhook; this one needed none.
    assert made["id"] in [row["id"] for row in await read(client, "/payments/intents", key, user_id="demo-1")]


async def test_a_payment_that_needs_its_owner_says_where_to_go(
    client: httpx.AsyncClient, account: Account, key: Bearer
) -> None:
    made = await created(client, key, **{**CARD, "payment_method": "pm_card_threeDSecure2Required"})
    assert made["status"] == "requires_action"
    assert made["next_action"] == {"type": "redirect_to_url", "url": f"http://sandbox.test/3ds/{made['id']}"}
    with account.sandbox.changing():
        payment_intents.answer_challenge(account.sandbox, made["id"], succeed=True)
    path = f"/payments/intents/{made['id']}"
    found = await client.get(f"{API}{path}", headers=key)
    assert (found.json()["status"], found.json()["next_action"]) == ("succeeded", None)  # before any webhook
    assert found.headers["Cache-Control"] == "no-store"


async def test_a_decline_is_a_402_that_says_why_and_can_be_tried_again(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer
) -> None:
    declining = {**CARD, "payment_method": "pm_card_visa_chargeDeclinedInsufficientFunds"}
    answer = await post(client, "/payments/intents", key, {"amount_minor": 6500, "currency": "usd", **declining})
    problem = refused(answer, 402, "payment_failed")
    assert (problem["decline_code"], problem["stripe_code"]) == ("insufficient_funds", "card_declined")
    assert problem["detail"] == "Your card has insufficient funds."
    await told(account)
    [failed] = await read(client, "/payments/intents", key)
    assert (failed["status"], failed["decline_code"]) == ("requires_payment_method", "insufficient_funds")
    [recent] = await read(client, "/payments/recent", operator, status="failed")
    assert (recent["failure_code"], recent["decline_code"], recent["receipt_url"]) == (
        "card_declined",
        "insufficient_funds",
        None,
    )
    again = await post(
        client, f"/payments/intents/{failed['id']}/confirm", key, {"payment_method": "pm_card_visa", "return_url": BACK}
    )
    assert again.json()["status"] == "succeeded"


async def test_a_card_that_wants_its_owner_is_refused_without_them(client: httpx.AsyncClient, key: Bearer) -> None:
    absent = {"confirm": True, "off_session": True, "payment_method": "pm_card_authenticationRequired"}
    answer = await post(client, "/payments/intents", key, {"amount_minor": 6500, "currency": "usd", **absent})
    assert refused(answer, 402, "payment_failed")["decline_code"] == "authentication_required"


async def test_a_hold_is_captured_in_part_or_released(client: httpx.AsyncClient, key: Bearer) -> None:
    held = await created(client, key, **CARD, capture_method="manual")
    assert (held["status"], held["amount_capturable_minor"]) == ("requires_capture", 6500)
    path = f"/payments/intents/{held['id']}"
    too_much = await post(client, f"{path}/capture", key, {"amount_minor": 6501})
    refused(too_much, 409, "conflict")
    taken = await post(client, f"{path}/capture", key, {"amount_minor": 5000})
    assert (taken.json()["status"], taken.json()["amount_received_minor"]) == ("succeeded", 5000)
    refused(await post(client, f"{path}/cancel", key), 409, "conflict")
    other = await created(client, key, **CARD, capture_method="manual")
    released = await post(client, f"/payments/intents/{other['id']}/cancel", key, {"reason": "abandoned"})
    assert (released.json()["status"], released.json()["cancellation_reason"]) == ("canceled", "abandoned")


async def test_the_same_key_collects_once(client: httpx.AsyncClient, account: Account, key: Bearer) -> None:
    headers = {**key, "Idempotency-Key": "order-7"}
    body = {"amount_minor": 6500, "currency": "usd", **CARD}
    first, second = [await client.post(f"{API}/payments/intents", headers=headers, json=body) for _ in range(2)]
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len(account.sandbox.rows("charge")) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/payments/intents",
        "/payments/intents/pi_1/confirm",
        "/payments/intents/pi_1/capture",
        "/payments/intents/pi_1/cancel",
        "/payments/pi_1/refunds",
    ],
)
async def test_what_moves_money_must_be_repeatable(
    client: httpx.AsyncClient, account: Account, create_key: CreateKey, path: str
) -> None:
    who = await create_key("billing:write", "operator")
    answer = await client.post(f"{API}{path}", headers=who, json={"amount_minor": 6500, "currency": "usd"})
    problem = refused(answer, 422, "invalid_request")
    assert {"param": "Idempotency-Key", "code": "missing", "message": "Field required"} in problem["errors"]
    assert account.sandbox.rows("payment_intent") == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"amount_minor": 0}, "amount_minor"),
        ({"amount_minor": 65.5}, "amount_minor"),
        ({"amount_minor": 49}, "amount_minor"),  # Stripe's own minimum
        ({"currency": "us"}, "currency"),
        ({"confirm": True, "payment_method": "pm_card_visa"}, "return_url"),
        ({**CARD, "return_url": "https://evil.example.com/"}, "return_url"),
        ({"capture_method": "later"}, "capture_method"),
        ({"metadata": {"a": "\0"}}, "metadata"),
        ({"tip": 5}, "tip"),
    ],
)
async def test_a_senseless_payment_is_refused(
    client: httpx.AsyncClient, account: Account, key: Bearer, body: dict[str, Any], param: str
) -> None:
    answer = await post(client, "/payments/intents", key, {"amount_minor": 6500, "currency": "usd", **body})
    assert answer.status_code == 422, answer.text
    assert [error["param"] for error in answer.json()["errors"]] == [param]
    assert account.sandbox.rows("payment_intent") == []


async def test_confirming_at_creation_needs_something_to_charge(client: httpx.AsyncClient, key: Bearer) -> None:
    answer = await post(
        client, "/payments/intents", key, {"amount_minor": 6500, "currency": "usd", "confirm": True, "return_url": BACK}
    )
    assert "`confirm` needs a `payment_method`" in refused(answer, 422, "invalid_request")["errors"][0]["message"]


async def test_another_users_payment_is_not_found(client: httpx.AsyncClient, account: Account, key: Bearer) -> None:
    await account.buy()
    await told(account)
    answer = await post(client, "/payments/intents", key, {"amount_minor": 6500, "currency": "usd"}, user_id="demo-1")
    id = answer.json()["id"]
    nobodys = await created(client, key)
    for path in (f"/payments/intents/{nobodys['id']}", f"/payments/intents/{nobodys['id']}/confirm"):
        verb = "POST" if path.endswith("confirm") else "GET"
        answer = await client.request(
            verb,
            f"{API}{path}",
            headers={**key, "Idempotency-Key": "k"} if verb == "POST" else key,
            params={"user_id": "demo-1"},
            json={"off_session": True} if verb == "POST" else None,
        )
        refused(answer, 404, "payment_intent_not_found")
    stranger = await post(
        client, "/payments/intents", key, {"amount_minor": 6500, "currency": "usd"}, user_id="stranger"
    )
    refused(stranger, 404, "customer_not_found")
    unknown = await client.get(f"{API}/payments/intents/pi_nope", headers=key)
    refused(unknown, 404, "payment_intent_not_found")
    assert id in [row["id"] for row in await read(client, "/payments/intents", key, user_id="demo-1")]


async def test_a_customer_who_is_being_erased_pays_nothing_more(
    client: httpx.AsyncClient, account: Account, key: Bearer
) -> None:
    await account.buy()
    await told(account)
    async with account.sessions.begin() as session:
        await session.execute(update(models.Customer).values(erased_at=1))
    answer = await post(client, "/payments/intents", key, {"amount_minor": 6500, "currency": "usd"}, user_id="demo-1")
    refused(answer, 409, "customer_deleted")
    assert len(account.sandbox.rows("payment_intent")) == 1  # the plan's


async def test_a_list_goes_on_where_its_last_row_has_moved_on(client: httpx.AsyncClient, key: Bearer) -> None:
    made = {(await created(client, key))["id"] for _ in range(3)}
    waiting = {"status": "requires_payment_method"}
    first = await client.get(f"{API}/payments/intents", headers=key, params={**waiting, "limit": "2"})
    last = first.json()[-1]["id"]
    paying = {"payment_method": "pm_card_visa", "return_url": BACK}
    assert (await post(client, f"/payments/intents/{last}/confirm", key, paying)).json()["status"] == "succeeded"
    second = await client.get(first.headers["Link"].partition(">")[0].removeprefix("<"), headers=key)
    assert [row["id"] for row in second.json()] == list(made - {row["id"] for row in first.json()})


async def test_payments_are_for_backends_and_operators(
    client: httpx.AsyncClient, ada: Bearer, key: Bearer, operator: Bearer
) -> None:
    for who in (ada, operator):
        refused(await post(client, "/payments/intents", who, {}), 403, "permission_denied")
        refused(await client.get(f"{API}/payments/intents", headers=who), 403, "permission_denied")
    for path in ("/payments/recent", "/refunds", "/disputes", "/balance", "/balance/transactions"):
        for who in (ada, key):
            refused(await client.get(f"{API}{path}", headers=who), 403, "permission_denied")
        refused(await client.get(f"{API}{path}"), 401, "unauthenticated")
    refused(await post(client, "/payments/pi_1/refunds", key), 403, "permission_denied")


async def test_a_payment_is_given_back_in_parts_and_no_further(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer
) -> None:
    paid = await created(client, key, **CARD)
    path = f"/payments/{paid['id']}/refunds"
    first = await post(client, path, operator, {"amount_minor": 2500, "reason": "requested_by_customer"})
    assert first.status_code == 201, first.text
    assert (first.json()["amount"], first.json()["status"], first.json()["reason"]) == (
        25.0,
        "succeeded",
        "requested_by_customer",
    )
    too_much = await post(client, path, operator, {"amount_minor": 4001})
    assert refused(too_much, 422, "invalid_request")["errors"][0]["param"] == "amount_minor"
    rest = await post(client, f"/payments/{paid['latest_charge']}/refunds", operator)
    assert rest.json()["amount_minor"] == 4000
    nothing_left = refused(await post(client, path, operator), 409, "conflict")
    assert nothing_left["stripe_code"] == "charge_already_refunded"
    refused(await post(client, "/payments/pi_nope/refunds", operator), 404, "payment_not_found")
    refused(await post(client, "/payments/in_1/refunds", operator), 404, "payment_not_found")

    listed = await read(client, "/refunds", operator, payment=paid["id"])
    assert {row["id"] for row in listed} == {first.json()["id"], rest.json()["id"]}
    assert await read(client, f"/refunds/{rest.json()['id']}", operator) == rest.json()
    refused(await client.get(f"{API}/refunds/re_nope", headers=operator), 404, "refund_not_found")
    await told(account)
    assert {row["id"] for row in await read(client, "/refunds", operator)} == {row["id"] for row in listed}
    [recent] = await read(client, "/payments/recent", operator)
    assert (recent["amount_refunded_minor"], recent["refunded"]) == (6500, True)


async def test_refunds_at_once_give_back_no_more_than_was_paid(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer
) -> None:
    paid = await created(client, key, **CARD)
    tries = [post(client, f"/payments/{paid['id']}/refunds", operator, {"amount_minor": 4000}) for _ in range(3)]
    answers = await asyncio.gather(*tries)
    assert sorted(answer.status_code for answer in answers) == [201, 422, 422]
    assert [row["amount"] for row in account.sandbox.rows("refund")] == [4000]
    assert [row["amount_minor"] for row in await read(client, "/refunds", operator)] == [4000]


async def test_the_same_refund_twice_gives_back_once(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer
) -> None:
    paid = await created(client, key, **CARD)
    url, headers = f"{API}/payments/{paid['id']}/refunds", {**operator, "Idempotency-Key": "back-7"}
    first, second = [await client.post(url, headers=headers, json={"amount_minor": 1000}) for _ in range(2)]
    assert (first.status_code, second.json()) == (201, first.json())
    other = await client.post(url, headers=headers, json={"amount_minor": 2000})
    refused(other, 422, "idempotency_key_reused")
    assert [row["amount"] for row in account.sandbox.rows("refund")] == [1000]


async def test_a_payment_of_somebody_we_never_heard_of_is_given_back_too(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    box = account.sandbox
    with box.changing():
        stranger = customers.create(box, {"email": "stranger@example.com"})["id"]
        paid = payment_intents.create(box, {"amount": 6500, "currency": "usd", "customer": stranger, **CARD})["id"]
    answer = await post(client, f"/payments/{paid}/refunds", operator)
    assert (answer.status_code, answer.json()["amount_minor"]) == (201, 6500)
    assert await read(client, "/refunds", operator) == []
    await told(account)
    [row] = await read(client, "/refunds", operator)
    assert row == answer.json()


async def test_a_disputed_payment_is_listed_and_not_refunded(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer
) -> None:
    paid = await created(client, key, **{**CARD, "payment_method": "pm_card_createDispute"})
    with account.sandbox.changing():
        disputes.open_(account.sandbox, paid["latest_charge"])
    await told(account)
    # Of the charge itself no news came but its success.
    await created(client, key, **CARD)
    await told(account)
    recent = await read(client, "/payments/recent", operator)
    assert {row["payment_intent"] == paid["id"]: row["disputed"] for row in recent} == {True: True, False: False}
    [dispute] = await read(client, "/disputes", operator, status="needs_response")
    assert (dispute["reason"], dispute["amount_minor"], dispute["payment_intent"]) == ("fraudulent", 6500, paid["id"])
    assert dispute["evidence_due_by"] > dispute["created"]
    assert await read(client, f"/disputes/{dispute['id']}", operator) == dispute
    assert await read(client, "/disputes", operator, status="won") == []
    refused(await client.get(f"{API}/disputes/du_nope", headers=operator), 404, "dispute_not_found")
    answer = await post(client, f"/payments/{paid['id']}/refunds", operator)
    assert refused(answer, 409, "conflict")["stripe_code"] == "charge_disputed"


async def test_recent_payments_come_newest_first_with_whose_they_are(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer
) -> None:
    await account.buy()
    for _ in range(3):
        await created(client, key, **CARD, description="Order 7")
    await told(account)
    rows = await read(client, "/payments/recent", operator)
    assert [row["created"] for row in rows] == sorted((row["created"] for row in rows), reverse=True)
    bought = next(row for row in rows if row["user_id"] == "demo-1")
    assert (bought["amount"], bought["amount_minor"], bought["currency"]) == (99.0, 9900, "usd")
    assert (bought["customer_email"], bought["status"], bought["captured"]) == ("ada@example.com", "succeeded", True)
    assert bought["receipt_url"].startswith("http://sandbox.test/receipts/ch_")
    assert {row["description"] for row in rows if row["customer"] is None} == {"Order 7"}

    first = await client.get(f"{API}/payments/recent?limit=3", headers=operator)
    assert [row["id"] for row in first.json()] == [row["id"] for row in rows[:3]]
    url = first.headers["Link"].partition(">")[0].removeprefix("<")
    second = await client.get(url, headers=operator)
    assert [row["id"] for row in second.json()] == [row["id"] for row in rows[3:]]
    assert "Link" not in second.headers
    unknown = await client.get(f"{API}/payments/recent?starting_after=ch_nope", headers=operator)
    refused(unknown, 404, "charge_not_found")


async def test_the_balance_and_its_movements_are_stripes(
    client: httpx.AsyncClient, key: Bearer, operator: Bearer
) -> None:
    for amount, currency in ((6500, "usd"), (500, "jpy"), (12_340, "kwd")):
        held = await created(client, key, **CARD, capture_method="manual", amount_minor=amount, currency=currency)
        await post(client, f"/payments/intents/{held['id']}/capture", key)  # settles at once
    balance = await read(client, "/balance", operator)
    assert {entry["currency"]: (entry["amount"], entry["amount_minor"]) for entry in balance["pending"]} == {
        "usd": (62.81, 6281),
        "jpy": (455.0, 455),
        "kwd": (11.952, 11_952),
    }
    answer = await client.get(f"{API}/balance/transactions?limit=2", headers=operator)
    assert [(row["amount_minor"], row["fee_minor"], row["net_minor"]) for row in answer.json()] == [
        (12_340, 388, 11_952),
        (500, 45, 455),
    ]
    url = answer.headers["Link"].partition(">")[0].removeprefix("<")
    [last] = (await client.get(url, headers=operator)).json()
    assert (last["amount"], last["type"], last["status"]) == (65.0, "charge", "pending")
    assert await read(client, "/balance/transactions", operator, source=last["source"]) == [last]
    unknown = await client.get(f"{API}/balance/transactions?starting_after=txn_nope", headers=operator)
    refused(unknown, 404, "not_found")


@pytest.mark.parametrize(("currency", "amount", "decimal"), [("jpy", 500, 500.0), ("kwd", 12_340, 12.34)])
async def test_other_currencies_are_exact(
    client: httpx.AsyncClient, key: Bearer, operator: Bearer, *, currency: str, amount: int, decimal: float
) -> None:
    paid = await created(client, key, **CARD, currency=currency, amount_minor=amount)
    assert (paid["amount"], paid["amount_received_minor"], paid["currency"]) == (decimal, amount, currency)
    given_back = await post(client, f"/payments/{paid['id']}/refunds", operator)
    assert (given_back.json()["amount"], given_back.json()["amount_minor"]) == (decimal, amount)
