"""What the hosted Checkout page does: show a session, take a card, and complete what was bought."""

from dataclasses import dataclass

from app.sandbox import checkout_totals, invoice_lines, invoicing, payments, subscription_rows, subscriptions, taxes
from app.sandbox.cards import Card
from app.sandbox.catalog import amount
from app.sandbox.errors import ApiError, CardError
from app.sandbox.lists import embedded
from app.sandbox.resources import customers, payment_methods, setup_intents
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row
from app.sandbox.subscription_lines import item_lines


@dataclass(frozen=True, slots=True)
class Paid:
    """The session is complete; send the buyer to ``redirect_url``."""

    redirect_url: str


@dataclass(frozen=True, slots=True)
class NeedsAuthentication:
    """The card's bank wants the buyer to confirm; ``complete_authentication`` takes the answer."""

    payment_method: Row


def view(sandbox: Sandbox, session_id: str) -> Row:
    """Give the session as clients see it, its line items under ``line_items``, and ``awaits_authentication``."""
    sandbox.tick()
    session = sandbox.get("checkout.session", session_id, param="session")
    shown = sandbox.shown(session)
    shown["line_items"] = line_items(sandbox, session)
    shown["awaits_authentication"] = session["_intent"] is not None and _intent(sandbox, session)["status"] == (
        "requires_action"
    )
    shown["trial_end"] = trial_end(sandbox, session)
    shown["needs_card"] = needs_card(session)
    return shown


def pay(
    sandbox: Sandbox, session_id: str, card: Card | None, email: str | None = None, name: str | None = None
) -> Paid | NeedsAuthentication:
    """Buy. A refused card raises CardError and leaves the session open; a session not open raises ApiError.

    ``card`` may be None where nothing is due and ``payment_method_collection`` is ``if_required``.
    """
    with sandbox.changing(session_id):
        session = _open(sandbox, session_id)
        email = session["customer_email"] or email
        if session["customer"] is None and not email:
            raise ApiError("Your email address is incomplete.", code="email_invalid", param="email")
        session["_buyer"] = {"email": email, "name": name}
        if card is None:
            if needs_card(session):
                raise CardError("Your card number is incomplete.", code="incomplete_number", param="number", keep=False)
            return _complete(sandbox, session, None)
        method = payments.card_used(sandbox, card)
        method["billing_details"].update(email=email, name=name)
        _customer(sandbox, session)
        if not session["amount_total"]:
            done = setup_intents.confirm_with(sandbox, _setup_intent(sandbox, session), method)
        else:
            done = payments.confirm(sandbox, _payment_intent(sandbox, session), method, off_session=False)
        return _complete(sandbox, session, method) if done else NeedsAuthentication(sandbox.shown(method))


def complete_authentication(sandbox: Sandbox, session_id: str, *, succeed: bool) -> Paid:
    """Take the buyer's answer to the bank's challenge; a failed one raises CardError, the session stays open."""
    with sandbox.changing(session_id):
        session = _open(sandbox, session_id)
        intent = _intent(sandbox, session) if session["_intent"] is not None else None
        if intent is None or intent["status"] != "requires_action":
            raise ApiError("This Checkout Session has no payment that waits for authentication.")
        method = sandbox.get("payment_method", intent["payment_method"])
        if intent["object"] == "setup_intent":
            setup_intents.authenticate(sandbox, intent, succeed=succeed)
        else:
            payments.authenticate(sandbox, intent, succeed=succeed)
        return _complete(sandbox, session, method)


def line_items(sandbox: Sandbox, session: Row) -> Row:
    row = sandbox.get("checkout.session", session["id"])
    return embedded(row["_line_items"], {"limit": 100}, f"/v1/checkout/sessions/{row['id']}/line_items")


