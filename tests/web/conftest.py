"""`billhook dev` on throw-away data, and Chromium to look at it."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from browser import CHROMIUM_FLAGS, OpenVisit, Visit, find_chromium
from playwright.async_api import Browser, async_playwright
from processes import running_dev


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `dev.json` says of a running `billhook dev`, on a path with a space."""
    with running_dev(tmp_path_factory.mktemp("billhook dev")) as described:
        yield described


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium found: install one, or name it in BILLHOOK_CHROMIUM")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        yield browser
        await browser.close()


@pytest.fixture
async def open_visit(browser: Browser, dev: dict[str, Any]) -> AsyncIterator[OpenVisit]:
    """Opens windows that know nothing of each other."""
    contexts = []

    async def open_visit(
        *, color_scheme: Literal["light", "dark"] = "light", width: int = 1280, scale: float = 1
    ) -> Visit:
        context = await browser.new_context(
            color_scheme=color_scheme, viewport={"width": width, "height": 860}, device_scale_factor=scale
        )
        contexts.append(context)
        visit = Visit(context, await context.new_page(), dev["storefront_url"])
        visit.watch()
        return visit

    yield open_visit
    for context in contexts:
        await context.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where pictures go: into the folder BILLHOOK_SCREENSHOTS names, else nowhere that stays."""
    return Path(os.environ.get("BILLHOOK_SCREENSHOTS", tmp_path))
