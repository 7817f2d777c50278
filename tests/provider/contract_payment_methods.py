"""Payment methods and setup intents: what the provider sends."""

from provider.contract import Case, case, page_of
from provider.contract_data import CARD, SETUP_INTENT, SUBSCRIPTION
from stripe import params

CASES: dict[str, Case] = {
    "attach_payment_method": case(
        lambda p: p.attach_payment_method("pm_1Qabc", customer="cus_Qabc", idempotency_key="k-1"),
        CARD,
        "POST /v1/payment_methods/pm_1Qabc/attach",
        {"customer": "cus_Qabc"},
        params.PaymentMethodAttachParams,
    ),
    "detach_payment_method": case(
        lambda p: p.detach_payment_method("pm_1Qabc", idempotency_key="k-1"),
        CARD | {"customer": None},
        "POST /v1/payment_methods/pm_1Qabc/detach",
        {},
        params.PaymentMethodDetachParams,
    ),
    "set_subscription_payment_method": case(
        lambda p: p.set_subscription_payment_method("sub_1Qabc", payment_method="pm_1Qabc", idempotency_key="k-1"),
        SUBSCRIPTION,
        "POST /v1/subscriptions/sub_1Qabc",
        {"default_payment_method": "pm_1Qabc"},
        params.SubscriptionUpdateParams,
    ),
    "create_setup_intent": case(
        lambda p: p.create_setup_intent(customer="cus_Qabc", idempotency_key="k-1"),
        SETUP_INTENT,
        "POST /v1/setup_intents",
        {"customer": "cus_Qabc", "usage": "off_session"},
        params.SetupIntentCreateParams,
    ),
    "retrieve_setup_intent": case(
        lambda p: p.retrieve_setup_intent("seti_1Qabc"),
        SETUP_INTENT,
        "GET /v1/setup_intents/seti_1Qabc",
        {},
        params.SetupIntentRetrieveParams,
    ),
    "cancel_setup_intent": case(
        lambda p: p.cancel_setup_intent("seti_1Qabc", idempotency_key="k-1"),
        SETUP_INTENT,
        "POST /v1/setup_intents/seti_1Qabc/cancel",
        {},
        params.SetupIntentCancelParams,
    ),
    "retrieve_payment_method": case(
        lambda p: p.retrieve_payment_method("pm_1Qabc"),
        CARD,
        "GET /v1/payment_methods/pm_1Qabc",
        {},
        params.PaymentMethodRetrieveParams,
    ),
    "list_payment_methods": case(
        lambda p: p.list_payment_methods("cus_Qabc", after="pm_1Qabc"),
        page_of(CARD),
        "GET /v1/customers/cus_Qabc/payment_methods",
        {"limit": "100", "starting_after": "pm_1Qabc"},
        params.CustomerPaymentMethodListParams,
    ),
}
