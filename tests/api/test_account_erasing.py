"""Users with credits or usage who are no customers: erased and exported over HTTP, whatever comes between."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from billing import ADA, STRIPE, Account
from charging import GOOGLE, USER, charge, checked, count
from serving import API, Bearer, CreateKey, bearer, serving
from sqlalchemy import text
from using import Usage, used

from app.db import Base, transaction
from app.errors import ConflictError
from app.main import create_app
from app.models import ApiCall, AuditRow, CreditAccount, CreditCharge, CreditTopup, UsageEvent
from app.services import account_erasing, audit, customers, erasing, forgetting
from app.services.credits import verify
from app.services.identity import mint_development_token
from app.services.mirror import AsOf
from app.settings import Settings
from app.worker import erasing as worker

PERSONAL = ("user@example.com", "for the user")
OPERATOR = "key:operator"


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def key(create_key: CreateKey) -> Bearer:
    return await create_key("credits:write")


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


@pytest.fixture
async def id(client: httpx.AsyncClient, account: Account, key: Bearer) -> str:
    """The account of a user of whom much is known, but who has bought nothing."""
    made = await client.post(
        f"{API}/accounts", json=GOOGLE | {"customer_email": "user@example.com"}, headers=key | keyed("made")
    )
    id: str = made.json()["account_id"]
    await charge(client, key, "charged", **GOOGLE, description="for the user")
    await Usage(account).record(used("u-1", user_id=USER))
    async with transaction(account.sessions) as session:
        session.add(CreditTopup(account_id=UUID(id), pack="starter", threshold=1))
    return id


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def erase(client: httpx.AsyncClient, operator: Bearer, id: str) -> httpx.Response:
    return await client.delete(f"{API}/accounts/{id}", headers=operator)


async def begin(account: Account, id: str) -> None:
    async with transaction(account.sessions) as session:
        await account_erasing.begin(session, UUID(id), actor=OPERATOR)


async def become_customer(account: Account, user_id: str = USER) -> str:
    """As when Stripe was asked before the erasing began, and its answer comes now."""
    made = await account.provider.create_customer(metadata={"user_id": user_id}, idempotency_key="k")
    async with transaction(account.sessions) as session:
        await customers.sync(session, made.object, as_of=AsOf(at=made.at), origin=STRIPE)
    return made.object.id


async def traces(account: Account) -> set[tuple[str, str]]:
    """Where in the whole database something personal stands: (table, what)."""
    async with account.sessions() as session:
        found = set()
        for table in Base.metadata.sorted_tables:
            told = str((await session.scalars(text(f"SELECT t::text FROM {table} AS t"))).all())  # noqa: S608 - our own
            found |= {(table.name, what) for what in PERSONAL if what in told}
        return found


async def is_right(account: Account) -> bool:
    async with transaction(account.sessions) as session:
        wrong = [one async for found in verify.slices(session) for one in found.violations]
        return not wrong and await audit.first_broken(session) is None


async def told_of(account: Account) -> list[str]:
    return [row.action for row in await account.all(AuditRow) if row.action.startswith("credit_account.erase")]


async def test_nothing_personal_is_left_and_the_ledger_stays(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer, id: str
) -> None:
    before = await traces(account)
    assert {table for table, _ in before} >= {"api_calls", "credit_accounts", "credit_charges", "usage_events"}
    erased = await client.delete(f"{API}/accounts/{USER}", headers=operator | keyed("erase"))
    assert (erased.status_code, erased.json()) == (200, {"account_id": id, "erased": True}), erased.text
    assert await traces(account) == set()
    name = forgetting.stand_in(UUID(id))
    [left] = await account.all(CreditAccount)
    assert (left.user_id, left.status, left.free, left.used) == (name, "closed", 2, 1)
    assert [(row.subject, row.status) for row in await account.all(UsageEvent)] == [(name, "expired")]
    assert {row.user_id for row in await account.all(ApiCall)} == {name}
    assert await count(account.sessions, CreditTopup) == 0
    assert await told_of(account) == ["credit_account.erase_requested", "credit_account.erased"]
    assert await is_right(account)

    kept = await client.post(
        f"{API}/accounts", json=GOOGLE | {"customer_email": "user@example.com"}, headers=key | keyed("made")
    )
    assert (kept.status_code, kept.json()["code"]) == (404, "answer_erased")
    again = await client.delete(f"{API}/accounts/{USER}", headers=operator | keyed("erase"))
    assert (again.json(), again.headers["idempotent-replayed"]) == (erased.json(), "true")
    assert (await erase(client, operator, id)).json() == erased.json()
    assert (await erase(client, operator, USER)).json()["code"] == "account_not_found"
    assert len(await told_of(account)) == 2
    new = await charge(client, key, "new", **GOOGLE)  # whoever comes back is somebody new
    assert (new.status_code, new.json()["balance_after"]) == (201, 2)
    assert new.json()["account_id"] != id


async def test_another_user_stays_as_they_were(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer, id: str
) -> None:
    await charge(client, key, "grace", user_id="grace", description="Grace's")
    await Usage(account).record(used("u-2", user_id="grace"))
    assert (await erase(client, operator, id)).status_code == 200
    left = await checked(client, key, user_id="grace")
    assert (left["free_uses_remaining"], left["total_uses"]) == (2, 1)
    assert [row.description for row in await account.all(CreditCharge)].count("Grace's") == 1
    assert {row.id: row.status for row in await account.all(UsageEvent)} == {"u-1": "expired", "u-2": "held"}


async def test_only_operators_erase_and_only_whom_they_know(
    *, client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer, grace: Bearer, id: str
) -> None:
    for who in (key, grace):
        refused = await erase(client, who, id)
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    for unknown in ("nobody", str(uuid4())):
        missing = await erase(client, operator, unknown)
        assert (missing.status_code, missing.json()["code"]) == (404, "account_not_found")
    assert [row.status for row in await account.all(CreditAccount)] == ["active"]


async def test_a_user_of_whom_there_is_but_usage_is_exported_and_erased(
    client: httpx.AsyncClient, account: Account, operator: Bearer, settings: Settings
) -> None:
    await Usage(account).record(used("u-1", user_id=USER))
    own = bearer(mint_development_token(settings, USER))
    for path, who in ((f"/customers/{USER}/export", operator), ("/customer/export", own)):
        told = (await client.get(f"{API}{path}", headers=who)).json()
        assert [row["id"] for row in told["usage_events"]] == ["u-1"]
        assert told["customers"] == told["credit_accounts"] == []
    erased = await erase(client, operator, USER)
    assert erased.status_code == 200, erased.text
    assert await traces(account) == set()
    again = await erase(client, operator, erased.json()["account_id"])
    assert again.json() == erased.json()
    assert (await client.get(f"{API}/customer/export", headers=own)).status_code == 404
    assert await is_right(account)


async def test_credits_without_a_customer_are_exported_to_operators_and_the_user_alone(
    *, client: httpx.AsyncClient, key: Bearer, operator: Bearer, grace: Bearer, settings: Settings, id: str
) -> None:
    own = bearer(mint_development_token(settings, USER))
    for path, who in ((f"/customers/{USER}/export", operator), ("/customer/export", own)):
        told = (await client.get(f"{API}{path}", headers=who)).json()
        assert [row["id"] for row in told["credit_accounts"]] == [id]
        assert [row["description"] for row in told["credit_charges"]] == ["for the user"]
        assert [len(told[name]) for name in ("credit_transfers", "usage_events", "usage_totals")] == [2, 1, 1]
    assert (await client.get(f"{API}/customer/export", headers=grace)).status_code == 404
    assert (await client.get(f"{API}/customers/{USER}/export", headers=key)).status_code == 403


async def test_who_calls_themselves_like_another_s_customer_gets_and_erases_nothing_of_theirs(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer, settings: Settings
) -> None:
    nobody_s = (await account.provider.create_customer(metadata={}, idempotency_key="k")).object.id
    await account.deliver_and_process(account.events())
    await Usage(account).record(used("u-1", user_id=None, customer=nobody_s))
    sly = bearer(mint_development_token(settings, nobody_s))
    assert (await client.get(f"{API}/customer/export", headers=sly)).status_code == 404
    assert (await erase(client, operator, nobody_s)).json()["code"] == "has_customer"
    await charge(client, key, "sly", user_id=nobody_s)
    told = (await client.get(f"{API}/customer/export", headers=sly)).json()
    assert ([row["user_id"] for row in told["credit_accounts"]], told["usage_events"]) == ([nobody_s], [])
    assert (await erase(client, operator, nobody_s)).json()["code"] == "has_customer"
    assert [row.subject for row in await account.all(UsageEvent)] == [nobody_s]


async def test_a_user_with_a_customer_is_erased_as_that_customer(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer
) -> None:
    await account.open_checkout()
    await charge(client, key, "hers", user_id=ADA.user_id)
    [hers] = await account.all(CreditAccount)
    refused = await erase(client, operator, ADA.user_id)
    assert (refused.status_code, refused.json()["code"]) == (409, "has_customer")
    assert [row.status for row in await account.all(CreditAccount)] == ["active"]
    assert (await client.delete(f"{API}/customers/{ADA.user_id}", headers=operator)).status_code == 200
    again = await erase(client, operator, str(hers.id))  # it went with the customer
    assert (again.status_code, again.json()["account_id"]) == (200, str(hers.id))
    assert await told_of(account) == []


async def test_the_worker_completes_what_a_crash_cut_off(account: Account, id: str) -> None:
    await begin(account, id)
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()
    told = await told_of(account)
    assert told == ["credit_account.erase_requested", "credit_account.erased"]
    await worker.finish_erasing(account.sessions, account.provider)
    assert await told_of(account) == told
    assert await is_right(account)


async def test_an_erasing_of_somebody_s_usage_is_kept_in_mind_from_the_first_step(
    client: httpx.AsyncClient, account: Account, key: Bearer
) -> None:
    await Usage(account).record(used("u-1", user_id=USER))
    async with transaction(account.sessions) as session:
        await account_erasing.find(session, USER)
    refused = await charge(client, key, "late", **GOOGLE)
    assert (refused.status_code, refused.json()["code"]) == (403, "account_closed")
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()


async def test_a_repeated_call_completes_what_a_crash_cut_off(
    client: httpx.AsyncClient, account: Account, operator: Bearer, id: str
) -> None:
    await begin(account, id)
    assert (await erase(client, operator, USER)).status_code == 200
    assert await traces(account) == set()


async def test_the_worker_leaves_to_customers_what_is_theirs(account: Account) -> None:
    async with transaction(account.sessions) as session:
        row, _ = await customers.ensure(session, account.provider, ADA, actor=OPERATOR)
        session.add(CreditAccount(id=uuid4(), user_id=ADA.user_id, status="active", created=1))
    async with transaction(account.sessions) as session:
        await erasing.begin(session, row.stripe_id, cancel_subscriptions=False, actor=OPERATOR)
    async with transaction(account.sessions) as session:
        assert await account_erasing.unfinished(session) == []
    await worker.finish_erasing(account.sessions, account.provider)
    [left] = await account.all(CreditAccount)
    assert (left.status, left.user_id) == ("closed", forgetting.stand_in(row.id))
    async with transaction(account.sessions) as session:
        assert await account_erasing.unfinished(session) == []
    assert await told_of(account) == []


async def test_whoever_is_being_erased_becomes_no_customer(account: Account, id: str) -> None:
    await begin(account, id)
    async with transaction(account.sessions) as session:
        with pytest.raises(ConflictError) as refused:
            await customers.ensure(session, account.provider, customers.Buyer(user_id=USER), actor=OPERATOR)
    assert refused.value.code == "customer_deleted"
    assert account.sandbox.rows("customer") == []


async def test_who_became_a_customer_meanwhile_is_erased_as_one(
    client: httpx.AsyncClient, account: Account, operator: Bearer, id: str
) -> None:
    await begin(account, id)
    customer = await become_customer(account)
    assert (await erase(client, operator, id)).json()["code"] == "has_customer"
    await worker.finish_erasing(account.sessions, account.provider)
    assert [row.subject for row in await account.all(UsageEvent)] == [USER]  # the customer's, to be billed
    assert [row.status for row in await account.all(CreditAccount)] == ["closed"]
    assert (await client.delete(f"{API}/customers/{customer}", headers=operator)).status_code == 200
    await worker.finish_erasing(account.sessions, account.provider)
    assert await traces(account) == set()
    assert (await erase(client, operator, id)).status_code == 200
    assert await is_right(account)


async def test_charges_that_come_meanwhile_are_the_erased_s_the_new_one_s_or_refused(
    client: httpx.AsyncClient, account: Account, key: Bearer, operator: Bearer, id: str
) -> None:
    made: dict[str, int] = {}
    refused: set[Any] = set()

    async def spend() -> None:
        for _ in range(25):
            answer = await charge(client, key, uuid4().hex, **GOOGLE, description="for the user")
            if answer.status_code == 201:
                whose = answer.json()["account_id"]
                made[whose] = made.get(whose, 0) + 1
            else:
                refused.add(answer.json()["code"])

    spending = [asyncio.create_task(spend()) for _ in range(4)]
    erased = await erase(client, operator, id)
    assert erased.status_code == 200, erased.text
    await asyncio.gather(*spending)
    assert refused <= {"account_closed", "insufficient_credits", "account_not_found"}
    counts = {str(row.id): row.used for row in await account.all(CreditAccount)}
    assert counts == made | {id: made.get(id, 0) + 1}
    assert {row.description for row in await account.all(CreditCharge) if str(row.account_id) == id} == {None}
    assert await is_right(account)


async def test_two_requests_at_once_are_one_erasing(
    client: httpx.AsyncClient, account: Account, operator: Bearer, id: str
) -> None:
    answers = await asyncio.gather(*(erase(client, operator, id) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3
    assert (await told_of(account)).count("credit_account.erased") == 1
    assert await traces(account) == set()
