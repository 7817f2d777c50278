"""End users' tokens: what is believed, and everything that isn't."""

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from serving import API, PROBLEM, bearer, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.errors import PermissionDeniedError, UnavailableError
from app.main import create_app
from app.provider.protocol import BillingProvider
from app.services import identity, jwks
from app.services.jwks import Jwks
from app.settings import Settings

WHOAMI = f"{API}/subscription/status"
JWKS_URL = "https://id.example.com/jwks.json"


def claims(**changes: Any) -> dict[str, Any]:
    """A good token's claims; a change to None leaves the claim out."""
    now = int(time.time())
    good = {"sub": "ada", "iss": "https://id.example.com", "aud": "billhook", "iat": now, "exp": now + 60}
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(settings: Settings, **changes: Any) -> str:
    assert settings.jwt_secret is not None
    return jwt.encode(claims(**changes), settings.jwt_secret.get_secret_value(), algorithm="HS256")


def raw(header: Any, payload: Any, signature: bytes = b"") -> str:
    """A token as nobody's library would make it."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))


PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


def jwk(key: PublicKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPublicKey):
        return jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True)
    return jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)


class Provider:
    """An identity provider: real keys, served over HTTP, with a count of how often it was asked."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.kids: dict[str, PublicKey] = {"rsa-1": self.rsa.public_key()}
        self.asked = 0
        self.down = False
        self.transport = httpx.ASGITransport(Starlette(routes=[Route("/jwks.json", self.serve)]))

    async def serve(self, _request: Request) -> JSONResponse:
        self.asked += 1
        if self.down:
            return JSONResponse({"error": "down"}, status_code=502)
        keys = [{**jwk(key), "kid": kid, "use": "sig"} for kid, key in self.kids.items()]
        return JSONResponse({"keys": keys})

    def sign(self, kid: str = "rsa-1", **changes: Any) -> str:
        key, algorithm = (self.rsa, "RS256") if kid.startswith("rsa") else (self.ec, "ES256")
        return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def keys() -> Provider:
    return Provider()


@pytest.fixture
def identity_provider(keys: Provider) -> Provider:
    keys.asked, keys.down, keys.kids = 0, False, {"rsa-1": keys.rsa.public_key()}
    return keys


@pytest.fixture
async def federated(
    quiet: Settings, provider: BillingProvider, identity_provider: Provider
) -> AsyncIterator[httpx.AsyncClient]:
    """The service with a JWKS alone: no shared secret."""
    settings = quiet.model_copy(update={"jwt_secret": None, "jwt_jwks_url": JWKS_URL})
    app = create_app(settings, provider=provider, identity_transport=identity_provider.transport)
    async with serving(app) as client:
        yield client


async def refusal(client: httpx.AsyncClient, token: str) -> str:
    """The code a token is refused with."""
    response = await client.get(WHOAMI, headers=bearer(token))
    assert response.status_code == 401
    assert response.headers["content-type"] == PROBLEM
    assert response.headers["www-authenticate"] == "Bearer"
    code: str = response.json()["code"]
    return code


async def test_a_good_token_says_who_is_calling(client: httpx.AsyncClient, settings: Settings) -> None:
    response = await client.get(WHOAMI, headers=bearer(signed(settings)))
    assert response.status_code == 200


async def test_the_scheme_is_read_in_any_case(client: httpx.AsyncClient, settings: Settings) -> None:
    response = await client.get(WHOAMI, headers={"Authorization": f"bearer {signed(settings)}"})
    assert response.status_code == 200


async def test_clocks_may_differ_by_thirty_seconds(client: httpx.AsyncClient, settings: Settings) -> None:
    now = int(time.time())
    response = await client.get(WHOAMI, headers=bearer(signed(settings, exp=now - 25, nbf=now + 25)))
    assert response.status_code == 200


async def test_an_expired_token_is_told_apart(client: httpx.AsyncClient, settings: Settings) -> None:
    assert await refusal(client, signed(settings, exp=int(time.time()) - 40)) == "token_expired"


