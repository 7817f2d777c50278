"""The shape checker finds what it is there to find."""

from copy import deepcopy
from typing import Any

import pytest
from sandbox.driving import GOOD
from sandbox.shapes import violations

from app.sandbox import checkout
from app.sandbox.sandbox import Sandbox


@pytest.fixture
async def invoice(client: Any, sandbox: Sandbox) -> dict[str, Any]:
    """A paid subscription invoice, as JSON."""
    price = {"currency": "usd", "unit_amount": 9900, "recurring": {"interval": "month"}}
    product = await client.v1.products.create_async({"name": "Pro", "default_price_data": price})
    session = await client.v1.checkout.sessions.create_async(
        {
            "mode": "subscription",
            "line_items": [{"price": str(product.default_price), "quantity": 1}],
            "success_url": "http://app/ok",
        }
    )
    checkout.pay(sandbox, session.id, GOOD, "ada@example.com")
    response = await client.raw_request_async("get", "/v1/invoices")
    found: dict[str, Any] = response.data["data"][0]
    return deepcopy(found)


def test_a_true_invoice_has_no_violations(invoice: dict[str, Any]) -> None:
    assert violations(invoice) == []


@pytest.mark.parametrize(
    ("break_it", "found"),
    [
        (lambda i: i.update(paid=True), "invoice.paid: unknown"),
        (lambda i: i.pop("amount_due"), "invoice.amount_due: missing"),
        (lambda i: i.update(total="9900"), "invoice.total: '9900' is no <class 'int'>"),
        (lambda i: i.update(currency=None), "invoice.currency: null"),
        (lambda i: i.update(status="payed"), "invoice.status: 'payed' is none of"),
        (lambda i: i["lines"].pop("has_more"), "invoice.lines: has_more"),
        (lambda i: i["lines"]["data"][0].update(price="price_1"), "invoice.lines[0].price: unknown"),
        (lambda i: i["parent"].pop("type"), "invoice.parent.type: missing"),
        (
            lambda i: i["parent"]["subscription_details"].update(subscription=7),
            "invoice.parent.subscription_details.subscription: 7 is no",
        ),
        (lambda i: i["lines"]["data"][0]["pricing"].update(unit_amount_decimal=99.0), "99.0 is no decimal string"),
        (lambda i: i.update(metadata={"n": 1}), "invoice.metadata[n]: 1 is no <class 'str'>"),
        (lambda i: i.update(object="invoyce"), "no SDK class for object 'invoyce'"),
    ],
)
def test_a_broken_invoice_is_found_out(invoice: dict[str, Any], break_it: Any, found: str) -> None:
    break_it(invoice)
    assert len(violations(invoice)) == 1
    assert found in violations(invoice)[0]


def test_a_list_with_a_total_count_is_found_out(invoice: dict[str, Any]) -> None:
    page = {"object": "list", "data": [invoice], "has_more": False, "url": "/v1/invoices"}
    assert violations(page) == []
    assert violations({**page, "total_count": 1}) == ["list: unexpected or missing key total_count"]
