"""Logs without secrets, and the metrics other modules count."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REDACTED = "[redacted]"
_SECRET_KEYS = re.compile(
    r"(authorization|cookie|password|secret|token|api[_-]?key|signature|email|card|number|cvc)$", re.IGNORECASE
)
_SECRET_TEXT = re.compile(
    r"(?:sk|rk|pk)_(?:test|live)_\w+|whsec_[\w+/=]+|bk_\w{8,}|\w+_secret_\w+"  # keys of Stripe's and ours
    r"|eyJ[\w-]+\.[\w-]+\.[\w-]*"  # JWTs
    r"|Bearer\s+\S+"
    r"|[\w.+-]+@[\w-]+\.[\w.]+"  # e-mail addresses
    r"|(?<![\w.])(?:\d[ -]?){13,19}(?![\w.])"  # card numbers
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)",  # credentials in URLs
)


def redact(value: Any) -> Any:
    """`value` with everything that looks like a secret, a card or an address struck out, at any depth."""
    if isinstance(value, str):
        return _SECRET_TEXT.sub(REDACTED, value)
    if isinstance(value, dict):
        return {k: REDACTED if _SECRET_KEYS.search(str(k)) and v is not None else redact(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else _SECRET_TEXT.sub(REDACTED, str(value))


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return redact(dict(event))  # type: ignore[no-any-return]  # a dict goes in, a dict comes out


def configure_logging(*, level: str, fmt: str) -> None:
    """One line per event on stdout: JSON, or colours for eyes. Library logs take the same way."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if fmt == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "stripe", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


registry = CollectorRegistry(auto_describe=True)

http_requests = Counter(
    "billing_http_requests", "HTTP requests answered", ["method", "route", "status"], registry=registry
)
http_seconds = Histogram(
    "billing_http_request_duration_seconds", "Time to answer", ["method", "route"], registry=registry
)
events_received = Counter(
    "billing_webhook_events_received", "Deliveries by outcome", ["outcome"], registry=registry
)  # stored, duplicate, ignored, refused, unavailable
events_processed = Counter(
    "billing_webhook_events_processed", "Events by type and outcome", ["type", "outcome"], registry=registry
)  # processed, failed, dead
events_lag = Histogram(
    "billing_webhook_lag_seconds",
    "From receipt to applied",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600, 3600),
    registry=registry,
)
events_backlog = Gauge("billing_webhook_backlog", "Events waiting, due or not", registry=registry)
batch_size = Histogram(
    "billing_webhook_batch_size",
    "Events that shared a transaction, by stage: receive, apply",
    ["stage"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=registry,
)
customer_locks_busy = Counter(
    "billing_customer_locks_busy", "Times a worker found a customer's lock in Postgres taken", registry=registry
)
idempotent_replays = Counter("billing_idempotent_replays", "Requests answered from an earlier one", registry=registry)
provider_seconds = Histogram(
    "billing_stripe_request_duration_seconds", "Time Stripe took", ["verb", "resource", "outcome"], registry=registry
)
