"""Checkout Sessions: create, read, expire. What the buyer does on the page is in ``app.sandbox.checkout``."""

from app.sandbox import catalog, checkout, checkout_totals, lists, passing_time, payments, taxes
from app.sandbox.errors import ApiError, required
from app.sandbox.metadata import merge
from app.sandbox.periods import DAY
from app.sandbox.resources.subscription_items import check_alike
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_SHORTEST, _LONGEST = 30 * 60, DAY  # seconds a session may stay open

#: Choices of the page that are kept and shown as they were given.
_ECHOED = (
    "allow_promotion_codes",
    "billing_address_collection",
    "client_reference_id",
    "consent_collection",
    "locale",
    "submit_type",
)
_NULLS = dict.fromkeys(
    (
        "adaptive_pricing",
        "after_expiration",
        "allowed_payment_method_types",
        "branding_settings",
        "client_secret",
        "collected_information",
        "consent",
        "currency_conversion",
        "customer_account",
        "customer_details",
        "discounts",
        "excluded_payment_method_types",
        "integration_identifier",
        "invoice",
        "invoice_creation",
        "name_collection",
        "optional_items",
        "origin_context",
        "payment_intent",
        "payment_link",
        "permissions",
        "presentment_details",
        "recovered_from",
        "redirect_on_completion",
        "return_url",
        "saved_payment_method_options",
        "setup_intent",
        "shipping_address_collection",
        "shipping_cost",
        "subscription",
        "wallet_options",
    )
)


def create(sandbox: Sandbox, params: Row) -> Row:
    mode = params.get("mode")
    if mode is None:
        raise required("mode")
    if "success_url" not in params:
        raise required("success_url")
    _check_mode(mode, params)
    customer = None
    if "customer" in params:
        if "customer_email" in params:
            raise ApiError("You may only specify one of these parameters: customer, customer_email.", param="customer")
        customer = sandbox.get("customer", params["customer"], param="customer", status=400)
    lines = [] if mode == "setup" else _lines(sandbox, mode, params)
    id = sandbox.new.mint("cs_test_")
    data = params.get("subscription_data", {})
    row: Row = {
        **_NULLS,
        **{name: params.get(name) for name in _ECHOED},
        "id": id,
        "object": "checkout.session",
        "amount_subtotal": None,
        "amount_total": None,
        "automatic_tax": {
            "enabled": params.get("automatic_tax", {}).get("enabled", False),
            "liability": None,
            "provider": None,
            "status": None,
        },
        "cancel_url": params.get("cancel_url"),
        "created": sandbox.now(),
        "currency": lines[0]["currency"] if lines else params.get("currency"),
        "custom_fields": [],
        "custom_text": {
            **dict.fromkeys(("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")),
            **params.get("custom_text", {}),
        },
        "customer": customer and customer["id"],
        "customer_creation": _customer_creation(mode, params),
        "customer_email": params.get("customer_email"),
        "expires_at": _expiry(sandbox, params),
        "livemode": False,
        "managed_payments": {"enabled": False},
        "metadata": {},
        "mode": mode,
        "payment_method_collection": params.get("payment_method_collection", "always")
        if mode == "subscription"
        else "always"
        if mode == "payment"
        else None,
        "payment_method_configuration_details": payments.METHOD_CONFIGURATION,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "payment_status": "no_payment_required" if mode == "setup" else "unpaid",
        "phone_number_collection": {"enabled": False, **params.get("phone_number_collection", {})},
        "shipping_options": [],
        "status": "open",
        "success_url": params["success_url"],
        "tax_id_collection": {
            "enabled": False,
            "required": "never",
            **params.get("tax_id_collection", {}),
        },
        "total_details": None,
        "ui_mode": "hosted_page",
        "url": f"{sandbox.base_url}/c/pay/{id}",
        "_buyer": {"email": None, "name": None},
        "_code": "",
        "_customer": None,
        "_default_tax_rates": taxes.chosen(
            sandbox, data.get("default_tax_rates"), at="subscription_data[default_tax_rates]"
        ),
        "_intent": None,
        "_line_items": lines,
        "_payment_intent_data": params.get("payment_intent_data", {}),
        "_setup_intent_data": params.get("setup_intent_data", {}),
        "_subscription_data": data,
    }
    merge(row, params)
    if mode != "setup":
        checkout_totals.recount(sandbox, row)
        _discount(sandbox, row, params)
    return sandbox.insert(row)


def retrieve(sandbox: Sandbox, _params: Row, session: str) -> Row:
    return sandbox.get("checkout.session", session, param="session")


