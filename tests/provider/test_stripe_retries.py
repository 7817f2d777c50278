"""What is tried again and what is not, over scripted answers and over sockets that misbehave."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from provider.scripted_stripe import ASKED_AT, Reply, ScriptedStripe, refusal
from provider.stripe_data import LATEST, shown

from app.errors import BillingError, ProviderError, RateLimitedError, UnavailableError
from app.provider import stripe_client
from app.provider.breaker import CircuitBreaker
from app.provider.stripe import StripeProvider

CUSTOMER = shown(LATEST, "customer.updated")
SUBSCRIPTION = shown(LATEST, "customer.subscription.updated")
DOWN = refusal(503, type="api_error", message="Down")


@pytest.fixture(autouse=True)
def _brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe_client, "FIRST_PAUSE", 0.01)


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A wall clock nine hours from Stripe's."""
    with monkeypatch.context() as moved:
        moved.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "trouble",
    [
        DOWN,
        refusal(409, code="idempotency_key_in_use", message="Another request is in progress"),
        Reply(status=400, body={"error": {"message": "Try again"}}, headers={"stripe-should-retry": "true"}),
    ],
    ids=["down", "key in use", "told to"],
)
async def test_passing_trouble_is_tried_again_with_the_same_key(trouble: Reply) -> None:
    stripe = ScriptedStripe(trouble, trouble, Reply(body=CUSTOMER))
    async with stripe.provider(max_network_retries=2) as provider:
        await provider.create_customer(email="a@b.example", name=None, metadata={}, idempotency_key="k-1")
    assert [request.headers["idempotency-key"] for request in stripe.requests] == ["k-1"] * 3


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(status=429, body={"error": {"message": "Too many requests"}}, headers={"retry-after": "1"}),
        refusal(400, code="lock_timeout", message="This object cannot be accessed right now"),
    ],
    ids=["rate limit", "lock timeout"],
)
async def test_a_rate_limit_is_waited_for(trouble: Reply) -> None:
    stripe = ScriptedStripe(trouble, Reply(body=CUSTOMER))
    async with stripe.provider(max_network_retries=1) as provider:
        started = time.monotonic()
        await provider.retrieve_customer("cus_Qabc")
    assert time.monotonic() - started >= 1
    assert len(stripe.requests) == 2


async def test_without_a_callers_key_the_tries_share_one_of_ours() -> None:
    session = shown(LATEST, "checkout.session.completed")
    stripe = ScriptedStripe(DOWN, Reply(body=session))
    async with stripe.provider(max_network_retries=1) as provider:
        await provider.expire_checkout_session("cs_test_Qabc")
        await provider.expire_checkout_session("cs_test_Qabc")
    first, again, other = (request.headers["idempotency-key"] for request in stripe.requests)
    assert first == again != other


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (refusal(400, param="email", message="Invalid email"), BillingError),
        (refusal(401, message="Invalid API Key"), ProviderError),
        (
            Reply(status=500, body={"error": {"message": "No"}}, headers={"stripe-should-retry": "false"}),
            UnavailableError,
        ),
        (Reply(status=429, body={"error": {"message": "No"}}, headers={"retry-after": "60"}), RateLimitedError),
    ],
    ids=["refusal", "wrong key", "told not to", "not within the deadline"],
)
async def test_what_no_retry_can_mend_is_told_at_once(trouble: Reply, kind: type[BillingError]) -> None:
    stripe = ScriptedStripe(trouble)
    async with stripe.provider(max_network_retries=2) as provider:
        with pytest.raises(kind):
            await provider.retrieve_customer("cus_Qabc")
    assert len(stripe.requests) == 1


async def test_lasting_trouble_is_told_after_the_last_retry() -> None:
    stripe = ScriptedStripe(DOWN)
    async with stripe.provider(max_network_retries=2) as provider:
        with pytest.raises(UnavailableError):
            await provider.retrieve_customer("cus_Qabc")
    assert len(stripe.requests) == 3


async def test_a_replayed_answer_is_old_so_the_object_is_asked_for_again() -> None:
    first_told = CUSTOMER | {"email": "old@b.example"}
    replay = Reply(body=first_told, headers={"idempotent-replayed": "true"})
    stripe = ScriptedStripe(replay, Reply(body=CUSTOMER))
    async with stripe.provider() as provider:
        snapshot = await provider.create_customer(email=None, name=None, metadata={}, idempotency_key="k-1")
    assert snapshot.object.email == "ada@example.com"
    assert [(request.verb, request.path) for request in stripe.requests] == [
        ("POST", "/v1/customers"),
        ("GET", "/v1/customers/cus_QabcCus"),
    ]


@pytest.mark.parametrize("date", ["", "soon", "Thu, 99 Jan 2026 00:00:09 GMT", "Thu, 01 Jan 99999 00:00:09 GMT"])
async def test_a_date_stripe_garbled_is_taken_from_our_clock(date: str) -> None:
    before = int(time.time())
    async with ScriptedStripe(Reply(body=CUSTOMER, headers={"date": date})).provider() as provider:
        snapshot = await provider.retrieve_customer("cus_Qabc")
    assert before <= snapshot.at <= time.time()


