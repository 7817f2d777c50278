"""Every environment variable Billhook reads, typed and documented; refuses mixes that could cost money."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

HS256_SECRET_BYTES = 32  # RFC 7518 §3.2: an HS256 key is at least as long as its hash

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
CommaSeparatedSecrets = Annotated[tuple[SecretStr, ...], NoDecode]


class Settings(BaseSettings):
    """Read from the environment, then from `.env`; any name may be given as a file in `/run/secrets` instead."""

    model_config = SettingsConfigDict(
        env_file=".env",
        secrets_dir="/run/secrets" if Path("/run/secrets").is_dir() else None,
        env_ignore_empty=True,  # a template's `NAME=` says nothing
        extra="ignore",
        frozen=True,
    )

    environment: Literal["development", "test", "production"] = Field(
        default="production", description="production refuses the sandbox, development tokens and plain-http origins"
    )

    database_url: SecretStr = Field(
        description="Postgres 15 or newer, e.g. postgresql://user:password@host/billhook",
    )
    database_pool_size: int = Field(
        default=10,
        ge=1,
        le=200,
        description="Connections each process keeps to Postgres, besides one to store events, one to hear of them and "
        "three for credits",
    )
    database_pgbouncer: bool = Field(
        default=False, description="True behind PgBouncer in transaction mode: no prepared statements, no LISTEN"
    )
    redis_url: SecretStr = Field(description="Redis 7 or Valkey 8 or newer, e.g. redis://host:6379/0")

    stripe_secret_key: SecretStr = Field(description="Stripe secret or restricted key, sk_… or rk_…")
    stripe_publishable_key: str | None = Field(
        default=None, description="Stripe publishable key (pk_…), given to browsers that pay a purchase of credits"
    )
    stripe_webhook_secrets: CommaSeparatedSecrets = Field(
        default=(), description="Signing secrets of the webhook endpoints (whsec_…), comma separated; any may match"
    )
    stripe_api_base: str | None = Field(
        default=None, description="Where Stripe's API is reached; set it for the Billhook sandbox, leave it for Stripe"
    )

    stripe_background_requests_per_second: int = Field(
        default=20,
        ge=1,
        le=100,
        description="Requests to Stripe that workers, reconcile and sync together make in a second; Stripe takes 25 in"
        " test mode, 100 in live mode, and 25 per endpoint",
    )

    jwt_jwks_url: str | None = Field(default=None, description="JWKS of the identity provider that signs user tokens")
    jwt_secret: SecretStr | None = Field(
        default=None, description="Shared HS256 secret (32 bytes or more) instead of, or beside, a JWKS"
    )
    jwt_issuer: str | None = Field(default=None, description="Required `iss` of user tokens")
    jwt_audience: str | None = Field(default=None, description="Required `aud` of user tokens")
    jwt_algorithms: CommaSeparated = Field(
        default=("RS256", "ES256", "EdDSA"), description="Algorithms accepted for tokens verified by the JWKS"
    )

    api_prefix: str = Field(
        default="/api/v1/billing", pattern=r"^(/[a-z0-9._-]+)+$", description="Path all API routes stand below"
    )
    public_url: str = Field(default="http://localhost:8000", description="Where browsers reach this service")
    redirect_origins: CommaSeparated = Field(
        default=(), description="Origins (scheme://host[:port]) that success, cancel and return URLs may point to"
    )
    cors_origins: CommaSeparated = Field(default=(), description="Origins whose pages may call the API from a browser")
    plans_file: Path = Field(default=Path("plans.yaml"), description="The catalogue: what is sold and what it allows")

    trusted_proxies: CommaSeparated = Field(
        default=("127.0.0.1",),
        description="Addresses or networks of proxies whose X-Forwarded-For and -Proto are believed",
    )
    rate_limit_per_minute: int = Field(
        default=600, ge=1, description="Requests a user, or an address without a token, may make in a minute"
    )
    rate_limit_per_minute_for_keys: int = Field(
        default=60_000, ge=1, description="Requests a service key may make in a minute"
    )
    metrics_token: SecretStr | None = Field(
        default=None, description="Bearer token /metrics asks for; without one it is open (keep it off the internet)"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged")
    log_format: Literal["json", "console"] = Field(default="json", description="json for machines, console for eyes")

    worker_in_serve: bool = Field(
        default=True, description="Process events inside `billhook serve`; false when `billhook worker` runs apart"
    )
    worker_concurrency: int = Field(default=4, ge=1, le=64, description="Customers one process works on at once")
    worker_poll_seconds: float = Field(
        default=2.0, gt=0, le=60, description="How often to look for due events when nothing has woken the worker"
    )
    worker_metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port where `billhook worker` serves its metrics, to anyone; none if empty",
    )
    event_max_attempts: int = Field(default=12, ge=1, le=50, description="Tries before an event is set aside as dead")
    event_payload_days: int = Field(
        default=90, ge=30, description="Days after which the payload of an applied or ignored event is emptied"
    )
    reconcile_hours: int = Field(
        default=24, ge=0, le=24 * 30, description="Hours between two comparisons of everything with Stripe; 0 for never"
    )
    reconcile_repair: bool = Field(
        default=True, description="Whether the scheduled comparison also mends what it finds"
    )
    reconcile_events_minutes: int = Field(
        default=15, ge=0, le=24 * 60, description="Minutes between two looks for webhooks that never came; 0 for never"
    )

    @field_validator(
        "stripe_webhook_secrets", "jwt_algorithms", "redirect_origins", "cors_origins", "trusted_proxies", mode="before"
    )
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("redirect_origins", "cors_origins", mode="after")
    @classmethod
    def _only_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            # In lower case, as browsers send it.
            bare = parts.hostname and "@" not in parts.netloc and origin == f"{parts.scheme}://{parts.netloc}".lower()
            if parts.scheme not in {"http", "https"} or not bare:
                raise ValueError(f"{origin!r} is not an origin such as https://app.example.com")
        return origins

    @field_validator("stripe_webhook_secrets", mode="after")
    @classmethod
    def _only_webhook_secrets(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(secret.get_secret_value().startswith("whsec_") for secret in secrets):
            raise ValueError("a webhook signing secret starts with whsec_")
        return secrets

    @field_validator("database_url", "redis_url", mode="after")
    @classmethod
    def _only_known_schemes(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        known = {"database_url": ("postgres://", "postgresql"), "redis_url": ("redis://", "rediss://", "unix://")}
        schemes = known[info.field_name or ""]
        if not url.get_secret_value().startswith(schemes):
            raise ValueError(f"must start with {' or '.join(schemes)}")
        return url

    @model_validator(mode="after")
    def _refuse_unsafe_stripe_keys(self) -> Self:
        key = self.stripe_secret_key.get_secret_value()
        if not key.startswith(("sk_test_", "rk_test_", "sk_live_", "rk_live_")):
            raise ValueError("STRIPE_SECRET_KEY must start with sk_test_, rk_test_, sk_live_ or rk_live_")
        if self.livemode and self.environment != "production":
            raise ValueError("a live Stripe key is refused outside ENVIRONMENT=production")
        public = "pk_live_" if self.livemode else "pk_test_"
        if self.stripe_publishable_key is not None and not self.stripe_publishable_key.startswith(public):
            raise ValueError(f"STRIPE_PUBLISHABLE_KEY must start with {public}: STRIPE_SECRET_KEY is of that mode")
        if self.stripe_api_base and (self.livemode or self.environment == "production"):
            raise ValueError("STRIPE_API_BASE (the sandbox) is refused beside a live key and in ENVIRONMENT=production")
        return self

    @model_validator(mode="after")
    def _refuse_unsafe_production(self) -> Self:
        if self.environment != "production":
            return self
        if not self.stripe_webhook_secrets:
            raise ValueError("STRIPE_WEBHOOK_SECRETS is required in ENVIRONMENT=production")
        if self.jwt_jwks_url and not self.jwt_jwks_url.startswith("https://"):
            raise ValueError("JWT_JWKS_URL must be https in ENVIRONMENT=production")
        for origin in (*self.redirect_origins, *self.cors_origins):
            if not origin.startswith("https://"):
                raise ValueError(f"{origin} must be https in ENVIRONMENT=production")
        return self

    @model_validator(mode="after")
    def _refuse_unsafe_tokens(self) -> Self:
        if self.jwt_secret and len(self.jwt_secret.get_secret_value().encode()) < HS256_SECRET_BYTES:
            raise ValueError(f"JWT_SECRET must have at least {HS256_SECRET_BYTES} bytes")
        if (self.jwt_secret or self.jwt_jwks_url) and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("JWT_ISSUER and JWT_AUDIENCE are required with JWT_SECRET or JWT_JWKS_URL")
        if {"none", "HS256", "HS384", "HS512"}.intersection(self.jwt_algorithms):
            raise ValueError("JWT_ALGORITHMS is for the JWKS's asymmetric keys; HS256 is switched on by JWT_SECRET")
        return self

    @cached_property
    def livemode(self) -> bool:
        """Whether the key opens Stripe's live mode."""
        return self.stripe_secret_key.get_secret_value()[2:].startswith("_live_")

    @cached_property
    def sandboxed(self) -> bool:
        """Whether the Billhook sandbox, and not Stripe, answers."""
        return bool(self.stripe_api_base)
