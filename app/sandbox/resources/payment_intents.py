"""Payment intents: created, confirmed, held and captured, canceled, and the answer to a 3D Secure challenge."""

from typing import Any

from app.sandbox import amounts, cards, invoicing, lists, payments, subscriptions
from app.sandbox.errors import ApiError, CardError
from app.sandbox.metadata import merge
from app.sandbox.rendering import public
from app.sandbox.resources import payment_methods
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_PLAIN = (
    "description",
    "receipt_email",
    "setup_future_usage",
    "shipping",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_group",
)
_CHANGEABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
_CANCELABLE = (
    "requires_payment_method, requires_capture, requires_reauthorization, requires_confirmation, requires_action, "
    "expired, processing"
)
_TYPES = ("card",)  # what the account takes
_ONLY_WITH_CONFIRM = ("error_on_requires_action", "off_session", "return_url")
_NO_METHOD = "You cannot confirm this PaymentIntent because it's missing a payment method. "
_NO_RETURN_URL = (
    "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some of these "
    "payment methods might redirect your customer off of your page, you must provide a `return_url`. If you don't "
    "want to accept redirect-based payment methods, set `automatic_payment_methods[enabled]` to `true` and "
    "`automatic_payment_methods[allow_redirects]` to `never` when creating Setup Intents and Payment Intents."
)
_NEEDS_AUTHENTICATION = "Your card was declined. This transaction requires authentication."


def create(sandbox: Sandbox, params: Row) -> Row:
    for name in _ONLY_WITH_CONFIRM:
        if name in params and not params.get("confirm"):
            raise ApiError(
                f"The parameter `{name}` cannot be passed when creating a PaymentIntent unless `confirm` is set to "
                f"true.",
                param=name,
            )
    currency = params["currency"].lower()
    amounts.check(params["amount"], currency)
    customer = _customer(sandbox, params)
    method = _method_given(sandbox, params, customer)
    row = payments.new_intent(
        sandbox,
        amount=params["amount"],
        currency=currency,
        customer=customer,
        **{name: params[name] for name in _PLAIN if name in params},
        **_ways_to_pay(params),
        capture_method=params.get("capture_method", "automatic_async"),
        metadata={name: value for name, value in params.get("metadata", {}).items() if value is not None},
        payment_method=method and method["id"],
        status="requires_payment_method" if method is None else "requires_confirmation",
    )
    if params.get("confirm"):
        _confirm(sandbox, row, params)
    return row


def retrieve(sandbox: Sandbox, _params: Row, payment_intent: str) -> Row:
    return _get(sandbox, payment_intent)


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "payment_intent",
        params,
        "/v1/payment_intents",
        lambda row: lists.matches(row, params, "customer") and lists.within(row["created"], params.get("created")),
    )


def update(sandbox: Sandbox, params: Row, payment_intent: str) -> Row:
    """Change what may still change; Stripe emits nothing for it."""
    row = _get(sandbox, payment_intent)
    _set(sandbox, row, params)
    return row


def confirm(sandbox: Sandbox, params: Row, payment_intent: str) -> Row:
    row = _get(sandbox, payment_intent)
    if row["status"] == "succeeded":
        raise _state(
            "You cannot confirm this PaymentIntent because it has already succeeded after being previously confirmed.",
            row,
        )
    if row["status"] not in _CHANGEABLE:
        raise _state(
            f"You cannot confirm this PaymentIntent because it has a status of {row['status']}. Only a PaymentIntent "
            "with one of the following statuses may be confirmed: requires_confirmation, requires_action.",
            row,
        )
    _set(sandbox, row, params)
    _confirm(sandbox, row, params)
    return row


def capture(sandbox: Sandbox, params: Row, payment_intent: str) -> Row:
    row = _get(sandbox, payment_intent)
    if row["status"] == "succeeded" and row["capture_method"] == "manual":
        raise _state(
            "The remaining amount on this PaymentIntent could not be captured because the remainder of the authorized "
            "amount has been released.",
            row,
        )
    if row["status"] != "requires_capture":
        raise _state(
            f"This PaymentIntent could not be captured because it has a status of {row['status']}. Only a "
            "PaymentIntent with one of the following statuses may be captured: requires_capture.",
            row,
        )
    merge(row, params)
    payments.capture(sandbox, row, amounts.to_capture(params.get("amount_to_capture"), row))
    return row