WRONG_CLAIMS: list[dict[str, Any]] = [
    {"aud": "another-service"},
    {"aud": None},
    {"iss": "https://evil.example.com"},
    {"iss": None},
    {"exp": None},
    {"exp": "soon"},
    {"exp": True},
    {"nbf": 4_000_000_000},
    {"iat": 4_000_000_000},
    {"sub": None},
    {"sub": 7},
    {"sub": ""},
    {"sub": "a\0b"},
    {"sub": "\ud800"},
    {"sub": "x" * 256},
]


async def test_a_token_with_a_wrong_claim_is_refused(client: httpx.AsyncClient, settings: Settings) -> None:
    for changes in WRONG_CLAIMS:
        code = await refusal(client, signed(settings, **changes))
        assert code in {"invalid_token", "token_expired"}, changes


MALFORMED = [
    raw({"alg": "none"}, claims()),
    raw({"alg": "None"}, claims()),
    raw({"alg": "HS256"}, claims()),
    raw({"alg": ["HS256"]}, claims()),
    raw({"alg": None}, claims()),
    raw({}, claims()),
    raw([], claims()),
    raw({"alg": "HS256", "kid": 7}, claims()),
    raw({"alg": "HS256", "crit": ["x"]}, claims()),
    raw(b"[" * 3000, claims()),
    raw(b"\xff\xfe", claims()),
    *("x", "..", "a.b.c", "a b", "\x7f", "x" * 9000),
]


async def test_a_malformed_token_is_refused(client: httpx.AsyncClient) -> None:
    for token in MALFORMED:
        assert await refusal(client, token) == "invalid_token", token


async def test_a_token_signed_with_another_secret_is_refused(client: httpx.AsyncClient) -> None:
    token = jwt.encode(claims(), "another secret of thirty-two bytes and more", algorithm="HS256")
    assert await refusal(client, token) == "invalid_token"


async def test_only_hs256_is_accepted_for_the_shared_secret(client: httpx.AsyncClient, settings: Settings) -> None:
    assert settings.jwt_secret is not None
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = jwt.encode(claims(), settings.jwt_secret.get_secret_value(), algorithm="HS512")
    assert await refusal(client, token) == "invalid_token"


async def test_a_header_that_is_no_bearer_token_is_refused(client: httpx.AsyncClient) -> None:
    for header in ("", "Bearer", "Basic YTpi", "Bearer\ttoken", "token"):
        response = await client.get(WHOAMI, headers={"Authorization": header})
        assert response.status_code == 401, header


async def test_two_authorization_headers_are_refused(client: httpx.AsyncClient, settings: Settings) -> None:
    value = f"Bearer {signed(settings)}"
    response = await client.get(WHOAMI, headers=[("Authorization", value), ("Authorization", value)])
    assert response.status_code == 401


async def test_a_missing_token_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.get(WHOAMI)
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")


async def test_a_key_of_the_jwks_is_believed(federated: httpx.AsyncClient, identity_provider: Provider) -> None:
    for _ in range(3):
        response = await federated.get(WHOAMI, headers=bearer(identity_provider.sign()))
        assert response.status_code == 200
    assert identity_provider.asked == 1


async def test_the_shared_secret_is_no_way_in_when_there_is_none(
    federated: httpx.AsyncClient, settings: Settings
) -> None:
    assert await refusal(federated, signed(settings)) == "invalid_token"


async def test_the_public_key_is_no_shared_secret(federated: httpx.AsyncClient, identity_provider: Provider) -> None:
    pem = identity_provider.rsa.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    header, payload = {"alg": "HS256", "kid": "rsa-1"}, claims()
    unsigned = raw(header, payload).rsplit(".", 1)[0]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(unsigned.encode(), pem)
    assert await refusal(federated, raw(header, payload, signature)) == "invalid_token"


async def test_an_algorithm_off_the_list_is_refused(federated: httpx.AsyncClient, identity_provider: Provider) -> None:
    token = jwt.encode(claims(), identity_provider.rsa, algorithm="PS256", headers={"kid": "rsa-1"})
    assert await refusal(federated, token) == "invalid_token"


