"""The portal: what a customer sees there, and that every change is one the API's readers and webhooks see too."""

from collections.abc import AsyncIterator

import pytest
from hosted_pages import AUTHENTICATES, DECLINED, PAYS, START, Reader, Shop

DAY = 86_400
RETURN = "https://shop.test/account"


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    yield shop
    await shop.aclose()


async def test_it_shows_plan_card_and_invoices(shop: Shop) -> None:
    customer, subscription = await shop.subscriber()
    said = Reader(await shop.portal(customer))
    assert "Ada Lovelace · ada@example.com" in said.text
    assert "Pro Active" in said.text
    assert "Price $99.00 per month" in said.text
    assert "Next payment 21 Oct 2026" in said.text
    assert "Visa •••• 4242" in said.text
    assert "12/2034" in said.text
    assert said.links["← Return"] == RETURN
    latest = (await shop.api(f"subscriptions/{subscription}"))["latest_invoice"]
    invoice = await shop.api(f"invoices/{latest}")
    assert said.links[invoice["number"]] == invoice["hosted_invoice_url"]
    assert said.links["PDF"] == invoice["invoice_pdf"]


async def test_somebody_who_has_nothing_sees_that(shop: Shop) -> None:
    said = Reader(await shop.portal(await shop.customer())).text
    for nothing in ("No current subscription.", "No card on file.", "No invoices yet."):
        assert nothing in said


async def test_canceling_asks_first_and_ends_with_the_period(shop: Shop) -> None:
    customer, id = await shop.subscriber()
    question = await shop.get(Reader(await shop.portal(customer)).links["Cancel subscription"])
    assert "You keep it until 21 Oct 2026." in Reader(question).text
    assert (await shop.api(f"subscriptions/{id}"))["cancel_at_period_end"] is False

    answers = [await shop.submit(question) for _ in range(2)]
    page = await shop.follow(answers[0])
    assert "Your subscription ends with the current period." in Reader(page).text
    assert "Ends 21 Oct 2026" in Reader(page).text
    subscription = await shop.api(f"subscriptions/{id}")
    assert subscription["cancel_at_period_end"] is True
    assert subscription["status"] == "active"
    [event] = await shop.events("customer.subscription.updated")
    assert event["data"]["previous_attributes"]["cancel_at_period_end"] is False

    resumed = await shop.follow(await shop.submit(page))
    assert "Your subscription goes on." in Reader(resumed).text
    assert (await shop.api(f"subscriptions/{id}"))["cancel_at"] is None
    assert "Cancel subscription" in Reader(resumed).links


async def test_the_reason_for_canceling_is_kept(shop: Shop) -> None:
    customer, id = await shop.subscriber()
    configuration = await shop.api(
        "billing_portal/configurations",
        **{
            "features[subscription_cancel][enabled]": "true",
            "features[subscription_cancel][cancellation_reason][enabled]": "true",
            "features[subscription_cancel][cancellation_reason][options][]": "unused",
        },
    )
    page = await shop.portal(customer, configuration=configuration["id"])
    question = await shop.get(Reader(page).links["Cancel subscription"])
    assert "I no longer need it" in Reader(question).text
    await shop.submit(question, feedback="unused", comment="Thanks & bye")
    details = (await shop.api(f"subscriptions/{id}"))["cancellation_details"]
    assert details["feedback"] == "unused"
    assert details["comment"] == "Thanks & bye"
    assert details["reason"] == "cancellation_requested"


async def test_a_configuration_may_end_subscriptions_at_once(shop: Shop) -> None:
    customer, id = await shop.subscriber()
    configuration = await shop.api(
        "billing_portal/configurations",
        **{"features[subscription_cancel][enabled]": "true", "features[subscription_cancel][mode]": "immediately"},
    )
    page = await shop.portal(customer, configuration=configuration["id"])
    question = await shop.get(Reader(page).links["Cancel subscription"])
    assert "It ends at once." in Reader(question).text
    page = await shop.follow(await shop.submit(question))
    assert "No current subscription." in Reader(page).text
    assert (await shop.api(f"subscriptions/{id}"))["status"] == "canceled"
    assert (await shop.submit(question)).status_code == 404