def cancel(sandbox: Sandbox, params: Row, payment_intent: str) -> Row:
    row = _get(sandbox, payment_intent)
    if row["status"] in {"succeeded", "canceled"}:
        raise _state(
            f"You cannot cancel this PaymentIntent because it has a status of {row['status']}. Only a PaymentIntent "
            f"with one of the following statuses may be canceled: {_CANCELABLE}.",
            row,
        )
    if (invoice := _invoice(sandbox, row)) is not None:
        raise ApiError(f"This PaymentIntent collects the invoice {invoice['id']}; void the invoice instead.")
    payments.cancel(sandbox, row, params.get("cancellation_reason"))
    return row


def answer_challenge(sandbox: Sandbox, payment_intent: str, *, succeed: bool) -> Row:
    """Take the customer's answer to their bank (the 3DS page); a failed one, or a decline after it, is a CardError."""
    row = _get(sandbox, payment_intent)
    if row["status"] != "requires_action":
        raise ApiError("This payment does not wait for authentication.")
    _conclude(sandbox, row, lambda: payments.authenticate(sandbox, row, succeed=succeed))
    return row


def _confirm(sandbox: Sandbox, row: Row, params: Row) -> None:
    if "return_url" in params:
        row["_return_url"] = params["return_url"]
    off_session = bool(params.get("off_session"))
    automatic = row["automatic_payment_methods"]
    if (
        row.get("_by_api")
        and not off_session
        and row.get("_return_url") is None
        and automatic is not None
        and automatic["allow_redirects"] == "always"
    ):
        raise ApiError(_NO_RETURN_URL)
    method = _method(sandbox, row)
    card = cards.BY_NUMBER[method["_number"]]
    stays_here = off_session or params.get("error_on_requires_action", False)
    if stays_here and payments.needs_authentication(card, method, off_session=off_session, authenticated=False):
        code = "authentication_required"
        raise payments.refuse(sandbox, row, method, code, _NEEDS_AUTHENTICATION, decline_code=code)
    _conclude(sandbox, row, lambda: payments.confirm(sandbox, row, method, off_session=off_session))


def _conclude(sandbox: Sandbox, row: Row, attempt: Any) -> None:
    """Make an attempt, and have its outcome reach the card that is to be saved and the invoice that is to be paid."""
    invoice = _invoice(sandbox, row)
    collecting = invoice if invoice is not None and invoice["status"] == "open" else None
    try:
        done = attempt()
    except CardError:
        if collecting is not None:
            invoicing.note_failure(sandbox, collecting)
        raise
    if not done:
        return
    if row["setup_future_usage"] is not None and row["customer"] is not None:
        payment_methods.bind(sandbox, sandbox.get("payment_method", row["payment_method"]), row["customer"])
    if collecting is not None:
        invoicing.mark_paid(sandbox, collecting)
        subscriptions.settle(sandbox, collecting)


def _ways_to_pay(params: Row) -> Row:
    """Say which payment methods an intent takes, by the account's settings or by the caller's own list."""
    allowed, excluded = params.get("allowed_payment_method_types"), params.get("excluded_payment_method_types")
    automatic = params.get("automatic_payment_methods")
    if allowed is not None and (automatic is not None or excluded is not None):
        other = "automatic_payment_methods" if automatic is not None else "excluded_payment_method_types"
        raise ApiError(f"You may only specify one of these parameters: allowed_payment_method_types, {other}.")
    types = [type for type in _TYPES if type in (allowed or _TYPES) and type not in (excluded or ())]
    if not types:
        raise ApiError(
            "No valid payment method types for this Payment Intent.",
            param="allowed_payment_method_types" if allowed else "excluded_payment_method_types",
        )
    dynamic = allowed is None and (automatic is None or automatic["enabled"])
    return {
        "allowed_payment_method_types": allowed,
        "automatic_payment_methods": {"allow_redirects": "always", **(automatic or {}), "enabled": True}
        if dynamic
        else None,
        "excluded_payment_method_types": excluded,
        "payment_method_configuration_details": payments.METHOD_CONFIGURATION if dynamic else None,
        "payment_method_types": types,
        "_by_api": True,
    }