def trial_end(sandbox: Sandbox, session: Row) -> int | None:
    """Say when the trial would end if the buyer paid now."""
    data: Row = session["_subscription_data"]
    if data.get("trial_period_days"):
        return sandbox.now() + int(data["trial_period_days"]) * 86_400
    return data.get("trial_end")


def needs_card(session: Row) -> bool:
    if session["mode"] == "payment":
        return bool(session["amount_total"])
    return not (session["amount_total"] == 0 and session["payment_method_collection"] == "if_required")


def _open(sandbox: Sandbox, session_id: str) -> Row:
    session = sandbox.get("checkout.session", session_id, param="session")
    if session["status"] != "open":
        raise ApiError(
            "This Checkout Session has already been completed."
            if session["status"] == "complete"
            else "This Checkout Session has expired.",
            code="checkout_session_not_open",
        )
    return session


def _customer(sandbox: Sandbox, session: Row) -> Row | None:
    """Find or make who buys; one-time payments make no customer unless the session asks for one.

    The session shows a new customer only when it is complete, but every attempt is already theirs.
    """
    id = session["customer"] or session["_customer"]
    buyer = {name: value for name, value in session["_buyer"].items() if value}
    if id is not None:
        return customers.update(sandbox, {} if session["customer"] else buyer, id)
    if session["mode"] != "subscription" and session["customer_creation"] != "always":
        return None
    customer = customers.create(sandbox, buyer)
    session["_customer"] = customer["id"]
    return customer


def _intent(sandbox: Sandbox, session: Row) -> Row:
    id: str = session["_intent"]
    return sandbox.get("setup_intent" if id.startswith("seti_") else "payment_intent", id)


def _payment_intent(sandbox: Sandbox, session: Row) -> Row:
    """Make the intent at the first attempt; later attempts use it again."""
    if session["_intent"] is not None:
        return _intent(sandbox, session)
    recurring = session["mode"] == "subscription"
    data = {} if recurring else dict(session["_payment_intent_data"])
    if recurring:
        data = {"description": "Subscription creation", "setup_future_usage": "off_session"}
    intent = payments.new_intent(
        sandbox,
        amount=session["amount_total"],
        currency=session["currency"],
        customer=session["customer"] or session["_customer"],
        **payments.made_for(session),
        **data,
    )
    session["_intent"] = intent["id"]
    if not recurring:
        session["payment_intent"] = intent["id"]
    return intent


def _setup_intent(sandbox: Sandbox, session: Row) -> Row:
    if session["_intent"] is not None:
        return _intent(sandbox, session)
    data = dict(session["_setup_intent_data"])
    if (customer := session["customer"] or session["_customer"]) is not None:
        data["customer"] = customer
    intent = setup_intents.create(sandbox, data)
    session["_intent"] = intent["id"]
    if session["mode"] == "setup":
        session["setup_intent"] = intent["id"]
    return intent


def _complete(sandbox: Sandbox, session: Row, method: Row | None) -> Paid:
    customer = _customer(sandbox, session)
    intent = _intent(sandbox, session) if session["_intent"] is not None else None
    saves = intent is not None and (intent["object"] == "setup_intent" or intent["setup_future_usage"] is not None)
    if saves and method is not None and customer is not None:
        payment_methods.bind(sandbox, method, customer["id"])
    if session["mode"] == "subscription" and customer is not None:
        _subscribe(sandbox, session, customer, method, intent)
    elif session["discounts"]:
        checkout_totals.redeem(sandbox, session, checkout_totals.wanted(session), checkout_session=session["id"])
    paid_now = intent is not None and intent["object"] == "payment_intent"
    session.update(
        customer=customer and customer["id"],
        status="complete",
        payment_status="paid" if paid_now else "no_payment_required",
        url=None,
        customer_details=_details(session, customer),
    )
    sandbox.emit("checkout.session.completed", session)
    target = session["success_url"] or ""
    return Paid(target.replace("{CHECKOUT_SESSION_ID}", session["id"]))


