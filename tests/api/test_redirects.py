"""Only our own product's pages: everything a redirect could be tricked with is refused."""

import httpx
import pytest
from serving import API, Bearer

from app.api.redirects import require_allowed
from app.errors import InvalidRequestError
from app.settings import Settings

ALLOWED = [
    "https://app.example.com",
    "https://app.example.com/",
    "https://app.example.com:443/billing?session_id={CHECKOUT_SESSION_ID}#top",
    "HTTPS://APP.example.com/x",
    "http://localhost:8000/demo",
]
REFUSED = [
    "",
    "/billing",
    "//app.example.com/",
    "app.example.com",
    "http://app.example.com/",
    "https://app.example.com:8443/",
    "https://app.example.com:0443x/",
    "https://app.example.com:99999/",
    "https://app.example.com.evil.com/",
    "https://app.example.com@evil.com/",
    "https://evil.com@app.example.com/",
    "https://user:pw@app.example.com/",
    "https://evil.com#@app.example.com/",
    "https://evil.com?@app.example.com/",
    "https://evil.com\\@app.example.com/",
    "https://app.example.com\\.evil.com/",
    "https:/\\app.example.com/",
    "https:\\\\app.example.com/",
    "https:app.example.com",
    "https:///app.example.com/",
    " https://app.example.com/",
    "https://app.example.com/ x",
    "https://app.example.com/\n",
    "https://app.exa\tmple.com/",
    "https://app.example.com/\0",
    "https://app.example.com./",
    "https://sub.app.example.com/",
    "https://\u0430pp.example.com/",  # a Cyrillic a
    "https://app.example.com/\u202e",
    "https://[::1/",
    "javascript:alert(1)//https://app.example.com/",
    "data:text/html,https://app.example.com",
    "ftp://app.example.com/",
    "http://localhost:9999/",
    "http://localhost.evil.com:8000/",
    "https://app.example.com/" + "x" * 2048,
]


@pytest.fixture(scope="module")
def product() -> Settings:
    return Settings.model_construct(
        environment="development", public_url="http://localhost:8000", redirect_origins=("https://app.example.com",)
    )


@pytest.mark.parametrize("url", ALLOWED)
def test_our_own_pages_are_allowed(product: Settings, url: str) -> None:
    require_allowed(product, return_url=url)


@pytest.mark.parametrize("url", REFUSED)
def test_every_other_address_is_refused(product: Settings, url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        require_allowed(product, return_url=url)
    assert (caught.value.code, caught.value.param) == ("redirect_not_allowed", "return_url")
    assert not url or url not in caught.value.message


def test_plain_http_is_refused_in_production(product: Settings) -> None:
    production = product.model_copy(update={"environment": "production"})
    require_allowed(production, return_url="https://app.example.com/")
    with pytest.raises(InvalidRequestError):
        require_allowed(production, return_url="http://localhost:8000/")


async def test_no_route_sends_a_browser_elsewhere(client: httpx.AsyncClient, ada: Bearer) -> None:
    good, evil = "https://app.example.com/", "https://evil.example.com/"
    answers = [
        await client.post(f"{API}/checkout/session", json=body, headers=ada)
        for body in (
            {"plan": "pro", "success_url": evil, "cancel_url": good},
            {"plan": "pro", "success_url": good, "cancel_url": evil},
        )
    ]
    answers.append(await client.post(f"{API}/portal", json={"return_url": evil}, headers=ada))
    answers.append(await client.get(f"{API}/portal", params={"return_url": evil}, headers=ada))
    for answer, param in zip(answers, ("success_url", "cancel_url", "return_url", "return_url"), strict=True):
        assert answer.status_code == 422
        assert answer.json()["code"] == "redirect_not_allowed"
        assert answer.json()["errors"][0]["param"] == param
        assert evil not in answer.text