async def test_a_configuration_may_hide_what_it_disables(shop: Shop) -> None:
    customer, id = await shop.subscriber()
    features = ("subscription_cancel", "payment_method_update", "invoice_history")
    configuration = await shop.api(
        "billing_portal/configurations", **{f"features[{name}][enabled]": "false" for name in features}
    )
    page = await shop.portal(customer, configuration=configuration["id"])
    assert "Invoices" not in Reader(page).text
    assert Reader(page).links == {"Skip to the content": f"{page.url}#content", "← Return": RETURN}
    for path in (f"subscriptions/{id}/cancel", "payment_method"):
        assert (await shop.get(f"{page.url}/{path}")).status_code == 404
        assert (await shop.browser.post(f"{page.url}/{path}", data=PAYS)).status_code == 404
    assert (await shop.api(f"subscriptions/{id}"))["cancel_at_period_end"] is False


async def test_a_new_card_becomes_the_one_that_is_charged(shop: Shop) -> None:
    customer, id = await shop.subscriber()
    form = await shop.get(Reader(await shop.portal(customer)).links["Update card"])
    page = await shop.follow(await shop.submit(form, **PAYS | {"number": "5555 5555 5555 4444"}, name="Ada L"))
    assert "Your card was saved." in Reader(page).text
    assert "Mastercard •••• 4444 12/2034 Pro Default" in Reader(page).text
    default = (await shop.api(f"customers/{customer}"))["invoice_settings"]["default_payment_method"]
    assert (await shop.api(f"subscriptions/{id}"))["default_payment_method"] == default
    method = await shop.api(f"payment_methods/{default}")
    assert (method["card"]["last4"], method["billing_details"]["name"]) == ("4444", "Ada L")
    for type in ("setup_intent.succeeded", "customer.updated", "customer.subscription.updated"):
        assert await shop.events(type)


async def test_a_card_that_is_refused_changes_nothing(shop: Shop) -> None:
    customer, id = await shop.subscriber()
    before = await shop.api(f"subscriptions/{id}")
    form = await shop.get(Reader(await shop.portal(customer)).links["Update card"])
    answer = await shop.submit(form, **DECLINED, name="Ada")
    assert answer.status_code == 402
    assert "Your card was declined." in Reader(answer).text
    assert Reader(answer).forms[0].fields == {"number": "", "expiry": "", "cvc": "", "name": "Ada"}
    assert (await shop.submit(form, **PAYS | {"cvc": ""})).status_code == 402
    assert await shop.api(f"subscriptions/{id}") == before
    assert len((await shop.api(f"payment_methods?customer={customer}"))["data"]) == 1


@pytest.mark.parametrize("outcome", ["complete", "fail"])
async def test_a_card_may_have_to_be_authenticated(shop: Shop, outcome: str) -> None:
    customer, id = await shop.subscriber()
    form = await shop.get(Reader(await shop.portal(customer)).links["Update card"])
    question = await shop.follow(await shop.submit(form, **AUTHENTICATES))
    before = (await shop.api(f"subscriptions/{id}"))["default_payment_method"]
    answer = await shop.submit(question, outcome=outcome)
    after = (await shop.api(f"subscriptions/{id}"))["default_payment_method"]
    if outcome == "fail":
        assert answer.status_code == 402
        assert "We are unable to authenticate your payment method." in Reader(answer).text
        assert after == before
        assert (await shop.submit(question, outcome="complete")).headers["Location"].endswith("/payment_method")
        answer = await shop.submit(answer, **PAYS)
    else:
        assert after != before
        assert (await shop.submit(question, outcome="complete")).headers["Location"] == answer.headers["Location"]
    assert "Your card was saved." in Reader(await shop.follow(answer)).text


