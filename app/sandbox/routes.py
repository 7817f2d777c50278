"""The API's table: every operation there is. Newer resources keep theirs beside their handlers."""

from stripe._v1_services import _subservices

from app.sandbox.resources import (
    accounts,
    active_entitlements,
    balance,
    billing_portal,
    charges,
    checkout_sessions,
    coupons,
    credit_grants,
    credit_notes,
    customer_balance_transactions,
    customers,
    discounts,
    disputes,
    events,
    features,
    invoice_items,
    invoice_lines,
    invoice_payments,
    invoice_previews,
    invoices,
    meter_event_adjustments,
    meter_events,
    meters,
    payment_intents,
    payment_methods,
    prices,
    products,
    promotion_codes,
    refunds,
    setup_intents,
    subscription_items,
    subscription_pauses,
    subscription_schedules,
    subscriptions,
    tax_ids,
    tax_rates,
    test_clocks,
    webhook_endpoints,
)
from app.sandbox.route import Route, route, under

_STRIPE_S = frozenset(_subservices)  # the SDK's own list of the resources under /v1

_PRICE_DATA = "price_data.currency price_data.product price_data.product_data price_data.recurring \
price_data.unit_amount price_data.unit_amount_decimal price_data.tax_behavior"


_CONTACT = "address description email invoice_prefix invoice_settings.default_payment_method \
invoice_settings.footer name next_invoice_sequence phone preferred_locales shipping tax_exempt balance"
_PRODUCT = "active description images marketing_features name shippable statement_descriptor unit_label url"
_ITEM = f"price quantity metadata {_PRICE_DATA}"
_SUBSCRIBED = f"{_ITEM} discounts tax_rates"
_SUBSCRIPTION = "automatic_tax.enabled cancel_at cancel_at_period_end collection_method days_until_due \
default_payment_method default_tax_rates description discounts invoice_settings.description invoice_settings.footer \
off_session payment_behavior payment_settings.save_default_payment_method proration_behavior trial_end trial_settings"
_CHANGE = "proration_behavior proration_date payment_behavior off_session"
_SESSION = f"""
allow_promotion_codes automatic_tax.enabled billing_address_collection cancel_url client_reference_id
consent_collection currency custom_text customer customer_creation customer_email customer_update
discounts expires_at locale
mode payment_method_collection phone_number_collection submit_type success_url tax_id_collection ui_mode
{under("line_items", f"adjustable_quantity tax_rates {_ITEM}")}
{
    under(
        "subscription_data",
        "default_tax_rates description invoice_settings metadata trial_end trial_period_days trial_settings",
    )
}
{
    under(
        "payment_intent_data",
        "description metadata receipt_email setup_future_usage statement_descriptor statement_descriptor_suffix",
    )
}
{under("setup_intent_data", "description metadata")}
"""

