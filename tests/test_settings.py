"""Mixes of settings that could cost money are refused at the start."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.settings import Settings

LIVE = "sk_live_" + "1" * 4
GOOD: dict[str, Any] = {
    "environment": "production",
    "database_url": "postgresql://user:password@host/billhook",
    "redis_url": "redis://host",
    "stripe_secret_key": LIVE,
    "stripe_webhook_secrets": "whsec_1, whsec_2",
    "redirect_origins": "https://app.example.com,https://www.example.com",
}
TOKENS = {"jwt_issuer": "https://id.example.com", "jwt_audience": "billhook"}


def settings(**changes: Any) -> Settings:
    wanted = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return Settings(_env_file=None, **wanted)


def test_what_production_wants() -> None:
    held = settings()
    assert held.livemode
    assert not held.sandboxed
    assert [secret.get_secret_value() for secret in held.stripe_webhook_secrets] == ["whsec_1", "whsec_2"]
    assert held.redirect_origins == ("https://app.example.com", "https://www.example.com")
    assert "password" not in repr(held)
    assert LIVE not in repr(held)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": "development"}, "refused outside ENVIRONMENT=production"),
        ({"environment": "staging"}, "environment"),
        ({"stripe_secret_key": "pk_live_1"}, "must start with"),
        ({"stripe_publishable_key": "pk_test_1"}, "must start with pk_live_"),
        ({"stripe_publishable_key": LIVE}, "must start with pk_live_"),
        ({"stripe_api_base": "http://localhost:12111"}, "the sandbox"),
        ({"stripe_secret_key": "sk_test_1", "stripe_api_base": "http://localhost:12111"}, "the sandbox"),
        ({"stripe_webhook_secrets": None}, "STRIPE_WEBHOOK_SECRETS is required"),
        ({"redirect_origins": "http://app.example.com"}, "must be https"),
        ({"cors_origins": "http://app.example.com"}, "must be https"),
        ({"redirect_origins": "https://app.example.com/path"}, "not an origin"),
        ({"redirect_origins": "*"}, "not an origin"),
        ({"redirect_origins": "https://user@app.example.com"}, "not an origin"),
        ({"jwt_secret": "short", **TOKENS}, "at least 32 bytes"),
        ({"jwt_secret": "x" * 32}, "JWT_ISSUER and JWT_AUDIENCE are required"),
        ({"jwt_jwks_url": "https://id.example.com/jwks"}, "JWT_ISSUER and JWT_AUDIENCE are required"),
        ({"jwt_algorithms": "RS256,none", **TOKENS}, "asymmetric"),
        ({"jwt_algorithms": "HS256", **TOKENS}, "asymmetric"),
        ({"jwt_jwks_url": "http://id.example.com/jwks", **TOKENS}, "must be https"),
        ({"stripe_webhook_secrets": "secret"}, "starts with whsec_"),
        ({"database_url": None}, "database_url"),
        ({"database_url": "mysql://host/billhook"}, "must start with postgres"),
        ({"redis_url": "http://host"}, "must start with redis"),
        ({"cors_origins": "https://APP.example.com"}, "not an origin"),
        ({"api_prefix": "billing"}, "api_prefix"),
    ],
)
def test_a_mix_that_could_cost_money_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STRIPE_API_BASE", "METRICS_TOKEN", "JWT_JWKS_URL", "ENVIRONMENT"):
        monkeypatch.setenv(name, "")
    held = settings(environment=None)
    assert (held.environment, held.sandboxed, held.metrics_token, held.jwt_jwks_url) == (
        "production",
        False,
        None,
        None,
    )


def test_a_restricted_key_will_do() -> None:
    assert not settings(environment="development", stripe_secret_key="rk_test_1").livemode
