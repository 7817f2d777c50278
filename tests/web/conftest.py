"""`billhook dev` on throw-away data, and Chromium to look at it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from browser import CHROMIUM_FLAGS, OpenVisit, Visit, find_chromium
from playwright.async_api import Browser, async_playwright

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 60
STOP_SECONDS = 20


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `dev.json` says of a running `billhook dev`."""
    directory = tmp_path_factory.mktemp("billhook dev")  # a path with a space
    log = directory / "log.txt"
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "app.cli", "dev", "--dir", str(directory)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        yield _wait_until_ready(process, directory / "dev.json", log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _wait_until_ready(process: subprocess.Popen[bytes], description: Path, log: Path) -> dict[str, Any]:
    """`billhook dev` writes its description when all of it answers."""
    deadline = time.monotonic() + START_SECONDS
    while not description.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"`billhook dev` did not start:\n{log.read_text()}")
        time.sleep(0.05)
    described: dict[str, Any] = json.loads(description.read_text())
    return described


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
