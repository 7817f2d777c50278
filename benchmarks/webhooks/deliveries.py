"""Ready-made HTTP requests that deliver distinct signed events: a file the load generator sends from."""

import hmac
import itertools
import mmap
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from samples import SUBSCRIBED_AT, Sample

PATH = "/api/v1/billing/webhook"
SECRET = "whsec_YmVuY2htYXJrcyBzaWduIHdpdGggdGhpcyBzZWNyZXQ"  # noqa: S105 - opens nothing
TIMESTAMP_DIGITS = 10
SIGNATURE_HEADER = b"t=%d,v1=%s"
UNSIGNED = SIGNATURE_HEADER % (10 ** (TIMESTAMP_DIGITS - 1), b"0" * 64)
LENGTH = struct.Struct("=I")
"""Stands before each request; load.c reads it."""

Words = Mapping[str, str]


@dataclass(slots=True)
class Deliveries:
    """Requests in `file`: `count` of them, with where each one's signature and body are."""

    file: Path
    _places: list[tuple[int, int, int]]

    @property
    def count(self) -> int:
        return len(self._places)

    def sign(self) -> None:
        """Sign all of them as of now, in place: Stripe's signatures are good for 300 s."""
        timestamp = int(time.time())
        prefix = b"%d." % timestamp
        key = SECRET.encode()
        with self.file.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
            for signature, start, end in self._places:
                digest = hmac.digest(key, prefix + content[start:end], "sha256").hex().encode()
                content[signature : signature + len(UNSIGNED)] = SIGNATURE_HEADER % (timestamp, digest)


def write(file: Path, bodies: Iterator[bytes]) -> Deliveries:
    """Put a request for each of `bodies` into `file`. They are not signed yet."""
    with file.open("wb") as output:
        return Deliveries(file, [_append(output, body) for body in bodies])


def _append(output: BinaryIO, body: bytes) -> tuple[int, int, int]:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n"
        "Accept: */*; q=0.5, application/xml\r\nCache-Control: no-cache\r\n"
        f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\nStripe-Signature: "
    ).encode()
    signature = output.tell() + LENGTH.size + len(head)
    request = head + UNSIGNED + b"\r\n\r\n" + body
    output.write(LENGTH.pack(len(request)) + request)
    return signature, output.tell() - len(body), output.tell()


def customers(samples: Mapping[str, Sample], count: int) -> Iterator[bytes]:
    """First a customer.created for each of `count` customers, then a customer.subscription.created for each."""
    for kind, number in itertools.product(("customer.created", "customer.subscription.created"), range(count)):
        words = _customer(number) | _event(f"{kind} {number}", at=SUBSCRIBED_AT)
        yield samples[kind].event(words)


def changes(samples: Mapping[str, Sample], count: int, *, customers: int) -> Iterator[bytes]:
    """`count` events: by turns a change of a subscription, and a new invoice that is paid.

    Customers come round robin. Each change of a subscription is a second later than its last and is news (it is set to
    end with its period, then not), so it gives one audit row and one outbox row, as each paid invoice does, and nothing
    has to be fetched.
    """
    for number in range(count):
        turn, customer = divmod(number // 2, customers)
        words = _customer(customer) | _event(f"change {number}", at=SUBSCRIBED_AT + 1 + turn)
        if number % 2:
            words |= {
                "invoice": "in_1" + _id(f"invoice {number}", 23),
                "line": "il_1" + _id(f"line {number}", 23),
                "number": f"{_id(f'prefix {customer}', 8).upper()}-{turn + 2:04}",
            }
            yield samples["invoice.paid"].event(words)
        else:
            yield samples["resume" if turn % 2 else "cancel"].event(words)


def _customer(number: int) -> dict[str, str]:
    return {
        "customer": "cus_" + _id(f"customer {number}", 14),
        "user": f"benchmark-user-{number}",
        "subscription": "sub_1" + _id(f"subscription {number}", 23),
        "item": "si_" + _id(f"item {number}", 14),
        "invoice": "in_1" + _id(f"first invoice {number}", 23),
    }


def _event(name: str, *, at: int) -> dict[str, str]:
    return {"event": "evt_1" + _id(f"event {name}", 23), "request": "req_" + _id(name, 14), "time": str(at)}


def _id(name: str, length: int) -> str:
    """The same for the same name, and as hard to compress as an id of Stripe's."""
    return blake2b(name.encode(), digest_size=12).hexdigest()[:length]
