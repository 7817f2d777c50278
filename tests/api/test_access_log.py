"""One log line per request, and no secret in it."""

import httpx
from serving import API, Bearer
from structlog.testing import capture_logs


async def test_each_request_leaves_one_line(client: httpx.AsyncClient, ada: Bearer) -> None:
    with capture_logs() as lines:
        await client.get(f"{API}/checkout/session/whsec_abc", headers=ada | {"X-Request-ID": "r1"})
    (line,) = [line for line in lines if line["event"] == "http_request"]
    assert line["duration_ms"] > 0
    assert {name: line[name] for name in ("method", "route", "status", "caller")} == {
        "method": "GET",
        "route": f"{API}/checkout/session/{{session_id}}",
        "status": 404,
        "caller": "user:ada",
    }
    assert "whsec_abc" not in str(line)
    assert ada["Authorization"] not in str(line)