def _set(sandbox: Sandbox, row: Row, params: Row) -> None:
    """Apply what a request changes; descriptions and metadata may change for ever."""
    merge(row, params)
    for name in ("amount", "currency", "customer", "payment_method", "capture_method"):
        if name in params and row["status"] not in _CHANGEABLE:
            raise ApiError(
                f"This PaymentIntent's {name} could not be updated because it has a status of {row['status']}. You "
                f"may only update the {name} of a PaymentIntent with one of the following statuses: "
                f"{', '.join(_CHANGEABLE)}.",
                code="payment_intent_unexpected_state",
                param=name,
                payment_intent=public(row),
            )
    wanted = {**row, **params}
    amount, currency = wanted["amount"], wanted["currency"].lower()
    if (amount, currency) != (row["amount"], row["currency"]):
        amounts.check(amount, currency)
        row.update(amount=amount, currency=currency)
    row.update({name: params[name] for name in (*_PLAIN, "capture_method") if name in params})
    if "customer" in params:
        row["customer"] = _customer(sandbox, params)
    method = _method_given(sandbox, params, row["customer"])
    if method is not None:
        row.update(payment_method=method["id"], status="requires_confirmation", next_action=None)


def _get(sandbox: Sandbox, id: str) -> Row:
    return sandbox.get("payment_intent", id, param="intent")


def _customer(sandbox: Sandbox, params: Row) -> str | None:
    if params.get("customer") is None:
        return None
    id: str = sandbox.get("customer", params["customer"], param="customer", status=400)["id"]
    return id


def _method_given(sandbox: Sandbox, params: Row, customer: str | None) -> Row | None:
    """Find the method that a request names; it has to be nobody's or this customer's."""
    if params.get("payment_method") is None:
        return None
    method = payment_methods.resolve(sandbox, params["payment_method"])
    owner = method["customer"]
    if owner is None or owner == customer:
        return method
    if customer is None:
        raise ApiError(
            f"The `payment_method` parameter supplied {method['id']} belongs to the Customer {owner}. Please include "
            "the Customer in the `customer` parameter on the PaymentIntent.",
            code="parameter_missing",
            param="source",
        )
    raise ApiError(
        f"The PaymentMethod {method['id']} does not belong to the Customer you supplied {customer}. Please use this "
        "PaymentMethod with the Customer that it belongs to instead.",
        param="payment_method",
    )


def _method(sandbox: Sandbox, row: Row) -> Row:
    if row["payment_method"] is not None:
        return sandbox.get("payment_method", row["payment_method"], param="payment_method", status=400)
    way_out = (
        "You can either update the PaymentIntent with a payment method and then confirm it again, or confirm it again "
        "directly with a payment method or ConfirmationToken."
        if row["customer"] is None
        else f"To confirm the PaymentIntent with {row['customer']}, specify a payment method attached to this customer "
        "along with the customer ID."
    )
    raise _state(_NO_METHOD + way_out, row)


def _invoice(sandbox: Sandbox, row: Row) -> Row | None:
    """Find the invoice that this intent collects."""
    for payment in sandbox.rows("invoice_payment"):
        if payment["payment"]["payment_intent"] == row["id"]:
            return sandbox.get("invoice", payment["invoice"])
    return None


def _state(message: str, row: Row) -> ApiError:
    return ApiError(message, code="payment_intent_unexpected_state", payment_intent=public(row))


_OF_AN_ATTEMPT = (
    "error_on_requires_action off_session payment_method receipt_email return_url setup_future_usage shipping"
)
_WAYS = "allowed_payment_method_types excluded_payment_method_types"
_DETAILS = "customer description statement_descriptor statement_descriptor_suffix transfer_group capture_method"

ROUTES = (
    route(
        "POST /v1/payment_intents",
        create,
        "PaymentIntentCreateParams",
        f"amount automatic_payment_methods confirm currency {_WAYS} {_DETAILS} {_OF_AN_ATTEMPT}",
    ),
    route("GET /v1/payment_intents", list_, "PaymentIntentListParams", "created customer"),
    route("GET /v1/payment_intents/{payment_intent}", retrieve, "PaymentIntentRetrieveParams"),
    route(
        "POST /v1/payment_intents/{payment_intent}",
        update,
        "PaymentIntentUpdateParams",
        f"amount currency payment_method receipt_email setup_future_usage shipping {_DETAILS}",
    ),
    route(
        "POST /v1/payment_intents/{payment_intent}/confirm",
        confirm,
        "PaymentIntentConfirmParams",
        f"{_OF_AN_ATTEMPT} capture_method",
    ),
    route(
        "POST /v1/payment_intents/{payment_intent}/capture",
        capture,
        "PaymentIntentCaptureParams",
        "amount_to_capture",
    ),
    route(
        "POST /v1/payment_intents/{payment_intent}/cancel",
        cancel,
        "PaymentIntentCancelParams",
        "cancellation_reason",
    ),
)
