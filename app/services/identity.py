"""Who is calling: an end user by the token of the product's own login, or a backend by a service key."""

import hashlib
import secrets
import string
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args
from uuid import UUID, uuid4

import jwt
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import InvalidRequestError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from app.models import ApiKey
from app.services import audit
from app.services.jwks import Jwks
from app.settings import Settings
from app.values import utcnow

Scope = Literal["billing:read", "billing:write", "credits:read", "credits:write", "usage:write", "operator"]
SCOPES: frozenset[str] = frozenset(get_args(Scope))

LEEWAY_SECONDS = 30  # clocks of the identity provider and ours differ
MAX_TOKEN_LENGTH = 8192
MAX_NAME_LENGTH = 255
DEVELOPMENT_TOKEN_SECONDS = 24 * 3600

KEY_PREFIX = "bk_"
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH = 27  # base62 digits: 160 bits
_CHECKSUM_LENGTH = 6  # base62 digits of a CRC-32


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An end user of the host product; `user_id` is the token's `sub`."""

    user_id: str
    email: str | None = None
    name: str | None = None

    @property
    def actor(self) -> str:
        """How the audit log names this caller."""
        return f"user:{self.user_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceKey:
    """A backend of the host product."""

    id: UUID
    scopes: frozenset[str]

    @property
    def actor(self) -> str:
        """How the audit log names this caller."""
        return f"key:{self.id}"


Caller = User | ServiceKey


async def verify_user_token(token: str, *, settings: Settings, jwks: Jwks | None) -> User:
    """Raises UnauthenticatedError for a token that isn't good, UnavailableError when its key can't be had now."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise _invalid_token()
    try:
        header = jwt.get_unverified_header(token)
        algorithm = str(header.get("alg"))
        claims: dict[str, Any] = jwt.decode(
            token,
            await _verification_key(algorithm, header.get("kid"), settings=settings, jwks=jwks),
            algorithms=[algorithm],
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
        )
    except jwt.ExpiredSignatureError as error:
        raise UnauthenticatedError("The token has expired.", code="token_expired") from error
    except (jwt.PyJWTError, RecursionError) as error:
        raise _invalid_token() from error
    user_id = _text(claims["sub"])
    if user_id is None:
        raise _invalid_token()
    return User(user_id=user_id, email=_text(claims.get("email")), name=_text(claims.get("name")))


async def _verification_key(
    algorithm: str, kid: str | None, *, settings: Settings, jwks: Jwks | None
) -> jwt.PyJWK | str:
    """The one key that may verify this algorithm: which kind of key is used is never up to the token."""
    if algorithm == "HS256" and settings.jwt_secret:
        return settings.jwt_secret.get_secret_value()
    if algorithm in settings.jwt_algorithms and jwks and (key := await jwks.find(kid, algorithm)):
        return key
    raise _invalid_token()


def _invalid_token() -> UnauthenticatedError:
    return UnauthenticatedError("The token is not valid here.", code="invalid_token")


def _text(claim: object) -> str | None:
    """A claim as text that Postgres can store; None for anything else (NUL and lone surrogates don't print)."""
    return claim if isinstance(claim, str) and claim.isprintable() and 0 < len(claim) <= MAX_NAME_LENGTH else None


def mint_development_token(
    settings: Settings, user_id: str, *, email: str | None = None, name: str | None = None
) -> str:
    """A user token signed with our own JWT_SECRET, good for a day. Raises PermissionDeniedError in production."""
    if settings.environment == "production":
        raise PermissionDeniedError("Development tokens are refused in production.")
    if settings.jwt_secret is None:
        raise InvalidRequestError("Development tokens need JWT_SECRET, JWT_ISSUER and JWT_AUDIENCE.")
    if _text(user_id) is None:
        raise InvalidRequestError("No token with such a user id would be accepted.", param="user_id")
    now = int(time.time())
    claims = {
        "sub": user_id,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "iat": now,
        "exp": now + DEVELOPMENT_TOKEN_SECONDS,
        "email": email,
        "name": name,
    }
    present = {claim: value for claim, value in claims.items() if value is not None}
    return jwt.encode(present, settings.jwt_secret.get_secret_value(), algorithm="HS256")


async def verify_key(session: AsyncSession, token: str) -> ServiceKey:
    """Raises UnauthenticatedError for a key that is unknown, revoked or expired."""
    key = await session.scalar(select(ApiKey).where(ApiKey.hash == hash_of(token)))
    if key is None or key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= utcnow()):
        raise invalid_key()
    return ServiceKey(id=key.id, scopes=frozenset(key.scopes))


async def is_valid_key(session: AsyncSession, token: str) -> bool:
    try:
        await verify_key(session, token)
    except UnauthenticatedError:
        return False
    return True


def hash_of(token: str) -> bytes:
    """What a key is found by. Raises UnauthenticatedError for what can't be one."""
    secret = token.removeprefix(KEY_PREFIX)[:_SECRET_LENGTH]
    # The checksum spares Postgres from typing errors and guesses.
    if token != _with_checksum(secret):
        raise invalid_key()
    return _hash(token)


def invalid_key() -> UnauthenticatedError:
    return UnauthenticatedError("The service key is not valid.", code="invalid_key")


def _with_checksum(secret: str) -> str:
    number, digits = zlib.crc32(secret.encode(errors="replace")), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_BASE62))
        digits += _BASE62[digit]
    return f"{KEY_PREFIX}{secret}{digits}"


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def create_key(
    session: AsyncSession, *, name: str, scopes: Iterable[str], expires_at: datetime | None = None, actor: str
) -> tuple[ApiKey, str]:
    """The new key and its text, which nobody can ever read again. Raises InvalidRequestError."""
    wanted = sorted(set(scopes))
    if not wanted or not SCOPES.issuperset(wanted):
        raise InvalidRequestError(f"Scopes are one or more of {', '.join(sorted(SCOPES))}.", param="scopes")
    if _text(name) is None:
        raise InvalidRequestError(f"A key's name has 1 to {MAX_NAME_LENGTH} printable characters.", param="name")
    token = _with_checksum("".join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH)))
    key = ApiKey(id=uuid4(), name=name, hash=_hash(token), last4=token[-4:], scopes=wanted, expires_at=expires_at)
    session.add(key)
    await audit.record(session, actor=actor, action="key.created", subject=str(key.id), after=_shown(key))
    return key, token


async def list_keys(session: AsyncSession) -> list[ApiKey]:
    """All of them, newest first, revoked ones too."""
    return list((await session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id))).all())


async def revoke_key(session: AsyncSession, id: UUID, *, actor: str) -> ApiKey:
    """From the commit on the key opens nothing. Revoking twice is no error. Raises NotFoundError."""
    key = await session.get(ApiKey, id, with_for_update=True)
    if key is None:
        raise NotFoundError("There is no such key.")
    if key.revoked_at is None:
        before = _shown(key)
        key.revoked_at = utcnow()
        await audit.record(
            session, actor=actor, action="key.revoked", subject=str(id), before=before, after=_shown(key)
        )
    return key


def _shown(key: ApiKey) -> dict[str, Any]:
    """What the audit log says of a key."""
    times = {"expires_at": key.expires_at, "revoked_at": key.revoked_at}
    return {
        "name": key.name,
        "scopes": key.scopes,
        "last4": key.last4,
        **{name: None if at is None else int(at.timestamp()) for name, at in times.items()},
    }
