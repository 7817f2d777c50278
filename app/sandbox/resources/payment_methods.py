"""Payment methods: cards made from test tokens, attached to customers and detached."""

from datetime import UTC, datetime

from app.sandbox import cards, lists
from app.sandbox.errors import ApiError, CardError, missing, required, unsupported
from app.sandbox.metadata import merge
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))


def create(sandbox: Sandbox, params: Row) -> Row:
    if "type" not in params:
        raise required("type")
    if params["type"] != "card":
        raise unsupported(f"payment methods of type {params['type']}", param="type")
    card = params.get("card", {})
    expiry = _next_year(sandbox)
    if "token" in card:
        test_card = cards.by_token(card["token"])
        if test_card is None:
            raise missing("token", card["token"], param="card[token]", status=400)
    else:
        for name in ("number", "exp_month", "exp_year"):
            if name not in card:
                raise required(f"card[{name}]")
        typed = cards.Card(card["number"], card["exp_month"], card["exp_year"], card.get("cvc", "000"))
        test_card = typed.check(sandbox.now())
        expiry = (typed.exp_month, typed.year)
    row = from_card(sandbox, test_card, *expiry)
    _set(row, params)
    return row


def from_card(sandbox: Sandbox, card: cards.TestCard, exp_month: int, exp_year: int) -> Row:
    """Store a card that nobody has yet. Stripe emits nothing for it."""
    return sandbox.insert(
        {
            "id": sandbox.new.mint("pm_"),
            "object": "payment_method",
            "allow_redisplay": "unspecified",
            "billing_details": {
                "address": dict(_ADDRESS),
                "email": None,
                "name": None,
                "phone": None,
                "tax_id": None,
            },
            "card": cards.card_hash(card, exp_month, exp_year),
            "created": sandbox.now(),
            "customer": None,
            "customer_account": None,
            "livemode": False,
            "metadata": {},
            "shared_payment_granted_token": None,
            "type": "card",
            "_number": card.number,
            "_set_up": False,  # whether its owner has authenticated it for use without them
        }
    )


def resolve(sandbox: Sandbox, id: str, *, param: str = "payment_method", status: int = 400) -> Row:
    """Find a payment method; a ``pm_card_visa`` makes a new card at each use."""
    card = cards.by_token(id)
    if card is not None and id.startswith("pm_"):
        return from_card(sandbox, card, *_next_year(sandbox))
    return sandbox.get("payment_method", id, param=param, status=status)


def of_customer(sandbox: Sandbox, id: str, customer: str, *, param: str) -> Row:
    """Find a method that has to be attached to this customer."""
    row = sandbox.find("payment_method", id)
    if row is None:
        raise missing("payment_method", id, param=param, status=400)
    if row["customer"] != customer:
        raise ApiError(
            f"The customer does not have a payment method with the ID {id}. The payment method must be attached to "
            "the customer.",
            code="resource_missing",
            param=param,
        )
    return row


def retrieve(sandbox: Sandbox, _params: Row, payment_method: str) -> Row:
    return sandbox.get("payment_method", payment_method, param="payment_method")


def update(sandbox: Sandbox, params: Row, payment_method: str) -> Row:
    row = sandbox.get("payment_method", payment_method, param="payment_method")
    if row["customer"] is None:
        raise ApiError("You must save this PaymentMethod to a customer before you can update it.")
    with sandbox.updating("payment_method.updated", row):
        _set(row, params)
        row["card"].update(params.get("card", {}))
    return row


def attach(sandbox: Sandbox, params: Row, payment_method: str) -> Row:
    if "customer" not in params:
        raise required("customer")
    customer = sandbox.get("customer", params["customer"], param="customer", status=400)
    row = resolve(sandbox, payment_method, param="payment_method", status=404)
    if row["customer"] == customer["id"]:
        return row
    if row["customer"] is not None:
        raise ApiError("The payment method you provided has already been attached to a customer.")
    card = cards.BY_NUMBER[row["_number"]]
    if not card.attaches and card.decline is not None:
        # Recorded: this refusal's param is the empty string where the decline names none.
        fields = {"param": "", **card.decline.fields()}
        raise CardError(card.decline.message, code=card.decline.code, keep=False, **fields)
    bind(sandbox, row, customer["id"])
    return row


def bind(sandbox: Sandbox, row: Row, customer: str) -> None:
    """Attach a method that the network has accepted."""
    if row["customer"] is None:
        row["customer"] = customer
        row["card"]["checks"]["cvc_check"] = "pass"
        sandbox.emit("payment_method.attached", row)


def detach(sandbox: Sandbox, _params: Row, payment_method: str) -> Row:
    """Take a method from its customer, and from everything that charges it by default."""
    row = sandbox.get("payment_method", payment_method, param="payment_method")
    if row["customer"] is None:
        raise ApiError("The payment method you provided is not attached to a customer so detachment is impossible.")
    customer = sandbox.get("customer", row["customer"])
    with sandbox.updating("payment_method.detached", row):
        row["customer"] = None
    if customer["invoice_settings"]["default_payment_method"] == row["id"]:
        with sandbox.updating("customer.updated", customer):
            customer["invoice_settings"]["default_payment_method"] = None
    for subscription in sandbox.rows("subscription"):
        if subscription["default_payment_method"] == row["id"]:
            with sandbox.updating(
                "customer.subscription.updated", sandbox.get("subscription", subscription["id"])
            ) as changed:
                changed["default_payment_method"] = None
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    """List a customer's methods; without a customer Stripe answers an empty list."""
    if "customer" in params:
        sandbox.get("customer", params["customer"], param="customer", status=400)
    return _page(sandbox, params, params.get("customer"), "/v1/payment_methods")


def list_of_customer(sandbox: Sandbox, params: Row, customer: str) -> Row:
    sandbox.get("customer", customer)
    return _page(sandbox, params, customer, f"/v1/customers/{customer}/payment_methods")


def retrieve_of_customer(sandbox: Sandbox, _params: Row, customer: str, payment_method: str) -> Row:
    sandbox.get("customer", customer)
    row = sandbox.find("payment_method", payment_method)
    if row is None or row["customer"] != customer:
        raise ApiError("Invalid request", status=404, param="customer")
    return row


def _page(sandbox: Sandbox, params: Row, customer: str | None, url: str) -> Row:
    return lists.page(
        sandbox,
        "payment_method",
        params,
        url,
        lambda row: (
            customer is not None
            and row["customer"] == customer
            and lists.matches(row, params, "type", "allow_redisplay")
        ),
    )


def _set(row: Row, params: Row) -> None:
    details = dict(params.get("billing_details", {}))
    if "address" in details:
        row["billing_details"]["address"] = {**_ADDRESS, **(details.pop("address") or {})}
    row["billing_details"].update(details)
    if "allow_redisplay" in params:
        row["allow_redisplay"] = params["allow_redisplay"]
    merge(row, params)


def _next_year(sandbox: Sandbox) -> tuple[int, int]:
    """Expiry of a token's card: a year ahead."""
    today = datetime.fromtimestamp(sandbox.now(), UTC)
    return today.month, today.year + 1
