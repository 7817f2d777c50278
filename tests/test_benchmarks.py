"""The benchmark runs, and what it measures has done its work; how fast is not a test's business."""

import asyncio
import json
import os
import shutil
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
WEBHOOKS = ROOT / "benchmarks" / "webhooks"
COMPILER = shutil.which("cc")

pytestmark = pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="needs Linux and a C compiler")


@pytest.mark.timeout(300)
def test_every_rung_of_the_webhook_benchmark_stores_and_applies_what_it_accepts(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    rungs = ["verify", "each", "receive-ceiling", "receive", "apply-ceiling", "apply"]
    run = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, WEBHOOKS / "run.py", "--quick", "--only", ",".join(rungs), "--json", result],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    measured = json.loads(result.read_text())
    assert [cell["rung"] for cell in measured["cells"]] == rungs
    for cell in measured["cells"]:
        assert cell["wrong"] == []
        assert cell["lost"] == 0
        assert cell["answers"] == {"200": cell["events"]}
        assert cell["memory"] > 0
        assert cell["wal_syncs"] > 0 or cell["rung"] == "verify"
        assert cell["rung"] in run.stdout
    assert {goal["what"] for goal in measured["goals"]} == {
        "receive at 4, share of the ceiling",
        "receive, peak MB",
        "apply at 4, share of the ceiling",
        "apply, peak MB",
    }


def test_the_load_generator_sends_each_request_once_and_tells_every_kind_of_end_apart(tmp_path: Path) -> None:
    program, requests = tmp_path / "load", tmp_path / "requests"
    assert COMPILER is not None
    subprocess.run([COMPILER, "-O2", "-o", program, WEBHOOKS / "load.c"], check=True)  # noqa: S603 - our own file
    texts = [b"POST /%d HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc" % number for number in range(60)]
    requests.write_bytes(b"".join(struct.pack("=I", len(text)) + text for text in texts))
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await reader.readexactly(len(texts[10]))
            seen.append(request)
            kind = int(request[6:8]) % 10
            if kind == 3:
                break
            closing = b"Connection: close\r\n" if kind == 5 else b""
            text = b"HTTP/1.1 %d Whatever\r\nContent-Length: 5\r\n%s\r\nabcde" % (503 if kind == 7 else 200, closing)
            for part in (text[:20], text[20:-2], text[-2:]):
                writer.write(part)
                await asyncio.sleep(0.001)
            if closing:
                break

    async def run() -> dict[str, Any]:
        handlers: list[asyncio.Task[None]] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError):  # the other end is done
                await answer(reader, writer)
            writer.close()
            await writer.wait_closed()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            handlers.append(asyncio.create_task(handle(reader, writer)))

        async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            arguments = [str(port), "4", "30", "10", "60", str(requests)]
            process = await asyncio.create_subprocess_exec(program, *arguments, stdout=asyncio.subprocess.PIPE)
            output, _ = await process.communicate()
            await asyncio.gather(*handlers)
        found: dict[str, Any] = json.loads(output)
        return found

    found = asyncio.run(run())
    assert sorted(seen) == texts[10:]
    assert (found["answers"], found["lost"], found["next"]) == ({"200": 40, "503": 5}, 5, 60)
    assert 0 < found["p50"] <= found["p90"] <= found["p99"] <= found["max"] <= found["seconds"] * 1000


@pytest.mark.timeout(300)
def test_every_rung_of_the_usage_benchmark_stores_and_counts_what_it_acknowledges(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    run = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, ROOT / "benchmarks" / "usage" / "run.py", "--quick", "--json", result],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    measured = json.loads(result.read_text())
    assert {cell["rung"] for cell in measured["cells"]} == {"insert-batch", "batch", "insert-single", "single"}
    assert all(cell["rows"] > 0 and cell["wrong"] is None for cell in measured["cells"])
    assert set(measured["shares"]) == {"batch at 1", "batch at 4", "single at 1", "single at 16"}


@pytest.mark.timeout(300)
def test_every_rung_of_the_credits_benchmark_charges_each_key_once(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    run = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, ROOT / "benchmarks" / "credits" / "run.py", "--quick", "--json", result],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    measured = json.loads(result.read_text())
    assert {(cell["rung"], cell["users"]) for cell in measured["cells"]} == {
        *((rung, users) for rung in ("sql", "layer", "http") for users in ("many", "hot")),
        *((rung, users) for rung in ("layer", "http") for users in ("mixed", "empty", "replayed")),
        *((rung, "many") for rung in ("bare", "check")),
    }
    assert all(cell["requests"] > 0 and cell["wrong"] == [] for cell in measured["cells"])
    assert [goal["what"] for goal in measured["goals"]] == [
        "layer many at 4, share of sql",
        "layer hot at 4, share of sql",
        "check many at 4, share of bare",
    ]
