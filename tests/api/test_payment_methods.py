"""Payment methods over HTTP: adding one, choosing which is charged, removing one, and the guard around the last."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import time_machine
from billing import ADA, Account
from serving import API, Bearer, CreateKey, bearer, serving
from sqlalchemy import update

from app.main import create_app
from app.models import Customer, OutboxMessage, PaymentMethod, Subscription
from app.sandbox.resources import setup_intents
from app.services.identity import mint_development_token
from app.settings import Settings
from app.worker.housekeeping import announce_expiring_cards


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
def buyer(settings: Settings) -> Bearer:
    return bearer(mint_development_token(settings, ADA.user_id, email=ADA.email, name=ADA.name))


async def cards(client: httpx.AsyncClient, who: Bearer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(f"{API}/payment-methods", headers=who)).json()
    return found


def confirm(account: Account, intent: str, card: str) -> dict[str, Any]:
    with account.sandbox.changing():
        return setup_intents.confirm(account.sandbox, {"payment_method": card}, intent)


async def add(client: httpx.AsyncClient, account: Account, who: Bearer) -> str:
    """Save a card as the browser does; returns its id. Its webhooks are not delivered."""
    begun = await client.post(f"{API}/payment-methods/setup-intent", headers=who)
    assert begun.status_code == 200, begun.text
    method: str = confirm(account, begun.json()["id"], "pm_card_mastercard")["payment_method"]
    return method


@pytest.fixture
async def bought(account: Account) -> str:
    """Ada has subscribed with a card; its id."""
    await account.buy()
    await account.deliver_and_process(account.events())
    [method] = await account.all(PaymentMethod)
    id: str = method.stripe_id
    return id


async def test_a_card_is_added_before_the_first_purchase(
    client: httpx.AsyncClient, account: Account, buyer: Bearer
) -> None:
    begun = await client.post(f"{API}/payment-methods/setup-intent", headers=buyer)
    assert begun.status_code == 200, begun.text
    intent = begun.json()
    assert begun.headers["cache-control"] == "no-store"
    assert (intent["status"], intent["next_action"]) == ("requires_payment_method", None)
    assert intent["client_secret"].startswith(f"{intent['id']}_secret_")
    [customer] = account.sandbox.rows("customer")
    [row] = await account.all(Customer)
    assert (row.stripe_id, row.user_id, customer["email"]) == (customer["id"], ADA.user_id, ADA.email)
    confirm(account, intent["id"], "pm_card_visa")
    await account.deliver_and_process(account.events())
    [card] = await cards(client, buyer)
    assert (card["brand"], card["last4"], card["is_default"], card["expires_soon"]) == ("visa", "4242", False, False)
    one = await client.get(f"{API}/payment-methods/{card['id']}", headers=buyer)
    assert one.json() == card


async def test_a_backend_adds_a_card_for_its_user(
    client: httpx.AsyncClient, account: Account, create_key: CreateKey
) -> None:
    key = await create_key("billing:write")
    unnamed = await client.post(f"{API}/payment-methods/setup-intent", headers=key)
    assert unnamed.status_code == 422
    begun = await client.post(f"{API}/payment-methods/setup-intent?user_id=u-1", headers=key)
    assert begun.status_code == 200
    assert [row.user_id for row in await account.all(Customer)] == ["u-1"]


async def test_a_repeated_setup_is_the_same_intent(client: httpx.AsyncClient, account: Account, buyer: Bearer) -> None:
    keyed = buyer | {"Idempotency-Key": "setup-1"}
    answers = [await client.post(f"{API}/payment-methods/setup-intent", headers=keyed) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len(account.sandbox.rows("setup_intent")) == 1


async def test_the_default_is_what_the_next_invoice_is_charged_to(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, bought: str
) -> None:
    second = await add(client, account, buyer)  # its webhook has not come yet
    made = await client.post(f"{API}/payment-methods/{second}/default", headers=buyer)
    assert (made.status_code, made.json()["is_default"]) == (200, True), made.text
    [customer] = account.sandbox.rows("customer")
    [subscription] = account.sandbox.rows("subscription")
    assert customer["invoice_settings"]["default_payment_method"] == second
    assert subscription["default_payment_method"] == second
    assert {card["id"]: card["is_default"] for card in await cards(client, buyer)} == {second: True, bought: False}
    before = await account.state()
    await account.deliver_and_process(account.events())
    assert await account.state() == before


async def test_the_last_card_of_a_live_subscription_stays(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, bought: str
) -> None:
    refused = await client.delete(f"{API}/payment-methods/{bought}", headers=buyer)
    assert (refused.status_code, refused.json()["code"]) == (409, "last_payment_method")
    assert [card["id"] for card in await cards(client, buyer)] == [bought]
    await client.post(f"{API}/subscription/cancel", headers=buyer, json={"at_period_end": False})
    gone = await client.delete(f"{API}/payment-methods/{bought}", headers=buyer)
    assert (gone.status_code, gone.content) == (204, b"")
    assert await cards(client, buyer) == []
    assert account.sandbox.find("payment_method", bought)["customer"] is None
    again = await client.delete(f"{API}/payment-methods/{bought}", headers=buyer)
    assert (again.status_code, again.json()["code"]) == (404, "payment_method_not_found")


async def test_another_card_takes_the_place_of_the_one_that_is_removed(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, bought: str
) -> None:
    second = await add(client, account, buyer)
    gone = await client.delete(f"{API}/payment-methods/{bought}", headers=buyer)
    assert gone.status_code == 204, gone.text
    [subscription] = account.sandbox.rows("subscription")
    assert subscription["default_payment_method"] == second
    await account.deliver_and_process(account.events())
    assert [(card["id"], card["is_default"]) for card in await cards(client, buyer)] == [(second, True)]
    refused = await client.delete(f"{API}/payment-methods/{second}", headers=buyer)
    assert refused.json()["code"] == "last_payment_method"


async def test_a_card_that_is_not_charged_goes_without_a_change_of_the_others(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, bought: str
) -> None:
    second = await add(client, account, buyer)
    assert (await client.delete(f"{API}/payment-methods/{second}", headers=buyer)).status_code == 204
    assert account.sandbox.rows("subscription")[0]["default_payment_method"] == bought


async def test_two_tabs_do_not_remove_both_cards(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, bought: str
) -> None:
    second = await add(client, account, buyer)
    answers = await asyncio.gather(
        *(client.delete(f"{API}/payment-methods/{id}", headers=buyer) for id in (bought, second))
    )
    assert sorted(answer.status_code for answer in answers) == [204, 409]
    left = [row["id"] for row in account.sandbox.rows("payment_method") if row["customer"]]
    assert len(left) == 1
    assert account.sandbox.rows("subscription")[0]["default_payment_method"] == left[0]


async def test_a_card_that_has_just_become_the_default_is_replaced_when_it_is_removed(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, bought: str
) -> None:
    """Each tab knew another default, or none: what is charged is Stripe's to say."""
    second = await add(client, account, buyer)
    await account.deliver_and_process(account.events())
    with account.sandbox.changing():  # e.g. in the portal; its webhooks have not come
        [subscription] = account.sandbox.rows("subscription")
        subscription["default_payment_method"] = second
    assert account.sandbox.rows("subscription")[0]["default_payment_method"] == second
    assert (await client.delete(f"{API}/payment-methods/{second}", headers=buyer)).status_code == 204
    assert account.sandbox.rows("subscription")[0]["default_payment_method"] == bought


