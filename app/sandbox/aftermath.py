"""What follows a payment by itself: it settles, refunds arrive or fail, customers dispute, holds lapse."""

from collections.abc import Callable

from app.sandbox import ledger, payments
from app.sandbox.later import take_due
from app.sandbox.resources import disputes, refunds
from app.sandbox.sandbox import Sandbox

_DEEDS: dict[str, Callable[[Sandbox, str], None]] = {
    "decide_dispute": disputes.decide,
    "dispute": disputes.open_,
    "fail_refund": refunds.fail,
    "finish_refund": refunds.finish,
    "lapse_dispute": disputes.lapse,
    "lapse_hold": payments.lapse,
    "make_available": ledger.make_available,
    "settle": payments.settle,
    "trace_refund": refunds.trace,
}


def catch_up(sandbox: Sandbox) -> None:
    """Do everything whose time has come, each as of its own moment; it may set off more, which is due later."""
    while jobs := take_due(sandbox):
        for job in jobs:
            with sandbox.at(int(job["due"])), sandbox.at_clock_of(job["subject"]):
                _DEEDS[job["deed"]](sandbox, job["subject"])
