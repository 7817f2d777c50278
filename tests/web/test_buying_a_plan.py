"""The whole way through a real browser: storefront, hosted Checkout, signed webhook, billing page, portal."""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from browser import OpenVisit, Visit
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

PAYS = "4242 4242 4242 4242"
ANOTHER_THAT_PAYS = "5555 5555 5555 4444"
DECLINED = "4000 0000 0000 0002"
POOR = "4000 0000 0000 9995"
AUTHENTICATES = "4000 0027 6000 3184"


async def press_tab_until(page: Page, name: str) -> None:
    """Walk the page as somebody without a mouse does."""
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.textContent.trim()") == name:
            return
    raise AssertionError(f"{name!r} can't be reached by Tab")


async def expect_webhook(page: Page) -> None:
    """The page says that the signed event of this very Checkout session was applied."""
    await expect(page.locator("#proof-webhook")).to_have_attribute("data-state", "done", timeout=15_000)
    await expect(page.locator("#proof-webhook")).to_contain_text("checkout.session.completed arrived")


async def test_ada_buys_pro_and_manages_it(open_visit: OpenVisit, screenshots: Path) -> None:
    visit = await open_visit(scale=1.5)
    page = visit.page

    await visit.sign_in("Ada")
    await choose_pro(page, screenshots)
    await visit.pay(PAYS)

    await expect(page.get_by_role("heading", level=1)).to_have_text("You\u2019re on Pro")
    await expect_webhook(page)
    paid_session = parse_qs(urlsplit(page.url).query)["session_id"][0]
    await page.screenshot(path=screenshots / "success.png", full_page=True)

    await page.get_by_role("link", name="Go to billing").click()
    await expect(page.locator("#subscription .badge")).to_have_text("active")
    await expect(page.locator("#cards")).to_contain_text("4242")
    await expect(page.locator("#invoices")).to_contain_text("$99.00")
    created = page.locator("#arrivals tr", has_text="customer.subscription.created")
    await expect(created).to_contain_text("processed", timeout=15_000)
    await page.screenshot(path=screenshots / "billing.png", full_page=True)

    await cancel_and_resume(page)
    await open_invoice(page)
    await change_card(visit)
    await try_to_buy_a_second_plan(visit)

    grace = await open_visit()
    await grace.sign_in("Grace")
    assert paid_session in await object_ids(visit)
    assert paid_session not in await object_ids(grace)
    assert visit.complaints == []


async def choose_pro(page: Page, screenshots: Path) -> None:
    """By keyboard alone."""
    await expect(page.locator(".plan h3")).to_have_text(["Free", "Basic", "Pro", "Enterprise"])
    await expect(page.locator(".plan", has_text="Your plan").locator("h3")).to_have_text("Free")
    await page.screenshot(path=screenshots / "storefront.png", full_page=True)
    await page.emulate_media(color_scheme="dark")
    await page.screenshot(path=screenshots / "storefront-dark.png", full_page=True)
    await page.emulate_media(color_scheme="light")
    await press_tab_until(page, "Buy Pro")
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Card number")).to_be_visible()


async def cancel_and_resume(page: Page) -> None:
    plan = page.locator("#subscription")
    await page.get_by_role("button", name="Cancel plan").click()
    await page.get_by_role("button", name="Cancel at period end").click()
    await expect(plan).to_contain_text("then it ends")
    await page.get_by_role("button", name="Resume plan").click()
    await expect(page.get_by_role("button", name="Cancel plan")).to_be_visible()
    await expect(plan).to_contain_text("$99.00 a month. Renews on")


async def open_invoice(page: Page) -> None:
    link = page.locator("#invoices").get_by_role("link", name=re.compile("PDF of invoice"))
    pdf = await page.context.request.get(await link.get_attribute("href") or "")
    assert pdf.headers["content-type"] == "application/pdf"
    assert (await pdf.body()).startswith(b"%PDF-")
    async with page.context.expect_page() as opened:
        await link.click()
    await (await opened.value).close()


async def change_card(visit: Visit) -> None:
    page = visit.page
    await page.get_by_role("button", name="Open the billing portal").click()
    await page.get_by_role("link", name="Update card").click()
    await visit.pay(ANOTHER_THAT_PAYS)
    await page.get_by_role("link", name="Return").click()
    await expect(page.locator("#cards li", has_text="Default")).to_contain_text("4444", timeout=15_000)


async def try_to_buy_a_second_plan(visit: Visit) -> None:
    page = visit.page
    visit.refusals.append(409)
    await page.get_by_role("link", name="Plans").click()
    await expect(page.locator(".plan", has_text="Your plan").locator("h3")).to_have_text("Pro")
    await page.get_by_role("button", name="Start Basic trial").click()
    await page.get_by_role("alert").get_by_role("link", name="Manage it on the billing page").click()
    await expect(page).to_have_url(f"{visit.storefront}/billing")


async def object_ids(visit: Visit) -> set[str]:
    """What the events are about that the visitor may see."""
    answer = await visit.context.request.get(f"{visit.storefront}/events")
    return {event["object_id"] for event in await answer.json()}


async def test_grace_is_declined_until_she_authenticates(open_visit: OpenVisit) -> None:
    visit = await open_visit(color_scheme="dark")
    visit.refusals.append(402)
    page = visit.page
    await visit.sign_in("Grace")

    await page.get_by_role("button", name="Start Basic trial").click()
    await expect(page.get_by_label("Card number")).to_be_visible()
    checkout = page.url
    for number, message in ((DECLINED, "Your card was declined."), (POOR, "Your card has insufficient funds.")):
        await visit.pay(number)
        await expect(page.get_by_role("alert")).to_contain_text(message)
        assert page.url == checkout

    await visit.pay(AUTHENTICATES)
    await page.get_by_role("button", name="Fail authentication").click()
    await expect(page.get_by_role("alert")).to_contain_text("unable to authenticate")
    await visit.pay(AUTHENTICATES)
    await page.get_by_role("button", name="Complete authentication").click()

    await expect(page.get_by_role("heading", level=1)).to_have_text("Your Basic trial has begun")
    await expect_webhook(page)
    await page.get_by_role("link", name="Go to billing").click()
    await expect(page.locator("#subscription .badge")).to_have_text("trialing")
    await expect(page.locator("#invoices tr")).to_have_count(1)
    await expect(page.locator("#invoices")).to_contain_text("$0.00")

    assert visit.complaints == []
