"""Setup intents: saving a card for later without charging it."""

from app.sandbox import cards, lists, payments
from app.sandbox.errors import ApiError, CardError, missing
from app.sandbox.metadata import merge
from app.sandbox.rendering import public
from app.sandbox.resources import payment_methods
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_NULLS = dict.fromkeys(
    (
        "allowed_payment_method_types",
        "application",
        "cancellation_reason",
        "customer",
        "customer_account",
        "description",
        "excluded_payment_method_types",
        "flow_directions",
        "last_setup_error",
        "latest_attempt",
        "mandate",
        "next_action",
        "on_behalf_of",
        "payment_method",
        "single_use_mandate",
    )
)
_SECRET_LENGTH = 31
_NO_METHOD = (
    "You cannot confirm this SetupIntent because it's missing a payment method. You can either update the SetupIntent "
    "with a payment method and then confirm it again, or confirm it again directly with a payment method or "
    "ConfirmationToken."
)
_CANCELABLE = "`requires_payment_method`, `requires_confirmation`, or `requires_action`"


def create(sandbox: Sandbox, params: Row) -> Row:
    id = sandbox.new.mint("seti_")
    automatic = params.get("automatic_payment_methods", {})
    row = sandbox.insert(
        {
            **_NULLS,
            "id": id,
            "object": "setup_intent",
            "automatic_payment_methods": {"allow_redirects": "always", "enabled": True, **automatic},
            "client_secret": f"{id}_secret_{sandbox.new.text(_SECRET_LENGTH)}",
            "created": sandbox.now(),
            "livemode": False,
            "managed_payments": {"enabled": False},
            "metadata": {},
            "payment_method_configuration_details": payments.METHOD_CONFIGURATION,
            "payment_method_options": {
                "card": {"mandate_options": None, "network": None, "request_three_d_secure": "automatic"}
            },
            "payment_method_types": ["card"],
            "status": "requires_payment_method",
            "usage": params.get("usage", "off_session"),
        }
    )
    _set(sandbox, row, params)
    sandbox.emit("setup_intent.created", row)
    if params.get("confirm"):
        row["_return_url"] = params.get("return_url")
        confirm_with(sandbox, row, _method(sandbox, row))
    return row


def retrieve(sandbox: Sandbox, _params: Row, setup_intent: str) -> Row:
    return _get(sandbox, setup_intent)


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "setup_intent",
        params,
        "/v1/setup_intents",
        lambda row: (
            lists.matches(row, params, "customer", "payment_method")
            and lists.within(row["created"], params.get("created"))
        ),
    )


def update(sandbox: Sandbox, params: Row, setup_intent: str) -> Row:
    row = _get(sandbox, setup_intent)
    if row["status"] == "succeeded" and params.keys() & {"payment_method", "customer"}:
        raise _state("You cannot update this SetupIntent because it has already succeeded.", row)
    _set(sandbox, row, params)
    return row


def confirm(sandbox: Sandbox, params: Row, setup_intent: str) -> Row:
    row = _get(sandbox, setup_intent)
    if row["status"] == "succeeded":
        raise _state("You cannot confirm this SetupIntent because it has already succeeded.", row)
    if row["status"] == "canceled":
        raise _state("You cannot confirm this SetupIntent because it has been canceled.", row)
    _set(sandbox, row, params)
    row["_return_url"] = params.get("return_url")
    confirm_with(sandbox, row, _method(sandbox, row))
    return row


def cancel(sandbox: Sandbox, params: Row, setup_intent: str) -> Row:
    row = _get(sandbox, setup_intent)
    if row["status"] == "canceled":
        raise _state("You cannot cancel this SetupIntent because it is already canceled.", row)
    if row["status"] == "succeeded":
        raise _state(
            "You cannot cancel this SetupIntent because it has a status of succeeded. Only a SetupIntent with one of "
            f"the following statuses may be canceled: {_CANCELABLE}.",
            row,
        )
    row.update(status="canceled", cancellation_reason=params.get("cancellation_reason"), next_action=None)
    sandbox.emit("setup_intent.canceled", row)
    return row


