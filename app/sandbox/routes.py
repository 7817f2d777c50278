"""The API's table: method and path, what answers, its SDK parameter class, and the parameters it acts on."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stripe._v1_services import _subservices

from app.sandbox.resources import (
    billing_portal,
    checkout_sessions,
    customers,
    events,
    invoice_payments,
    invoices,
    payment_intents,
    payment_methods,
    prices,
    products,
    promotion_codes,
    refunds,
    setup_intents,
    subscription_items,
    subscriptions,
    webhook_endpoints,
)

Handler = Callable[..., dict[str, Any]]

_STRIPE_S = frozenset(_subservices)  # the SDK's own list of the resources under /v1

_PRICE_DATA = "price_data.currency price_data.product price_data.product_data price_data.recurring \
price_data.unit_amount price_data.unit_amount_decimal price_data.tax_behavior"


@dataclass(frozen=True)
class Route:
    """One operation. ``acts_on`` are dotted parameter paths; expand, paging and metadata need no mention."""

    method: str
    path: str
    handler: Handler
    params: str
    acts_on: frozenset[str]
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path)
        object.__setattr__(self, "pattern", re.compile(pattern))


def _route(verb_and_path: str, handler: Handler, params: str, acts_on: str = "") -> Route:
    method, path = verb_and_path.split()
    return Route(method, path, handler, params, frozenset(acts_on.split()))


def _under(prefix: str, names: str) -> str:
    return " ".join(f"{prefix}.{name}" for name in names.split())


_CONTACT = "address description email invoice_prefix invoice_settings.default_payment_method \
invoice_settings.footer name next_invoice_sequence phone preferred_locales shipping tax_exempt balance"
_PRODUCT = "active description images marketing_features name shippable statement_descriptor unit_label url"
_ITEM = f"price quantity metadata {_PRICE_DATA}"
_SUBSCRIPTION = "automatic_tax.enabled cancel_at cancel_at_period_end collection_method days_until_due \
default_payment_method description invoice_settings.description invoice_settings.footer off_session payment_behavior \
payment_settings.save_default_payment_method proration_behavior trial_end trial_settings"
_CHANGE = "proration_behavior proration_date payment_behavior off_session"
_SESSION = f"""
allow_promotion_codes automatic_tax.enabled billing_address_collection cancel_url client_reference_id
consent_collection currency custom_text customer customer_creation customer_email customer_update expires_at locale
mode payment_method_collection phone_number_collection submit_type success_url tax_id_collection ui_mode
{_under("line_items", f"adjustable_quantity {_ITEM}")}
{_under("subscription_data", "description invoice_settings metadata trial_end trial_period_days trial_settings")}
{
    _under(
        "payment_intent_data",
        "description metadata receipt_email setup_future_usage statement_descriptor statement_descriptor_suffix",
    )
}
{_under("setup_intent_data", "description metadata")}
"""

ROUTES = (
    _route("POST /v1/customers", customers.create, "CustomerCreateParams", f"{_CONTACT} payment_method"),
    _route("GET /v1/customers", customers.list_, "CustomerListParams", "created email"),
    _route("GET /v1/customers/{customer}", customers.retrieve, "CustomerRetrieveParams"),
    _route("POST /v1/customers/{customer}", customers.update, "CustomerUpdateParams", _CONTACT),
    _route("DELETE /v1/customers/{customer}", customers.delete, "CustomerDeleteParams"),
    _route(
        "GET /v1/customers/{customer}/payment_methods",
        payment_methods.list_of_customer,
        "CustomerPaymentMethodListParams",
        "type allow_redisplay",
    ),
    _route(
        "GET /v1/customers/{customer}/payment_methods/{payment_method}",
        payment_methods.retrieve_of_customer,
        "CustomerPaymentMethodRetrieveParams",
    ),
    _route(
        "POST /v1/products",
        products.create,
        "ProductCreateParams",
        f"{_PRODUCT} id type default_price_data.currency default_price_data.recurring default_price_data.metadata "
        "default_price_data.unit_amount default_price_data.unit_amount_decimal default_price_data.tax_behavior",
    ),
    _route("GET /v1/promotion_codes", promotion_codes.list_, "PromotionCodeListParams", "active code"),
    _route("GET /v1/products", products.list_, "ProductListParams", "active created ids shippable type url"),
    _route("GET /v1/products/{product}", products.retrieve, "ProductRetrieveParams"),
    _route("POST /v1/products/{product}", products.update, "ProductUpdateParams", f"{_PRODUCT} default_price"),
    _route("DELETE /v1/products/{product}", products.delete, "ProductDeleteParams"),
    _route(
        "POST /v1/prices",
        prices.create,
        "PriceCreateParams",
        "active currency lookup_key nickname product product_data recurring.interval recurring.interval_count "
        "recurring.usage_type tax_behavior transfer_lookup_key unit_amount unit_amount_decimal",
    ),
    _route(
        "GET /v1/prices",
        prices.list_,
        "PriceListParams",
        "active created currency lookup_keys product recurring type",
    ),
    _route("GET /v1/prices/{price}", prices.retrieve, "PriceRetrieveParams"),
    _route(
        "POST /v1/prices/{price}",
        prices.update,
        "PriceUpdateParams",
        "active lookup_key nickname tax_behavior transfer_lookup_key",
    ),
    _route(
        "POST /v1/payment_methods",
        payment_methods.create,
        "PaymentMethodCreateParams",
        "allow_redisplay billing_details card type",
    ),
    _route(
        "GET /v1/payment_methods",
        payment_methods.list_,
        "PaymentMethodListParams",
        "allow_redisplay customer type",
    ),
    _route("GET /v1/payment_methods/{payment_method}", payment_methods.retrieve, "PaymentMethodRetrieveParams"),
    _route(
        "POST /v1/payment_methods/{payment_method}",
        payment_methods.update,
        "PaymentMethodUpdateParams",
        "allow_redisplay billing_details card.exp_month card.exp_year",
    ),
    _route(
        "POST /v1/payment_methods/{payment_method}/attach",
        payment_methods.attach,
        "PaymentMethodAttachParams",
        "customer",
    ),
    _route("POST /v1/payment_methods/{payment_method}/detach", payment_methods.detach, "PaymentMethodDetachParams"),
    _route(
        "POST /v1/setup_intents",
        setup_intents.create,
        "SetupIntentCreateParams",
        "automatic_payment_methods confirm customer description payment_method return_url usage",
    ),
    _route("GET /v1/setup_intents", setup_intents.list_, "SetupIntentListParams", "created customer payment_method"),
    _route("GET /v1/setup_intents/{setup_intent}", setup_intents.retrieve, "SetupIntentRetrieveParams"),
    _route(
        "POST /v1/setup_intents/{setup_intent}",
        setup_intents.update,
        "SetupIntentUpdateParams",
        "customer description payment_method",
    ),
    _route(
        "POST /v1/setup_intents/{setup_intent}/confirm",
        setup_intents.confirm,
        "SetupIntentConfirmParams",
        "payment_method return_url",
    ),
    _route(
        "POST /v1/setup_intents/{setup_intent}/cancel",
        setup_intents.cancel,
        "SetupIntentCancelParams",
        "cancellation_reason",
    ),
    _route("GET /v1/payment_intents", payment_intents.list_, "PaymentIntentListParams", "created customer"),
    _route("GET /v1/payment_intents/{payment_intent}", payment_intents.retrieve, "PaymentIntentRetrieveParams"),
    _route("GET /v1/charges", payment_intents.list_charges, "ChargeListParams", "created customer payment_intent"),
    _route("GET /v1/charges/{charge}", payment_intents.retrieve_charge, "ChargeRetrieveParams"),
    _route("POST /v1/refunds", refunds.create, "RefundCreateParams", "amount charge payment_intent reason"),
    _route("GET /v1/refunds", refunds.list_, "RefundListParams", "charge created payment_intent"),
    _route("GET /v1/refunds/{refund}", refunds.retrieve, "RefundRetrieveParams"),
    _route("POST /v1/refunds/{refund}", refunds.update, "RefundUpdateParams"),
    _route("POST /v1/checkout/sessions", checkout_sessions.create, "checkout.SessionCreateParams", _SESSION),
    _route(
        "GET /v1/checkout/sessions",
        checkout_sessions.list_,
        "checkout.SessionListParams",
        "created customer customer_details payment_intent status subscription",
    ),
    _route("GET /v1/checkout/sessions/{session}", checkout_sessions.retrieve, "checkout.SessionRetrieveParams"),
    _route(
        "POST /v1/checkout/sessions/{session}/expire",
        checkout_sessions.expire,
        "checkout.SessionExpireParams",
    ),
    _route(
        "GET /v1/checkout/sessions/{session}/line_items",
        checkout_sessions.line_items,
        "checkout.SessionLineItemListParams",
    ),
    _route(
        "POST /v1/subscriptions",
        subscriptions.create,
        "SubscriptionCreateParams",
        f"{_SUBSCRIPTION} customer trial_period_days billing_mode.type {_under('items', _ITEM)}",
    ),
    _route(
        "GET /v1/subscriptions",
        subscriptions.list_,
        "SubscriptionListParams",
        "collection_method created current_period_end current_period_start customer price status",
    ),
    _route("GET /v1/subscriptions/{subscription}", subscriptions.retrieve, "SubscriptionRetrieveParams"),
    _route(
        "POST /v1/subscriptions/{subscription}",
        subscriptions.update,
        "SubscriptionUpdateParams",
        f"{_SUBSCRIPTION} {_CHANGE} cancellation_details pause_collection {_under('items', f'{_ITEM} deleted id')}",
    ),
    _route(
        "DELETE /v1/subscriptions/{subscription}",
        subscriptions.cancel,
        "SubscriptionCancelParams",
        "cancellation_details invoice_now prorate",
    ),
    _route(
        "POST /v1/subscriptions/{subscription}/resume",
        subscriptions.resume,
        "SubscriptionResumeParams",
        "billing_cycle_anchor",
    ),
    _route(
        "POST /v1/subscription_items",
        subscription_items.create,
        "SubscriptionItemCreateParams",
        f"{_ITEM} {_CHANGE} subscription",
    ),
    _route(
        "GET /v1/subscription_items",
        subscription_items.list_,
        "SubscriptionItemListParams",
        "subscription",
    ),
    _route("GET /v1/subscription_items/{item}", subscription_items.retrieve, "SubscriptionItemRetrieveParams"),
    _route(
        "POST /v1/subscription_items/{item}",
        subscription_items.update,
        "SubscriptionItemUpdateParams",
        f"{_ITEM} {_CHANGE}",
    ),
    _route(
        "DELETE /v1/subscription_items/{item}",
        subscription_items.delete,
        "SubscriptionItemDeleteParams",
        _CHANGE,
    ),
    _route(
        "GET /v1/invoices",
        invoices.list_,
        "InvoiceListParams",
        "collection_method created customer due_date status subscription",
    ),
    _route(
        "POST /v1/invoices/create_preview",
        invoices.create_preview,
        "InvoiceCreatePreviewParams",
        "customer subscription "
        + _under(
            "subscription_details",
            "cancel_at cancel_at_period_end cancel_now proration_behavior proration_date trial_end "
            + _under("items", f"{_ITEM} deleted id"),
        ),
    ),
    _route("GET /v1/invoices/{invoice}", invoices.retrieve, "InvoiceRetrieveParams"),
    _route("POST /v1/invoices/{invoice}", invoices.update, "InvoiceUpdateParams", "auto_advance description"),
    _route("GET /v1/invoices/{invoice}/lines", invoices.list_lines, "InvoiceLineItemListParams"),
    _route("POST /v1/invoices/{invoice}/finalize", invoices.finalize, "InvoiceFinalizeInvoiceParams", "auto_advance"),
    _route(
        "POST /v1/invoices/{invoice}/pay",
        invoices.pay,
        "InvoicePayParams",
        "off_session paid_out_of_band payment_method",
    ),
    _route("POST /v1/invoices/{invoice}/void", invoices.void, "InvoiceVoidInvoiceParams"),
    _route(
        "POST /v1/invoices/{invoice}/mark_uncollectible",
        invoices.mark_uncollectible,
        "InvoiceMarkUncollectibleParams",
    ),
    _route(
        "GET /v1/invoice_payments",
        invoice_payments.list_,
        "InvoicePaymentListParams",
        "created invoice payment.payment_intent payment.type status",
    ),
    _route("GET /v1/invoice_payments/{invoice_payment}", invoice_payments.retrieve, "InvoicePaymentRetrieveParams"),
    _route(
        "POST /v1/billing_portal/sessions",
        billing_portal.create_session,
        "billing_portal.SessionCreateParams",
        "configuration customer flow_data locale return_url",
    ),
    _route(
        "POST /v1/billing_portal/configurations",
        billing_portal.create_configuration,
        "billing_portal.ConfigurationCreateParams",
        "business_profile default_return_url features name",
    ),
    _route(
        "GET /v1/billing_portal/configurations",
        billing_portal.list_configurations,
        "billing_portal.ConfigurationListParams",
        "active is_default",
    ),
    _route(
        "GET /v1/billing_portal/configurations/{configuration}",
        billing_portal.retrieve_configuration,
        "billing_portal.ConfigurationRetrieveParams",
    ),
    _route("GET /v1/events", events.list_, "EventListParams", "created delivery_success type types"),
    _route("GET /v1/events/{event}", events.retrieve, "EventRetrieveParams"),
    _route(
        "POST /v1/webhook_endpoints",
        webhook_endpoints.create,
        "WebhookEndpointCreateParams",
        "api_version description enabled_events url",
    ),
    _route("GET /v1/webhook_endpoints", webhook_endpoints.list_, "WebhookEndpointListParams"),
    _route(
        "GET /v1/webhook_endpoints/{webhook_endpoint}",
        webhook_endpoints.retrieve,
        "WebhookEndpointRetrieveParams",
    ),
    _route(
        "POST /v1/webhook_endpoints/{webhook_endpoint}",
        webhook_endpoints.update,
        "WebhookEndpointUpdateParams",
        "description disabled enabled_events url",
    ),
    _route(
        "DELETE /v1/webhook_endpoints/{webhook_endpoint}",
        webhook_endpoints.delete,
        "WebhookEndpointDeleteParams",
    ),
)


def is_beyond(path: str) -> bool:
    """Whether Stripe has this resource and the sandbox nothing of it; what neither has is simply unknown."""
    resource = path.removeprefix("/v1/").split("/")[0]
    implemented = {route.path.split("/")[2] for route in ROUTES}
    return path.startswith("/v1/") and resource in _STRIPE_S and resource not in implemented


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """Match a request; the path's ids come back by name. The table's order decides, as with create_preview."""
    for route in ROUTES:
        if route.method == method and (match := route.pattern.fullmatch(path)) is not None:
            return route, match.groupdict()
    return None
