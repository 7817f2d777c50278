"""Every request the provider can send, held to the SDK's parameter types."""

import pytest
from provider import (
    contract_catalog,
    contract_checkout,
    contract_customers,
    contract_events,
    contract_invoices,
    contract_payment_methods,
    contract_payments,
    contract_subscriptions,
    contract_usage,
)
from provider.contract import page_of
from provider.contract_data import CHECKOUT, CUSTOMER, METER, PORTAL, PORTAL_CALL, PRICE, SESSION, SUBSCRIPTION
from provider.params_check import violations
from provider.scripted_stripe import ASKED_AT, Reply, ScriptedStripe
from stripe import api_version, params
from stripe.params import checkout

from app.errors import InvalidRequestError, NotFoundError
from app.provider.mapping.subscriptions import map_subscription
from app.provider.stripe import StripeProvider
from app.provider.stripe_client import API_VERSION

CASES = {
    **contract_catalog.CASES,
    **contract_checkout.CASES,
    **contract_customers.CASES,
    **contract_events.CASES,
    **contract_invoices.CASES,
    **contract_payment_methods.CASES,
    **contract_payments.CASES,
    **contract_subscriptions.CASES,
    **contract_usage.CASES,
}


@pytest.mark.parametrize("name", CASES)
async def test_requests_are_as_stripe_defines_them(name: str) -> None:
    case = CASES[name]
    stripe = ScriptedStripe(*(Reply(body=answer) for answer in case.answers))
    async with stripe.provider() as provider:
        await case.call(provider)
    assert [(f"{request.verb} {request.path}", request.form) for request in stripe.requests] == [
        (sent.operation, sent.form) for sent in case.sent
    ]
    for request, sent in zip(stripe.requests, case.sent, strict=True):
        assert violations(request.form, sent.params) == []
        assert request.headers["authorization"] == "Bearer sk_test_Qabc"
        assert request.headers["stripe-version"] == API_VERSION
        assert ("idempotency-key" in request.headers) == (request.verb != "GET")
        assert "x-stripe-client-telemetry" not in request.headers


def test_every_operation_has_its_case() -> None:
    operations = {name for name in dir(StripeProvider) if not name.startswith("_")} - {"livemode"}
    no_request = {"warm", "aclose", "verify_signature", "construct_event", "parse_envelope", "parse_event"}
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
        prices = await provider.find_prices([f"key_{n}" for n in range(23)])
        assert await provider.find_prices([]) == []
    assert [len(request.form) - 1 for request in stripe.requests] == [10, 10, 3]
    assert [price.object.id for price in prices] == ["price_1QabcProMonth"] * 3


async def test_meters_are_listed_to_the_last_page() -> None:
    stripe = ScriptedStripe(Reply(body=page_of(METER, has_more=True)), Reply(body=page_of(METER | {"id": "mtr_2"})))
    async with stripe.provider() as provider:
        assert [meter.id for meter in await provider.list_meters()] == ["mtr_1Qabc", "mtr_2"]
    assert [request.form.get("starting_after") for request in stripe.requests] == [None, "mtr_1Qabc"]


async def test_a_meter_that_somebody_else_woke_is_awake() -> None:
    awake = {"error": {"type": "invalid_request_error", "message": "This meter is already active."}}
    stripe = ScriptedStripe(Reply(status=400, body=awake), Reply(body=METER))
    async with stripe.provider() as provider:
        assert (await provider.reactivate_meter("mtr_1Qabc")).status == "active"


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
