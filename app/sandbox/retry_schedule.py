"""When a failed payment is tried again: the account's retry schedule."""

from app.sandbox.periods import DAY
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def next_attempt(sandbox: Sandbox, invoice: Row) -> int | None:
    """Give the moment of the next automatic attempt after the one that just failed; None if it was the last.

    First payments of a subscription and those of pending updates are never tried again by themselves.
    """
    details = (invoice["parent"] or {}).get("subscription_details")
    if details is None or invoice["id"] not in sandbox.get("subscription", details["subscription"])["_unpaid"]:
        return None
    waits = sandbox.settings["retry_after_days"]
    attempts = invoice["attempt_count"]
    return sandbox.now() + waits[attempts - 1] * DAY if attempts <= len(waits) else None
