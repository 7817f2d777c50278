"""Logs say what happened and never what must stay secret."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from app.observability import REDACTED, LineLog, configure_logging, redact

SECRETS = [
    "sk_test_51Hxyz",
    "rk_live_abcDEF123",
    "whsec_dGVzdA==",
    "bk_LMabk2exWNGWAuNlqzmElNsHRkYSkKpq3",
    "pi_3Mabc_secret_XYZ123",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "4242424242424242",
    "4242 4242 4242 4242",
    "ada.lovelace+test@example.com",
    "Bearer abc.def-ghi",
]


@given(st.sampled_from(SECRETS), st.text("abc xyz:/'\"=,(){}", max_size=20), st.text("abc xyz:/'\"=,(){}", max_size=20))
def test_no_secret_survives_wherever_it_stands(secret: str, before: str, after: str) -> None:
    text = f"{before} {secret} {after}"
    for shape in (text, [text], {"detail": text}, {"deep": [{"er": (text,)}]}, Exception(text)):
        assert secret not in str(redact(shape))


@pytest.mark.parametrize(
    "name", ["Authorization", "api_key", "api-key", "webhook_secret", "email", "cvc", "Stripe-Signature"]
)
def test_a_field_with_a_secret_s_name_is_struck_out_whole(name: str) -> None:
    assert redact({name: "whatever it is"}) == {name: REDACTED}
    assert redact({name: None}) == {name: None}


def test_a_database_url_loses_its_password() -> None:
    shown = redact("postgresql://billhook:hunter2@db.example.com/billhook")
    assert "hunter2" not in shown
    assert "/billhook" in shown


@pytest.mark.parametrize(
    "harmless", ["cs_test_a1b2", "evt_1N", "sub_42", 1795242784, "2026-11-21T06:00:00Z", 99.5, None, True]
)
def test_what_is_no_secret_stays(harmless: Any) -> None:
    assert redact({"value": harmless}) == {"value": harmless}


@pytest.fixture
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers, root.level
    configured = structlog.get_config()
    yield
    root.handlers, _ = before
    root.setLevel(before[1])
    structlog.configure(**configured)


@pytest.mark.usefixtures("own_logging")
def test_a_line_is_one_json_object_for_our_own_and_for_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="info", fmt="json")
    structlog.get_logger("app").info("stripe_webhook_received", event_id="evt_1", note="for ada@example.com")
    logging.getLogger("uvicorn.error").warning("key %s", "sk_test_123456")
    try:
        int("whsec_abcdef")
    except ValueError:
        structlog.get_logger("app").exception("it_broke")
    structlog.get_logger("app").debug("too_quiet")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["stripe_webhook_received", f"key {REDACTED}", "it_broke"]
    assert (lines[0]["level"], lines[0]["event_id"]) == ("info", "evt_1")
    assert lines[0]["timestamp"].endswith("Z")
    assert "ValueError" in lines[2]["exception"]
    assert not any(secret in json.dumps(lines) for secret in ("ada@example.com", "sk_test_123456", "whsec_abcdef"))


async def test_a_line_written_in_haste_looks_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    LineLog(level="info", fmt="json").info("it_happened", id="evt_\n\u00e9", status=200)
    LineLog(level="debug", fmt="console").info("it_happened", id="evt_1")
    LineLog(level="warning", fmt="json").info("too_quiet")
    await asyncio.sleep(0)
    first, second = capsys.readouterr().out.splitlines()
    line = json.loads(first)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "it_happened", "level": "info", "id": "evt_\n\u00e9", "status": 200}
    assert "it_happened" in second
    assert "evt_1" in second
