"""Signatures: accepted exactly when Stripe's own verification accepts them, on the clock we are given.

Three differences are wanted: a signature from the future counts as little as an old one; a header outside ASCII, which
Stripe never sends, is refused even where a good signature stands in it before anything odd; and bytes that are not text
may be signed, for whoever reads them to refuse.
"""

import hmac
import time
from collections.abc import Sequence

import pytest
import stripe as sdk
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st
from provider.stripe_data import unhurried

from app.provider.stripe_signature import is_signed

NOW = 1767225600
SECRET = "whsec_Qabc"
BODY = '{"id": "evt_1Qabc", "name": "Åda"}'
PAYLOAD = BODY.encode()


def sign(body: str = BODY, secret: str = SECRET, at: int = NOW) -> str:
    header: str = sdk.WebhookSignature.generate_signature_header(body, secret, at)
    return header


def verify(header: str, *, payload: bytes = PAYLOAD, secrets: Sequence[str] = (SECRET,), now: int = NOW) -> bool:
    return is_signed(payload, header, secrets=[secret.encode() for secret in secrets], now=now)


def test_a_signed_body_is_accepted() -> None:
    assert verify(sign())


def test_any_of_several_secrets_will_do() -> None:
    assert verify(sign(), secrets=("whsec_new", SECRET))
    assert verify(sign(), secrets=(SECRET, "whsec_new"))
    assert not verify(sign(), secrets=("whsec_new", "whsec_newer"))
    assert not verify(sign(), secrets=())


def test_any_of_several_signatures_will_do() -> None:
    stamp, good = sign().split(",")
    assert verify(f"{stamp},v1={'0' * 64},{good},v0={'1' * 64}")


@pytest.mark.parametrize(("skew", "accepted"), [(0, True), (-300, True), (300, True), (-301, False), (301, False)])
def test_a_signature_counts_for_five_minutes_either_way(skew: int, accepted: bool) -> None:  # noqa: FBT001 - a column
    assert verify(sign(at=NOW + skew)) is accepted


def test_the_clock_is_the_one_given() -> None:
    with time_machine.travel(NOW + 10_000_000, tick=False):
        assert verify(sign())


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=1767225600",
        "v1=abc",
        "t=,v1=",
        "t=never,v1=abc",
        f"t={'9' * 5000},v1=abc",
        "t=1767225600,v1=ümlaut",
        "t=1767225600,v1=\ud800",
        ",",
        "=",
        "t",
        "t=1767225600;v1=abc",
        sign().replace("v1", "v0"),
        sign().replace(",", ", "),
        sign() + "0",
        sign(secret="whsec_other"),
        sign(body=BODY + " "),
    ],
)
def test_a_header_that_does_not_sign_this_is_refused(header: str) -> None:
    assert not verify(header)


@pytest.mark.parametrize("payload", [b"\xff\xfe", b"", b"\x00", BODY.encode("utf-16")])
def test_a_body_that_was_not_signed_is_refused(payload: bytes) -> None:
    assert not verify(sign(), payload=payload)


@pytest.mark.parametrize("secret", ["", "  "])
def test_an_unset_secret_opens_nothing(secret: str) -> None:
    stamp = f"t={NOW}"
    assert not verify(f"{stamp},v1={'0' * 64}", secrets=(secret,))
    assert not verify(sign(secret=""), secrets=(secret,))


def by_the_book(payload: bytes, header: str, secret: str, now: int) -> bool:
    """Stripe's verification with its tolerance, and not from the future."""
    with time_machine.travel(now, tick=False):
        try:
            sdk.WebhookSignature.verify_header(payload, header, secret, tolerance=300)
        except Exception:  # noqa: BLE001 - whatever it raises, it has not accepted
            return False
        timestamp, _ = sdk.WebhookSignature._get_timestamp_and_signatures(header, "v1")
        return bool(timestamp <= time.time() + 300)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SKEWS = st.sampled_from([0, -301, -300, -299, 299, 300, 301, 10**6, -NOW, -NOW - 1]) | st.integers(-400, 400)


@st.composite
def headers(draw: st.DrawFn, body: bytes, secret: str) -> str:
    """Good headers, shuffled, dressed up and broken."""
    at = NOW + draw(SKEWS)
    signed = sign(body.decode("utf-8", "replace"), secret.encode("utf-8", "replace").decode(), at).split("v1=")[1]
    stamps = [f"t={at}", f"t= {at} ", f"t=+{at}", f"t={at:_}", f"t={at}=x", f"t={at}.0", f"T={at}", "t="]
    marks = [f"v1={signed}", f"v1={signed}=x", f"v1={signed.upper()}", f" v1={signed}", f"v0={signed}", "v1=", "v1=é"]
    good = [stamps[0], marks[0]]
    if draw(st.booleans()):
        good = [draw(st.sampled_from(stamps)), draw(st.sampled_from(marks))]
    more = draw(st.lists(st.sampled_from(stamps + marks) | TEXT, max_size=2))
    return ",".join(draw(st.permutations([*good, *more])))


@settings(unhurried, max_examples=400)
@given(data=st.data(), payload=st.text(max_size=20).map(str.encode) | st.binary(max_size=20), secret=TEXT)
def test_it_accepts_what_stripes_verification_accepts_and_nothing_else(
    data: st.DataObject, payload: bytes, secret: str
) -> None:
    header = data.draw(headers(payload, secret))
    expected = header.isascii() and by_the_book(payload, header, secret, NOW)
    assert verify(header, payload=payload, secrets=(secret,)) == expected


def test_the_book_accepts_what_was_signed() -> None:
    assert by_the_book(PAYLOAD, sign(), SECRET, NOW)


def test_a_header_outside_ascii_is_refused_whatever_else_it_says() -> None:
    assert by_the_book(PAYLOAD, f"{sign()},v1=é", SECRET, NOW)
    assert not verify(f"{sign()},v1=é")
    assert not verify(f"v1=é,{sign()}")


def test_bytes_that_are_no_text_can_be_signed() -> None:
    payload = b"\xff"
    signature = hmac.digest(SECRET.encode(), b"%d.%b" % (NOW, payload), "sha256").hex()
    assert verify(f"t={NOW},v1={signature}", payload=payload)
    assert not by_the_book(payload, f"t={NOW},v1={signature}", SECRET, NOW)


@unhurried
@given(header=st.text(), payload=st.binary(), secrets=st.lists(st.binary(), max_size=3), now=st.integers())
def test_it_never_raises(header: str, payload: bytes, secrets: list[bytes], now: int) -> None:
    assert is_signed(payload, header, secrets=secrets, now=now) is False