async def test_a_flood_of_unknown_key_ids_reaches_the_provider_once(
    federated: httpx.AsyncClient, identity_provider: Provider
) -> None:
    for number in range(20):
        assert await refusal(federated, identity_provider.sign(f"rsa-unknown-{number}")) == "invalid_token"
    assert identity_provider.asked == 1


async def test_an_identity_provider_that_is_away_is_not_the_callers_fault(
    federated: httpx.AsyncClient, identity_provider: Provider
) -> None:
    identity_provider.down = True
    for _ in range(5):
        response = await federated.get(WHOAMI, headers=bearer(identity_provider.sign()))
        assert (response.status_code, response.json()["code"]) == (503, "identity_provider_unavailable")
        assert response.json()["retryable"] is True
        assert int(response.headers["retry-after"]) > 0
    assert identity_provider.asked == 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def known(identity_provider: Provider) -> AsyncIterator[tuple[Jwks, Clock]]:
    clock = Clock()
    async with httpx.AsyncClient(transport=identity_provider.transport) as http:
        yield Jwks(JWKS_URL, http, clock=clock), clock


async def test_a_new_key_is_found_after_the_cooldown(known: tuple[Jwks, Clock], identity_provider: Provider) -> None:
    keys, clock = known
    assert await keys.find("rsa-1", "RS256") is not None
    identity_provider.kids["ec-2"] = identity_provider.ec.public_key()
    assert await keys.find("ec-2", "ES256") is None
    clock.now += jwks.COOLDOWN_SECONDS
    assert await keys.find("ec-2", "ES256") is not None
    assert identity_provider.asked == 2


async def test_a_removed_key_is_forgotten_after_five_minutes(
    known: tuple[Jwks, Clock], identity_provider: Provider
) -> None:
    keys, clock = known
    assert await keys.find("rsa-1", "RS256") is not None
    identity_provider.kids = {"ec-2": identity_provider.ec.public_key()}
    assert await keys.find("rsa-1", "RS256") is not None
    clock.now += jwks.FRESH_SECONDS
    assert await keys.find("rsa-1", "RS256") is None


async def test_known_keys_outlast_an_outage_of_an_hour_but_not_longer(
    known: tuple[Jwks, Clock], identity_provider: Provider
) -> None:
    keys, clock = known
    assert await keys.find("rsa-1", "RS256") is not None
    identity_provider.down = True
    clock.now += jwks.STALE_SECONDS - 1
    assert await keys.find("rsa-1", "RS256") is not None
    clock.now += 1
    with pytest.raises(UnavailableError):
        await keys.find("rsa-1", "RS256")


async def test_a_key_is_for_the_algorithm_it_names_and_else_for_any_that_fits(
    known: tuple[Jwks, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, clock = known
    for algorithm, fits in (("RS256", True), ("RS512", True), ("PS256", True), ("ES256", False), ("EdDSA", False)):
        assert (await keys.find("rsa-1", algorithm) is not None) == fits
    monkeypatch.setitem(globals(), "jwk", lambda key, plain=jwk: plain(key) | {"alg": "RS512"})
    clock.now += jwks.FRESH_SECONDS
    assert await keys.find("rsa-1", "RS512") is not None
    assert await keys.find("rsa-1", "RS256") is None


async def test_a_token_without_key_id_is_good_while_there_is_one_key(
    known: tuple[Jwks, Clock], identity_provider: Provider
) -> None:
    keys, clock = known
    assert await keys.find(None, "RS256") is not None
    identity_provider.kids["ec-2"] = identity_provider.ec.public_key()
    clock.now += jwks.FRESH_SECONDS
    assert await keys.find(None, "RS256") is None


def test_development_tokens_are_refused_in_production(settings: Settings) -> None:
    production = settings.model_copy(update={"environment": "production"})
    with pytest.raises(PermissionDeniedError):
        identity.mint_development_token(production, "ada")
