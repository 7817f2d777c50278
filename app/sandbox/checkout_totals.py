"""What a Checkout Session comes to: its lines less a discount, with taxes; and the code a buyer types."""

from app.sandbox import discounts, payments, taxes
from app.sandbox.resources.promotion_codes import find_active
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def recount(sandbox: Sandbox, session: Row) -> None:
    """Count a session again. What a trial puts off costs nothing today, so nothing is taken off it."""
    coupon = _coupon(sandbox, session)
    due = [line for line in session["_line_items"] if is_due(session, line)]
    due.sort(key=lambda line: line["price"]["recurring"] is not None)  # in the order of the invoice to come
    counted = [
        {
            "amount": line["amount_subtotal"],
            "currency": line["currency"],
            "discountable": True,
            "discount_amounts": [],
            "pricing": {"price_details": {"product": line["price"]["product"]}},
        }
        for line in due
    ]
    if coupon is not None:
        discounts.apply(coupon, coupon["id"], counted)
    for line, count in zip(due, counted, strict=True):
        taxed = taxes.on(discounts.net(count), line["_tax_rates"] or session["_default_tax_rates"], "none")
        line["amount_discount"] = line["amount_subtotal"] - discounts.net(count)
        line["amount_tax"] = sum(tax["amount"] for tax in taxed)
        line["amount_total"] = discounts.net(count) + taxes.total(taxed, "exclusive")
    session["amount_subtotal"] = sum(line["amount_subtotal"] for line in due)
    session["amount_total"] = sum(line["amount_total"] for line in due)
    session["total_details"] = {
        "amount_discount": sum(line["amount_discount"] for line in due),
        "amount_shipping": 0,
        "amount_tax": sum(line["amount_tax"] for line in due),
    }


def is_due(session: Row, line: Row) -> bool:
    """Whether a line is paid today; what recurs waits for the end of a trial."""
    data = session["_subscription_data"]
    trial = bool(data.get("trial_period_days") or data.get("trial_end"))
    return not (trial and line["price"]["recurring"])


def redeem(sandbox: Sandbox, session: Row, wanted: list[Row], **holder: str) -> list[str]:
    """Make discounts of a session's, for what was bought; refuses a code that no longer holds."""
    return discounts.redeem(
        sandbox,
        wanted,
        at="discounts",
        currency=session["currency"],
        customer=session["customer"] or session["_customer"],
        amount=session["amount_subtotal"],
        **holder,
    )


def check(sandbox: Sandbox, session: Row, wanted: list[Row]) -> None:
    """Refuse what could not be redeemed, without redeeming it."""
    with sandbox.rehearsal():
        redeem(sandbox, session, wanted)


def wanted(session: Row) -> list[Row]:
    """Give a session's discounts as parameters."""
    shown = session["discounts"] or []
    return [{name: value for name, value in entry.items() if value is not None} for entry in shown]


def typed(sandbox: Sandbox, session: Row, code: str) -> bool:
    """Apply the promotion code a buyer typed ("" takes it off); False if it is none. ApiError says why it can't be."""
    found = find_active(sandbox, code) if code else None
    if code and found is None:
        return False
    if found is not None:
        check(sandbox, session, [{"promotion_code": found["id"]}])
    session["discounts"] = [{"coupon": None, "promotion_code": found["id"]}] if found else None
    session["_code"] = found["code"] if found else ""
    recount(sandbox, session)
    intent = session["_intent"]
    if intent is not None and intent.startswith("pi_"):  # it was for another amount
        payments.cancel(sandbox, sandbox.get("payment_intent", intent), "abandoned")
        session.update(_intent=None, payment_intent=None)
    return True


def _coupon(sandbox: Sandbox, session: Row) -> Row | None:
    for entry in wanted(session):
        id = entry.get("coupon")
        if "promotion_code" in entry:
            id = sandbox.get("promotion_code", entry["promotion_code"])["promotion"]["coupon"]
        return sandbox.get("coupon", id or "")
    return None
