"""What the Checkout page says about a session: what is bought, for how much, and from when."""

from dataclasses import dataclass

from app.sandbox.money import written
from app.sandbox.pages import wording
from app.sandbox.periods import DAY, day
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


@dataclass(frozen=True, slots=True)
class Bill:
    heading: str
    headline: str  # the amount or offer in large letters; "" where nothing is sold
    terms: str
    lines: list[Row]
    due_today: str
    action: str
    promise: str


def bill(sandbox: Sandbox, session: Row) -> Bill:
    """Read a session as ``checkout.view`` gives it."""
    if session["mode"] == "setup":
        terms = "Nothing is charged now. The card is kept for later payments."
        return Bill("Save a card", "", terms, [], "", "Save card", "")
    items = session["line_items"]["data"]
    trial = session["trial_end"] is not None
    due_today = written(session["amount_total"], session["currency"])
    renewal = " and ".join(
        wording.price_of(item["price"], item["quantity"]) for item in items if item["price"]["recurring"]
    )
    name = items[0]["description"] if len(items) == 1 else None
    headline, terms, action, promise = due_today, "", f"Pay {due_today}", ""
    if trial:
        heading = f"Try {name}" if name else "Start your trial"
        headline, terms, action = _days_free(session["trial_end"] - sandbox.now()), f"Then {renewal}", "Start trial"
        promise = f"From {day(session['trial_end'])} you pay {renewal}, until you cancel."
    elif session["mode"] == "subscription":
        heading = f"Subscribe to {name}" if name else "Subscribe"
        headline, terms = (renewal, "") if name else (due_today, f"Then {renewal}")
        action, promise = "Subscribe", f"You pay {renewal}, until you cancel."
    else:
        heading = f"Pay for {name}" if name else "Your order"
    lines = [*(_line(sandbox, item, trial=trial) for item in items), *_changes(session)]
    return Bill(heading, headline, terms, lines, due_today, action, promise)


def _line(sandbox: Sandbox, item: Row, *, trial: bool) -> Row:
    product = sandbox.get("product", item["price"]["product"])
    recurring = item["price"]["recurring"]
    each = wording.each(item["price"], item["quantity"])
    return {
        "name": item["description"],
        "notes": [note for note in (product["description"], each) if note],
        "amount": written(0 if trial and recurring else item["amount_subtotal"], item["currency"]),
    }


def _changes(session: Row) -> list[Row]:
    """List what a discount takes off and what taxes there are."""
    details, currency = session["total_details"], session["currency"]
    changes = []
    if details["amount_discount"]:
        changes.append({"name": "Discount", "notes": [], "amount": written(-details["amount_discount"], currency)})
    if details["amount_tax"]:
        contained = session["amount_total"] != (
            session["amount_subtotal"] - details["amount_discount"] + details["amount_tax"]
        )
        name = "Tax, included" if contained else "Tax"
        changes.append({"name": name, "notes": [], "amount": written(details["amount_tax"], currency)})
    return changes


def _days_free(seconds: int) -> str:
    days = -(-seconds // DAY)  # a trial that ends tomorrow noon still says a day
    return "1 day free" if days == 1 else f"{days} days free"
