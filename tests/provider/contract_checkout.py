"""Checkout and the portal: what the provider sends."""

from provider.contract import Case, case
from provider.contract_data import CHECKOUT, PACK_CHECKOUT, PORTAL, PORTAL_CALL, SESSION
from stripe.params import billing_portal, checkout

CASES: dict[str, Case] = {
    "create_subscription_session": case(
        lambda p: p.create_subscription_session(**CHECKOUT),
        SESSION,
        "POST /v1/checkout/sessions",
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
    "create_subscription_session, the least": case(
        lambda p: p.create_subscription_session(
            **{**CHECKOUT, "client_reference_id": None, "trial_period_days": None, "metadata": {}, "quantity": 1}
        ),
        SESSION,
        "POST /v1/checkout/sessions",
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
    "create_payment_session": case(
        lambda p: p.create_payment_session(**PACK_CHECKOUT),
        SESSION,
        "POST /v1/checkout/sessions",
        {
            "mode": "payment",
            "customer": "cus_Qabc",
            "line_items[0][price]": "price_1Qabc",
            "line_items[0][quantity]": "1",
            "success_url": "https://shop.example/done",
            "cancel_url": "https://shop.example/no",
            "client_reference_id": "demo-1",
            "metadata[order]": "7",
            "payment_intent_data[metadata][order]": "7",
            "payment_intent_data[description]": "Starter",
            "payment_intent_data[setup_future_usage]": "off_session",
        },
        checkout.SessionCreateParams,
    ),
    "create_payment_session, the least": case(
        lambda p: p.create_payment_session(
            **{
                **PACK_CHECKOUT,
                "cancel_url": None,
                "client_reference_id": None,
                "description": None,
                "setup_future_usage": None,
                "metadata": {},
            }
        ),
        SESSION,
        "POST /v1/checkout/sessions",
        {
            "mode": "payment",
            "customer": "cus_Qabc",
            "line_items[0][price]": "price_1Qabc",
            "line_items[0][quantity]": "1",
            "success_url": "https://shop.example/done",
        },
        checkout.SessionCreateParams,
    ),
    "retrieve_checkout_session": case(
        lambda p: p.retrieve_checkout_session("cs_test_Qabc"),
        SESSION,
        "GET /v1/checkout/sessions/cs_test_Qabc",
        {},
        checkout.SessionRetrieveParams,
    ),
    "expire_checkout_session": case(
        lambda p: p.expire_checkout_session("cs_test_Qabc"),
        SESSION,
        "POST /v1/checkout/sessions/cs_test_Qabc/expire",
        {},
        checkout.SessionExpireParams,
    ),
    "create_portal_session": case(
        lambda p: p.create_portal_session(**PORTAL_CALL),
        PORTAL,
        "POST /v1/billing_portal/sessions",
        {"customer": "cus_Qabc", "return_url": "https://shop.example/"},
        billing_portal.SessionCreateParams,
    ),
    "create_portal_session, new card": case(
        lambda p: p.create_portal_session(**{**PORTAL_CALL, "flow": "payment_method_update", "subscription": None}),
        PORTAL,
        "POST /v1/billing_portal/sessions",
        {"customer": "cus_Qabc", "return_url": "https://shop.example/", "flow_data[type]": "payment_method_update"},
        billing_portal.SessionCreateParams,
    ),
    "create_portal_session, cancel": case(
        lambda p: p.create_portal_session(**{**PORTAL_CALL, "flow": "subscription_cancel"}),
        PORTAL,
        "POST /v1/billing_portal/sessions",
        {
            "customer": "cus_Qabc",
            "return_url": "https://shop.example/",
            "flow_data[type]": "subscription_cancel",
            "flow_data[subscription_cancel][subscription]": "sub_1Qabc",
        },
        billing_portal.SessionCreateParams,
    ),
    "create_portal_session, change": case(
        lambda p: p.create_portal_session(**{**PORTAL_CALL, "flow": "subscription_update"}),
        PORTAL,
        "POST /v1/billing_portal/sessions",
        {
            "customer": "cus_Qabc",
            "return_url": "https://shop.example/",
            "flow_data[type]": "subscription_update",
            "flow_data[subscription_update][subscription]": "sub_1Qabc",
        },
        billing_portal.SessionCreateParams,
    ),
}
