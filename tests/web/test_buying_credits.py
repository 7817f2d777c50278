"""Credits in a real browser: the free uses burn down, there is an offer, a pack is bought, the balance is new."""

from pathlib import Path

import pytest
from browser import OpenVisit
from playwright.async_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


async def test_grace_uses_up_what_is_free_and_buys_more(open_visit: OpenVisit, screenshots: Path) -> None:
    visit = await open_visit(scale=1.5)
    visit.refusals.append(402)
    page = visit.page
    await visit.sign_in("Grace")
    await page.get_by_role("link", name="Credits").click()
    available, ask = (
        page.locator("#balance [data-field=available]"),
        page.get_by_role("button", name="Ask, for one use"),
    )
    await expect(available).to_have_text("3")
    await expect(page.locator("#pips")).to_have_attribute("aria-label", "3 of 3 free uses left")
    await expect(page.locator("#ledger-none")).to_be_visible()
    for left in ("2", "1", "0"):
        await ask.click()
        await expect(available).to_have_text(left)
    await expect(page.locator("#answer")).not_to_have_text("Ask anything.")
    await expect(page.locator("#offer")).to_contain_text("20 more for $5")
    await expect(ask).to_be_hidden()
    await expect(page.locator("#ledger tr")).to_have_count(4)
    await page.screenshot(path=screenshots / "credits-offer.png", full_page=True)

    await page.get_by_role("button", name="Buy 20 uses").click()
    await visit.pay("4242 4242 4242 4242")
    await expect(page.locator("#answer")).to_have_text("20 uses have been added.")
    await expect(available).to_have_text("20")
    await expect(page.locator("#offer")).to_be_hidden()
    await ask.click()
    await expect(available).to_have_text("19")
    granted = page.locator("#arrivals tr", has_text="checkout.session.completed").first
    await expect(granted).to_contain_text("processed", timeout=15_000)
    await expect(available).to_have_text("19")  # nothing is granted twice
    await page.screenshot(path=screenshots / "credits.png", full_page=True)
    assert visit.complaints == []
