"""Hosted invoices, as pages that take payment and as PDFs that readers can open; and receipts."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hosted_pages import AUTHENTICATES, DECLINED, PAYS, Reader, Shop

from app.sandbox.pages.pdf import WIDTH, Page, document, text_width, wrap


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    yield shop
    await shop.aclose()


async def invoice_of(shop: Shop, subscription: str) -> dict[str, Any]:
    return await shop.api(f"invoices/{(await shop.api(f'subscriptions/{subscription}'))['latest_invoice']}")


async def open_invoice(shop: Shop) -> dict[str, Any]:
    made = await shop.api(
        "subscriptions",
        **{
            "customer": await shop.customer(),
            "items[0][price]": await shop.price(),
            "payment_behavior": "default_incomplete",
        },
    )
    return await shop.api(f"invoices/{made['latest_invoice']}")


def read_pdf(content: bytes) -> list[str]:
    """Read the texts of a PDF by way of its cross-reference table, as a viewer does; anything amiss fails."""
    assert content.startswith(b"%PDF-1.4\n")
    assert content.endswith(b"%%EOF\n")
    start = int(re.findall(rb"startxref\n(\d+)\n%%EOF", content)[0])
    table = content[start:].split(b"trailer")[0].splitlines(keepends=True)
    assert table[0] == b"xref\n"
    count = int(table[1].split()[1])
    assert f"/Size {count} ".encode() in content[start:]
    assert {len(entry) for entry in table[2:]} == {20}
    for number, entry in enumerate(table[3 : count + 2], start=1):
        assert content[int(entry[:10]) :].startswith(b"%d 0 obj\n" % number)
    for length, stream in re.findall(rb"/Length (\d+) >>\nstream\n(.*?)\nendstream", content, re.DOTALL):
        assert len(stream) == int(length)
    texts = re.findall(rb"Td \(((?:[^\\()]|\\.)*)\) Tj", content)
    return [re.sub(rb"\\(.)", rb"\1", text).decode("cp1252") for text in texts]


async def test_a_paid_invoice_is_shown(shop: Shop) -> None:
    _, subscription = await shop.subscriber()
    invoice = await invoice_of(shop, subscription)
    said = Reader(await shop.get(invoice["hosted_invoice_url"]))
    assert f"Invoice {invoice['number']} Paid" in said.text
    assert "Date of issue 21 Sep 2026" in said.text
    assert "Bill to Ada Lovelace" in said.text
    assert "1 × Pro (at $99.00 / month)" in said.text  # noqa: RUF001 - Stripe's sign
    assert "Amount paid -$99.00" in said.text
    assert "Amount due $0.00" in said.text
    assert said.links["Open PDF"] == invoice["invoice_pdf"]
    assert said.forms == []


async def test_the_pdf_says_the_same(shop: Shop) -> None:
    _, subscription = await shop.subscriber()
    invoice = await invoice_of(shop, subscription)
    answer = await shop.get(invoice["invoice_pdf"])
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Content-Disposition"] == f'inline; filename="Invoice-{invoice["number"]}.pdf"'
    texts = read_pdf(answer.content)
    for text in ("Invoice", "PAID", invoice["number"], "21 Sep 2026", "Ada Lovelace", "ada@example.com"):
        assert text in texts
    for text in ("1 × Pro (at $99.00 / month)", "21 Sep 2026 to 21 Oct 2026", "$99.00", "-$99.00"):  # noqa: RUF001 - same
        assert text in texts


async def test_a_draft_has_no_page(shop: Shop) -> None:
    invoice = await open_invoice(shop)
    assert (await shop.get("/i/in_nothing")).status_code == 404
    assert (await shop.get("/pdf/in_nothing")).status_code == 404
    with shop.sandbox.changing():
        shop.sandbox.get("invoice", invoice["id"])["number"] = None
    assert (await shop.get(f"/i/{invoice['id']}")).status_code == 404


async def test_an_open_invoice_is_paid_on_its_page(shop: Shop) -> None:
    invoice = await open_invoice(shop)
    page = await shop.get(invoice["hosted_invoice_url"])
    assert "Pay $99.00" in Reader(page).text
    refused = await shop.submit(page, **DECLINED)
    assert refused.status_code == 402
    assert "Your card was declined." in Reader(refused).text
    assert "0002" not in "".join(Reader(refused).forms[0].fields.values())
    paid = await shop.follow(await shop.submit(refused, **PAYS))
    assert "Paid" in Reader(paid).text
    await shop.submit(page, **PAYS)
    assert len(await shop.events("charge.succeeded")) == 1
    details = invoice["parent"]["subscription_details"]
    assert (await shop.api(f"subscriptions/{details['subscription']}"))["status"] == "active"


async def test_an_open_invoice_is_paid_after_authentication(shop: Shop) -> None:
    invoice = await open_invoice(shop)
    page = await shop.get(invoice["hosted_invoice_url"])
    question = await shop.follow(await shop.submit(page, **AUTHENTICATES))
    refused = await shop.submit(question, outcome="fail")
    assert refused.status_code == 402
    assert "We are unable to authenticate your payment method." in Reader(refused).text
    assert (await shop.submit(question, outcome="complete")).headers["Location"] == f"/i/{invoice['id']}"
    question = await shop.follow(await shop.submit(refused, **AUTHENTICATES))
    paid = await shop.follow(await shop.submit(question, outcome="complete"))
    assert "Amount due $0.00" in Reader(paid).text


async def test_a_receipt_opens(shop: Shop) -> None:
    await shop.subscriber()
    [event] = await shop.events("charge.succeeded")
    said = Reader(await shop.get(event["data"]["object"]["receipt_url"])).text
    assert "Receipt $99.00" in said
    assert "Paid with Visa •••• 4242" in said
    assert (await shop.get("/receipts/ch_nothing")).status_code == 404


async def test_names_in_other_scripts_do_not_break_the_pdf(shop: Shop) -> None:
    session = await shop.session(
        await shop.price("Größe \\ (XL) " + "für alle " * 20), customer=await shop.customer(name="株式会社 Ada 🎉")
    )
    await shop.submit(await shop.get(session["url"]), **PAYS)
    invoice = await shop.api(f"invoices/{(await shop.api('invoices'))['data'][0]['id']}")
    texts = read_pdf((await shop.get(invoice["invoice_pdf"])).content)
    assert "???? Ada ?" in texts
    assert any(text.startswith("1 × Größe \\ (XL) für alle") for text in texts)  # noqa: RUF001 - Stripe's sign


def test_a_long_invoice_has_several_pages() -> None:
    pages = [Page(), Page(), Page()]
    for number, page in enumerate(pages, start=1):
        page.text(50, 700, f"Page {number}")
    assert read_pdf(document(pages, title="Größe")) == ["Page 1", "Page 2", "Page 3"]
    assert b"/Count 3" in document(pages, title="")


def test_text_is_broken_where_it_would_be_too_wide() -> None:
    lines = wrap("All the words of a sentence " * 10 + "W" * 200, WIDTH / 2, 10)
    assert len(lines) > 5
    assert all(text_width(line, 10) <= WIDTH / 2 for line in lines)
    assert "".join(lines).replace(" ", "") == ("Allthewordsofasentence" * 10) + "W" * 200


async def test_discounts_taxes_and_credit_notes_stand_on_the_documents(shop: Shop) -> None:
    customer = await shop.customer()
    await shop.api("coupons", id="TENTH", percent_off=10)
    vat = (await shop.api("tax_rates", display_name="VAT", percentage=20, inclusive="false"))["id"]
    await shop.api("invoiceitems", customer=customer, amount=1000, currency="usd", description="Setup")
    wanted = {"discounts[0][coupon]": "TENTH", "default_tax_rates[0]": vat}
    draft = await shop.api("invoices", customer=customer, pending_invoice_items_behavior="include", **wanted)
    invoice = await shop.api(f"invoices/{draft['id']}/finalize", auto_advance="false")
    line = {"lines[0][type]": "invoice_line_item", "lines[0][invoice_line_item]": draft["lines"]["data"][0]["id"]}
    note = await shop.api("credit_notes", invoice=draft["id"], memo="Sorry", **line, **{"lines[0][amount]": 500})
    said = Reader(await shop.get(invoice["hosted_invoice_url"])).text
    assert "Subtotal $10.00 Discount -$1.00 Tax $1.80 Total $10.80 Credited -$5.40 Amount due $5.40" in said
    texts = read_pdf((await shop.get(note["pdf"])).content)
    assert {"Credit note", note["number"], "Sorry", "Setup", "$5.00", "-$0.50", "$0.90", "$5.40"} <= set(texts)
