"""A warmed provider imports nothing while it serves, and shares its connection."""

import subprocess
import sys

SCRIPT = """
import asyncio, sys
from app.provider.stripe import StripeProvider

BODY = b'{"id": "cus_1", "object": "customer", "deleted": true}'
connections = 0

async def serve(reader, writer):
    global connections
    connections += 1
    while await reader.readline():
        while await reader.readline() != b"\\r\\n":
            pass
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(BODY), BODY))

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with StripeProvider("sk_test_1", base_url=f"http://127.0.0.1:{port}") as provider:
        before = set(sys.modules)
        for _ in range(3):
            assert (await provider.retrieve_customer("cus_1")).object.deleted
        assert set(sys.modules) == before, set(sys.modules) - before
    assert connections == 1, connections
    server.close()

asyncio.run(main())
"""


def test_the_first_request_imports_nothing_and_the_next_ones_reuse_its_connection() -> None:
    script = [sys.executable, "-c", SCRIPT]  # an interpreter of its own: in this one everything is imported
    ran = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - it is ours
    assert ran.returncode == 0, ran.stderr