def _subscribe(sandbox: Sandbox, session: Row, customer: Row, method: Row | None, intent: Row | None) -> None:
    """Create subscription and first invoice, which exist only now that the payment is through."""
    data = session["_subscription_data"]
    recurring = [line for line in session["_line_items"] if line["price"]["recurring"]]
    items = [
        {
            "price": sandbox.get("price", line["price"]["id"]),
            "quantity": line["quantity"],
            "metadata": {},
        }
        for line in recurring
    ]
    subscription = subscription_rows.new(
        sandbox,
        customer,
        items,
        trial_end=trial_end(sandbox, session),
        default_payment_method=method and method["id"],
        description=data.get("description"),
        metadata=dict(data.get("metadata", {})),
    )
    subscription_rows.set_trial_end_behavior(subscription, data.get("trial_settings"))
    subscription["invoice_settings"].update(data.get("invoice_settings", {}))
    subscription["default_tax_rates"] = session["_default_tax_rates"]
    for item, line in zip(subscription["items"]["data"], recurring, strict=True):
        item["tax_rates"] = line["_tax_rates"]
    subscription["discounts"] = checkout_totals.redeem(
        sandbox, session, checkout_totals.wanted(session), subscription=subscription["id"]
    )
    for id in subscription["discounts"]:
        sandbox.emit("customer.discount.created", sandbox.get("discount", id))
    created = sandbox.emit("customer.subscription.created", subscription)
    lines = [*_one_time_lines(sandbox, session), *item_lines(sandbox, subscription)]
    invoice = subscriptions.new_invoice(sandbox, subscription, "subscription_create", lines)
    if intent is not None and intent["object"] == "payment_intent":
        invoicing.finalize(sandbox, invoice, intent=intent)
        invoicing.mark_paid(sandbox, invoice)
    else:
        invoicing.finalize(sandbox, invoice)
    if subscription["status"] == "incomplete":
        subscription["status"] = "active"
    created["data"]["object"] = sandbox.shown(subscription)
    session.update(subscription=subscription["id"], invoice=invoice["id"])


def _one_time_lines(sandbox: Sandbox, session: Row) -> list[Row]:
    """Make invoice lines of what is bought once, together with the subscription."""
    return [
        invoice_lines.line(
            sandbox,
            amount=line["amount_subtotal"],
            currency=line["currency"],
            description=line["description"],
            period=(sandbox.now(), sandbox.now()),
            price=sandbox.get("price", line["price"]["id"]),
            quantity=line["quantity"],
            parent=None,
            unit_amount_decimal=line["price"]["unit_amount_decimal"],
            tax_rates=line["_tax_rates"],
        )
        for line in session["_line_items"]
        if not line["price"]["recurring"]
    ]


def _details(session: Row, customer: Row | None) -> Row:
    buyer = session["_buyer"]
    known: Row = customer or {}
    return {
        "address": known.get("address"),
        "business_name": None,
        "email": known.get("email") or buyer["email"],
        "individual_name": None,
        "name": buyer["name"] or known.get("name"),
        "phone": known.get("phone"),
        "tax_exempt": "none",
        "tax_ids": [],
    }


def line_item(sandbox: Sandbox, price: Row, quantity: int, params: Row, *, at: str) -> Row:
    """Build one line item of a session."""
    total = amount(price, quantity)
    return {
        "id": sandbox.new.mint("li_"),
        "object": "item",
        "adjustable_quantity": params.get("adjustable_quantity"),
        "amount_discount": 0,
        "amount_subtotal": total,
        "amount_tax": 0,
        "amount_total": total,
        "currency": price["currency"],
        "description": sandbox.get("product", price["product"])["name"],
        "metadata": dict(params.get("metadata", {})),
        "price": sandbox.shown(price),
        "quantity": quantity,
        "_tax_rates": taxes.chosen(sandbox, params.get("tax_rates"), at=f"{at}[tax_rates]"),
    }
