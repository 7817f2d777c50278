"""What `map_event` makes of events, of things like events, and of things that are none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider.stripe_data import GENERATIONS, JSON, LATEST, START, events, unhurried

from app.provider.mapping.events import map_envelope, map_event
from app.provider.objects import Customer, Envelope, Event, Invoice, PaymentMethod, Subscription


def event(event_type: str, **changes: Any) -> dict[str, Any]:
    """The latest generation's event of that type; `object` changes fields of what it shows, others the event's own."""
    found = events(LATEST)[event_type]
    found["data"]["object"].update(changes.pop("object", {}))
    return {**found, **changes}


def test_an_event_carries_its_object_and_whose_it_is() -> None:
    mapped = map_event(event("customer.subscription.updated", account="acct_1Qabc"))
    assert isinstance(mapped.object, Subscription)
    assert mapped == Event(
        id="evt_1Qabc1",
        type="customer.subscription.updated",
        created=START + 1,
        livemode=False,
        account="acct_1Qabc",
        api_version=LATEST,
        object_type="subscription",
        object_id="sub_1QabcSub",
        customer="cus_QabcCus",
        object=mapped.object,
    )


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_event_of_every_generation_is_read_whole(generation: str) -> None:
    mapped = [map_event(row) for row in events(generation).values()]
    assert [row.customer for row in mapped] == ["cus_QabcCus"] * 5
    assert [row.api_version for row in mapped] == [generation] * 5
    assert None not in [row.object for row in mapped]


@pytest.mark.parametrize(
    ("updated", "deleted"), [("customer.updated", "customer.deleted"), ("invoice.paid", "invoice.deleted")]
)
def test_a_deletion_marks_the_object_it_shows_as_it_was(updated: str, deleted: str) -> None:
    mapped = map_event(event(updated, type=deleted)).object
    assert isinstance(mapped, Customer | Invoice)
    assert mapped.deleted


def test_a_detached_card_is_still_traced_to_its_customer() -> None:
    detached = event("payment_method.attached", type="payment_method.detached", object={"customer": None})
    detached["data"]["previous_attributes"] = {"customer": "cus_QabcCus"}
    mapped = map_event(detached)
    assert isinstance(mapped.object, PaymentMethod)
    assert (mapped.object.customer, mapped.customer) == (None, "cus_QabcCus")


def test_an_upcoming_invoice_is_neither_kept_nor_fetched() -> None:
    upcoming = event("invoice.paid", type="invoice.upcoming")
    del upcoming["data"]["object"]["id"]
    with_id = event("invoice.paid", type="invoice.upcoming", object={"id": "upcoming_in_1Qabc"})
    for mapped in (map_event(upcoming), map_event(with_id)):
        assert (mapped.object_type, mapped.object_id, mapped.object) == ("invoice", None, None)
        assert mapped.customer == "cus_QabcCus"


def test_an_object_we_do_not_mirror_is_still_named() -> None:
    charge = {"id": "ch_3Qabc", "object": "charge", "customer": {"id": "cus_QabcCus", "object": "customer"}}
    mapped = map_event(event("invoice.paid", type="charge.succeeded", data={"object": charge}))
    assert (mapped.object_type, mapped.object_id, mapped.customer) == ("charge", "ch_3Qabc", "cus_QabcCus")
    assert mapped.object is None


def test_an_object_we_cannot_read_is_named_for_fetching() -> None:
    mapped = map_event(event("invoice.paid", object={"amount_due": "much"}))
    assert (mapped.object_type, mapped.object_id, mapped.customer) == ("invoice", "in_1QabcInv", "cus_QabcCus")
    assert mapped.object is None


@pytest.mark.parametrize(
    "data", [None, [], "x", {}, {"object": None}, {"object": []}, {"object": {"object": 1, "id": 2}}]
)
def test_an_event_that_shows_nothing_readable_is_still_an_event(data: object) -> None:
    mapped = map_event(event("invoice.paid", data=data))
    assert (mapped.object_type, mapped.object_id, mapped.customer, mapped.object) == (None, None, None, None)


def test_a_thin_event_names_what_to_fetch() -> None:
    thin = {
        "id": "evt_test_65Qabc",
        "object": "v2.core.event",
        "type": "v1.customer.subscription.past_due",
        "created": "2026-01-01T00:00:07.500Z",
        "livemode": False,
        "context": "acct_1Qabc",
        "related_object": {"id": "sub_1QabcSub", "type": "subscription", "url": "/v1/subscriptions/sub_1QabcSub"},
    }
    assert map_event(thin) == Event(
        id="evt_test_65Qabc",
        type="v1.customer.subscription.past_due",
        created=START + 7,
        livemode=False,
        account="acct_1Qabc",
        api_version=None,
        object_type="subscription",
        object_id="sub_1QabcSub",
        customer=None,
        object=None,
    )


def test_a_thin_event_about_a_customer_is_the_customers() -> None:
    thin = {
        "id": "evt_test_65Qabc",
        "object": "v2.core.event",
        "type": "v1.customer.updated",
        "created": "2026-01-01T00:00:07Z",
        "livemode": False,
        "related_object": {"id": "cus_QabcCus", "type": "customer", "url": "/v1/customers/cus_QabcCus"},
    }
    assert map_event(thin).customer == "cus_QabcCus"


@pytest.mark.parametrize(
    "changes",
    [
        {"object": {}, "id": None},
        {"id": ""},
        {"id": "e" * 256},
        {"id": "evt\x00"},
        {"id": "evt\ud800"},
        {"id": 5},
        {"type": None},
        {"type": ["invoice.paid"]},
        {"created": None},
        {"created": True},
        {"created": 1.5},
        {"created": "1767225600"},
        {"created": 2**63},
        {"created": -1},
        {"livemode": None},
        {"livemode": 0},
        {"account": 7},
        {"api_version": {}},
    ],
)
def test_a_malformed_event_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        map_event(event("invoice.paid", **changes))


@pytest.mark.parametrize("payload", [None, [], "event", 5, {}, {"object": "customer", "id": "cus_QabcCus"}])
def test_what_is_no_event_is_refused(payload: Any) -> None:
    with pytest.raises(ValueError):
        map_event(payload)


@pytest.mark.parametrize(
    "created", ["yesterday", "2026-01-01T00:00:07", "\ud800", "0001-01-01T00:00:00Z", 1767225600, None]
)
def test_a_thin_event_without_a_proper_time_is_refused(created: object) -> None:
    thin = {"id": "evt_1", "object": "v2.core.event", "type": "v1.x", "created": created, "livemode": False}
    with pytest.raises(ValueError):
        map_event(thin)


@unhurried
@given(
    kind=st.sampled_from(["event", "v2.core.event"]),
    fields=st.dictionaries(
        st.sampled_from(["id", "type", "created", "livemode", "account", "context", "data", "related_object"]), JSON
    ),
    shown=st.dictionaries(st.sampled_from(["id", "object", "customer"]), JSON),
)
def test_any_json_at_all_is_read_or_refused(kind: str, fields: dict[str, Any], shown: dict[str, Any]) -> None:
    thin = kind == "v2.core.event"
    whole = {
        "id": "evt_1",
        "type": "invoice.paid",
        "created": "2026-01-01T00:00:00Z" if thin else START,
        "livemode": False,
        "related_object" if thin else "data": shown if thin else {"object": shown},
        **fields,
        "object": kind,
    }
    try:
        mapped = map_event(whole)
    except ValueError:
        with pytest.raises(ValueError):
            map_envelope(whole)
        return
    assert map_envelope(whole) == Envelope(**{name: getattr(mapped, name) for name in Envelope.__slots__})
    assert 0 < len(mapped.id) <= 255
    assert 0 <= mapped.created <= 253_402_300_799
