"""Every way Stripe can refuse, and which of our errors the caller gets."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stripe as sdk
from hypothesis import given
from hypothesis import strategies as st
from provider.scripted_stripe import Reply, ScriptedStripe, refusal
from provider.stripe_data import JSON, LATEST, shown, unhurried

from app.errors import (
    BillingError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PaymentFailedError,
    ProviderError,
    RateLimitedError,
    UnavailableError,
)
from app.provider.stripe import StripeProvider
from app.provider.stripe_client import billing_error

SECRET_TEXT = "Invalid API Key provided: sk_test_****abcd"
DECLINED = {
    "type": "card_error",
    "code": "card_declined",
    "decline_code": "insufficient_funds",
    "message": "Your card has insufficient funds.",
}

CASES: dict[str, tuple[Reply, type[sdk.StripeError], type[BillingError], dict[str, Any]]] = {
    "a declined card": (
        refusal(402, **DECLINED),
        sdk.CardError,
        PaymentFailedError,
        {
            "message": "Your card has insufficient funds.",
            "code": "payment_failed",
            "provider_code": "card_declined",
            "decline_code": "insufficient_funds",
            "retryable": False,
        },
    ),
    "an unknown id in the path": (
        refusal(404, code="resource_missing", param="id", message="No such customer: 'cus_Qabc'"),
        sdk.InvalidRequestError,
        NotFoundError,
        {"code": "not_found", "provider_code": "resource_missing", "retryable": False},
    ),
    "an unknown id in a parameter": (
        refusal(400, code="resource_missing", param="customer", message="No such customer: 'cus_Qabc'"),
        sdk.InvalidRequestError,
        NotFoundError,
        {"code": "not_found", "provider_code": "resource_missing"},
    ),
    "a parameter of ours": (
        refusal(400, code="parameter_unknown", param="wat", message="Received unknown parameter: wat"),
        sdk.InvalidRequestError,
        ProviderError,
        {"code": "provider_error", "provider_code": "parameter_unknown", "param": None, "retryable": False},
    ),
    "an id taken": (
        refusal(400, code="resource_already_exists", message="Product already exists."),
        sdk.InvalidRequestError,
        ConflictError,
        {"provider_code": "resource_already_exists", "retryable": False},
    ),
    "a key used for something else": (
        refusal(400, type="idempotency_error", message="Keys for idempotent requests can only be used ..."),
        sdk.IdempotencyError,
        ConflictError,
        {"code": "idempotency_key_reused", "retryable": False},
    ),
    "a key in use": (
        refusal(409, code="idempotency_key_in_use", message="There is currently another in-progress request ..."),
        sdk.APIError,
        ConflictError,
        {"code": "idempotency_key_in_use", "provider_code": "idempotency_key_in_use", "retryable": True},
    ),
    "a wrong key": (
        refusal(401, message=SECRET_TEXT),
        sdk.AuthenticationError,
        ProviderError,
        {"code": "provider_error", "retryable": False},
    ),
    "a key that may not": (
        refusal(403, code="more_permissions_required", message=SECRET_TEXT),
        sdk.PermissionError,
        ProviderError,
        {"code": "provider_error", "provider_code": "more_permissions_required"},
    ),
    "too many requests": (
        Reply(status=429, body={"error": {"message": "Too many requests"}}, headers={"retry-after": "7"}),
        sdk.RateLimitError,
        RateLimitedError,
        {"retry_after": 7, "retryable": True},
    ),
    "too many requests, no word when": (
        Reply(status=429, body={"error": {"message": "Too many requests"}}, headers={"retry-after": "soon"}),
        sdk.RateLimitError,
        RateLimitedError,
        {"retry_after": 1},
    ),
    "a lock not had in time": (
        refusal(429, code="lock_timeout", message="This object cannot be accessed right now ..."),
        sdk.RateLimitError,
        RateLimitedError,
        {"provider_code": "lock_timeout", "retryable": True},
    ),
    "a lock not had in time, as a 400": (
        refusal(400, code="lock_timeout", message="This object cannot be accessed right now ..."),
        sdk.InvalidRequestError,
        RateLimitedError,
        {"provider_code": "lock_timeout", "retryable": True},
    ),
    "a body too large": (
        refusal(413, message="Too large"),
        sdk.APIError,
        ProviderError,
        {"retryable": False},
    ),
    "an error of Stripe's": (
        refusal(500, type="api_error", message="An unknown error occurred"),
        sdk.APIError,
        UnavailableError,
        {"code": "unavailable", "retryable": True, "provider_request_id": "req_Qabc"},
    ),
    "a gateway's page": (
        Reply(status=502, body=b"<html>Bad gateway</html>"),
        sdk.APIError,
        UnavailableError,
        {"retryable": True},
    ),
    "a gateway's JSON": (
        Reply(status=502, body={"error": "bad gateway"}),
        sdk.APIError,
        UnavailableError,
        {"retryable": True},
    ),
    "a success that is none": (Reply(body=b"\xff<html>"), sdk.APIError, UnavailableError, {"retryable": True}),
    "a success of another kind": (Reply(body=[]), sdk.APIError, UnavailableError, {"retryable": True}),
    "a redirection": (
        Reply(status=302, body=b"", headers={"location": "https://login.example/"}),
        sdk.APIError,
        UnavailableError,
        {"retryable": True},
    ),
}


async def failure_of(reply: Reply, call: Callable[[StripeProvider], Awaitable[object]]) -> BillingError:
    async with ScriptedStripe(reply).provider() as provider:
        with pytest.raises(BillingError) as raised:
            await call(provider)
    return raised.value


@pytest.mark.parametrize("name", CASES)
async def test_a_refusal_by_stripe_is_one_of_ours(name: str) -> None:
    reply, cause, kind, facts = CASES[name]
    failure = await failure_of(reply, lambda provider: provider.retrieve_customer("cus_Qabc"))
    assert type(failure) is kind
    assert {fact: getattr(failure, fact) for fact in facts} == facts
    assert type(failure.__cause__) is cause
    assert "sk_test" not in failure.message


def _all_errors(kind: type[sdk.StripeError]) -> list[type[sdk.StripeError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _all_errors(child))]


@pytest.mark.parametrize("kind", _all_errors(sdk.StripeError), ids=lambda kind: kind.__name__)
def test_every_error_class_of_the_sdk_has_its_kind(kind: type[sdk.StripeError]) -> None:
    parameters = inspect.signature(kind).parameters.values()
    needed = [one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    said: dict[str, Any] = dict.fromkeys(needed, "said")
    failure = billing_error(kind(**said))
    assert type(failure) is not BillingError
    assert isinstance(failure, BillingError)


@unhurried
@given(
    status=st.integers(200, 599),
    body=JSON | st.fixed_dictionaries({"error": JSON}),
    header=st.text("0129 -x²", max_size=5),
)
async def test_no_answer_raises_anything_but_our_errors(status: int, body: Any, header: str) -> None:
    headers = {"retry-after": header.encode().decode("latin-1"), "date": header.encode().decode("latin-1")}
    async with ScriptedStripe(Reply(status=status, body=body, headers=headers)).provider() as provider:
        with pytest.raises(BillingError):
            await provider.retrieve_customer("cus_Qabc")


CHECKOUT: dict[str, Any] = {
    "customer": "cus_Qabc",
    "price": "price_1Qabc",
    "quantity": 1,
    "success_url": "javascript:alert(1)",
    "cancel_url": "https://shop.example/no",
    "client_reference_id": None,
    "trial_period_days": None,
    "promotion_code": None,
    "metadata": {},
    "idempotency_key": "k-1",
}


@pytest.mark.parametrize(
    ("stripes", "callers"),
    [
        ("success_url", "success_url"),
        ("line_items[0][price]", "price"),
        ("line_items[0][quantity]", "quantity"),
        ("discounts[0][promotion_code]", "promotion_code"),
    ],
)
async def test_a_refused_parameter_of_the_callers_is_the_callers_fault(stripes: str, callers: str) -> None:
    reply = refusal(400, code="url_invalid", param=stripes, message="Not a valid URL: javascript:alert(1)")
    failure = await failure_of(reply, lambda provider: provider.create_subscription_session(**CHECKOUT))
    assert isinstance(failure, InvalidRequestError)
    assert (failure.param, failure.provider_code) == (callers, "url_invalid")
    assert "javascript" not in failure.message


async def test_a_price_stripe_does_not_know_is_named_in_the_callers_words() -> None:
    reply = refusal(400, code="resource_missing", param="line_items[0][price]", message="No such price")
    failure = await failure_of(reply, lambda provider: provider.create_subscription_session(**CHECKOUT))
    assert isinstance(failure, NotFoundError)
    assert failure.param == "price"


async def test_a_closed_checkout_session_cannot_be_expired() -> None:
    reply = refusal(400, message='Only Checkout Sessions with a status in ["open"] can be expired.')
    failure = await failure_of(reply, lambda provider: provider.expire_checkout_session("cs_test_Qabc"))
    assert isinstance(failure, ConflictError)
    assert not failure.retryable


async def test_an_ended_subscription_cannot_be_scheduled_to_end() -> None:
    reply = refusal(400, message="A canceled subscription can only update its cancellation_details and metadata.")
    failure = await failure_of(
        reply, lambda provider: provider.set_cancel_at_period_end("sub_1", cancel=True, idempotency_key="k-1")
    )
    assert isinstance(failure, ConflictError)


async def test_a_parameter_stripe_does_not_know_is_never_the_objects_state() -> None:
    reply = refusal(400, code="parameter_unknown", param="cancel_at_period_end", message="Received unknown parameter")
    failure = await failure_of(
        reply, lambda provider: provider.set_cancel_at_period_end("sub_1", cancel=True, idempotency_key="k-1")
    )
    assert isinstance(failure, ProviderError)


@pytest.mark.parametrize(
    "refused",
    [
        refusal(404, code="resource_missing", param="id", message="No such subscription: 'sub_1QabcSub'"),
        refusal(400, message="A canceled subscription can only update its cancellation_details and metadata."),
    ],
)
async def test_cancelling_twice_answers_twice(refused: Reply) -> None:
    ended = shown(LATEST, "customer.subscription.updated") | {"status": "canceled"}
    async with ScriptedStripe(refused, Reply(body=ended)).provider() as provider:
        snapshot = await provider.cancel_subscription("sub_1QabcSub", idempotency_key="k-1")
    assert snapshot.object.status == "canceled"


async def test_a_refused_cancellation_of_a_live_subscription_is_told() -> None:
    live = shown(LATEST, "customer.subscription.updated")
    async with ScriptedStripe(refusal(400, message="Managed by a schedule."), Reply(body=live)).provider() as provider:
        with pytest.raises(ConflictError):
            await provider.cancel_subscription("sub_1QabcSub", idempotency_key="k-1")


async def test_an_object_of_a_shape_we_do_not_know_is_our_bug_not_the_callers() -> None:
    strange = shown(LATEST, "customer.updated") | {"created": "yesterday"}
    failure = await failure_of(Reply(body=strange), lambda provider: provider.retrieve_customer("cus_Qabc"))
    assert isinstance(failure, ProviderError)
    assert failure.provider_request_id == "req_Qabc"
