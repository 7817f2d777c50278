"""What is asked for: whose charge each request is, under which key; and the same as HTTP requests in a file."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import UUID

import seed
from deliveries import LENGTH

Users = Literal["many", "hot", "mixed", "empty", "replayed"]
"""Whom charges are for: all accounts in turn; one; all, but one charge in a hundred needs the account's books opened;
one without uses; all, with each charge asked for again and again."""

PREFIX = "/api/v1/billing"
_KEYS_REPLAYED = 100


class Asked(NamedTuple):
    """One charge."""

    user_id: str
    key: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Requests:
    """Ready for the load generator: `count` requests in `file`."""

    file: Path
    count: int


def asked(users: Users, number: int, accounts: int) -> Asked:
    """The charge of the request with this number."""
    user_id, key, quantity = seed.ample(number % accounts), blake2b(b"%d" % number, digest_size=16).hexdigest(), 1
    if users == "hot":
        user_id = seed.HOT
    elif users == "empty":
        user_id = seed.EMPTY
    elif users == "replayed":
        user_id, key = seed.ample(number % _KEYS_REPLAYED % accounts), f"replayed-{number % _KEYS_REPLAYED}"
    elif users == "mixed" and number % 200 == 0:
        user_id = f"new-{number}"
    elif users == "mixed" and number % 200 == 100:  # noqa: PLR2004 - halfway to the next new one
        user_id, quantity = seed.edge(number // 200 % accounts), 2
    return Asked(user_id, key, quantity)


def due(charges: Iterable[Asked]) -> int:
    """How many uses they come to, each key once."""
    return sum({charge.key: charge.quantity for charge in charges if charge.user_id != seed.EMPTY}.values())


def charges(file: Path, users: Users, count: int, *, accounts: int, key: str) -> Requests:
    """POST /charges, each with its key in the body."""
    return _write(
        file,
        (
            _post("/charges", {"user_id": one.user_id, "quantity": one.quantity, "idempotency_key": one.key}, key)
            for one in (asked(users, number, accounts) for number in range(count))
        ),
    )


def checks(file: Path, count: int, *, accounts: int, key: str) -> Requests:
    """POST /credits/check."""
    names = (seed.ample(number % accounts) for number in range(count))
    return _write(file, (_post("/credits/check", {"user_id": name}, key) for name in names))


def reads(file: Path, count: int, *, accounts: list[UUID]) -> Requests:
    """What the bare route is asked."""
    texts = (b"GET /accounts/%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % str(id).encode() for id in accounts)
    ready = list(texts)
    return _write(file, (ready[number % len(ready)] for number in range(count)))


def _post(path: str, body: dict[str, object], key: str) -> bytes:
    text = json.dumps(body)
    head = (
        f"POST {PREFIX}{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    return (head + text).encode()


def _write(file: Path, requests: Iterator[bytes]) -> Requests:
    count = 0
    with file.open("wb") as output:
        for request in requests:
            output.write(LENGTH.pack(len(request)) + request)
            count += 1
    return Requests(file, count)
