"""The same shop, told by six API generations of Stripe, reads the same."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider.stripe_data import GENERATIONS, JSON, LATEST, START, shown, unhurried

from app.provider.mapping.catalog import map_price
from app.provider.mapping.checkout import map_checkout_session
from app.provider.mapping.customers import map_customer, map_payment_method
from app.provider.mapping.events import MAPPERS
from app.provider.mapping.reading import UnreadableError
from app.provider.mapping.subscriptions import map_invoice, map_subscription
from app.provider.objects import CheckoutSession, Customer, Invoice, PaymentMethod, Price, Subscription

ONE_PERIOD = [name for name in GENERATIONS if name < "2025-03-31"]
MONTH_END, YEAR_END = 1769904000, 1798761600


def test_six_generations_are_at_hand() -> None:
    assert len(GENERATIONS) == 6


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_customer_reads_the_same_in_every_generation(generation: str) -> None:
    assert map_customer(shown(generation, "customer.updated")) == Customer(
        id="cus_QabcCus",
        email="ada@example.com",
        name="Ada Lovelace",
        default_payment_method="pm_1QabcCard",
        metadata={"user_id": "demo-1"},
        created=1767221000,
    )


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_invoice_reads_the_same_in_every_generation(generation: str) -> None:
    assert map_invoice(shown(generation, "invoice.paid")) == Invoice(
        id="in_1QabcInv",
        customer="cus_QabcCus",
        status="paid",
        currency="usd",
        amount_due=9900,
        amount_paid=9900,
        amount_remaining=0,
        subtotal=9900,
        total=9900,
        number="BILL-0001",
        subscription="sub_1QabcSub",
        billing_reason="subscription_create",
        hosted_invoice_url="https://invoice.stripe.com/i/acct_1/test_1",
        invoice_pdf="https://pay.stripe.com/invoice/acct_1/test_1/pdf",
        period_start=START,
        period_end=START,
        paid_at=START + 2,
        attempt_count=1,
        created=START,
    )


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_checkout_session_reads_the_same_in_every_generation(generation: str) -> None:
    assert map_checkout_session(shown(generation, "checkout.session.completed")) == CheckoutSession(
        id="cs_test_a1Qabc",
        mode="subscription",
        status="complete",
        payment_status="paid",
        url=None,
        customer="cus_QabcCus",
        expires_at=START + 86400,
        subscription="sub_1QabcSub",
        invoice="in_1QabcInv",
        client_reference_id="demo-1",
        currency="usd",
        amount_total=9900,
        metadata={"user_id": "demo-1"},
        created=START,
    )


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_card_reads_the_same_in_every_generation(generation: str) -> None:
    assert map_payment_method(shown(generation, "payment_method.attached")) == PaymentMethod(
        id="pm_1QabcCard",
        type="card",
        customer="cus_QabcCus",
        brand="visa",
        last4="4242",
        exp_month=12,
        exp_year=2034,
        created=START,
    )


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_subscription_reads_the_same_in_every_generation_but_for_its_periods(generation: str) -> None:
    subscription = map_subscription(shown(generation, "customer.subscription.updated"))

    month = subscription.items[0]
    assert month.price == Price(
        id="price_1QabcProMonth",
        product="prod_QabcPro",
        active=True,
        currency="usd",
        unit_amount=9900,
        interval="month",
        lookup_key="pro_monthly",
        usage_type="licensed",
        metadata={"plan": "pro"},
        created=1767220000,
    )
    assert (month.id, month.quantity) == ("si_QabcMonth", 1)
    assert (month.current_period_start, month.current_period_end) == (START, MONTH_END)
    assert subscription == Subscription(
        id="sub_1QabcSub",
        customer="cus_QabcCus",
        status="active",
        items=subscription.items,
        currency="usd",
        current_period_start=START,
        current_period_end=MONTH_END if generation in ONE_PERIOD else YEAR_END,
        cancel_at_period_end=False,
        default_payment_method="pm_1QabcCard",
        latest_invoice="in_1QabcInv",
        collection_method="charge_automatically",
        discounts=[],
        metadata={"user_id": "demo-1"},
        created=START,
    )


def test_the_period_of_a_subscription_spans_those_of_its_items() -> None:
    subscription = shown(LATEST, "customer.subscription.updated")
    subscription["items"]["data"][0]["current_period_start"] = START + 86400
    mapped = map_subscription(subscription)
    assert (mapped.current_period_start, mapped.current_period_end) == (START, YEAR_END)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_expanded_objects_read_as_their_ids(generation: str) -> None:
    subscription = shown(generation, "customer.subscription.updated")
    subscription["customer"] = shown(generation, "customer.updated")
    subscription["latest_invoice"] = shown(generation, "invoice.paid")
    subscription["default_payment_method"] = shown(generation, "payment_method.attached")
    subscription["items"]["data"][0]["price"]["product"] = {"id": "prod_QabcPro", "object": "product"}
    session = shown(generation, "checkout.session.completed")
    session["customer"] = {"id": "cus_QabcCus", "object": "customer", "deleted": True}
    session["subscription"] = subscription

    plain = shown(generation, "customer.subscription.updated")
    assert map_subscription(subscription) == map_subscription(plain)
    assert map_checkout_session(session) == map_checkout_session(shown(generation, "checkout.session.completed"))


def test_an_invoice_shows_its_subscription_even_expanded() -> None:
    old, new = shown(GENERATIONS[0], "invoice.paid"), shown(LATEST, "invoice.paid")
    old["subscription"] = {"id": "sub_1QabcSub", "object": "subscription"}
    new["parent"]["subscription_details"]["subscription"] = {"id": "sub_1QabcSub", "object": "subscription"}
    assert map_invoice(old).subscription == "sub_1QabcSub"
    assert map_invoice(new).subscription == "sub_1QabcSub"


@pytest.mark.parametrize("parent", [None, {"type": "quote_details", "subscription_details": None}])
def test_an_invoice_without_a_subscription_has_none(parent: object) -> None:
    invoice = shown(LATEST, "invoice.paid") | {"parent": parent}
    assert map_invoice(invoice).subscription is None


def test_an_unknown_status_survives() -> None:
    subscription = shown(LATEST, "customer.subscription.updated") | {"status": "hibernating"}
    assert map_subscription(subscription).status == "hibernating"


def test_a_paused_collection_is_named_by_its_behavior() -> None:
    subscription = shown(LATEST, "customer.subscription.updated")
    subscription["pause_collection"] = {"behavior": "void", "resumes_at": None}
    assert map_subscription(subscription).pause_collection == "void"


def test_a_metered_item_has_no_quantity_and_no_amount() -> None:
    subscription = shown(LATEST, "customer.subscription.updated")
    item = subscription["items"]["data"][0]
    del item["quantity"]
    item["price"]["unit_amount"] = None
    mapped = map_subscription(subscription).items[0]
    assert (mapped.quantity, mapped.price.unit_amount) == (0, None)


def test_a_one_time_price_has_no_interval() -> None:
    price = shown(LATEST, "customer.subscription.updated")["items"]["data"][0]["price"] | {"recurring": None}
    assert (map_price(price).interval, map_price(price).interval_count) == (None, 1)


def test_half_a_list_of_items_is_not_read_as_a_whole_one() -> None:
    subscription = shown(LATEST, "customer.subscription.updated")
    subscription["items"]["has_more"] = True
    with pytest.raises(UnreadableError):
        map_subscription(subscription)


def test_a_deleted_customer_shows_only_that() -> None:
    answer = {"id": "cus_QabcCus", "object": "customer", "deleted": True}
    assert map_customer(answer) == Customer(id="cus_QabcCus", deleted=True)


def test_a_bank_account_has_no_card_fields() -> None:
    debit = shown(LATEST, "payment_method.attached") | {"type": "us_bank_account", "us_bank_account": {}}
    del debit["card"]
    mapped = map_payment_method(debit)
    assert (mapped.type, mapped.brand, mapped.last4, mapped.exp_year) == ("us_bank_account", None, None, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "x" * 256),
        ("id", ""),
        ("id", 7),
        ("amount_due", 2**63),
        ("amount_due", 99.0),
        ("amount_due", True),
        ("amount_due", "9900"),
        ("created", -1),
        ("created", 253_402_300_800),
        ("number", "BILL\x00"),
        ("number", "\ud800"),
        ("livemode", "false"),
        ("customer", ["cus_QabcCus"]),
        ("parent", "sub_1QabcSub"),
    ],
)
def test_what_postgres_or_stripe_could_not_hold_is_unreadable(field: str, value: object) -> None:
    with pytest.raises(UnreadableError):
        map_invoice(shown(LATEST, "invoice.paid") | {field: value})


NEEDED = {
    "customer.updated": ("id", "livemode", "created"),
    "customer.subscription.updated": ("id", "customer", "status", "items", "cancel_at_period_end", "created"),
    "invoice.paid": ("id", "currency", "amount_due", "amount_paid", "amount_remaining", "subtotal", "total"),
    "checkout.session.completed": ("id", "mode", "payment_status", "expires_at"),
    "payment_method.attached": ("id", "type"),
}


@pytest.mark.parametrize(
    ("event_type", "field"), [(kind, field) for kind, fields in NEEDED.items() for field in fields]
)
def test_a_missing_field_that_decides_something_is_unreadable(event_type: str, field: str) -> None:
    data = shown(LATEST, event_type)
    del data[field]
    with pytest.raises(UnreadableError):
        MAPPERS[data["object"]](data)


def _places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*path, key))


@unhurried
@given(data=st.data())
def test_no_junk_anywhere_in_an_object_raises_anything_else(data: st.DataObject) -> None:
    generation = data.draw(st.sampled_from(GENERATIONS))
    original = shown(generation, data.draw(st.sampled_from(sorted(NEEDED))))
    spoilt = copy.deepcopy(original)
    *way, last = data.draw(st.sampled_from(list(_places(original))))
    target: Any = spoilt
    for step in way:
        target = target[step]
    target[last] = data.draw(JSON)
    with contextlib.suppress(UnreadableError):
        MAPPERS[original["object"]](spoilt)
