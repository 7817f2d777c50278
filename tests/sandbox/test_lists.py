"""Pages, cursors, filters and expansion."""

from typing import Any

import httpx
import pytest
import stripe
from sandbox.driving import GOOD, Shop

from app.sandbox import checkout


@pytest.fixture
async def ids(client: Any) -> list[str]:
    """Fifteen customers of one second, newest first."""
    made = [(await client.v1.customers.create_async({"name": f"c{n}"})).id for n in range(15)]
    return made[::-1]


async def names(http: httpx.AsyncClient, query: str) -> tuple[list[str], bool]:
    page = (await http.get(f"/v1/customers?{query}")).json()
    assert list(page) == ["object", "data", "has_more", "url"]
    assert page["url"] == "/v1/customers"
    return [row["id"] for row in page["data"]], page["has_more"]


async def test_pages_run_from_new_to_old(http: httpx.AsyncClient, ids: list[str]) -> None:
    assert await names(http, "") == (ids[:10], True)
    assert await names(http, f"starting_after={ids[9]}") == (ids[10:], False)
    assert await names(http, f"ending_before={ids[10]}&limit=4") == (ids[6:10], True)
    assert await names(http, f"ending_before={ids[4]}&limit=10") == (ids[:4], False)


async def test_the_limit_is_clamped_silently(http: httpx.AsyncClient, ids: list[str]) -> None:
    assert await names(http, "limit=0") == (ids[:1], True)
    assert await names(http, "limit=-5") == (ids[:1], True)
    assert await names(http, "limit=101") == (ids, False)


async def test_both_cursors_at_once_are_refused(http: httpx.AsyncClient, ids: list[str]) -> None:
    answer = await http.get(f"/v1/customers?starting_after={ids[0]}&ending_before={ids[1]}")
    assert answer.json()["error"]["message"] == (
        "Received both starting_after and ending_before parameters. Please pass in only one."
    )


async def test_a_deleted_customer_keeps_its_place_as_a_cursor(
    client: Any, http: httpx.AsyncClient, ids: list[str]
) -> None:
    await client.v1.customers.delete_async(ids[3])
    assert await names(http, f"starting_after={ids[3]}&limit=2") == (ids[4:6], True)
    assert await names(http, f"ending_before={ids[3]}") == (ids[:3], False)


async def test_the_sdk_pages_through_everything(client: Any, ids: list[str]) -> None:
    pages = await client.v1.customers.list_async({"limit": 4})
    assert [customer.id async for customer in pages.auto_paging_iter()] == ids


async def test_created_filters_by_range(shop: Shop, client: Any) -> None:
    first = await client.v1.customers.retrieve_async(shop.customer)
    shop.clock.advance(hours=1)
    second = await client.v1.customers.create_async()
    found: Any
    for found, expected in (
        ({"gt": first.created}, [second.id]),
        ({"gte": first.created, "lt": second.created}, [first.id]),
        ({"lte": second.created}, [second.id, first.id]),
        (second.created, [second.id]),
    ):
        assert [c.id for c in await client.v1.customers.list_async({"created": found})] == expected


async def test_references_expand_along_paths(shop: Shop) -> None:
    session = await shop.session()
    checkout.pay(shop.sandbox, session.id, GOOD)
    paths = ["data.customer", "data.latest_invoice.payments", "data.default_payment_method"]
    found = (await shop.client.v1.subscriptions.list_async({"expand": paths})).data[0]
    assert found.customer.email == "ada@example.com"
    assert found.latest_invoice.payments.data[0].amount_paid == 9900
    assert found.default_payment_method.card.last4 == "4242"
    customer = await shop.client.v1.customers.retrieve_async(shop.customer, {"expand": ["subscriptions", "tax_ids"]})
    assert [s.id for s in customer.subscriptions.data] == [found.id]
    assert customer.tax_ids.data == []


async def test_what_is_includable_is_shown_only_when_asked_for(shop: Shop) -> None:
    session = await shop.session()
    plain = await shop.client.v1.checkout.sessions.retrieve_async(session.id)
    assert not hasattr(plain, "line_items")
    shown = await shop.client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["line_items"]})
    assert [line.amount_total for line in shown.line_items.data] == [9900]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nonsense", "This property cannot be expanded (nonsense)."),
        ("email", "This property cannot be expanded (email)."),
        ("a.b.c.d.e", "You cannot expand more than 4 levels of a property. Property: a.b.c.d.e"),
    ],
)
async def test_what_can_not_be_expanded_is_refused(shop: Shop, path: str, message: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.client.v1.customers.retrieve_async(shop.customer, {"expand": [path]})
    assert refused.value.user_message == message


async def test_a_refused_expansion_undoes_the_request(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await shop.client.v1.customers.update_async(shop.customer, {"name": "New", "expand": ["nonsense"]})
    assert (await shop.client.v1.customers.retrieve_async(shop.customer)).name is None


async def test_lists_expand_under_data_and_have_no_total(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/subscriptions?expand[]=customer")
    assert answer.json()["error"]["message"] == (
        "This property cannot be expanded (customer). You may want to try expanding 'data.customer' instead."
    )
    answer = await http.get("/v1/subscriptions?expand[]=total_count")
    assert answer.json()["error"]["code"] == "property_forbidden"