ROUTES = (
    route(
        "POST /v1/customers",
        customers.create,
        "CustomerCreateParams",
        f"{_CONTACT} payment_method tax_id_data test_clock",
    ),
    route("GET /v1/customers", customers.list_, "CustomerListParams", "created email test_clock"),
    route("GET /v1/customers/{customer}", customers.retrieve, "CustomerRetrieveParams"),
    route("POST /v1/customers/{customer}", customers.update, "CustomerUpdateParams", _CONTACT),
    route("DELETE /v1/customers/{customer}", customers.delete, "CustomerDeleteParams"),
    route(
        "GET /v1/customers/{customer}/payment_methods",
        payment_methods.list_of_customer,
        "CustomerPaymentMethodListParams",
        "type allow_redisplay",
    ),
    route(
        "GET /v1/customers/{customer}/payment_methods/{payment_method}",
        payment_methods.retrieve_of_customer,
        "CustomerPaymentMethodRetrieveParams",
    ),
    route(
        "POST /v1/products",
        products.create,
        "ProductCreateParams",
        f"{_PRODUCT} id type default_price_data.currency default_price_data.recurring default_price_data.metadata "
        "default_price_data.unit_amount default_price_data.unit_amount_decimal default_price_data.tax_behavior",
    ),
    *coupons.ROUTES,
    *credit_notes.ROUTES,
    *promotion_codes.ROUTES,
    *discounts.ROUTES,
    *tax_rates.ROUTES,
    *tax_ids.ROUTES,
    *customer_balance_transactions.ROUTES,
    route("GET /v1/products", products.list_, "ProductListParams", "active created ids shippable type url"),
    route("GET /v1/products/{product}", products.retrieve, "ProductRetrieveParams"),
    route("POST /v1/products/{product}", products.update, "ProductUpdateParams", f"{_PRODUCT} default_price"),
    route("DELETE /v1/products/{product}", products.delete, "ProductDeleteParams"),
    route(
        "POST /v1/prices",
        prices.create,
        "PriceCreateParams",
        "active currency lookup_key nickname product product_data recurring.interval recurring.interval_count "
        "recurring.meter recurring.usage_type tax_behavior transfer_lookup_key unit_amount unit_amount_decimal",
    ),
    route(
        "GET /v1/prices",
        prices.list_,
        "PriceListParams",
        "active created currency lookup_keys product recurring type",
    ),
    route("GET /v1/prices/{price}", prices.retrieve, "PriceRetrieveParams"),
    route(
        "POST /v1/prices/{price}",
        prices.update,
        "PriceUpdateParams",
        "active lookup_key nickname tax_behavior transfer_lookup_key",
    ),
    route(
        "POST /v1/payment_methods",
        payment_methods.create,
        "PaymentMethodCreateParams",
        "allow_redisplay billing_details card type",
    ),
    route(
        "GET /v1/payment_methods",
        payment_methods.list_,
        "PaymentMethodListParams",
        "allow_redisplay customer type",
    ),
    route("GET /v1/payment_methods/{payment_method}", payment_methods.retrieve, "PaymentMethodRetrieveParams"),
    route(
        "POST /v1/payment_methods/{payment_method}",
        payment_methods.update,
        "PaymentMethodUpdateParams",
        "allow_redisplay billing_details card.exp_month card.exp_year",
    ),
    route(
        "POST /v1/payment_methods/{payment_method}/attach",
        payment_methods.attach,
        "PaymentMethodAttachParams",
        "customer",
    ),
    route("POST /v1/payment_methods/{payment_method}/detach", payment_methods.detach, "PaymentMethodDetachParams"),
    route(
        "POST /v1/setup_intents",
        setup_intents.create,
        "SetupIntentCreateParams",
        "automatic_payment_methods confirm customer description payment_method return_url usage",
    ),
    route("GET /v1/setup_intents", setup_intents.list_, "SetupIntentListParams", "created customer payment_method"),
    route("GET /v1/setup_intents/{setup_intent}", setup_intents.retrieve, "SetupIntentRetrieveParams"),
    route(
        "POST /v1/setup_intents/{setup_intent}",
        setup_intents.update,
        "SetupIntentUpdateParams",
        "customer description payment_method",
    ),
    route(
        "POST /v1/setup_intents/{setup_intent}/confirm",
        setup_intents.confirm,
        "SetupIntentConfirmParams",
        "payment_method return_url",
    ),
    route(
        "POST /v1/setup_intents/{setup_intent}/cancel",
        setup_intents.cancel,
        "SetupIntentCancelParams",
        "cancellation_reason",
    ),
    *payment_intents.ROUTES,
    *charges.ROUTES,
    *refunds.ROUTES,
    *disputes.ROUTES,
    *balance.ROUTES,
    route("POST /v1/checkout/sessions", checkout_sessions.create, "checkout.SessionCreateParams", _SESSION),
    route(
        "GET /v1/checkout/sessions",
        checkout_sessions.list_,
        "checkout.SessionListParams",
        "created customer customer_details payment_intent status subscription",
    ),
    route("GET /v1/checkout/sessions/{session}", checkout_sessions.retrieve, "checkout.SessionRetrieveParams"),
    route(
        "POST /v1/checkout/sessions/{session}/expire",
        checkout_sessions.expire,
        "checkout.SessionExpireParams",
    ),
    route(
        "GET /v1/checkout/sessions/{session}/line_items",
        checkout_sessions.line_items,
        "checkout.SessionLineItemListParams",
    ),
    route(
        "POST /v1/subscriptions",
        subscriptions.create,
        "SubscriptionCreateParams",
        f"{_SUBSCRIPTION} customer trial_period_days billing_mode.type {under('items', _SUBSCRIBED)}",
    ),
    route(
        "GET /v1/subscriptions",
        subscriptions.list_,
        "SubscriptionListParams",
        "collection_method created current_period_end current_period_start customer price status test_clock",
    ),
    route("GET /v1/subscriptions/{subscription}", subscriptions.retrieve, "SubscriptionRetrieveParams"),
    route(
        "POST /v1/subscriptions/{subscription}",
        subscriptions.update,
        "SubscriptionUpdateParams",
        f"{_SUBSCRIPTION} {_CHANGE} billing_cycle_anchor cancellation_details pause_collection "
        f"{under('items', f'{_SUBSCRIBED} deleted id')}",
    ),
    route(
        "DELETE /v1/subscriptions/{subscription}",
        subscriptions.cancel,
        "SubscriptionCancelParams",
        "cancellation_details invoice_now prorate",
    ),
    *subscription_pauses.ROUTES,
    *subscription_schedules.ROUTES,
    *test_clocks.ROUTES,
    route(
        "POST /v1/subscription_items",
        subscription_items.create,
        "SubscriptionItemCreateParams",
        f"{_SUBSCRIBED} {_CHANGE} subscription",
    ),
    route(
        "GET /v1/subscription_items",
        subscription_items.list_,
        "SubscriptionItemListParams",
        "subscription",
    ),
    route("GET /v1/subscription_items/{item}", subscription_items.retrieve, "SubscriptionItemRetrieveParams"),
    route(
        "POST /v1/subscription_items/{item}",
        subscription_items.update,
        "SubscriptionItemUpdateParams",
        f"{_SUBSCRIBED} {_CHANGE}",
    ),
    route(
        "DELETE /v1/subscription_items/{item}",
        subscription_items.delete,
        "SubscriptionItemDeleteParams",
        _CHANGE,
    ),
    *invoice_previews.ROUTES,
    *invoices.ROUTES,
    *invoice_lines.ROUTES,
    *invoice_items.ROUTES,
    route(
        "GET /v1/invoice_payments",
        invoice_payments.list_,
        "InvoicePaymentListParams",
        "created invoice payment.payment_intent payment.type status",
    ),
    route("GET /v1/invoice_payments/{invoice_payment}", invoice_payments.retrieve, "InvoicePaymentRetrieveParams"),
    route(
        "POST /v1/billing_portal/sessions",
        billing_portal.create_session,
        "billing_portal.SessionCreateParams",
        "configuration customer flow_data locale return_url",
    ),
    route(
        "POST /v1/billing_portal/configurations",
        billing_portal.create_configuration,
        "billing_portal.ConfigurationCreateParams",
        "business_profile default_return_url features name",
    ),
    route(
        "GET /v1/billing_portal/configurations",
        billing_portal.list_configurations,
        "billing_portal.ConfigurationListParams",
        "active is_default",
    ),
    route(
        "GET /v1/billing_portal/configurations/{configuration}",
        billing_portal.retrieve_configuration,
        "billing_portal.ConfigurationRetrieveParams",
    ),
    *meters.ROUTES,
    *meter_events.ROUTES,
    *meter_event_adjustments.ROUTES,
    *credit_grants.ROUTES,
    *features.ROUTES,
    *active_entitlements.ROUTES,
    route("GET /v1/events", events.list_, "EventListParams", "created delivery_success type types"),
    route("GET /v1/events/{event}", events.retrieve, "EventRetrieveParams"),
    route(
        "POST /v1/webhook_endpoints",
        webhook_endpoints.create,
        "WebhookEndpointCreateParams",
        "api_version connect description enabled_events url",
    ),
    route("GET /v1/webhook_endpoints", webhook_endpoints.list_, "WebhookEndpointListParams"),
    route(
        "GET /v1/webhook_endpoints/{webhook_endpoint}",
        webhook_endpoints.retrieve,
        "WebhookEndpointRetrieveParams",
    ),
    route(
        "POST /v1/webhook_endpoints/{webhook_endpoint}",
        webhook_endpoints.update,
        "WebhookEndpointUpdateParams",
        "description disabled enabled_events url",
    ),
    route(
        "DELETE /v1/webhook_endpoints/{webhook_endpoint}",
        webhook_endpoints.delete,
        "WebhookEndpointDeleteParams",
    ),
    *accounts.ROUTES,
)


def is_beyond(path: str) -> bool:
    """Whether Stripe has this resource and the sandbox nothing of it; what neither has is simply unknown."""
    resource = path.removeprefix("/v1/").split("/")[0]
    implemented = {known.path.split("/")[2] for known in ROUTES}
    return path.startswith("/v1/") and resource in _STRIPE_S and resource not in implemented


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """Match a request; the path's ids come back by name. The table's order decides, as with create_preview."""
    for known in ROUTES:
        if known.method == method and (match := known.pattern.fullmatch(path)) is not None:
            return known, match.groupdict()
    return None
