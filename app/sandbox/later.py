"""What is to happen a moment after a payment, kept in the sandbox's state until its time comes."""

from app.sandbox.clocks import clock_of
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def schedule(sandbox: Sandbox, deed: str, subject: str, *, after: float) -> None:
    """Have ``aftermath`` do ``deed`` to the object ``subject`` in that many seconds of the account's clock.

    What happens in a test clock's time is followed up in the account's own: the clock may stand still for ever.
    """
    begins = sandbox.now() if clock_of(sandbox, subject) is None else sandbox.time()
    sandbox.insert(
        {
            "id": sandbox.new.mint("_later_"),
            "object": "_later",
            "deed": deed,
            "subject": subject,
            "due": begins + after,
        }
    )


def take_due(sandbox: Sandbox) -> list[Row]:
    """Hand out what is due, the earliest first; it is the caller's from here on."""
    now = sandbox.time()
    due = sorted((row for row in sandbox.rows("_later") if row["due"] <= now), key=lambda row: row["due"])
    for row in due:
        sandbox.forget("_later", row["id"])
    return due
