"""Every request the provider can send, held to the SDK's parameter types."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from provider.params_check import violations
from provider.scripted_stripe import ASKED_AT, Reply, ScriptedStripe
from provider.stripe_data import LATEST, shown
from stripe import api_version, params
from stripe.params import billing_portal, checkout

from app.errors import InvalidRequestError, NotFoundError
from app.provider.mapping.subscriptions import map_subscription
from app.provider.stripe import StripeProvider
from app.provider.stripe_client import API_VERSION

CUSTOMER = shown(LATEST, "customer.updated")
SUBSCRIPTION = shown(LATEST, "customer.subscription.updated")
SESSION = shown(LATEST, "checkout.session.completed")
INVOICE = shown(LATEST, "invoice.paid")
CARD = shown(LATEST, "payment_method.attached")
PRICE = SUBSCRIPTION["items"]["data"][0]["price"]
PRODUCT = {"id": "prod_Qabc", "object": "product", "name": "Pro", "active": True, "metadata": {}, "description": None}
PORTAL = {"id": "bps_1Qabc", "object": "billing_portal.session", "url": "https://billing.stripe.com/p/1"}


def page_of(*objects: Any, has_more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": list(objects), "has_more": has_more, "url": "/v1/somewhere"}


CHECKOUT: dict[str, Any] = {
    "customer": "cus_Qabc",
    "price": "price_1Qabc",
    "quantity": 2,
    "success_url": "https://shop.example/done?session={CHECKOUT_SESSION_ID}",
    "cancel_url": "https://shop.example/no",
    "client_reference_id": "demo-1",
    "trial_period_days": 14,
    "promotion_code": None,
    "metadata": {"user_id": "demo-1"},
    "idempotency_key": "k-1",
}
PORTAL_CALL: dict[str, Any] = {
    "customer": "cus_Qabc",
    "return_url": "https://shop.example/",
    "flow": None,
    "subscription": "sub_1Qabc",
}
NEW_PRICE: dict[str, Any] = {
    "product": "prod_Qabc",
    "currency": "usd",
    "unit_amount": 9900,
    "interval": "month",
    "lookup_key": "pro_monthly",
    "metadata": {"plan": "pro"},
    "idempotency_key": "k-1",
}
PRODUCT_CALL: dict[str, Any] = {
    "id": "billhook_pro",
    "name": "Pro",
    "description": "All of it",
    "metadata": {"plan": "pro"},
}

Call = Callable[[StripeProvider], Awaitable[object]]

# What is called, what Stripe shows, and what must have gone over the wire: verb, path, parameters, their type.
CASES: dict[str, tuple[Call, Any, str, str, dict[str, str], Any]] = {
    "create_customer": (
        lambda p: p.create_customer(email="a@b.example", name="Ada", metadata={"user_id": "u"}, idempotency_key="k-1"),
        CUSTOMER,
        "POST",
        "/v1/customers",
        {"email": "a@b.example", "name": "Ada", "metadata[user_id]": "u"},
        params.CustomerCreateParams,
    ),
    "update_customer": (
        lambda p: p.update_customer("cus_Qabc", email="a@b.example", name="Ada"),
        CUSTOMER,
        "POST",
        "/v1/customers/cus_Qabc",
        {"email": "a@b.example", "name": "Ada"},
        params.CustomerUpdateParams,
    ),
    "create_customer, anonymous": (
        lambda p: p.create_customer(email=None, name=None, metadata={}, idempotency_key="k-1"),
        CUSTOMER,
        "POST",
        "/v1/customers",
        {},
        params.CustomerCreateParams,
    ),
    "retrieve_customer": (
        lambda p: p.retrieve_customer("cus_Qabc"),
        CUSTOMER,
        "GET",
        "/v1/customers/cus_Qabc",
        {},
        params.CustomerRetrieveParams,
    ),
    "list_prices": (
        lambda p: p.list_prices(lookup_keys=["pro_monthly", "basic_monthly"]),
        {"object": "list", "data": [PRICE], "has_more": False, "url": "/v1/prices"},
        "GET",
        "/v1/prices",
        {"lookup_keys[0]": "pro_monthly", "lookup_keys[1]": "basic_monthly", "limit": "100"},
        params.PriceListParams,
    ),
    "retrieve_product": (
        lambda p: p.retrieve_product("billhook_pro"),
        PRODUCT,
        "GET",
        "/v1/products/billhook_pro",
        {},
        params.ProductRetrieveParams,
    ),
    "save_product, new": (
        lambda p: p.save_product(**PRODUCT_CALL, exists=False),
        PRODUCT,
        "POST",
        "/v1/products",
        {"id": "billhook_pro", "name": "Pro", "description": "All of it", "metadata[plan]": "pro"},
        params.ProductCreateParams,
    ),
    "save_product, new and undescribed": (
        lambda p: p.save_product(**{**PRODUCT_CALL, "description": None}, exists=False),
        PRODUCT,
        "POST",
        "/v1/products",
        {"id": "billhook_pro", "name": "Pro", "metadata[plan]": "pro"},
        params.ProductCreateParams,
    ),
    "save_product, again": (
        lambda p: p.save_product(**{**PRODUCT_CALL, "description": None}, exists=True),
        PRODUCT,
        "POST",
        "/v1/products/billhook_pro",
        {"active": "true", "name": "Pro", "description": "", "metadata[plan]": "pro"},
        params.ProductUpdateParams,
    ),
    "create_price": (
        lambda p: p.create_price(**NEW_PRICE),
        PRICE,
        "POST",
        "/v1/prices",
        {
            "product": "prod_Qabc",
            "currency": "usd",
            "unit_amount": "9900",
            "recurring[interval]": "month",
            "lookup_key": "pro_monthly",
            "transfer_lookup_key": "true",
            "metadata[plan]": "pro",
        },
        params.PriceCreateParams,
    ),
    "create_price, one-time": (
        lambda p: p.create_price(**{**NEW_PRICE, "interval": None, "metadata": {}}),
        PRICE,
        "POST",
        "/v1/prices",
        {
            "product": "prod_Qabc",
            "currency": "usd",
            "unit_amount": "9900",
            "lookup_key": "pro_monthly",
            "transfer_lookup_key": "true",
        },
        params.PriceCreateParams,
    ),
    "create_subscription_session": (
        lambda p: p.create_subscription_session(**CHECKOUT),
        SESSION,
        "POST",
        "/v1/checkout/sessions",
        {
            "mode": "subscription",
            "customer": "cus_Qabc",
            "line_items[0][price]": "price_1Qabc",
            "line_items[0][quantity]": "2",
            "success_url": "https://shop.example/done?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://shop.example/no",
            "client_reference_id": "demo-1",
            "allow_promotion_codes": "true",
            "metadata[user_id]": "demo-1",
            "subscription_data[metadata][user_id]": "demo-1",
            "subscription_data[trial_period_days]": "14",
        },
        checkout.SessionCreateParams,
    ),
    "create_subscription_session, the least": (
        lambda p: p.create_subscription_session(
            **{**CHECKOUT, "client_reference_id": None, "trial_period_days": None, "metadata": {}, "quantity": 1}
        ),
        SESSION,
        "POST",
        "/v1/checkout/sessions",
        {
            "mode": "subscription",
            "customer": "cus_Qabc",
            "line_items[0][price]": "price_1Qabc",
            "line_items[0][quantity]": "1",
            "success_url": "https://shop.example/done?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://shop.example/no",
            "allow_promotion_codes": "true",
        },
        checkout.SessionCreateParams,
    ),
    "retrieve_checkout_session": (
        lambda p: p.retrieve_checkout_session("cs_test_Qabc"),
        SESSION,
        "GET",
        "/v1/checkout/sessions/cs_test_Qabc",
        {},
        checkout.SessionRetrieveParams,
    ),
    "expire_checkout_session": (
        lambda p: p.expire_checkout_session("cs_test_Qabc"),
        SESSION,
        "POST",
        "/v1/checkout/sessions/cs_test_Qabc/expire",
        {},
        checkout.SessionExpireParams,
    ),
    "create_portal_session": (
        lambda p: p.create_portal_session(**PORTAL_CALL),
        PORTAL,
        "POST",
        "/v1/billing_portal/sessions",
        {"customer": "cus_Qabc", "return_url": "https://shop.example/"},
        billing_portal.SessionCreateParams,
    ),
    "create_portal_session, new card": (
        lambda p: p.create_portal_session(**{**PORTAL_CALL, "flow": "payment_method_update", "subscription": None}),
        PORTAL,
        "POST",
        "/v1/billing_portal/sessions",
        {"customer": "cus_Qabc", "return_url": "https://shop.example/", "flow_data[type]": "payment_method_update"},
        billing_portal.SessionCreateParams,
    ),
    "create_portal_session, cancel": (
        lambda p: p.create_portal_session(**{**PORTAL_CALL, "flow": "subscription_cancel"}),
        PORTAL,
        "POST",
        "/v1/billing_portal/sessions",
        {
            "customer": "cus_Qabc",
            "return_url": "https://shop.example/",
            "flow_data[type]": "subscription_cancel",
            "flow_data[subscription_cancel][subscription]": "sub_1Qabc",
        },
        billing_portal.SessionCreateParams,
    ),
    "create_portal_session, change": (
        lambda p: p.create_portal_session(**{**PORTAL_CALL, "flow": "subscription_update"}),
        PORTAL,
        "POST",
        "/v1/billing_portal/sessions",
        {
            "customer": "cus_Qabc",
            "return_url": "https://shop.example/",
            "flow_data[type]": "subscription_update",
            "flow_data[subscription_update][subscription]": "sub_1Qabc",
        },
        billing_portal.SessionCreateParams,
    ),
    "retrieve_subscription": (
        lambda p: p.retrieve_subscription("sub_1Qabc"),
        SUBSCRIPTION,
        "GET",
        "/v1/subscriptions/sub_1Qabc",
        {},
        params.SubscriptionRetrieveParams,
    ),
    "set_cancel_at_period_end": (
        lambda p: p.set_cancel_at_period_end("sub_1Qabc", cancel=True, reason="Too dear", idempotency_key="k-1"),
        SUBSCRIPTION,
        "POST",
        "/v1/subscriptions/sub_1Qabc",
        {"cancel_at_period_end": "true", "cancellation_details[comment]": "Too dear"},
        params.SubscriptionUpdateParams,
    ),
    "set_cancel_at_period_end, back": (
        lambda p: p.set_cancel_at_period_end("sub_1Qabc", cancel=False, idempotency_key="k-1"),
        SUBSCRIPTION,
        "POST",
        "/v1/subscriptions/sub_1Qabc",
        {"cancel_at_period_end": "false"},
        params.SubscriptionUpdateParams,
    ),
    "cancel_subscription": (
        lambda p: p.cancel_subscription("sub_1Qabc", reason="Too dear", idempotency_key="k-1"),
        SUBSCRIPTION,
        "DELETE",
        "/v1/subscriptions/sub_1Qabc",
        {"cancellation_details[comment]": "Too dear"},
        params.SubscriptionCancelParams,
    ),
    "retrieve_invoice": (
        lambda p: p.retrieve_invoice("in_1Qabc"),
        INVOICE,
        "GET",
        "/v1/invoices/in_1Qabc",
        {},
        params.InvoiceRetrieveParams,
    ),
    "retrieve_payment_method": (
        lambda p: p.retrieve_payment_method("pm_1Qabc"),
        CARD,
        "GET",
        "/v1/payment_methods/pm_1Qabc",
        {},
        params.PaymentMethodRetrieveParams,
    ),
    "list_customers": (
        lambda p: p.list_customers(since=1767225600, after="cus_Qabc"),
        page_of(CUSTOMER),
        "GET",
        "/v1/customers",
        {"limit": "100", "created[gte]": "1767225600", "starting_after": "cus_Qabc"},
        params.CustomerListParams,
    ),
    "list_payment_methods": (
        lambda p: p.list_payment_methods("cus_Qabc", after="pm_1Qabc"),
        page_of(CARD),
        "GET",
        "/v1/customers/cus_Qabc/payment_methods",
        {"limit": "100", "starting_after": "pm_1Qabc"},
        params.CustomerPaymentMethodListParams,
    ),
    "list_subscriptions": (
        lambda p: p.list_subscriptions(since=1767225600, after="sub_1Qabc"),
        page_of(SUBSCRIPTION),
        "GET",
        "/v1/subscriptions",
        {"limit": "100", "status": "all", "created[gte]": "1767225600", "starting_after": "sub_1Qabc"},
        params.SubscriptionListParams,
    ),
    "list_invoices": (
        lambda p: p.list_invoices(since=1767225600, after="in_1Qabc"),
        page_of(INVOICE),
        "GET",
        "/v1/invoices",
        {"limit": "100", "created[gte]": "1767225600", "starting_after": "in_1Qabc"},
        params.InvoiceListParams,
    ),
    "list_invoices, all": (
        lambda p: p.list_invoices(since=None, after=None),
        page_of(INVOICE),
        "GET",
        "/v1/invoices",
        {"limit": "100"},
        params.InvoiceListParams,
    ),
    "list_events": (
        lambda p: p.list_events(
            types=["invoice.paid", "customer.updated"], since=1767225600, until=1767229200, after="evt_1Qabc"
        ),
        page_of({"object": "event", "id": "evt_2Qabc"}),
        "GET",
        "/v1/events",
        {
            "limit": "100",
            "types[0]": "invoice.paid",
            "types[1]": "customer.updated",
            "created[gte]": "1767225600",
            "created[lte]": "1767229200",
            "starting_after": "evt_1Qabc",
        },
        params.EventListParams,
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_request_is_as_stripe_defines_it(name: str) -> None:
    call, answer, verb, path, form, params_type = CASES[name]
    stripe = ScriptedStripe(Reply(body=answer))
    async with stripe.provider() as provider:
        await call(provider)
    [request] = stripe.requests
    assert (request.verb, request.path, request.form) == (verb, path, form)
    assert violations(request.form, params_type) == []
    assert request.headers["authorization"] == "Bearer sk_test_Qabc"
    assert request.headers["stripe-version"] == "2026-10-28.endive"
    assert ("idempotency-key" in request.headers) == (verb != "GET")
    assert "x-stripe-client-telemetry" not in request.headers


def test_every_operation_has_its_case() -> None:
    operations = {name for name in dir(StripeProvider) if not name.startswith("_")} - {"livemode"}
    no_request = {"warm", "aclose", "verify_signature", "parse_envelope", "parse_event"}
    assert operations - no_request == {name.split(",")[0] for name in CASES}


def test_the_pinned_version_is_the_sdks() -> None:
    assert api_version == API_VERSION


@pytest.mark.parametrize(
    ("form", "complaint"),
    [
        ({"email": "a@b.example", "e_mail": "x"}, "[e_mail] is no parameter"),
        ({"idempotency_key": "k"}, "[idempotency_key] is no parameter"),
        ({"invoice_settings[nope]": "x"}, "[invoice_settings][nope] is no parameter"),
        ({"balance": "much"}, "[balance]: 'much' is not <class 'int'>"),
        ({"preferred_locales": "en"}, "[preferred_locales]: 'en' is not"),
        ({"tax_exempt[x]": "exempt"}, "[tax_exempt]: {'x': 'exempt'} is not"),
    ],
)
def test_the_check_of_parameters_finds_what_is_wrong(form: dict[str, str], complaint: str) -> None:
    assert complaint in "\n".join(violations(form, params.CustomerCreateParams))


def test_the_check_of_parameters_finds_what_is_missing() -> None:
    assert "[currency] is missing" in violations({"product": "prod_1"}, params.PriceCreateParams)


async def test_a_snapshot_carries_stripes_clock() -> None:
    async with ScriptedStripe(Reply(body=SUBSCRIPTION)).provider() as provider:
        snapshot = await provider.retrieve_subscription("sub_1Qabc")
    assert snapshot.at == ASKED_AT
    assert snapshot.object == map_subscription(SUBSCRIPTION)


async def test_a_promotion_code_is_looked_up_and_applied() -> None:
    found = {"object": "list", "data": [{"id": "promo_1Qabc"}], "has_more": False, "url": "/v1/promotion_codes"}
    stripe = ScriptedStripe(Reply(body=found), Reply(body=SESSION))
    async with stripe.provider() as provider:
        await provider.create_subscription_session(**{**CHECKOUT, "promotion_code": "SPRING"})
    lookup, create = stripe.requests
    assert (lookup.path, lookup.form) == (
        "/v1/promotion_codes",
        {"code": "SPRING", "active": "true", "limit": "1"},
    )
    assert violations(lookup.form, params.PromotionCodeListParams) == []
    assert create.form["discounts[0][promotion_code]"] == "promo_1Qabc"
    assert "allow_promotion_codes" not in create.form
    assert violations(create.form, checkout.SessionCreateParams) == []


async def test_an_unknown_promotion_code_opens_no_session() -> None:
    stripe = ScriptedStripe(Reply(body={"object": "list", "data": [], "has_more": False, "url": "/v1/promotion_codes"}))
    async with stripe.provider() as provider:
        with pytest.raises(InvalidRequestError) as raised:
            await provider.create_subscription_session(**{**CHECKOUT, "promotion_code": "WINTER"})
    assert raised.value.param == "promotion_code"
    assert len(stripe.requests) == 1


async def test_more_lookup_keys_than_one_call_takes_are_asked_in_several() -> None:
    stripe = ScriptedStripe(Reply(body={"object": "list", "data": [PRICE], "has_more": False, "url": "/v1/prices"}))
    async with stripe.provider() as provider:
        prices = await provider.list_prices(lookup_keys=[f"key_{n}" for n in range(23)])
        assert await provider.list_prices(lookup_keys=[]) == []
    assert [len(request.form) - 1 for request in stripe.requests] == [10, 10, 3]
    assert [price.id for price in prices] == ["price_1QabcProMonth"] * 3


async def test_a_product_stripe_does_not_know_is_none() -> None:
    stripe = ScriptedStripe(
        Reply(status=404, body={"error": {"code": "resource_missing", "message": "No such product"}})
    )
    async with stripe.provider() as provider:
        assert await provider.retrieve_product("billhook_gone") is None


async def test_a_subscription_of_many_items_is_read_whole() -> None:
    items = SUBSCRIPTION["items"]
    cut = SUBSCRIPTION | {"items": items | {"data": items["data"][:1], "has_more": True}}
    stripe = ScriptedStripe(Reply(body=cut), Reply(body=items))
    async with stripe.provider() as provider:
        snapshot = await provider.retrieve_subscription("sub_1QabcSub")
    assert [item.id for item in snapshot.object.items] == ["si_QabcMonth", "si_QabcYear"]
    assert stripe.requests[1].path == "/v1/subscription_items"
    assert stripe.requests[1].form["subscription"] == "sub_1QabcSub"
    assert violations(stripe.requests[1].form, params.SubscriptionItemListParams) == []


async def test_a_page_says_where_the_next_one_begins() -> None:
    other = CUSTOMER | {"id": "cus_Qdef"}
    stripe = ScriptedStripe(Reply(body=page_of(CUSTOMER, other, has_more=True)), Reply(body=page_of(CUSTOMER)))
    async with stripe.provider() as provider:
        first = await provider.list_customers(since=None, after=None)
        last = await provider.list_customers(since=None, after=first.next)
    assert ([found.id for found in first.objects], first.next, first.at) == (
        [CUSTOMER["id"], "cus_Qdef"],
        "cus_Qdef",
        ASKED_AT,
    )
    assert last.next is None
    assert stripe.requests[1].form["starting_after"] == "cus_Qdef"


async def test_an_object_that_cannot_be_read_hides_none_of_its_page() -> None:
    strange = CUSTOMER | {"id": "cus_Qstrange", "email": 7}
    async with ScriptedStripe(Reply(body=page_of(strange, CUSTOMER))).provider() as provider:
        page = await provider.list_customers(since=None, after=None)
    assert [found.id for found in page.objects] == [CUSTOMER["id"]]
    assert page.unreadable == ["cus_Qstrange"]


async def test_listed_subscriptions_of_many_items_are_read_whole() -> None:
    items = SUBSCRIPTION["items"]
    cut = SUBSCRIPTION | {"items": items | {"data": items["data"][:1], "has_more": True}}
    stripe = ScriptedStripe(Reply(body=page_of(cut)), Reply(body=items))
    async with stripe.provider() as provider:
        page = await provider.list_subscriptions(since=None, after=None)
    assert [item.id for item in page.objects[0].items] == ["si_QabcMonth", "si_QabcYear"]
    assert violations(stripe.requests[1].form, params.SubscriptionItemListParams) == []


async def test_resuming_also_takes_back_a_cancellation_by_date() -> None:
    dated = SUBSCRIPTION | {"cancel_at": 1769904000}
    stripe = ScriptedStripe(Reply(body=dated), Reply(body=SUBSCRIPTION))
    async with stripe.provider() as provider:
        snapshot = await provider.set_cancel_at_period_end("sub_1Qabc", cancel=False, idempotency_key="k-1")
    assert snapshot.object.cancel_at is None
    assert [request.form for request in stripe.requests] == [{"cancel_at_period_end": "false"}, {"cancel_at": ""}]
    assert [request.headers["idempotency-key"] for request in stripe.requests] == ["k-1", "k-1-at"]
    assert violations(stripe.requests[1].form, params.SubscriptionUpdateParams) == []


async def test_a_portal_page_about_a_subscription_needs_one() -> None:
    stripe = ScriptedStripe(Reply(body=PORTAL))
    async with stripe.provider() as provider:
        with pytest.raises(InvalidRequestError) as raised:
            await provider.create_portal_session(**{**PORTAL_CALL, "flow": "subscription_cancel", "subscription": None})
    assert raised.value.param == "subscription"
    assert stripe.requests == []


@pytest.mark.parametrize(
    "id", ["", ".", "..", "cus_1/../sub_1", "cus_1?expand=x", "cus 1", "cus_\x00", "cüs_1", "\ud800", "c" * 256]
)
async def test_an_id_stripe_cannot_have_made_is_not_found_without_asking(id: str) -> None:
    stripe = ScriptedStripe(Reply(body=CUSTOMER))
    async with stripe.provider() as provider:
        with pytest.raises(NotFoundError):
            await provider.retrieve_customer(id)
    assert stripe.requests == []


@pytest.mark.parametrize(
    ("key", "livemode"), [("sk_test_1", False), ("rk_test_1", False), ("sk_live_1", True), ("rk_live_1", True)]
)
def test_the_key_says_which_world_it_opens(key: str, livemode: bool) -> None:  # noqa: FBT001 - a parameter of the table
    assert StripeProvider(key).livemode is livemode
