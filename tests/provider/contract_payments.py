"""Payments, refunds, disputes and the account's money: what the provider sends."""

from provider.contract import Case, case, page_of
from provider.contract_data import BALANCE, CHARGE, DISPUTE, INTENT, PAYMENT, REFUND, TRANSACTION
from stripe import params

CASES: dict[str, Case] = {
    "create_payment_intent": case(
        lambda p: p.create_payment_intent(**PAYMENT),
        INTENT,
        "POST /v1/payment_intents",
        {
            "amount": "6500",
            "currency": "usd",
            "capture_method": "automatic_async",
            "customer": "cus_Qabc",
            "metadata[order]": "7",
        },
        params.PaymentIntentCreateParams,
    ),
    "create_payment_intent, held and collected at once": case(
        lambda p: p.create_payment_intent(
            **{**PAYMENT, "customer": None, "metadata": {}},
            capture_method="manual",
            payment_method="pm_1Qabc",
            confirm=True,
            return_url="https://shop.example/back",
            setup_future_usage="off_session",
            receipt_email="a@b.example",
            description="Order 7",
        ),
        INTENT,
        "POST /v1/payment_intents",
        {
            "amount": "6500",
            "currency": "usd",
            "capture_method": "manual",
            "payment_method": "pm_1Qabc",
            "confirm": "true",
            "return_url": "https://shop.example/back",
            "setup_future_usage": "off_session",
            "receipt_email": "a@b.example",
            "description": "Order 7",
        },
        params.PaymentIntentCreateParams,
    ),
    "create_payment_intent, without the customer": case(
        lambda p: p.create_payment_intent(
            **{**PAYMENT, "metadata": {}}, payment_method="pm_1Qabc", confirm=True, off_session=True
        ),
        INTENT,
        "POST /v1/payment_intents",
        {
            "amount": "6500",
            "currency": "usd",
            "capture_method": "automatic_async",
            "customer": "cus_Qabc",
            "payment_method": "pm_1Qabc",
            "confirm": "true",
            "off_session": "true",
        },
        params.PaymentIntentCreateParams,
    ),
    "confirm_payment_intent": case(
        lambda p: p.confirm_payment_intent(
            "pi_3Qabc", payment_method="pm_1Qabc", return_url="https://shop.example/back", idempotency_key="k-1"
        ),
        INTENT,
        "POST /v1/payment_intents/pi_3Qabc/confirm",
        {"payment_method": "pm_1Qabc", "return_url": "https://shop.example/back"},
        params.PaymentIntentConfirmParams,
    ),
    "confirm_payment_intent, without the customer": case(
        lambda p: p.confirm_payment_intent("pi_3Qabc", off_session=True, idempotency_key="k-1"),
        INTENT,
        "POST /v1/payment_intents/pi_3Qabc/confirm",
        {"off_session": "true"},
        params.PaymentIntentConfirmParams,
    ),
    "capture_payment_intent": case(
        lambda p: p.capture_payment_intent("pi_3Qabc", amount=5000, idempotency_key="k-1"),
        INTENT,
        "POST /v1/payment_intents/pi_3Qabc/capture",
        {"amount_to_capture": "5000"},
        params.PaymentIntentCaptureParams,
    ),
    "cancel_payment_intent": case(
        lambda p: p.cancel_payment_intent("pi_3Qabc", reason="duplicate", idempotency_key="k-1"),
        INTENT,
        "POST /v1/payment_intents/pi_3Qabc/cancel",
        {"cancellation_reason": "duplicate"},
        params.PaymentIntentCancelParams,
    ),
    "retrieve_payment_intent": case(
        lambda p: p.retrieve_payment_intent("pi_3Qabc"),
        INTENT,
        "GET /v1/payment_intents/pi_3Qabc",
        {},
        params.PaymentIntentRetrieveParams,
    ),
    "list_payment_intents": case(
        lambda p: p.list_payment_intents(since=1767225600, after="pi_3Qabc"),
        page_of(INTENT),
        "GET /v1/payment_intents",
        {"limit": "100", "created[gte]": "1767225600", "starting_after": "pi_3Qabc"},
        params.PaymentIntentListParams,
    ),
    "retrieve_charge": case(
        lambda p: p.retrieve_charge("ch_3Qabc"),
        CHARGE,
        "GET /v1/charges/ch_3Qabc",
        {},
        params.ChargeRetrieveParams,
    ),
    "list_charges": case(
        lambda p: p.list_charges(since=None, after=None),
        page_of(CHARGE),
        "GET /v1/charges",
        {"limit": "100"},
        params.ChargeListParams,
    ),
    "create_refund": case(
        lambda p: p.create_refund(
            payment_intent="pi_3Qabc", amount=500, reason="requested_by_customer", idempotency_key="k-1"
        ),
        REFUND,
        "POST /v1/refunds",
        {"payment_intent": "pi_3Qabc", "amount": "500", "reason": "requested_by_customer"},
        params.RefundCreateParams,
    ),
    "create_refund, of a charge in full": case(
        lambda p: p.create_refund(charge="ch_3Qabc", metadata={"why": "sub_Sample"}, idempotency_key="k-1"),
        REFUND,
        "POST /v1/refunds",
        {"charge": "ch_3Qabc", "metadata[why]": "sub_Sample"},
        params.RefundCreateParams,
    ),
    "retrieve_refund": case(
        lambda p: p.retrieve_refund("re_3Qabc"),
        REFUND,
        "GET /v1/refunds/re_3Qabc",
        {},
        params.RefundRetrieveParams,
    ),
    "list_refunds": case(
        lambda p: p.list_refunds(since=1767225600, after=None),
        page_of(REFUND),
        "GET /v1/refunds",
        {"limit": "100", "created[gte]": "1767225600"},
        params.RefundListParams,
    ),
    "retrieve_dispute": case(
        lambda p: p.retrieve_dispute("du_1Qabc"),
        DISPUTE,
        "GET /v1/disputes/du_1Qabc",
        {},
        params.DisputeRetrieveParams,
    ),
    "list_disputes": case(
        lambda p: p.list_disputes(since=None, after="du_1Qabc"),
        page_of(DISPUTE),
        "GET /v1/disputes",
        {"limit": "100", "starting_after": "du_1Qabc"},
        params.DisputeListParams,
    ),
    "retrieve_balance": case(
        lambda p: p.retrieve_balance(),
        BALANCE,
        "GET /v1/balance",
        {},
        params.BalanceRetrieveParams,
    ),
    "list_balance_transactions": case(
        lambda p: p.list_balance_transactions(limit=20, currency="usd", source="ch_3Qabc", after="txn_3Qabc"),
        page_of(TRANSACTION),
        "GET /v1/balance_transactions",
        {"limit": "20", "currency": "usd", "source": "ch_3Qabc", "starting_after": "txn_3Qabc"},
        params.BalanceTransactionListParams,
    ),
    "list_charges, a customer's": case(
        lambda p: p.list_charges(customer="cus_Sample"),
        page_of(CHARGE),
        "GET /v1/charges",
        {"limit": "100", "customer": "cus_Sample"},
        params.ChargeListParams,
    ),
    "list_payment_intents, a customer's": case(
        lambda p: p.list_payment_intents(customer="cus_Sample"),
        page_of(INTENT),
        "GET /v1/payment_intents",
        {"limit": "100", "customer": "cus_Sample"},
        params.PaymentIntentListParams,
    ),
}
