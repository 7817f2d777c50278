"""The life of subscriptions and their schedules: what the provider sends."""

from typing import Any

from provider.contract import Case, Sent, case, page_of
from stripe import params

from app.provider.samples import shown
from app.provider.subscription_objects import ItemWish

SUBSCRIPTION, SCHEDULE, INVOICE = (shown(kind) for kind in ("subscription", "subscription_schedule", "invoice"))
AT = "/v1/subscriptions/sub_Sample"
SCHEDULES = "/v1/subscription_schedules"
PAID = {"payment": {"type": "payment_intent", "payment_intent": "pi_Sample"}}
CHANGE: dict[str, Any] = {
    "items": [ItemWish(price="price_Sample", quantity=2, id="si_Sample"), ItemWish(price="price_Other")],
    "proration_behavior": "always_invoice",
    "proration_date": 1767225600,
    "discounts": [{"coupon": "spring"}, {"discount": "di_Sample"}],
}
DISCOUNTS = {"discounts[0][coupon]": "spring", "discounts[1][discount]": "di_Sample"}
ITEMS = {"[0][id]": "si_Sample", "[0][price]": "price_Sample", "[0][quantity]": "2", "[1][price]": "price_Other"}
RUNNING = SCHEDULE["phases"][0]

CASES: dict[str, Case] = {
    "create_subscription": case(
        lambda p: p.create_subscription(
            customer="cus_Sample",
            items=[ItemWish(price="price_Sample", quantity=2), ItemWish(price="price_Other")],
            trial_period_days=14,
            discounts=[{"promotion_code": "promo_Sample"}],
            metadata={"user_id": "1"},
            collection_method="send_invoice",
            days_until_due=7,
            payment_behavior="default_incomplete",
            default_payment_method="pm_Sample",
            idempotency_key="k-1",
        ),
        SUBSCRIPTION,
        "POST /v1/subscriptions",
        {
            "customer": "cus_Sample",
            "items[0][price]": "price_Sample",
            "items[0][quantity]": "2",
            "items[1][price]": "price_Other",
            "trial_period_days": "14",
            "discounts[0][promotion_code]": "promo_Sample",
            "metadata[user_id]": "1",
            "collection_method": "send_invoice",
            "days_until_due": "7",
            "payment_behavior": "default_incomplete",
            "default_payment_method": "pm_Sample",
        },
        params.SubscriptionCreateParams,
    ),
    "update_subscription": case(
        lambda p: p.update_subscription(
            "sub_Sample", metadata={"a": "1", "b": None}, default_payment_method="pm_Sample", idempotency_key="k-1"
        ),
        SUBSCRIPTION,
        f"POST {AT}",
        {"metadata[a]": "1", "metadata[b]": "", "default_payment_method": "pm_Sample"},
        params.SubscriptionUpdateParams,
    ),
    "preview_change": case(
        lambda p: p.preview_change("sub_Sample", **CHANGE),
        INVOICE,
        "POST /v1/invoices/create_preview",
        {
            "subscription": "sub_Sample",
            "subscription_details[proration_behavior]": "always_invoice",
            "subscription_details[proration_date]": "1767225600",
            **{f"subscription_details[items]{name}": value for name, value in ITEMS.items()},
            **DISCOUNTS,
        },
        params.InvoiceCreatePreviewParams,
    ),
    "change_subscription": case(
        lambda p: p.change_subscription(
            "sub_Sample", **CHANGE, payment_behavior="pending_if_incomplete", idempotency_key="k-1"
        ),
        SUBSCRIPTION,
        f"POST {AT}",
        {
            "proration_behavior": "always_invoice",
            "proration_date": "1767225600",
            "payment_behavior": "pending_if_incomplete",
            **{f"items{name}": value for name, value in ITEMS.items()},
            **DISCOUNTS,
        },
        params.SubscriptionUpdateParams,
    ),
    "find_promotion_code": case(
        lambda p: p.find_promotion_code("SPRING"),
        page_of({"id": "promo_Sample"}),
        "GET /v1/promotion_codes",
        {"code": "SPRING", "active": "true", "limit": "1"},
        params.PromotionCodeListParams,
    ),
    "retrieve_confirmation_secret": case(
        lambda p: p.retrieve_confirmation_secret("in_Sample"),
        {**INVOICE, "confirmation_secret": {"client_secret": "pi_Sample_secret_x", "type": "payment_intent"}},
        "GET /v1/invoices/in_Sample",
        {"expand[0]": "confirmation_secret"},
        params.InvoiceRetrieveParams,
    ),
    "preview_cancellation": case(
        lambda p: p.preview_cancellation("sub_Sample"),
        INVOICE,
        "POST /v1/invoices/create_preview",
        {
            "subscription": "sub_Sample",
            "subscription_details[cancel_now]": "true",
            "subscription_details[proration_behavior]": "always_invoice",
        },
        params.InvoiceCreatePreviewParams,
    ),
    "retrieve_paying_intent": case(
        lambda p: p.retrieve_paying_intent("in_Sample"),
        page_of(PAID),
        "GET /v1/invoice_payments",
        {"invoice": "in_Sample", "status": "paid", "limit": "1"},
        params.InvoicePaymentListParams,
    ),
    "pause_subscription": case(
        lambda p: p.pause_subscription("sub_Sample", idempotency_key="k-1"),
        SUBSCRIPTION,
        f"POST {AT}/pause",
        {"type": "subscription"},
        params.SubscriptionPauseParams,
    ),
    "resume_subscription": case(
        lambda p: p.resume_subscription("sub_Sample", idempotency_key="k-1"),
        SUBSCRIPTION,
        f"POST {AT}/resume",
        {},
        params.SubscriptionResumeParams,
    ),
    "set_pause_collection": case(
        lambda p: p.set_pause_collection("sub_Sample", behavior="void", resumes_at=1767225600, idempotency_key="k-1"),
        SUBSCRIPTION,
        f"POST {AT}",
        {"pause_collection[behavior]": "void", "pause_collection[resumes_at]": "1767225600"},
        params.SubscriptionUpdateParams,
    ),
    "set_pause_collection, ended": case(
        lambda p: p.set_pause_collection("sub_Sample", behavior=None, idempotency_key="k-1"),
        SUBSCRIPTION,
        f"POST {AT}",
        {"pause_collection": ""},
        params.SubscriptionUpdateParams,
    ),
    "retrieve_subscription_schedule": case(
        lambda p: p.retrieve_subscription_schedule("sub_sched_Sample"),
        SCHEDULE,
        f"GET {SCHEDULES}/sub_sched_Sample",
        {},
        params.SubscriptionScheduleRetrieveParams,
    ),
    "list_subscription_schedules": case(
        lambda p: p.list_subscription_schedules(since=1767225600, after="sub_sched_Sample"),
        page_of(SCHEDULE),
        f"GET {SCHEDULES}",
        {"created[gte]": "1767225600", "limit": "100", "starting_after": "sub_sched_Sample"},
        params.SubscriptionScheduleListParams,
    ),
    "schedule_change": Case(
        lambda p: p.schedule_change(
            "sub_Sample", items=[ItemWish(price="price_Other", quantity=3)], idempotency_key="k-1"
        ),
        (SCHEDULE, SCHEDULE),
        (
            Sent(f"POST {SCHEDULES}", {"from_subscription": "sub_Sample"}, params.SubscriptionScheduleCreateParams),
            Sent(
                f"POST {SCHEDULES}/sub_sched_Sample",
                {
                    "end_behavior": "release",
                    "phases[0][items][0][price]": "price_Sample",
                    "phases[0][items][0][quantity]": "1",
                    "phases[0][start_date]": str(RUNNING["start_date"]),
                    "phases[0][end_date]": str(RUNNING["end_date"]),
                    "phases[1][items][0][price]": "price_Other",
                    "phases[1][items][0][quantity]": "3",
                    "phases[1][duration][interval]": "day",
                    "phases[1][duration][interval_count]": "1",
                    "phases[1][proration_behavior]": "none",
                },
                params.SubscriptionScheduleUpdateParams,
            ),
        ),
    ),
    "release_subscription_schedule": case(
        lambda p: p.release_subscription_schedule("sub_sched_Sample", idempotency_key="k-1"),
        SCHEDULE,
        f"POST {SCHEDULES}/sub_sched_Sample/release",
        {},
        params.SubscriptionScheduleReleaseParams,
    ),
    "retrieve_subscription": case(
        lambda p: p.retrieve_subscription("sub_1Qabc"),
        SUBSCRIPTION,
        "GET /v1/subscriptions/sub_1Qabc",
        {},
        params.SubscriptionRetrieveParams,
    ),
    "set_cancel_at_period_end": case(
        lambda p: p.set_cancel_at_period_end("sub_1Qabc", cancel=True, reason="Too dear", idempotency_key="k-1"),
        SUBSCRIPTION,
        "POST /v1/subscriptions/sub_1Qabc",
        {"cancel_at_period_end": "true", "cancellation_details[comment]": "Too dear"},
        params.SubscriptionUpdateParams,
    ),
    "set_cancel_at_period_end, back": case(
        lambda p: p.set_cancel_at_period_end("sub_1Qabc", cancel=False, idempotency_key="k-1"),
        SUBSCRIPTION,
        "POST /v1/subscriptions/sub_1Qabc",
        {"cancel_at_period_end": "false"},
        params.SubscriptionUpdateParams,
    ),
    "cancel_subscription": case(
        lambda p: p.cancel_subscription("sub_1Qabc", reason="Too dear", idempotency_key="k-1"),
        SUBSCRIPTION,
        "DELETE /v1/subscriptions/sub_1Qabc",
        {"cancellation_details[comment]": "Too dear"},
        params.SubscriptionCancelParams,
    ),
    "list_subscriptions": case(
        lambda p: p.list_subscriptions(since=1767225600, after="sub_1Qabc"),
        page_of(SUBSCRIPTION),
        "GET /v1/subscriptions",
        {"limit": "100", "status": "all", "created[gte]": "1767225600", "starting_after": "sub_1Qabc"},
        params.SubscriptionListParams,
    ),
    "list_subscriptions, a customer's": case(
        lambda p: p.list_subscriptions(customer="cus_Sample"),
        page_of(SUBSCRIPTION),
        "GET /v1/subscriptions",
        {"limit": "100", "status": "all", "customer": "cus_Sample"},
        params.SubscriptionListParams,
    ),
}
