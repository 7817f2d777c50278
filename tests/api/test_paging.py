"""Lists, page by page."""

import re

import httpx
from serving import API, Bearer, CreateKey

from app.db import Sessions
from app.models import Customer, Invoice, StripeEvent
from app.services import audit


async def pages(client: httpx.AsyncClient, url: str, caller: Bearer) -> list[list[dict[str, object]]]:
    """Every page, found by following the links as a client would."""
    found: list[list[dict[str, object]]] = []
    next_url: str | None = url
    while next_url is not None:
        response = await client.get(next_url, headers=caller)
        assert response.status_code == 200
        found.append(response.json())
        link = response.headers.get("link")
        match = re.fullmatch(r'<(/[^>]+)>; rel="next"', link) if link else None
        assert (match is None) == (link is None)
        next_url = match[1] if match else None
    return found


async def add_invoices(sessions: Sessions, user: str, count: int) -> None:
    mirrored = {"livemode": False, "synced_at": 1}
    async with sessions.begin() as session:
        customer = Customer(user_id=user, stripe_id=f"cus_{user}", created=1, **mirrored)
        session.add(customer)
        await session.flush()  # the invoices need its id
        session.add_all(
            Invoice(
                customer_id=customer.id,
                stripe_id=f"in_{user}_{number}",
                created=number,
                status="paid" if number % 2 else "open",
                currency="jpy" if number == 1 else "usd",
                **dict.fromkeys(("subtotal", "total", "amount_due", "amount_paid"), 9900),
                amount_remaining=0,
                attempt_count=1,
                **mirrored,
            )
            for number in range(count)
        )


async def test_following_the_links_visits_every_invoice_once_newest_first(
    client: httpx.AsyncClient, sessions: Sessions, ada: Bearer, grace: Bearer
) -> None:
    await add_invoices(sessions, "ada", 7)
    await add_invoices(sessions, "grace", 2)
    found = await pages(client, f"{API}/invoices?limit=3", ada)
    assert [len(page) for page in found] == [3, 3, 1]
    assert [row["id"] for page in found for row in page] == [f"in_ada_{number}" for number in reversed(range(7))]
    assert len((await pages(client, f"{API}/invoices", grace))[0]) == 2


async def test_a_full_last_page_has_no_link(client: httpx.AsyncClient, sessions: Sessions, ada: Bearer) -> None:
    await add_invoices(sessions, "ada", 6)
    assert [len(page) for page in await pages(client, f"{API}/invoices?limit=3", ada)] == [3, 3]


async def test_links_keep_the_filter(client: httpx.AsyncClient, sessions: Sessions, ada: Bearer) -> None:
    await add_invoices(sessions, "ada", 6)
    found = await pages(client, f"{API}/invoices?status=paid&limit=2", ada)
    assert [row["id"] for page in found for row in page] == ["in_ada_5", "in_ada_3", "in_ada_1"]


async def test_another_users_invoice_is_no_place_to_start(
    client: httpx.AsyncClient, sessions: Sessions, ada: Bearer
) -> None:
    await add_invoices(sessions, "ada", 1)
    await add_invoices(sessions, "grace", 1)
    response = await client.get(f"{API}/invoices?starting_after=in_grace_0", headers=ada)
    assert (response.status_code, response.json()["code"]) == (404, "invoice_not_found")


async def test_amounts_are_exact_numbers_beside_minor_units(
    client: httpx.AsyncClient, sessions: Sessions, ada: Bearer
) -> None:
    await add_invoices(sessions, "ada", 2)
    yen, dollars = (await client.get(f"{API}/invoices", headers=ada)).json()
    assert (yen["amount_due"], yen["amount_due_minor"], yen["currency"]) == (9900, 9900, "jpy")
    assert (dollars["amount_paid"], dollars["amount_paid_minor"], dollars["currency"]) == (99, 9900, "usd")


async def test_operators_page_through_events_and_audit_rows(
    client: httpx.AsyncClient, sessions: Sessions, create_key: CreateKey
) -> None:
    async with sessions.begin() as session:
        session.add_all(
            StripeEvent(event_id=f"evt_{number}", type="x", key="cus_1", created=1, livemode=False, payload="{}")
            for number in range(5)
        )
        for number in range(4):
            await audit.record(session, actor="system", action="thing.changed", subject=f"s{number}")
    operator = await create_key("operator")
    events = await pages(client, f"{API}/events?limit=2&status=pending&customer=cus_1", operator)
    assert [row["id"] for page in events for row in page] == [f"evt_{number}" for number in reversed(range(5))]
    rows = await pages(client, f"{API}/audit?limit=2", operator)
    subjects = [row["subject"] for page in rows for row in page]
    assert subjects[1:] == ["s3", "s2", "s1", "s0"]  # the first is the operator's own key


async def test_an_audit_rows_id_is_a_number(client: httpx.AsyncClient, create_key: CreateKey) -> None:
    operator = await create_key("operator")
    for wrong in ("x", "-1", "1.5", "9" * 40, "\u0663"):
        response = await client.get(f"{API}/audit", params={"starting_after": wrong}, headers=operator)
        assert (response.status_code, response.json()["errors"][0]["param"]) == (422, "starting_after")
