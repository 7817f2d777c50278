"""Everything that can go wrong, named once; HTTP learns of it only in `api/problems.py`.

BillingError                     what a caller may be told
├── InvalidRequestError    422   the request makes no sense as it stands
├── UnauthenticatedError   401   we don't know who is calling
├── PermissionDeniedError  403   we know, and they may not
├── NotFoundError          404   there is none, or it is somebody else's
├── ConflictError          409   the state of things forbids it now
├── PaymentFailedError     402   the bank or Stripe refused the money
├── RateLimitedError       429   too often; `retry_after` says when again
├── ProviderError          502   Stripe refuses us: our key, our account, our bug
│   └── UnreadableAnswerError   its answer has a shape that Billhook does not know
└── UnavailableError       503   Stripe, Postgres or Redis is away; try again
"""

from typing import ClassVar


class BillingError(Exception):
    """An error whose message may be shown to the caller.

    `code` is stable and machine-readable; `param` names the field at fault; `retryable` says whether the same
    request can succeed later without a change; `replayed` that Stripe only repeated its answer to an earlier request.
    """

    status: ClassVar[int] = 500
    code: str = "internal_error"
    retryable: bool = False
    replayed: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        provider_code: str | None = None,
        decline_code: str | None = None,
        provider_request_id: str | None = None,
    ) -> None:
        """`retry_after` is in seconds; the `provider_*` fields repeat what Stripe said of the same failure."""
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.retry_after = retry_after
        self.provider_code = provider_code
        self.decline_code = decline_code
        self.provider_request_id = provider_request_id

    @property
    def status_code(self) -> int:
        """`status`, by the name that clients of payment APIs look for."""
        return self.status


class InvalidRequestError(BillingError):
    status = 422
    code = "invalid_request"


class UnauthenticatedError(BillingError):
    status = 401
    code = "unauthenticated"


class PermissionDeniedError(BillingError):
    status = 403
    code = "permission_denied"


class NotFoundError(BillingError):
    status = 404
    code = "not_found"


class ConflictError(BillingError):
    status = 409
    code = "conflict"


class PaymentFailedError(BillingError):
    status = 402
    code = "payment_failed"


class RateLimitedError(BillingError):
    status = 429
    code = "rate_limited"
    retryable = True


class ProviderError(BillingError):
    status = 502
    code = "provider_error"


class UnreadableAnswerError(ProviderError):
    """Of one object only: others may be readable."""


class UnavailableError(BillingError):
    status = 503
    code = "unavailable"
    retryable = True