async def test_a_deep_link_opens_its_form_and_redirects_after_it(shop: Shop) -> None:
    customer, _ = await shop.subscriber()
    form = await shop.portal(
        customer,
        **{
            "flow_data[type]": "payment_method_update",
            "flow_data[after_completion][type]": "redirect",
            "flow_data[after_completion][redirect][return_url]": "https://shop.test/card-saved",
        },
    )
    assert "Update card" in Reader(form).text
    assert form.headers["Content-Security-Policy"].endswith("form-action 'self' https://shop.test")
    assert Reader(form).links["← Back"] == RETURN
    assert (await shop.submit(form, **PAYS)).headers["Location"] == "https://shop.test/card-saved"


async def test_a_deep_link_may_confirm_in_words_of_its_own(shop: Shop) -> None:
    customer, id = await shop.subscriber()
    question = await shop.portal(
        customer,
        **{
            "flow_data[type]": "subscription_cancel",
            "flow_data[subscription_cancel][subscription]": id,
            "flow_data[after_completion][type]": "hosted_confirmation",
            "flow_data[after_completion][hosted_confirmation][custom_message]": "We are sorry to see you go.",
        },
    )
    assert "Cancel Pro?" in Reader(question).text
    page = await shop.follow(await shop.submit(question))
    assert "We are sorry to see you go." in Reader(page).text
    assert Reader(page).links["Return"] == RETURN
    assert (await shop.api(f"subscriptions/{id}"))["cancel_at_period_end"] is True


async def test_a_deep_link_without_wishes_ends_on_the_portals_home(shop: Shop) -> None:
    customer, _ = await shop.subscriber()
    form = await shop.portal(customer, **{"flow_data[type]": "payment_method_update"})
    page = await shop.follow(await shop.submit(form, **PAYS))
    assert "Your card was saved." in Reader(page).text
    assert Reader(page).links["← Return"] == RETURN


async def test_an_open_invoice_is_paid_with_the_new_card(shop: Shop) -> None:
    customer, id = await shop.subscriber()
    form = await shop.get(Reader(await shop.portal(customer)).links["Update card"])
    await shop.submit(form, **PAYS | {"number": "4000000000000341"})
    shop.clock = START + 31 * DAY
    page = await shop.portal(customer)
    assert "Pro Past due" in Reader(page).text
    refused = await shop.submit(page)
    assert refused.status_code == 402
    assert "Your card was declined." in Reader(refused).text

    form = await shop.get(Reader(page).links["Update card"])
    page = await shop.follow(await shop.submit(form, **PAYS))
    paid = await shop.follow(await shop.submit(page))
    assert "The invoice is paid." in Reader(paid).text
    assert (await shop.api(f"subscriptions/{id}"))["status"] == "active"
    charges = len(await shop.events("charge.succeeded"))
    await shop.submit(page)
    assert len(await shop.events("charge.succeeded")) == charges


async def test_an_open_invoice_may_have_to_be_authenticated(shop: Shop) -> None:
    customer, id = await shop.subscriber()
    form = await shop.get(Reader(await shop.portal(customer)).links["Update card"])
    await shop.submit(await shop.follow(await shop.submit(form, **AUTHENTICATES)), outcome="complete")
    shop.clock = START + 31 * DAY
    question = await shop.follow(await shop.submit(await shop.portal(customer)))
    assert "Complete authentication" in Reader(question).text
    invoice = await shop.follow(await shop.submit(question, outcome="complete"))
    assert "Paid" in Reader(invoice).text
    assert (await shop.api(f"subscriptions/{id}"))["status"] == "active"


async def test_what_belongs_to_others_does_not_exist(shop: Shop) -> None:
    _, theirs = await shop.subscriber()
    invoice = (await shop.api(f"subscriptions/{theirs}"))["latest_invoice"]
    page = await shop.portal(await shop.customer())
    for path in (f"subscriptions/{theirs}/cancel", f"subscriptions/{theirs}/resume", f"invoices/{invoice}/pay"):
        assert (await shop.browser.post(f"{page.url}/{path}")).status_code == 404
    assert (await shop.api(f"subscriptions/{theirs}"))["cancel_at_period_end"] is False


async def test_a_session_ends_after_an_hour(shop: Shop) -> None:
    page = await shop.portal(await shop.customer())
    shop.clock += 3600
    assert (await shop.get(str(page.url))).status_code == 404
    assert (await shop.get("/p/session/bps_nothing")).status_code == 404