def list_(sandbox: Sandbox, params: Row) -> Row:
    email = params.get("customer_details", {}).get("email")
    return lists.page(
        sandbox,
        "checkout.session",
        params,
        "/v1/checkout/sessions",
        lambda row: (
            lists.matches(row, params, "customer", "payment_intent", "subscription", "status")
            and (email is None or (row["customer_details"] or {}).get("email") == email)
            and lists.within(row["created"], params.get("created"))
        ),
    )


def expire(sandbox: Sandbox, _params: Row, session: str) -> Row:
    row = sandbox.get("checkout.session", session, param="session")
    if row["status"] != "open":
        raise ApiError(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"`{row['status']}`."
        )
    passing_time.expire_session(sandbox, row)
    return row


def line_items(sandbox: Sandbox, params: Row, session: str) -> Row:
    row = sandbox.get("checkout.session", session, param="session")
    return lists.embedded(row["_line_items"], params, f"/v1/checkout/sessions/{session}/line_items")


def _discount(sandbox: Sandbox, row: Row, params: Row) -> None:
    """Apply the one coupon or promotion code that a session may come with."""
    wanted = params.get("discounts")
    if not wanted:
        return
    if params.get("allow_promotion_codes"):
        raise ApiError(
            "You may only specify one of these parameters: allow_promotion_codes, discounts.", param="discounts"
        )
    if len(wanted) > 1:
        raise ApiError("You can only apply one discount to a Checkout Session.", param="discounts")
    checkout_totals.check(sandbox, row, wanted)
    row["discounts"] = [{"coupon": None, "promotion_code": None, **wanted[0]}]
    checkout_totals.recount(sandbox, row)


def _check_mode(mode: str, params: Row) -> None:
    for name, belongs in (
        ("subscription_data", "subscription"),
        ("payment_intent_data", "payment"),
        ("setup_intent_data", "setup"),
    ):
        if name in params and mode != belongs:
            raise ApiError(f"You can not pass `{name}` in `{mode}` mode.", param=name)
    if mode == "setup" and "discounts" in params:
        raise ApiError("You can not pass `discounts` in `setup` mode.", param="discounts")
    if mode == "setup" and "line_items" in params:
        raise ApiError("You can not pass `line_items` in `setup` mode.", param="line_items")
    if mode != "setup" and not params.get("line_items"):
        raise required("line_items")
    if mode != "payment" and "customer_creation" in params:
        raise ApiError("`customer_creation` can only be used in `payment` mode.", param="customer_creation")
    if mode != "subscription" and params.get("payment_method_collection") == "if_required":
        raise ApiError(
            "You can only set `payment_method_collection` if there are recurring prices.",
            param="payment_method_collection",
        )
    if params.get("ui_mode", "hosted_page") != "hosted_page":
        raise ApiError("The Billhook sandbox has the hosted page alone.", code="sandbox_unsupported", param="ui_mode")


def _lines(sandbox: Sandbox, mode: str, params: Row) -> list[Row]:
    recurring = []
    lines = []
    for index, wanted in enumerate(params["line_items"]):
        at = f"line_items[{index}]"
        price = catalog.chosen_price(sandbox, wanted, at=at)
        if "quantity" not in wanted:
            raise required(f"{at}[quantity]")
        if wanted["quantity"] < 1:
            raise ApiError(
                "This value must be greater than or equal to 1.",
                code="parameter_invalid_integer",
                param=f"{at}[quantity]",
            )
        if price["type"] == "recurring":
            if mode == "payment":
                raise ApiError(
                    "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode "
                    "or use only one-time prices."
                )
            recurring.append(price)
        lines.append(checkout.line_item(sandbox, price, wanted["quantity"], wanted, at=at))
    if len({line["currency"] for line in lines}) > 1:
        raise ApiError("All line items must have the same currency.", param="line_items")
    if mode == "subscription":
        if not recurring:
            raise ApiError("You must provide at least one recurring price in `subscription` mode when using prices.")
        check_alike(recurring)
    return lines


def _customer_creation(mode: str, params: Row) -> str | None:
    if "customer" in params:
        return None
    return "always" if mode == "subscription" else params.get("customer_creation", "if_required")


def _expiry(sandbox: Sandbox, params: Row) -> int:
    expires_at: int = params.get("expires_at", sandbox.now() + _LONGEST)
    if expires_at < sandbox.now() + _SHORTEST:
        raise ApiError(
            "The `expires_at` timestamp must be at least 30 minutes from Checkout Session creation.",
            param="expires_at",
        )
    if expires_at > sandbox.now() + _LONGEST:
        raise ApiError(
            "The `expires_at` timestamp must be less than 24 hours from Checkout Session creation.",
            param="expires_at",
        )
    return expires_at
