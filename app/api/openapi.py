"""The OpenAPI document: FastAPI's own, put right about errors, headers and the webhook."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from app.api import problems
from app.api.health import VERSION
from app.api.request_id import HEADER as REQUEST_ID
from app.api.webhooks import describe

SUMMARY = "The billing service between your SaaS and Stripe."
DESCRIPTION = """\
Sells plans and prepaid credits through Stripe, keeps subscriptions, invoices and payment methods in step with Stripe,
and says what a customer may use.

* **Money** is an integer in the currency's minor unit (`…_minor`) beside `currency`; the bare name is the decimal.
* **Time** is integer unix seconds.
* **Lists** are arrays, newest first, paged by `limit` and `starting_after`, with `Link: <…>; rel="next"` for more.
* **Errors** are RFC 9457 `application/problem+json`: program against `code`, ask us about `request_id`.
* **ETag** is on what is read: sent back as `If-None-Match` it saves the transfer of what is still so.
* **Idempotency-Key** on a write makes repeating it safe: it is given the first answer, marked `Idempotent-Replayed`.
"""
TAGS = [
    {"name": "Plans", "description": "What is sold."},
    {"name": "Checkout", "description": "Hosted pages to buy on."},
    {"name": "Portal", "description": "Hosted pages to change cards, read invoices and cancel."},
    {"name": "Subscription", "description": "What a customer has."},
    {"name": "Entitlements", "description": "What a customer may use."},
    {"name": "Usage", "description": "What a customer used, metered."},
    {"name": "Credits", "description": "Uses that are paid for in advance, and spent one by one."},
    {"name": "Customers", "description": "Who buys."},
    {"name": "Payment methods", "description": "What a customer pays with."},
    {"name": "Invoices", "description": "What a customer was billed."},
    {"name": "Payments", "description": "Collecting money beside subscriptions, giving it back, and where it went."},
    {"name": "Catalogue", "description": "Products and prices at Stripe, for those who run the service."},
    {"name": "Webhooks", "description": "What Stripe tells us."},
    {"name": "Operators", "description": "What happened, for those who run the service."},
    {"name": "Operations", "description": "Health and metrics."},
]

# In our own words: Python's phrases for some of these differ from version to version.
_ERRORS = {
    400: "The body can't be read",
    401: "No token, or one that isn't good",
    403: "The service key lacks the scope, or a user may not do this",
    413: "The body is larger than 64 KiB",
    422: "Something in the request makes no sense; `errors` says what",
    429: "Too many requests",
    500: "A bug of ours; tell us the `request_id`",
    502: problems.FROM_STRIPE[502]["description"],
    503: "Postgres or Stripe is away; try again",
}
_HEADERS = {
    REQUEST_ID: ("The request's id: the caller's own if it sent one, else a new one", "string"),
    "RateLimit": ('What is left of the caller\'s limit, e.g. `"default";r=599;t=60`', "string"),
    "RateLimit-Policy": ('The limit, e.g. `"default";q=600;w=60`', "string"),
    "Retry-After": ("Seconds to wait before trying again", "integer"),
    "Link": ('The next page as `rel="next"`, while there is one', "string"),
    "ETag": ("What `If-None-Match` is to say to be answered 304 while this is still so; not on secrets", "string"),
    "Cache-Control": (
        "`private, no-cache`: keep it, but ask before using it; `no-store`: a secret; `public`: the same for everybody",
        "string",
    ),
}
_LIMITED = ("RateLimit", "RateLimit-Policy", "Retry-After")
_CONDITIONAL = ("ETag", "Cache-Control")
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "ETags of answers that the caller has kept: if one still holds, the answer is 304",
    "schema": {"type": "string"},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "1 to 255 visible ASCII characters, new for every wish and the same for every repetition of it",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


class BillhookAPI(FastAPI):
    """FastAPI that describes itself as it really answers. Routes below `api_prefix` are limited and idempotent.

    What is posted to a path of `webhooks` goes straight there, past all middleware; so does what is posted to one of
    `lanes`, but not past telemetry. Routes of the same paths describe the lanes.
    """

    def __init__(
        self, *, api_prefix: str, webhooks: Mapping[str, ASGIApp], lanes: Mapping[str, ASGIApp], **options: Any
    ) -> None:
        self._api_prefix = api_prefix
        self._webhooks = webhooks
        self._lanes = lanes
        super().__init__(
            title="Billhook",
            summary=SUMMARY,
            description=DESCRIPTION,
            version=VERSION,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
            servers=[{"url": "/", "description": "This service"}],
            openapi_tags=TAGS,
            generate_unique_id_function=_operation_id,
            docs_url=None,
            redoc_url=None,
            **options,
        )
        for path, endpoint in {**webhooks, **lanes}.items():
            self.router.routes.append(Route(path, endpoint, methods=["POST"], include_in_schema=False))

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        webhook = self._webhooks.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (webhook or super().__call__)(scope, receive, send)

    @override
    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()

        async def fork(scope: Scope, receive: Receive, send: Send) -> None:
            lane = self._lanes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
            await (lane or stack)(scope, receive, send)

        return fork

    @override
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            for number, path in enumerate(self._webhooks):
                operation_id = f"receive_webhook_{number}" if number else "receive_webhook"
                document["paths"][path] = {"post": describe(operation_id)}
            _describe_components(document)
            for path, method, operation in _operations(document):
                _describe(
                    operation,
                    method,
                    limited=path.startswith(self._api_prefix),
                    keyed=method != "get" and path not in self._lanes,
                )
        return self.openapi_schema or {}


def _operation_id(route: APIRoute) -> str:
    return route.name


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _describe_components(document: dict[str, Any]) -> None:
    """Ours instead of FastAPI's shapes of errors, which nobody is ever sent."""
    components = document["components"]
    schemas = components["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for model in (problems.Problem, problems.FieldProblem):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        schema.pop("$defs", None)
        schemas[model.__name__] = schema
    components["headers"] = {
        name: {"description": text, "schema": {"type": kind}} for name, (text, kind) in _HEADERS.items()
    }
    components["responses"] = {f"Error{status}": _error(status, text) for status, text in _ERRORS.items()}


def _error(status: int, description: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`content` is what FastAPI says of a problem with members of its own."""
    headers = {429: _LIMITED, 503: ("Retry-After",)}.get(status, ())
    plain = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        "description": description,
        "headers": _headers(REQUEST_ID, *headers),
        "content": {problems.MEDIA_TYPE: content["application/json"] if content else plain},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _describe(operation: dict[str, Any], method: str, *, limited: bool, keyed: bool) -> None:
    """`limited` operations count against the caller's rate; `keyed` ones heed Idempotency-Key by the middleware."""
    if operation["tags"] == ["Webhooks"]:
        limited = False
    parameters = operation.get("parameters", [])
    responses = operation["responses"]
    answered = [REQUEST_ID]
    if limited:
        answered += _LIMITED[:2]
    if any(parameter["name"] == "starting_after" for parameter in parameters):
        answered.append("Link")
    errors = {int(status): response["description"] for status, response in responses.items() if status >= "400"}
    errors.pop(422, None)  # FastAPI's own
    for status in _possible(operation, limited=limited):
        errors.setdefault(status, _ERRORS[status])
    if limited and keyed:
        others = [parameter for parameter in parameters if parameter["name"] != _IDEMPOTENCY_KEY["name"]]
        required = len(others) < len(parameters)  # the route asks for it itself
        operation["parameters"] = [*others, {**_IDEMPOTENCY_KEY, "required": required}]
        errors.setdefault(409, "`idempotency_key_in_use`: the first request with this key still runs")
    if limited and method == "get":
        answered += _CONDITIONAL
        operation["parameters"] = [*parameters, _IF_NONE_MATCH]
        responses = {**responses, "304": {"description": "Still as the caller has it; no body"}}
    operation["responses"] = {
        status: {**response, "headers": _headers(*answered)} for status, response in responses.items() if status < "400"
    } | {
        str(status): {"$ref": f"#/components/responses/Error{status}"}
        if text == _ERRORS.get(status)
        else _error(status, text, responses.get(str(status), {}).get("content"))
        for status, text in sorted(errors.items())
    }


def _possible(operation: dict[str, Any], *, limited: bool) -> list[int]:
    """What any operation of this kind may answer besides what it says itself."""
    found = [500, 503]
    if operation.get("security"):
        found += [401, 403]
    if "requestBody" in operation:
        found += [400, 413]
    if "requestBody" in operation or "parameters" in operation:
        found += [422]
    if limited:
        found += [429]
    return found
