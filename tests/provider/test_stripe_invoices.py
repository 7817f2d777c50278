"""Invoices with their lines, and credit notes, by the provider alone; drafts are made whole or not at all."""

from typing import Any

import pytest
from provider.params_check import violations
from provider.scripted_stripe import Reply, ScriptedStripe, refusal
from provider.stripe_data import GENERATIONS, LATEST, shown
from stripe import params

from app.errors import NotFoundError, UnavailableError
from app.provider.invoice_objects import CreditNote, InvoiceLine, LineWish
from app.provider.mapping.invoices import map_credit_note
from app.provider.mapping.reading import UnreadableError
from app.provider.mapping.subscriptions import map_invoice

ONE_LINE = InvoiceLine(
    id="il_1Qabc",
    description="1 × Pro",  # noqa: RUF001 - Stripe's sign
    amount=9900,
    quantity=1,
    price="price_1Qabc",
    period_start=1767225600,
    period_end=1769904000,
    proration=True,
)
_SAME = {"id": "il_1Qabc", "description": ONE_LINE.description, "amount": 9900, "quantity": 1}
PERIOD = {"start": 1767225600, "end": 1769904000}
OLD = {**_SAME, "period": PERIOD, "price": {"id": "price_1Qabc"}, "proration": True}
NEW = {
    **_SAME,
    "period": PERIOD,
    "pricing": {"price_details": {"price": "price_1Qabc", "product": "prod_1Qabc"}, "type": "price_details"},
    "parent": {"subscription_item_details": {"proration": True}, "invoice_item_details": None},
}


def invoice(generation: str, **more: Any) -> dict[str, Any]:
    return {**shown(generation, "invoice.paid"), **more}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_lines_read_the_same_in_every_generation(generation: str) -> None:
    line = OLD if generation < "2025-03-31" else NEW
    assert map_invoice(invoice(generation, lines={"object": "list", "data": [line]})).lines == (ONE_LINE,)


@pytest.mark.parametrize(
    "more",
    [
        {"total_taxes": None, "total_tax_amounts": [{"amount": 150}, {"amount": 50}]},
        {"total_taxes": [{"amount": 200}]},
    ],
)
def test_discounts_and_taxes_add_up(more: dict[str, Any]) -> None:
    found = map_invoice(invoice(LATEST, total_discount_amounts=[{"amount": 100}, {"amount": 5}], **more))
    assert (found.discount, found.tax) == (105, 200)


@pytest.mark.parametrize(
    "more",
    [{"lines": []}, {"lines": {"data": [{"id": "il_1"}]}}, {"total_taxes": [{"amount": 1.5}]}, {"total_taxes": [1]}],
)
def test_what_can_not_be_an_invoice_is_not_read(more: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError):
        map_invoice(invoice(LATEST, **more))


async def test_an_invoice_of_many_lines_is_read_whole() -> None:
    lines = [{**NEW, "id": f"il_{number}"} for number in range(12)]
    pages = [
        Reply(body={"object": "list", "data": lines[start:end], "has_more": end < len(lines), "url": "/v1/lines"})
        for start, end in ((0, 11), (11, 12))
    ]
    long = invoice(LATEST, id="in_1Qlong", lines={"object": "list", "data": lines[:10], "has_more": True})
    stripe = ScriptedStripe(Reply(body=long), *pages)
    async with stripe.provider() as provider:
        found = (await provider.retrieve_invoice("in_1Qlong")).object
    assert [line.id for line in found.lines] == [f"il_{number}" for number in range(12)]
    assert [(request.path, request.form) for request in stripe.requests[1:]] == [
        ("/v1/invoices/in_1Qlong/lines", {"limit": "100"}),
        ("/v1/invoices/in_1Qlong/lines", {"limit": "100", "starting_after": "il_10"}),
    ]
    assert violations(stripe.requests[2].form, params.InvoiceLineItemListParams) == []


def test_an_event_that_shows_ten_of_many_lines_has_the_invoice_fetched() -> None:
    with pytest.raises(UnreadableError, match="whole"):
        map_invoice(invoice(LATEST, lines={"object": "list", "data": [NEW], "has_more": True}))


def test_a_credit_note_is_read() -> None:
    data = {
        "id": "cn_1Qabc",
        "customer": {"id": "cus_Qabc", "object": "customer"},
        "invoice": "in_1Qabc",
        "status": "issued",
        "type": "post_payment",
        "currency": "kwd",
        "subtotal": 1230,
        "total": 1230,
        "number": "BILL-0001-CN-01",
        "reason": "duplicate",
        "memo": "Sorry",
        "pdf": "https://pay.stripe.com/credit_notes/1/pdf",
        "livemode": False,
        "created": 1767225600,
    }
    assert map_credit_note(data) == CreditNote(**{**data, "customer": "cus_Qabc"})
    with pytest.raises(UnreadableError):
        map_credit_note({**data, "total": None})


DRAFT = invoice(LATEST, id="in_1Qdraft", status="draft")
WISHES = [LineWish(price="price_1Qabc", quantity=3), LineWish(amount=-500, description="Sorry")]


async def draft(stripe: ScriptedStripe) -> Any:
    async with stripe.provider() as provider:
        return await provider.create_invoice(customer="cus_Qabc", lines=WISHES, metadata={}, idempotency_key="k-1")


async def test_lines_follow_the_draft_with_a_key_of_their_own() -> None:
    stripe = ScriptedStripe(Reply(body=DRAFT), Reply(body={**DRAFT, "total": 5}))
    assert (await draft(stripe)).object.total == 5
    create, add = stripe.requests
    assert [request.headers["idempotency-key"] for request in (create, add)] == ["k-1", "k-1-lines"]
    assert create.form["pending_invoice_items_behavior"] == "exclude"
    assert (add.verb, add.path) == ("POST", "/v1/invoices/in_1Qdraft/add_lines")
    assert add.form == {
        "lines[0][pricing][price]": "price_1Qabc",
        "lines[0][quantity]": "3",
        "lines[1][amount]": "-500",
        "lines[1][description]": "Sorry",
    }
    assert violations(add.form, params.InvoiceAddLinesParams) == []


async def test_a_refused_line_leaves_no_draft_behind() -> None:
    refused = refusal(400, message="No such price", param="lines[0][pricing][price]", code="resource_missing")
    stripe = ScriptedStripe(Reply(body=DRAFT), refused, Reply(body={"id": "in_1Qdraft", "deleted": True}))
    with pytest.raises(NotFoundError) as raised:
        await draft(stripe)
    assert raised.value.param == "price_id"
    assert (stripe.requests[2].verb, stripe.requests[2].path) == ("DELETE", "/v1/invoices/in_1Qdraft")


async def test_a_draft_whose_lines_may_have_got_through_is_kept() -> None:
    stripe = ScriptedStripe(Reply(body=DRAFT), Reply(status=500, body={}))
    with pytest.raises(UnavailableError):
        await draft(stripe)
    assert [request.verb for request in stripe.requests] == ["POST", "POST"]


async def test_a_promotion_code_is_looked_up_first() -> None:
    found = {"object": "list", "data": [{"id": "promo_1Qabc"}], "has_more": False, "url": "/v1/promotion_codes"}
    stripe = ScriptedStripe(Reply(body=found), Reply(body=DRAFT))
    async with stripe.provider() as provider:
        await provider.create_invoice(
            customer="cus_Qabc", lines=[], promotion_code="SPRING", metadata={}, idempotency_key="k-1"
        )
    assert stripe.requests[1].form["discounts[0][promotion_code]"] == "promo_1Qabc"