@pytest.mark.parametrize(
    "date", ["Thu, 01 Jan 2026 00:00:09 GMT", "Thu, 01 Jan 2026 01:00:09 +0100", "Thu, 01 Jan 2026 00:00:09 -0000"]
)
async def test_a_date_is_read_in_its_own_zone_not_in_ours(date: str, tokyo: None) -> None:  # noqa: ARG001 - where we are
    async with ScriptedStripe(Reply(body=CUSTOMER, headers={"date": date})).provider() as provider:
        snapshot = await provider.retrieve_customer("cus_Qabc")
    assert snapshot.at == ASKED_AT


async def test_an_outage_soon_answers_without_asking() -> None:
    stripe = ScriptedStripe(DOWN)
    async with stripe.provider(max_network_retries=2, breaker=CircuitBreaker(threshold=3, pause=60)) as provider:
        for _ in range(4):
            with pytest.raises(UnavailableError) as raised:
                await provider.retrieve_customer("cus_Qabc")
    assert len(stripe.requests) == 3
    assert raised.value.retry_after == 60


async def test_refusals_are_no_outage() -> None:
    stripe = ScriptedStripe(refusal(404, code="resource_missing", message="No such customer"))
    async with stripe.provider(breaker=CircuitBreaker(threshold=1, pause=60)) as provider:
        for _ in range(3):
            with pytest.raises(BillingError):
                await provider.retrieve_customer("cus_Qabc")
    assert len(stripe.requests) == 3


Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]  # the head of a request, and the way back


@asynccontextmanager
async def server(handle: Handler) -> AsyncIterator[str]:
    """A TCP server on a free port; its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(await reader.readuntil(b"\r\n\r\n"), writer)
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


async def hang_up(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def cut_short(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"id": "cus_')
    await writer.drain()


async def talk_nonsense(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await writer.drain()


@pytest.mark.parametrize("handle", [hang_up, cut_short, talk_nonsense])
async def test_a_broken_connection_is_tried_again_then_told(handle: Handler) -> None:
    tries = 0

    async def counted(head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await handle(head, writer)

    async with server(counted) as url, StripeProvider("sk_test_Qabc", base_url=url, timeout=5) as provider:
        with pytest.raises(UnavailableError):
            await provider.retrieve_customer("cus_Qabc")
    assert tries == 3


async def test_a_closed_port_is_an_outage() -> None:
    async with server(hang_up) as url:
        pass
    async with StripeProvider("sk_test_Qabc", base_url=url, timeout=5) as provider:
        with pytest.raises(UnavailableError):
            await provider.retrieve_customer("cus_Qabc")


async def test_silence_ends_at_the_deadline_and_counts_as_an_outage() -> None:
    released = asyncio.Event()

    async def say_nothing(_: bytes, __: asyncio.StreamWriter) -> None:
        await released.wait()

    breaker = CircuitBreaker(threshold=1)
    async with (
        server(say_nothing) as url,
        StripeProvider("sk_test_Qabc", base_url=url + "/", timeout=0.2, breaker=breaker) as provider,
    ):
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            await provider.retrieve_customer("cus_Qabc")
        assert 0.15 < time.monotonic() - started < 2
        with pytest.raises(UnavailableError):
            breaker.check()
        released.set()


async def test_the_way_to_stripe_leads_through_the_environments_proxy_but_not_the_way_to_a_stand_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bytes] = []

    async def note(head: bytes, writer: asyncio.StreamWriter) -> None:
        asked.append(head.splitlines()[0])
        writer.close()

    async with server(note) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        for base_url in (None, "http://127.0.0.1:9"):
            async with StripeProvider("sk_test_Qabc", base_url=base_url, max_network_retries=0) as provider:
                with pytest.raises(UnavailableError):
                    await provider.retrieve_customer("cus_Qabc")
    assert asked == [b"CONNECT api.stripe.com:443 HTTP/1.1"]


async def test_a_cancellation_whose_answer_got_lost_is_known_to_have_happened() -> None:
    refused = {"error": {"type": "invalid_request_error", "message": "A canceled subscription can only update ..."}}
    answers = [None, (400, refused), (200, SUBSCRIPTION | {"status": "canceled"})]

    async def lose_the_first(_: bytes, writer: asyncio.StreamWriter) -> None:
        if answer := answers.pop(0):
            status, body = answer[0], json.dumps(answer[1]).encode()
            writer.write(
                b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body)
            )
            await writer.drain()

    async with server(lose_the_first) as url, StripeProvider("sk_test_Qabc", base_url=url, timeout=5) as provider:
        snapshot = await provider.cancel_subscription("sub_1QabcSub", idempotency_key="k-1")
    assert snapshot.object.status == "canceled"
    assert answers == []
