"""How requests are refused: keys, versions, addresses, parameters, in Stripe's words."""

from typing import Any

import httpx
import pytest
import stripe
from sandbox.driving import Shop

from app.sandbox.app import create_sandbox


@pytest.mark.parametrize("key", ["sk_live_x", "rk_live_x", "pk_test_x", "", "sk_tset_x"])
def test_the_sandbox_takes_no_key_but_a_test_key(key: str) -> None:
    with pytest.raises(ValueError, match="test key"):
        create_sandbox(secret_key=key)


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        (None, "You did not provide an API key."),
        ("Bearer ", "You did not provide an API key."),
        ("Digest x", "You did not provide an API key."),
        ("Bearer sk_test_of_someone_else", "Invalid API Key provided: sk_test_***********else"),
        ("Bearer nonsense", "Invalid API Key provided: ****ense"),
        ("Bearer sk_live_51ghij", "it refuses live keys (sk_live_****)"),
    ],
)
async def test_a_wrong_key_is_401(http: httpx.AsyncClient, authorization: str | None, message: str) -> None:
    headers = {"Authorization": authorization} if authorization is not None else {}
    del http.headers["Authorization"]
    answer = await http.get("/v1/customers", headers=headers)
    assert answer.status_code == 401
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_the_key_may_come_as_basic_auth(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/customers", auth=("sk_test_billhook", ""))).status_code == 200


async def test_a_refusal_says_what_stripe_says(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/customers/cus_nope")
    assert answer.status_code == 404
    request_id = answer.headers["Request-Id"]
    assert request_id.startswith("req_")
    assert answer.json() == {
        "error": {
            "code": "resource_missing",
            "doc_url": "https://stripe.com/docs/error-codes/resource-missing",
            "message": "No such customer: 'cus_nope'",
            "param": "id",
            "request_log_url": f"https://dashboard.stripe.com/test/logs/{request_id}",
            "type": "invalid_request_error",
        }
    }
    assert list(answer.json()["error"]) == sorted(answer.json()["error"])


async def test_an_unknown_address_is_a_404_without_a_log(http: httpx.AsyncClient) -> None:
    for method, path in (("GET", "/v1/widgets"), ("DELETE", "/v1/prices/price_1"), ("GET", "/elsewhere")):
        error = (answer := await http.request(method, path)).json()["error"]
        assert answer.status_code == 404
        assert error == {
            "message": f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can "
            "help at https://support.stripe.com/.",
            "type": "invalid_request_error",
        }


async def test_the_version_is_echoed_and_a_false_one_refused(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/customers")).headers["Stripe-Version"] == stripe.api_version
    old = await http.get("/v1/customers", headers={"Stripe-Version": "2024-06-20"})
    assert (old.status_code, old.headers["Stripe-Version"]) == (200, "2024-06-20")
    false = await http.get("/v1/customers", headers={"Stripe-Version": "endive"})
    assert (false.status_code, false.headers["Stripe-Version"]) == (400, "endive")
    assert false.json() == {"error": {"message": "Invalid Stripe API version: endive", "type": "invalid_request_error"}}


async def test_the_date_header_is_the_accounts_clock(shop: Shop, http: httpx.AsyncClient) -> None:
    shop.clock.now = 1_800_000_000
    assert (await http.get("/v1/customers")).headers["Date"] == "Fri, 15 Jan 2027 08:00:00 GMT"


@pytest.mark.parametrize(
    ("path", "form", "code", "param", "message"),
    [
        ("customers", {"wat": "1"}, "parameter_unknown", "wat", "Received unknown parameter: wat"),
        (
            "customers",
            {"wat": "1", "wot": "2"},
            "parameter_unknown",
            "wat",
            "Received unknown parameters: wat, wot",
        ),
        (
            "customers",
            {"invoice_settings[nope]": "1"},
            "parameter_unknown",
            "invoice_settings[nope]",
            "Received unknown parameter: invoice_settings[nope]",
        ),
        (
            "subscriptions",
            {"items[0][pricee]": "p"},
            "parameter_unknown",
            "items[0][pricee]",
            "Received unknown parameter: items[0][pricee]",
        ),
        ("products", {}, "parameter_missing", "name", "Missing required param: name."),
        (
            "customers",
            {"next_invoice_sequence": "x"},
            "parameter_invalid_integer",
            "next_invoice_sequence",
            "Invalid integer: x",
        ),
        ("products", {"name": "a", "active": "yes"}, None, "active", "Invalid boolean: yes"),
        (
            "checkout/sessions",
            {"mode": "buy"},
            None,
            "mode",
            "Invalid mode: must be one of payment, setup, or subscription",
        ),
        ("customers", {"invoice_settings": "5"}, None, "invoice_settings", "Invalid object"),
        ("subscriptions", {"items": "5"}, None, "items", "Invalid array"),
        ("subscriptions", {"items[a]": "5"}, None, "items", "Invalid array"),
        ("customers", {"email[x]": "5"}, None, "email", "Invalid string"),
        (
            "checkout/sessions",
            {"customer": ""},
            "parameter_invalid_empty",
            "customer",
            (
                "You passed an empty string for 'customer'. We assume empty values are an attempt to unset a "
                "parameter; however 'customer' cannot be unset. You should remove 'customer' from your request or "
                "supply a non-empty value."
            ),
        ),
        (
            "prices",
            {"currency": "usd", "unit_amount_decimal": "1,5"},
            None,
            "unit_amount_decimal",
            "Invalid decimal: 1,5",
        ),
        ("customers", {"a[b": "1"}, None, None, "Invalid request parameters: a[b"),
        ("customers", {"name": "1", "name[x]": "1"}, None, None, "Invalid request parameters: name[x]"),
        ("customers", {"name" + "[x]" * 9: "1"}, None, None, "Invalid request parameters: name" + "[x]" * 9),
    ],
)
async def test_parameters_are_strict(
    http: httpx.AsyncClient, *, path: str, form: dict[str, str], code: str | None, param: str | None, message: str
) -> None:
    answer = await http.post(f"/v1/{path}", data=form)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"] == message
    assert (error.get("code"), error.get("param")) == (code, param)


async def test_what_stripe_knows_and_the_sandbox_does_not_is_refused(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.session(payment_method_options={"card": {"request_three_d_secure": "any"}})
    assert refused.value.code == "sandbox_unsupported"
    param = "payment_method_options[card][request_three_d_secure]"
    assert refused.value.param == param
    assert refused.value.user_message == (
        f"The Billhook sandbox does not implement the parameter `{param}` of POST /v1/checkout/sessions."
    )
    assert list(await shop.client.v1.checkout.sessions.list_async()) == []


async def test_payment_method_types_are_refused_as_endive_refuses_them(http: httpx.AsyncClient) -> None:
    for path in ("checkout/sessions", "setup_intents"):
        answer = await http.post(f"/v1/{path}", data={"payment_method_types[0]": "card"})
        assert answer.json()["error"]["code"] == "payment_method_types_no_longer_supported"


async def test_lists_are_read_in_every_notation(shop: Shop, http: httpx.AsyncClient) -> None:
    notations: list[Any] = ["items[][price]={}&items[][quantity]=2", "items[0][price]={}&items[0][quantity]=2"]
    await shop.default_card("pm_card_visa")
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for notation in notations:
        body = f"customer={shop.customer}&" + notation.format(shop.pro) + "&expand[]=customer&expand[]=latest_invoice"
        made = (await http.post("/v1/subscriptions", content=body, headers=headers)).json()
        assert (made["quantity"], made["customer"]["id"]) == (2, shop.customer)
        assert made["latest_invoice"]["amount_paid"] == 19_800


async def test_a_failed_request_changes_nothing(shop: Shop) -> None:
    before = [event.id for event in await shop.client.v1.events.list_async()]
    with pytest.raises(stripe.InvalidRequestError, match="default payment method"):
        await shop.client.v1.subscriptions.create_async({"customer": shop.customer, "items": [{"price": shop.pro}]})
    assert [event.id for event in await shop.client.v1.events.list_async()] == before
    assert list(await shop.client.v1.invoices.list_async()) == []
    assert (await shop.client.v1.customers.retrieve_async(shop.customer)).next_invoice_sequence == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "param", "message"),
    [
        ("GET", "payment_methods?customer=cus_nope", 400, "customer", "No such customer: 'cus_nope'"),
        ("GET", "customers/cus_nope/payment_methods", 404, "id", "No such customer: 'cus_nope'"),
        ("GET", "payment_intents/pi_nope", 404, "intent", "No such payment_intent: 'pi_nope'"),
        ("GET", "setup_intents/seti_nope", 404, "intent", "No such setupintent: 'seti_nope'"),
        ("GET", "charges/ch_nope", 404, "id", "No such charge: 'ch_nope'"),
        ("GET", "products/prod_nope", 404, "id", "No such product: 'prod_nope'"),
        ("GET", "prices/price_nope", 404, "price", "No such price: 'price_nope'"),
        ("GET", "invoices/in_nope", 404, "invoice", "No such invoice: 'in_nope'"),
        ("POST", "invoices/in_nope/pay", 404, "id", "No such invoice: 'in_nope'"),
        ("DELETE", "subscriptions/sub_nope", 404, "id", "No such subscription: 'sub_nope'"),
        (
            "GET",
            "invoices?status=bogus",
            400,
            "status",
            "Invalid status: must be one of draft, open, void, paid, or uncollectible",
        ),
        ("GET", "customers?starting_after=cus_aaa", 400, "starting_after", "No such customer: 'cus_aaa'"),
        ("GET", "customers?limit=abc", 400, "limit", "Invalid integer: abc"),
    ],
)
async def test_what_is_not_there_is_named_as_stripe_names_it(
    http: httpx.AsyncClient, *, method: str, path: str, status: int, param: str, message: str
) -> None:
    answer = await http.request(method, f"/v1/{path}")
    assert answer.status_code == status
    assert (answer.json()["error"]["message"], answer.json()["error"]["param"]) == (message, param)
