"""Logs without secrets, and the metrics other modules count."""

import asyncio
import logging
import re
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic_core import to_json

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


class LineLog:
    """Lines like those of `configure_logging` at a twentieth of their cost, for what comes thousands of times a second.

    Nothing is redacted: what it is given must be harmless. Written at the end of the event loop's present turn.
    """

    def __init__(self, *, level: str, fmt: str) -> None:
        self._quiet = logging.getLevelNamesMapping()[level.upper()] > logging.INFO
        self._console = structlog.dev.ConsoleRenderer() if fmt == "console" else None
        self._unwritten = False

    def info(self, event: str, **fields: Any) -> None:
        if self._quiet:
            return
        timestamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = {**fields, "event": event, "level": "info", "timestamp": timestamp}
        shown = to_json(line).decode() if self._console is None else self._console(None, "info", line)
        sys.stdout.write(f"{shown}\n")
        if not self._unwritten:
            self._unwritten = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        self._unwritten = False
        sys.stdout.flush()


registry = CollectorRegistry(auto_describe=True)

http_requests = Counter(
    "billing_http_requests", "HTTP requests answered", ["method", "route", "status"], registry=registry
)
http_seconds = Histogram(
    "billing_http_request_duration_seconds", "Time to answer", ["method", "route"], registry=registry
)
events_received = Counter(
    "billing_webhook_events_received", "Deliveries by type and outcome", ["type", "outcome"], registry=registry
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
events_due = Gauge("billing_webhook_due", "Events that should be applied now", registry=registry)
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
drift = Counter(
    "billing_drift", "Objects found to be otherwise here than at Stripe", ["object", "cause"], registry=registry
)
reconcile_unrepaired = Gauge(
    "billing_reconcile_unrepaired", "Differences the latest full comparison with Stripe left", registry=registry
)
reconcile_finished = Gauge(
    "billing_reconcile_last_timestamp_seconds", "When the latest full comparison with Stripe ended", registry=registry
)
usage_recorded = Counter(
    "billing_usage_events_recorded", "Usage events by meter and outcome", ["meter", "outcome"], registry=registry
)  # accepted, duplicate, refused
usage_forwarded = Counter(
    "billing_usage_events_forwarded", "Tries to tell Stripe of usage, by outcome", ["outcome"], registry=registry
)  # sent, canceled, failed, put_off
usage_backlog = Gauge(
    "billing_usage_backlog", "Usage events Stripe has not taken (or given back) by state", ["state"], registry=registry
)
usage_oldest_seconds = Gauge(
    "billing_usage_oldest_seconds", "How long the oldest usage event waits to be sent", registry=registry
)
credit_checks = Counter(
    "billing_credit_checks",
    "Answers to whether there are uses left, by whether a purchase is needed",
    ["purchase_required"],
    registry=registry,
)
charges = Counter(
    "billing_charges", "Charges and holds, by whether there were uses for them", ["success"], registry=registry
)
idempotent_replays = Counter("billing_idempotent_replays", "Requests answered from an earlier one", registry=registry)
provider_seconds = Histogram(
    "billing_stripe_request_duration_seconds", "Time Stripe took", ["verb", "resource", "outcome"], registry=registry
)
throttle_seconds = Histogram(
    "billing_stripe_throttle_wait_seconds",
    "Time a background request waited for its turn",
    buckets=(0.01, 0.1, 0.5, 1, 5, 30, 120),
    registry=registry,
)
lock_waits = Counter(
    "billing_lock_waits", "Attempts at a lock in Redis by kind and outcome", ["lock", "outcome"], registry=registry
)  # acquired, waited, timed_out, away
lock_wait_seconds = Histogram(
    "billing_lock_wait_seconds",
    "Time spent on a lock in Redis that was taken",
    ["lock"],
    buckets=(0.01, 0.1, 0.25, 0.5, 1, 2, 5, 15),
    registry=registry,
)
audit_head_seq = Gauge("billing_audit_head_seq", "Rows in a chain of the audit log", ["chain"], registry=registry)
audit_head_info = Gauge(
    "billing_audit_head_info", "The hash of a chain's last row", ["chain", "hash"], registry=registry
)
