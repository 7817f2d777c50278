"""The Checkout page: what it says, what it refuses, and that it sells exactly once."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hosted_pages import AUTHENTICATES, CANCEL, DECLINED, PAYS, START, SUCCESS, Reader, Shop

CANNOT_AUTHENTICATE = (
    "We are unable to authenticate your payment method. Please choose a different payment method and try again."
)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    yield shop
    await shop.aclose()


async def test_a_subscription_is_bought_with_a_form_and_a_redirect(shop: Shop) -> None:
    session = await shop.session(await shop.price())
    page = await shop.get(session["url"])
    assert page.status_code == 200
    said = Reader(page)
    assert "TEST MODE" in said.text
    assert "Subscribe to Pro $99.00 per month" in said.text
    assert "Total due today $99.00" in said.text
    assert "Email ada@example.com" in said.text
    assert said.links["← Back"] == CANCEL

    answer = await shop.submit(page, **PAYS, name="Ada L")
    assert answer.status_code == 303
    assert answer.headers["Location"] == SUCCESS.replace("{CHECKOUT_SESSION_ID}", session["id"])
    bought = await shop.api(f"checkout/sessions/{session['id']}")
    assert (bought["status"], bought["payment_status"]) == ("complete", "paid")
    subscription = await shop.api(f"subscriptions/{bought['subscription']}")
    assert subscription["status"] == "active"
    method = await shop.api(f"payment_methods/{subscription['default_payment_method']}")
    assert (method["card"]["last4"], method["billing_details"]["name"]) == ("4242", "Ada L")


async def test_a_trial_says_what_it_costs_and_from_when(shop: Shop) -> None:
    session = await shop.session(await shop.price(), **{"subscription_data[trial_period_days]": 14})
    page = await shop.get(session["url"])
    said = Reader(page).text
    assert "Try Pro 14 days free Then $99.00 per month" in said
    assert "Total due today $0.00" in said
    assert "From 5 Oct 2026 you pay $99.00 per month, until you cancel." in said
    assert "Start trial" in said
    await shop.submit(page, **PAYS)
    bought = await shop.api(f"checkout/sessions/{session['id']}")
    assert (await shop.api(f"subscriptions/{bought['subscription']}"))["status"] == "trialing"


async def test_several_lines_show_quantities_and_what_recurs(shop: Shop) -> None:
    setup = await shop.price("Onboarding", 25000, interval="")
    session = await shop.session(
        await shop.price(),
        **{"line_items[0][quantity]": 3, "line_items[1][price]": setup, "line_items[1][quantity]": 1},
    )
    said = Reader(await shop.get(session["url"])).text
    assert "Subscribe $547.00 Then $297.00 per month" in said
    assert "Qty 3 at $99.00 per month" in said


@pytest.mark.parametrize(
    ("currency", "amount", "shown"),
    [("jpy", 1500, "¥1,500"), ("kwd", 1500, "1.500 KWD"), ("eur", 1005, "€10.05"), ("isk", 50000, "500.00 ISK")],
)
async def test_one_time_prices_are_written_exactly(shop: Shop, currency: str, amount: int, shown: str) -> None:
    price = await shop.price("Credits", amount, currency, interval="")
    session = await shop.session(price, mode="payment")
    said = Reader(await shop.get(session["url"])).text
    assert f"Total due today {shown}" in said
    assert f"Pay {shown}" in said


async def test_setup_saves_a_card_and_charges_nothing(shop: Shop) -> None:
    customer = await shop.customer()
    session = await shop.api("checkout/sessions", mode="setup", currency="usd", customer=customer, success_url=SUCCESS)
    page = await shop.get(session["url"])
    assert "Save card" in Reader(page).text
    assert (await shop.submit(page, **PAYS)).status_code == 303
    assert len((await shop.api(f"payment_methods?customer={customer}"))["data"]) == 1
    assert await shop.events("charge.succeeded") == []


@pytest.mark.parametrize(
    ("typed", "message", "field"),
    [
        (DECLINED, "Your card was declined.", None),
        (PAYS | {"number": "4000000000009995"}, "Your card has insufficient funds.", None),
        (PAYS | {"number": "4242 4242 4242 4241"}, "Your card number is incorrect.", "number"),
        (PAYS | {"number": ""}, "Your card number is incomplete.", "number"),
        (PAYS | {"expiry": ""}, "Your card's expiration date is incomplete.", "expiry"),
        (PAYS | {"expiry": "13/34"}, "Your card's expiration month is invalid.", "expiry"),
        (PAYS | {"expiry": "01/20"}, "Your card's expiration year is invalid.", "expiry"),
        (PAYS | {"cvc": "1"}, "Your card's security code is incomplete.", "cvc"),
    ],
)
async def test_a_refused_card_stays_on_the_page(
    shop: Shop, typed: dict[str, str], message: str, field: str | None
) -> None:
    session = await shop.session(await shop.price(), customer=None)
    answer = await shop.submit(await shop.get(session["url"]), **typed, email="ada@example.com", name="Ada <3")
    assert answer.status_code == 402
    said = Reader(answer)
    assert message in said.text
    assert said.elements["problem"]["autofocus"] is None  # present, without a value
    if field is not None:
        assert said.elements[field]["aria-describedby"] == f"{field}-error"
        assert f"{field}-error" in said.elements
    [form] = said.forms
    assert (form.fields["email"], form.fields["name"]) == ("ada@example.com", "Ada <3")
    assert (form.fields["number"], form.fields["expiry"], form.fields["cvc"]) == ("", "", "")
    assert (await shop.api(f"checkout/sessions/{session['id']}"))["status"] == "open"

    answer = await shop.submit(answer, **PAYS)
    assert answer.status_code == 303


async def test_no_answer_repeats_card_data(shop: Shop) -> None:
    session = await shop.session(await shop.price())
    page = await shop.get(session["url"])
    for number in ("5105 1051 0510 5100", "5105105105105100", "5105 1051 0510 510"):
        answer = await shop.submit(page, number=number, expiry="11/39", cvc="987")
        assert answer.status_code == 402
        for typed in (number, "11/39", "987"):
            assert typed not in answer.text


async def test_somebody_unknown_has_to_say_an_email_address(shop: Shop) -> None:
    session = await shop.session(await shop.price(), customer=None)
    page = await shop.get(session["url"])
    answer = await shop.submit(page, **PAYS)
    assert answer.status_code == 400
    assert Reader(answer).elements["email"]["aria-invalid"] == "true"
    assert (await shop.submit(page, **PAYS, email="grace@example.com")).status_code == 303
    bought = await shop.api(f"checkout/sessions/{session['id']}")
    assert bought["customer_details"]["email"] == "grace@example.com"


async def test_a_promotion_code_can_be_entered_only_where_it_is_allowed(shop: Shop) -> None:
    price = await shop.price()
    plain = await shop.get((await shop.session(price))["url"])
    assert "Promotion code" not in Reader(plain).text
    page = await shop.get((await shop.session(price, allow_promotion_codes="true"))["url"])
    answer = await shop.submit(page, **PAYS, promotion_code="SUMMER")
    assert answer.status_code == 400
    assert "This code is invalid." in Reader(answer).text
    assert Reader(answer).forms[0].fields["promotion_code"] == "SUMMER"
    assert await shop.events("checkout.session.completed") == []


async def test_authentication_completed_pays(shop: Shop) -> None:
    session = await shop.session(await shop.price())
    question = await shop.follow(await shop.submit(await shop.get(session["url"]), **AUTHENTICATES))
    assert "Complete authentication" in Reader(question).text
    assert (await shop.api(f"checkout/sessions/{session['id']}"))["status"] == "open"
    answer = await shop.submit(question, outcome="complete")
    assert answer.headers["Location"] == SUCCESS.replace("{CHECKOUT_SESSION_ID}", session["id"])
    again = await shop.submit(question, outcome="complete")
    assert again.headers["Location"] == answer.headers["Location"]
    assert len(await shop.events("charge.succeeded")) == 1


async def test_authentication_failed_leads_back_to_the_form(shop: Shop) -> None:
    session = await shop.session(await shop.price(), customer=None)
    page = await shop.get(session["url"])
    question = await shop.follow(await shop.submit(page, **AUTHENTICATES, email="ada@example.com", name="Ada"))
    answer = await shop.submit(question, outcome="fail")
    assert answer.status_code == 402
    assert CANNOT_AUTHENTICATE in Reader(answer).text
    assert Reader(answer).forms[0].fields["email"] == "ada@example.com"
    # Sent again (a reload), the answer finds no question any more.
    assert (await shop.submit(question, outcome="complete")).headers["Location"].endswith(session["id"])
    assert (await shop.submit(answer, **PAYS)).headers["Location"].startswith("https://shop.test/done")
    assert len(await shop.events("customer.subscription.created")) == 1


async def test_a_double_click_pays_once_and_lands_once(shop: Shop) -> None:
    session = await shop.session(await shop.price())
    page = await shop.get(session["url"])
    answers = await asyncio.gather(*(shop.submit(page, **PAYS) for _ in range(10)))
    done = SUCCESS.replace("{CHECKOUT_SESSION_ID}", session["id"])
    assert {answer.headers["Location"] for answer in answers} == {done}
    assert len(await shop.events("charge.succeeded")) == 1
    assert len(await shop.events("customer.subscription.created")) == 1


async def test_a_finished_session_sells_nothing_more(shop: Shop) -> None:
    session = await shop.session(await shop.price())
    await shop.submit(await shop.get(session["url"]), **PAYS)
    page = await shop.get(session["url"])
    assert "You're all done here" in Reader(page).text
    assert Reader(page).forms == []
    assert Reader(page).links["Continue"] == SUCCESS.replace("{CHECKOUT_SESSION_ID}", session["id"])


async def test_an_expired_session_says_so(shop: Shop) -> None:
    session = await shop.session(await shop.price())
    page = await shop.get(session["url"])
    shop.clock = START + 86_401
    for answer in (await shop.get(session["url"]), await shop.submit(page, **PAYS)):
        assert answer.status_code == 410
        assert "This link has expired" in Reader(answer).text
        assert Reader(answer).links["Go back"] == CANCEL
    assert await shop.events("charge.succeeded") == []


async def test_an_unknown_session_is_a_page_that_says_so(shop: Shop) -> None:
    answer = await shop.get("/c/pay/cs_test_nothing")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "There is nothing here" in Reader(answer).text


async def test_no_card_is_asked_for_where_none_is_needed(shop: Shop) -> None:
    session = await shop.session(
        await shop.price(), payment_method_collection="if_required", **{"subscription_data[trial_period_days]": 7}
    )
    page = await shop.get(session["url"])
    assert "number" not in Reader(page).elements
    assert (await shop.submit(page)).status_code == 303


async def test_what_sellers_and_buyers_type_is_shown_as_text(shop: Shop) -> None:
    price = await shop.price("<script>alert(1)</script>")
    session = await shop.session(price, customer=None)
    answer = await shop.submit(await shop.get(session["url"]), **DECLINED, email='"><img src=x>@x.test', name="<b>")
    assert "<script>alert" not in answer.text
    assert "<img src=x" not in answer.text
    assert "<b>" not in answer.text
    assert "Subscribe to <script>alert(1)</script>" in Reader(answer).text


@pytest.mark.parametrize(
    ("success_url", "source"),
    [
        ("https://shop.test/done?x=1", "https://shop.test"),
        ("http://localhost:3000/ok", "http://localhost:3000"),
        ("http://[::1]:3000/ok", "http:"),  # CSP has no syntax for IPv6
        ("myapp://paid", "myapp://paid"),
    ],
)
async def test_the_policy_allows_nothing_but_the_page_and_where_it_leads(
    shop: Shop, success_url: str, source: str
) -> None:
    session = await shop.session(await shop.price(), success_url=success_url)
    headers = (await shop.get(session["url"])).headers
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; base-uri 'none'; "
        f"frame-ancestors 'none'; form-action 'self' {source}"
    )
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


async def test_styles_and_scripts_come_from_the_sandbox_itself(shop: Shop) -> None:
    page = await shop.get((await shop.session(await shop.price()))["url"])
    for path, kind in (
        ("/assets/sandbox.css", "text/css"),
        ("/assets/forms.js", "javascript"),
        ("/assets/mark.svg", "svg"),
    ):
        assert path in page.text
        answer = await shop.get(path)
        assert answer.status_code == 200
        assert kind in answer.headers["Content-Type"]
    assert " style=" not in page.text
    assert "<script>" not in page.text