async def test_three_tabs_leave_the_subscription_a_card_that_is_there(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, bought: str
) -> None:
    second, third = await add(client, account, buyer), await add(client, account, buyer)
    await account.deliver_and_process(account.events())
    urls = [("DELETE", bought), ("DELETE", third), ("POST", f"{third}/default")]
    await asyncio.gather(
        *(client.request(method, f"{API}/payment-methods/{path}", headers=buyer) for method, path in urls)
    )
    left = [row["id"] for row in account.sandbox.rows("payment_method") if row["customer"]]
    assert left == [second]
    assert account.sandbox.rows("subscription")[0]["default_payment_method"] == second


async def test_a_removed_card_leaves_nothing_of_its_number(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, bought: str
) -> None:
    await add(client, account, buyer)
    await client.delete(f"{API}/payment-methods/{bought}", headers=buyer)
    row = next(row for row in await account.all(PaymentMethod) if row.stripe_id == bought)
    assert (row.deleted, row.last4, row.customer_id) == (True, None, None)
    await account.deliver_and_process(account.events())
    row = next(row for row in await account.all(PaymentMethod) if row.stripe_id == bought)
    assert (row.deleted, row.last4, row.customer_id) == (True, None, None)


async def test_another_s_card_does_not_exist(
    client: httpx.AsyncClient, account: Account, grace: Bearer, buyer: Bearer, bought: str
) -> None:
    before = await account.state()
    for known in (False, True):
        if known:  # also for somebody who has a customer of their own
            await client.post(f"{API}/payment-methods/setup-intent", headers=grace)
        for method, path in (("GET", bought), ("POST", f"{bought}/default"), ("DELETE", bought)):
            answer = await client.request(method, f"{API}/payment-methods/{path}", headers=grace)
            assert answer.status_code == 404, path
    for path in ("pm_nobody/default", "pm%2F..%2Fx/default"):
        answer = await client.post(f"{API}/payment-methods/{path}", headers=buyer)
        assert answer.status_code == 404, path
    assert (await account.state())["Subscription"] == before["Subscription"]
    assert account.sandbox.find("payment_method", bought)["customer"] is not None


