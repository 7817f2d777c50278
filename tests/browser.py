"""A visitor in a real browser, who notes everything a page should not do."""

import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Page, Request, expect

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ACCESSIBILITY = (Path(__file__).parent / "web" / "accessibility.js").read_text()


def find_chromium() -> str | None:
    named = os.environ.get("BILLHOOK_CHROMIUM")
    names = [named] if named else ["chromium", "google-chrome", "google-chrome-stable", "chromium-browser"]
    return next((path for name in names if (path := shutil.which(name))), None)


@dataclass
class Visit:
    """One browser window with its own cookies. `complaints` fills by itself."""

    context: BrowserContext
    page: Page
    storefront: str
    complaints: list[str] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    """HTTP statuses the visitor brings about on purpose; Chromium prints each to the console."""

    def watch(self) -> None:
        self.context.on("request", self._note_request)
        self.context.on("console", self._note_console)
        self.context.on("weberror", lambda error: self.complaints.append(f"exception: {error.error}"))

    def _note_request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in {"http", "https", "ws", "wss"} and url.hostname not in {"localhost", "127.0.0.1"}:
            self.complaints.append(f"request to elsewhere: {request.url}")

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type not in {"error", "warning"}:
            return
        if message.location["url"].endswith("/favicon.ico"):  # what the browser wants for a PDF's tab, not a page
            return
        if any(f"responded with a status of {status} " in message.text for status in self.refusals):
            return
        self.complaints.append(f"{message.type} on {message.page and message.page.url}: {message.text}")

    async def sign_in(self, name: str) -> None:
        await self.page.goto(self.storefront)
        await self.page.get_by_role("button", name=f"Sign in as {name}").click()
        await expect(self.page.get_by_text(f"Signed in as {name}")).to_be_visible()

    async def pay(self, number: str) -> None:
        """Fill in the hosted Checkout page, or a card form like it, and send it."""
        await self.page.get_by_label("Card number").fill(number)
        await self.page.get_by_label("Expiry").fill("12 / 34")
        await self.page.get_by_label("CVC").fill("123")
        await self.page.locator("form button.primary").click()

    async def accessibility_findings(self) -> list[str]:
        findings: list[str] = await self.page.evaluate(ACCESSIBILITY)
        return findings


OpenVisit = Callable[..., Awaitable[Visit]]