def confirm_with(sandbox: Sandbox, row: Row, method: Row, *, authenticated: bool = False) -> bool:
    """Try to set the card up; True when done, False when the customer has to authenticate. Refusals: CardError."""
    card = cards.BY_NUMBER[method["_number"]]
    if payments.needs_authentication(card, method, off_session=False, authenticated=authenticated):
        row.update(status="requires_action", payment_method=method["id"])
        row["next_action"] = payments.next_action(sandbox, row)
        sandbox.emit("setup_intent.requires_action", row)
        return False
    row["latest_attempt"] = sandbox.new.mint("setatt_")
    row["next_action"] = None
    method["card"]["checks"]["cvc_check"] = "pass"
    if card.decline is not None and not card.attaches:
        fields = card.decline.fields()
        raise _refuse(sandbox, row, method, CardError(card.decline.message, code=card.decline.code, **fields))
    method["_set_up"] = method["_set_up"] or authenticated
    row.update(status="succeeded", payment_method=method["id"], last_setup_error=None)
    if row["customer"] is not None:
        payment_methods.bind(sandbox, method, row["customer"])
    sandbox.emit("setup_intent.succeeded", row)
    return True


def authenticate(sandbox: Sandbox, row: Row, *, succeed: bool) -> bool:
    """Answer the 3D Secure challenge of an intent in requires_action; then as ``confirm_with``."""
    method = sandbox.get("payment_method", row["payment_method"])
    if not succeed:
        row["next_action"] = None
        error = CardError(payments.FAILED_AUTHENTICATION, code="setup_intent_authentication_failure")
        raise _refuse(sandbox, row, method, error)
    return confirm_with(sandbox, row, method, authenticated=True)


def _refuse(sandbox: Sandbox, row: Row, method: Row, error: CardError) -> CardError:
    error.fields["payment_method"] = public(method)
    row.update(status="requires_payment_method", payment_method=None)
    row["last_setup_error"] = error.envelope(None)["error"]
    sandbox.emit("setup_intent.setup_failed", row)
    error.fields["setup_intent"] = public(row)
    return error


def _get(sandbox: Sandbox, id: str) -> Row:
    return sandbox.get("setup_intent", id, param="intent")


def _set(sandbox: Sandbox, row: Row, params: Row) -> None:
    if "customer" in params:
        row["customer"] = sandbox.get("customer", params["customer"], param="customer", status=400)["id"]
    if "description" in params:
        row["description"] = params["description"]
    if "payment_method" in params:
        method = payment_methods.resolve(sandbox, params["payment_method"])
        _check_owner(row, method)
        row["payment_method"] = method["id"]
        row["status"] = "requires_confirmation"
    merge(row, params)


def _check_owner(row: Row, method: Row) -> None:
    owner, customer = method["customer"], row["customer"]
    if owner is None or owner == customer:
        return
    if customer is None:
        raise ApiError(
            f"The payment method supplied ({method['id']}) belongs to the Customer {owner}. Please include the "
            "Customer in the `customer` parameter on the SetupIntent.",
            param="payment_method",
        )
    raise ApiError(
        f"The PaymentMethod {method['id']} does not belong to the Customer you supplied {customer}. Please use this "
        "PaymentMethod with the Customer that it belongs to instead.",
        param="payment_method",
    )


def _method(sandbox: Sandbox, row: Row) -> Row:
    if row["payment_method"] is None:
        raise _state(_NO_METHOD, row)
    method = sandbox.find("payment_method", row["payment_method"])
    if method is None:
        raise missing("payment_method", row["payment_method"], param="payment_method", status=400)
    return method


def _state(message: str, row: Row) -> ApiError:
    return ApiError(message, code="setup_intent_unexpected_state", setup_intent=public(row))