@pytest.mark.parametrize(
    ("today", "soon"), [("2030-11-30", False), ("2030-12-03", True), ("2030-12-31", True), ("2031-03-01", True)]
)
async def test_a_card_expires_with_its_month(
    client: httpx.AsyncClient, account: Account, settings: Settings, bought: str, today: str, *, soon: bool
) -> None:
    async with account.sessions.begin() as session:
        await session.execute(update(PaymentMethod).values(exp_year=2030, exp_month=12))
    with time_machine.travel(today):
        buyer = bearer(mint_development_token(settings, ADA.user_id))
        [card] = await cards(client, buyer)
    assert (card["id"], card["expires_soon"]) == (bought, soon)


async def test_an_expiring_card_is_announced_once(account: Account, bought: str) -> None:
    async def announced(today: str) -> list[OutboxMessage]:
        with time_machine.travel(today):
            await announce_expiring_cards(account.sessions)
        return [row for row in await account.all(OutboxMessage) if row.type == "payment_method.expiring"]

    async with account.sessions.begin() as session:
        await session.execute(update(PaymentMethod).values(exp_year=2030, exp_month=12))
    assert await announced("2030-12-01T00:00:00Z") == []
    for today in ("2030-12-05", "2030-12-05", "2030-12-31"):
        [message] = await announced(today)
    assert (message.subject, message.key) == (bought, f"payment_method.expiring:{bought}:2030-12")
    assert message.data == {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2030, "is_default": True}
    [customer] = await account.all(Customer)
    assert message.customer_id == customer.id
    async with account.sessions.begin() as session:  # the bank sent a new one, which expires too
        await session.execute(update(PaymentMethod).values(exp_year=2034))
    assert len(await announced("2034-12-31")) == 2


async def test_expiring_cards_are_announced_at_the_turn_of_the_year_and_in_short_months(
    account: Account, bought: str
) -> None:
    for (year, month), first in (((2031, 1), "2031-01-02"), ((2031, 2), "2031-01-30")):
        async with account.sessions.begin() as session:
            await session.execute(update(PaymentMethod).values(exp_year=year, exp_month=month))
        with time_machine.travel(first):
            await announce_expiring_cards(account.sessions)
        keys = {row.key for row in await account.all(OutboxMessage)}
        assert f"payment_method.expiring:{bought}:{year}-{month}" in keys


@pytest.mark.usefixtures("bought")
async def test_cards_of_nobody_s_subscription_are_not_announced(account: Account) -> None:
    async with account.sessions.begin() as session:
        await session.execute(update(PaymentMethod).values(exp_year=2030, exp_month=12))
        await session.execute(update(Subscription).values(status="canceled"))
    with time_machine.travel("2030-12-15"):
        await announce_expiring_cards(account.sessions)
    assert not [row for row in await account.all(OutboxMessage) if row.type == "payment_method.expiring"]
