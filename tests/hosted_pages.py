"""A shop on the sandbox, and a visitor whose browser has no JavaScript: forms are read from the HTML and sent back."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx
from typing_extensions import override

from app.sandbox.app import create_sandbox
from app.sandbox.sandbox import Sandbox

BASE = "http://sandbox.test"
SUCCESS = "https://shop.test/done?session_id={CHECKOUT_SESSION_ID}"
CANCEL = "https://shop.test/plans"
PAYS = {"number": "4242 4242 4242 4242", "expiry": "12 / 34", "cvc": "123"}
DECLINED = PAYS | {"number": "4000 0000 0000 0002"}
AUTHENTICATES = PAYS | {"number": "4000 0027 6000 3184"}
START = 1_790_000_000  # 21 Sep 2026


@dataclass
class Form:
    action: str
    fields: dict[str, str] = field(default_factory=dict)


class Reader(HTMLParser):
    """What a page says and asks."""

    def __init__(self, page: httpx.Response) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self.elements: dict[str, dict[str, str | None]] = {}
        self._text: list[str] = []
        self._href = ""
        self._url = str(page.url)
        self.feed(page.text)

    @property
    def text(self) -> str:
        return " ".join("".join(self._text).split())

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in {"a", "code", "span", "strong"}:
            self._text.append(" ")  # what a browser sets apart
        if named.get("id"):
            self.elements[str(named["id"])] = named
        if tag == "form":
            self.forms.append(Form(urljoin(self._url, named.get("action") or "")))
        elif tag in {"input", "textarea"} and named.get("type") != "radio":
            self.forms[-1].fields[str(named["name"])] = named.get("value") or ""
        elif tag == "a":
            self._href = named.get("href") or ""

    @override
    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._href = ""

    @override
    def handle_data(self, data: str) -> None:
        self._text.append(data)
        if self._href and data.strip():
            self.links[data.strip()] = urljoin(self._url, self._href)


class Shop:
    def __init__(self, webhook_client: httpx.AsyncClient | None = None) -> None:
        self.clock = float(START)
        app = create_sandbox(base_url=BASE, now=lambda: self.clock, webhook_client=webhook_client)
        self.sandbox: Sandbox = app.state.sandbox
        self.browser = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)

    async def aclose(self) -> None:
        await self.browser.aclose()
        await self.sandbox.aclose()

    async def api(self, path: str, **form: Any) -> dict[str, Any]:
        """POST if there is a form, GET if there is none; refusals fail the test."""
        headers = {"Authorization": "Bearer sk_test_billhook"}
        method = "POST" if form else "GET"
        answer = await self.browser.request(method, f"/v1/{path}", data=form or None, headers=headers)
        assert answer.status_code == httpx.codes.OK, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def price(self, name: str = "Pro", amount: int = 9900, currency: str = "usd", interval: str = "month") -> str:
        product = await self.api("products", name=name)
        recurring = {"recurring[interval]": interval} if interval else {}
        made = await self.api("prices", product=product["id"], unit_amount=amount, currency=currency, **recurring)
        return str(made["id"])

    async def customer(self, **form: Any) -> str:
        made = await self.api("customers", **({"email": "ada@example.com", "name": "Ada Lovelace"} | form))
        return str(made["id"])

    async def session(self, price: str, **form: Any) -> dict[str, Any]:
        """Open a Checkout Session for one of ``price``; a form value of None leaves that field out."""
        wanted = {
            "mode": "subscription",
            "customer": await self.customer() if "customer" not in form else None,
            "line_items[0][price]": price,
            "line_items[0][quantity]": 1,
            "success_url": SUCCESS,
            "cancel_url": CANCEL,
        } | form
        return await self.api("checkout/sessions", **{key: value for key, value in wanted.items() if value is not None})

    async def subscriber(self, **card: str) -> tuple[str, str]:
        """Sell Pro through Checkout; gives (customer, subscription)."""
        session = await self.session(await self.price())
        answer = await self.submit(await self.get(session["url"]), **(PAYS | card))
        assert answer.status_code == httpx.codes.SEE_OTHER, answer.text
        bought = await self.api(f"checkout/sessions/{session['id']}")
        return bought["customer"], bought["subscription"]

    async def portal(self, customer: str, **form: Any) -> httpx.Response:
        wanted = {"customer": customer, "return_url": "https://shop.test/account"} | form
        session = await self.api("billing_portal/sessions", **wanted)
        return await self.get(session["url"])

    async def get(self, url: str) -> httpx.Response:
        """Open a page, following redirects inside the sandbox alone."""
        return await self._followed(await self.browser.get(url))

    async def submit(self, page: httpx.Response, **typed: str) -> httpx.Response:
        """Fill in the page's first form and send it; a redirect is not followed."""
        form = Reader(page).forms[0]
        return await self.browser.post(form.action, data=form.fields | typed)

    async def follow(self, answer: httpx.Response) -> httpx.Response:
        assert answer.status_code == httpx.codes.SEE_OTHER, answer.text
        return await self._followed(answer)

    async def _followed(self, answer: httpx.Response) -> httpx.Response:
        while answer.is_redirect and urljoin(BASE, answer.headers["Location"]).startswith(f"{BASE}/"):
            answer = await self.browser.get(answer.headers["Location"])
        return answer

    async def events(self, type: str) -> list[dict[str, Any]]:
        found = await self.api(f"events?type={type}&limit=100")
        return list(found["data"])
