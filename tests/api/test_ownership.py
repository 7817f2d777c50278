"""A user sees and changes only what is theirs; another's does not exist."""

import httpx
from billing import ADA, Account
from serving import API, Bearer, bearer

from app.main import openapi_document
from app.models import Invoice
from app.services.identity import mint_development_token
from app.settings import Settings

URL = "https://app.example.com/"
BODIES = {
    f"{API}/checkout/session": {"plan": "pro", "success_url": URL, "cancel_url": URL},
    f"{API}/portal": {"return_url": URL},
    f"{API}/entitlements/check": {"feature": "sso"},
}


async def test_no_route_lets_one_user_speak_for_another(client: httpx.AsyncClient, grace: Bearer) -> None:
    tried = 0
    for path, item in openapi_document()["paths"].items():
        for method, operation in item.items():
            declared = {parameter["name"] for parameter in operation.get("parameters", [])}
            if "user_id" in declared:
                query = {"user_id": "ada"} | ({"return_url": URL} if "return_url" in declared else {})
                response = await client.request(
                    method.upper(), path, params=query, json=BODIES.get(path, {}), headers=grace
                )
                # What only backends may do is refused before anybody is looked for.
                refused = {(404, "user_not_found"), (403, "permission_denied")}
                assert (response.status_code, response.json()["code"]) in refused, (method, path)
                tried += 1
    assert tried >= 11


async def test_no_body_lets_one_user_speak_for_another(client: httpx.AsyncClient, grace: Bearer) -> None:
    document = openapi_document()
    tried = set()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
            if "user_id" not in document["components"]["schemas"].get(name, {}).get("properties", {}):
                continue
            headers = grace | {"Idempotency-Key": f"{method} {path}".replace(" ", "")}
            response = await client.request(method.upper(), path, json={"user_id": "ada"}, headers=headers)
            refused = {(404, "user_not_found"), (403, "permission_denied")}
            assert (response.status_code, response.json()["code"]) in refused, (method, path)
            tried.add(path)
    assert tried >= {f"{API}/credits/check", f"{API}/charges"}


async def test_a_check_for_another_customer_finds_nobody(client: httpx.AsyncClient, grace: Bearer) -> None:
    body = {"feature": "sso", "customer": "ada"}
    assert (await client.post(f"{API}/entitlements/check", json=body, headers=grace)).status_code == 404


async def test_another_users_ids_do_not_exist(
    client: httpx.AsyncClient, account: Account, settings: Settings, grace: Bearer
) -> None:
    session_id = await account.buy()
    await account.deliver_and_process(account.events())
    (invoice,) = await account.all(Invoice)
    owner = bearer(mint_development_token(settings, ADA.user_id))
    before = await account.state()
    for method, path in (
        ("GET", f"checkout/session/{session_id}"),
        ("GET", f"invoices?starting_after={invoice.stripe_id}"),
        ("GET", f"invoices/{invoice.stripe_id}"),
        ("GET", f"invoices/{invoice.stripe_id}/credit-notes"),
        ("GET", "invoices/upcoming"),
        ("GET", "subscription"),
        ("POST", "subscription/cancel"),
        ("POST", "subscription/resume"),
        ("GET", f"portal?return_url={URL}"),
    ):
        response = await client.request(method, f"{API}/{path}", headers=grace)
        assert response.status_code == 404, path
    for path in ("invoices", "payment-methods"):
        assert (await client.get(f"{API}/{path}", headers=grace)).json() == []
        assert (await client.get(f"{API}/{path}", headers=owner)).json() != []
    assert await account.state() == before
