"""How the storefront's pages look and read: colours, names, narrow screens."""

from collections.abc import Sequence

import pytest
from browser import OpenVisit, Visit
from playwright.async_api import Page, expect

pytestmark = pytest.mark.browser


async def each_page(visit: Visit) -> Sequence[str]:
    """Findings over every page, signed out and signed in."""
    findings = await look(visit, "")
    await visit.sign_in("Grace")
    for path in ("", "/credits", "/billing", "/success?session_id=cs_test_unknown"):
        findings += await look(visit, path)
    return findings


async def look(visit: Visit, path: str) -> list[str]:
    await visit.page.goto(visit.storefront + path)
    await expect(visit.page.locator("main [aria-busy=true]")).to_have_count(0)
    findings = await visit.accessibility_findings()
    overflow = await visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if overflow > 0:
        findings.append(f"{overflow} px wider than the screen")
    return [f"{path}: {finding}" for finding in findings]


@pytest.mark.parametrize("width", [360, 1280])
async def test_light_pages_are_accessible(open_visit: OpenVisit, width: int) -> None:
    visit = await open_visit(width=width)
    visit.refusals.append(404)  # the unknown session
    assert await each_page(visit) == []
    assert visit.complaints == []


async def test_dark_pages_are_dark_and_accessible(open_visit: OpenVisit) -> None:
    visit = await open_visit(color_scheme="dark")
    visit.refusals.append(404)
    assert await each_page(visit) == []
    assert await brightness(visit.page) < 60
    await visit.page.emulate_media(color_scheme="light")
    assert await brightness(visit.page) > 200


async def brightness(page: Page) -> float:
    """Of the page's background, 0 to 255."""
    level: float = await page.evaluate(
        "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0) / 3"
    )
    return level


async def test_the_accessibility_check_finds_what_is_wrong(open_visit: OpenVisit) -> None:
    visit = await open_visit()
    await visit.page.set_content(
        "<title></title><h1>a</h1><h3>b</h3><img><input><button></button>"
        "<p style='color:#999;background:#fff'>faint</p><i id=x></i><i id=x aria-labelledby=nobody></i>"
    )
    findings = " ".join(await visit.accessibility_findings())
    for problem in (
        "no language",
        "no title",
        "no main",
        "heading level skipped",
        "image without alt",
        "field without label",
        "control without name",
        "contrast 2.85",
        "id used twice: x",
        "names nothing: nobody",
    ):
        assert problem in findings


async def test_an_unknown_checkout_session_is_named_as_such(open_visit: OpenVisit) -> None:
    visit = await open_visit()
    visit.refusals.append(404)
    await visit.sign_in("Ada")
    await visit.page.goto(f"{visit.storefront}/success?session_id=cs_test_unknown")
    await expect(visit.page.get_by_role("heading", level=1)).to_have_text("We can\u2019t find this purchase")
    await expect(visit.page.get_by_role("alert")).to_contain_text("There is no such checkout session.")
    assert visit.complaints == []


async def test_what_a_page_does_wrong_is_noted(open_visit: OpenVisit) -> None:
    visit = await open_visit()
    await visit.page.goto(visit.storefront)
    await visit.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: '1'}))")
    await visit.page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://elsewhere.invalid/x'}))")
    await visit.page.evaluate("setTimeout(() => { throw new Error('boom') })")
    await visit.page.wait_for_timeout(200)
    told = " ".join(visit.complaints)
    assert "Content Security Policy" in told
    assert "elsewhere.invalid" in told
    assert "boom" in told
