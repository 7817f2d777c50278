"""Stripe's error envelope, and the refusals that several endpoints share."""

from typing import Any

#: What the path's noun is called in Stripe's "No such …" sentences, where it isn't the object's own name.
NOUNS = {
    "balance_transaction": "balance transaction",
    "billing.meter": "meter",
    "billing.credit_grant": "credit grant",
    "entitlements.feature": "feature",
    "setup_intent": "setupintent",
    "subscription_schedule": "subscription schedule",
    "test_helpers.test_clock": "test clock",
    "payment_method": "PaymentMethod",
    "invoiceitem": "Invoice Item",
    "promotion_code": "promotion code",
    "tax_rate": "tax rate",
    "webhook_endpoint": "webhook endpoint",
    "billing_portal.configuration": "portal configuration",
}


class ApiError(Exception):
    """A request refused in Stripe's words; ``fields`` are further keys of the envelope.

    What the request changed before it failed is undone unless ``keep`` is true: a declined charge leaves its
    PaymentIntent behind, a wrong parameter leaves nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        keep: bool = False,
        logged: bool = True,
        **fields: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.keep = keep
        self.logged = logged  # an unknown URL or version never reaches a resource, so it has no log page
        self.fields = fields

    def envelope(self, request_id: str | None) -> dict[str, Any]:
        """Give the body; without ``request_id``, as inside ``last_payment_error``, it names no log page."""
        error = {**self.fields, "message": self.message, "type": self.type}
        if self.code is not None:
            error["code"] = self.code
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{self.code.replace('_', '-')}"
        if self.param is not None:
            error["param"] = self.param
        if request_id is not None and self.logged:
            error["request_log_url"] = f"https://dashboard.stripe.com/test/logs/{request_id}"
        return {"error": dict(sorted(error.items()))}


class CardError(ApiError):
    """The card was refused; what the attempt left behind stays."""

    def __init__(self, message: str, *, code: str, keep: bool = True, **fields: Any) -> None:
        super().__init__(message, status=402, type="card_error", code=code, keep=keep, **fields)

    @property
    def decline_code(self) -> str | None:
        found: str | None = self.fields.get("decline_code")
        return found


def missing(kind: str, id: str, *, param: str = "id", status: int = 404) -> ApiError:
    """Say that no such object exists: 404 for an id in the path, 400 for one in a parameter."""
    noun = NOUNS.get(kind, kind)
    return ApiError(f"No such {noun}: '{id}'", status=status, code="resource_missing", param=param)


def required(param: str) -> ApiError:
    return ApiError(f"Missing required param: {param}.", code="parameter_missing", param=param)


def unsupported(what: str, *, param: str | None = None) -> ApiError:
    """Refuse what Stripe knows and this sandbox doesn't, rather than swallow it."""
    return ApiError(f"The Billhook sandbox does not implement {what}.", code="sandbox_unsupported", param=param)
