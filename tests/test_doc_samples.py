"""Every sample that README and docs print is run as it stands, or stands here with the reason why it can't be."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import get_args

import httpx
import pytest
from printed_samples import ROOT, Sample, mismatch, samples
from processes import free_port, running_dev, start, stop, wait_until

from app.sandbox.cards import CARDS
from app.sandbox.faults import RequestFault, WebhookFault

DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
#: Documents that are run from top to bottom, each beside a sandbox of its own.
BY_SANDBOX = ("docs/library.md", "docs/sandbox.md")
#: Documents whose commands are given to a running `billhook dev`.
BY_DEV = ("docs/operations.md", "docs/reconcile.md")
#: Documents that are typed into one shell from top to bottom, beside a running `billhook dev`.
BY_CURL = ("docs/credits.md",)
PRINTED_PORT = "12111"
STARTS_IT = f"billhook sandbox --port {PRINTED_PORT}\n"
STARTING = "it starts everything and stays: tests/test_dev.py starts it and looks at what it says"
USAGE = "a request as HTTP has it, about a customer of its own: tests/api/test_usage.py sends such ones"
PLANS = "tests/test_cli_plans.py runs it, with plans.yaml as the page prints it"
CURL_FLOWS = "tests/test_readme.py runs it, with the answer printed after it"
#: The first line of each sample that isn't run here, by document, and why.
NOT_RUN_HERE = {
    "README.md": {
        "$ make dev": STARTING,
        "$ make test": "it would run this test, which would run it",
        'read API TOKEN KEY <<< "$(python3 -c \'import json; d = json.load(open(".dev/dev.json")); '
        'print(d["api_url"], d["demo_token"], d["service_key"])\')"': CURL_FLOWS,
        "STRIPE_SECRET_KEY=sk_test_… make dev    # as above, but Stripe is Stripe; makes the products and prices of "
        "plans.yaml there": "it needs an account with Stripe, and the network",
        "flowchart LR": "a picture",
        "app/api        HTTP: parse, call one service, shape the answer      app/provider   Stripe behind small "
        "interfaces": "a table of folders",
    },
    "CONTRIBUTING.md": {
        "make dev      # run it all: storefront, API, worker, Stripe sandbox, Postgres, Valkey": STARTING,
        "cli | main  →  api | web | worker  →  services  →  provider | models  →  db | redis  →  observability  →  "
        "settings | errors | values": "a picture",
    },
    "docs/benchmarks.md": {
        ".venv/bin/python benchmarks/webhooks/run.py": "it takes minutes: tests/test_benchmarks.py runs a short one",
        ".venv/bin/python benchmarks/usage/run.py": "it takes minutes: tests/test_benchmarks.py runs a short one",
        ".venv/bin/python benchmarks/credits/run.py": "it takes minutes: tests/test_benchmarks.py runs a short one",
        ".venv/bin/python benchmarks/webhooks/run.py --only receive --connections 16 --rounds 1 --profile profiles": (
            "it takes minutes, and a profiler"
        ),
    },
    "docs/catalog.md": {
        "# yaml-language-server: $schema=schemas/plans.schema.json": PLANS,
        "billhook: plans.yaml:11:5: plans.pro.amuont: unknown key; did you mean `amount`?": PLANS,
        "billhook plans diff              # what differs (exit code 2, else 0); --json for machines": PLANS,
        '{"plan": "pro", "interval": "year", "success_url": "…", "cancel_url": "…"}': PLANS,
    },
    "docs/usage.md": {
        "POST /usage/events ─┐                            ┌─ GET /usage, POST /entitlements/check": "a picture",
        "plans:": "the part of plans.yaml that the page is about: docs/catalog.md prints a whole one, which is loaded",
        "POST /api/v1/billing/usage/events": USAGE,
        "POST /api/v1/billing/usage/record?subscription_item_id=si_QabcItem": USAGE,
    },
    "docs/monitoring.md": {
        "billing_audit_head_seq @ 1795242784": "queries for Prometheus",
        "billhook audit verify --head 3:1204:9f0c…e1 --head 7:88:41d2…07": (
            "the heads are those of some other database: tests/services/test_audit.py has its own"
        ),
    },
}


def printed(*documents: Path) -> list[Sample]:
    return [sample for document in documents or DOCUMENTS for sample in samples(document)]


def in_the_readmes_flows(sample: Sample) -> bool:
    """Whether test_readme.py runs it, or its language is one that only a front end runs."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    if sample.document != "README.md":
        return False
    begin = text.index("## The first checkout, by curl")
    return begin < sample.line - 1 < text.index("## With your own Stripe account") and sample.language in {
        "json",
        "sh",
        "tsx",
    }


def runs_here(sample: Sample) -> bool:
    if sample.document in {*BY_SANDBOX, *BY_DEV, *BY_CURL}:
        return True
    return sample.text == STARTS_IT or (sample.language == "python" and PRINTED_PORT in sample.text)


def test_every_sample_is_run_or_says_why_not() -> None:
    unexplained = []
    unused = {(document, line) for document, reasons in NOT_RUN_HERE.items() for line in reasons}
    for sample in printed():
        excused = sample.first_line in NOT_RUN_HERE.get(sample.document, {})
        unused.discard((sample.document, sample.first_line))
        if [runs_here(sample), in_the_readmes_flows(sample), excused].count(True) != 1:
            unexplained.append(f"{sample.document}:{sample.line} {sample.first_line}")
    assert unexplained == []
    assert unused == set(), "reasons for samples that are no longer there"


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a reader has: the programs, and `billhook` among them."""
    if shutil.which("curl") is None:
        pytest.skip("no curl found")
    folder = tmp_path_factory.mktemp("bin")
    billhook = folder / "billhook"
    billhook.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m app.cli "$@"\n')
    billhook.chmod(0o755)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": os.environ.get("HOME", "/")}


@pytest.fixture
def sandbox_port(tmp_path: Path) -> Iterator[str]:
    port, log = free_port(), tmp_path / "sandbox.log"
    process = start("sandbox", "--port", str(port), log=log)

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/_sandbox").is_success
        return False

    try:
        wait_until(answers, process, log)
        yield str(port)
    finally:
        stop(process)


def run(sample: Sample, shell: dict[str, str], cwd: Path, *, port: str | None = None) -> str:
    """What the sample prints. It has to end well."""
    text = sample.text if port is None else sample.text.replace(PRINTED_PORT, port)
    program = [sys.executable, "-c"] if sample.language == "python" else [shutil.which("bash") or "/bin/bash", "-ec"]
    ran = subprocess.run(  # noqa: S603 - our own documents' commands
        [*program, text], env=shell, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, f"{sample.document}:{sample.line}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def run_all(found: list[Sample], shell: dict[str, str], cwd: Path, *, port: str | None = None) -> None:
    """Run them in turn; JSON is what the command before it answered."""
    out = ""
    for sample in found:
        if sample.text == STARTS_IT:
            continue  # it runs already
        if sample.language == "json":
            wrong = mismatch(json.loads(sample.text), json.loads(out))
            assert wrong is None, f"{sample.document}:{sample.line} {wrong}"
        else:
            out = run(sample, shell, cwd, port=port)


@pytest.mark.parametrize("document", BY_SANDBOX)
def test_the_samples_beside_a_sandbox_do_what_is_printed(
    document: str, sandbox_port: str, shell: dict[str, str], tmp_path: Path
) -> None:
    run_all(printed(ROOT / document), shell, tmp_path, port=sandbox_port)


def test_the_cards_are_those_of_the_sandbox() -> None:
    rows = re.findall(r"^\| `([\d ]+)` \| `pm_card_(\w+)` \|", (ROOT / "docs/sandbox.md").read_text(), re.MULTILINE)
    numbers = {name: card.number for card in CARDS for name in card.names}
    assert len(rows) > 1
    assert rows == [(number, name) for number, name in rows if numbers.get(name) == number.replace(" ", "")]


def test_the_faults_are_those_of_the_sandbox() -> None:
    text = (ROOT / "docs/sandbox.md").read_text()
    named = re.findall(r"^\| `(\w+)` \|", text[text.index("| fault |") : text.index("The first five")], re.MULTILINE)
    assert sorted(named) == sorted([*get_args(RequestFault), *get_args(WebhookFault)])


def test_the_readmes_sandbox_is_the_sandbox(sandbox_port: str, shell: dict[str, str], tmp_path: Path) -> None:
    here = [sample for sample in printed(ROOT / "README.md") if runs_here(sample)]
    assert len(here) > 1
    run_all(here, shell, tmp_path, port=sandbox_port)


def test_the_operators_commands_work_beside_a_running_billhook(shell: dict[str, str], tmp_path: Path) -> None:
    shutil.copy(ROOT / "plans.yaml", tmp_path)
    with running_dev(tmp_path / ".dev"):
        run_all([sample for name in BY_DEV for sample in printed(ROOT / name)], shell, tmp_path)


class Terminal:
    """One shell, as somebody has it who follows a page."""

    def __init__(self, shell: dict[str, str], cwd: Path) -> None:
        bash = [shutil.which("bash") or "/bin/bash", "-e"]
        self._process = subprocess.Popen(  # noqa: S603 - our own documents' commands
            bash, env=shell, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def type(self, text: str) -> str:
        """What it prints."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{text}\nprintf '\\0'\n")
        stdin.flush()
        printed = ""
        while (character := stdout.read(1)) != "\0":
            assert character, f"the shell has ended: {text}"
            printed += character
        return printed

    def close(self) -> None:
        self._process.communicate()


@pytest.mark.parametrize("document", BY_CURL)
def test_the_conversations_by_curl_go_as_they_are_printed(document: str, shell: dict[str, str], tmp_path: Path) -> None:
    """`name=…` stands for what the answer before it says of that name."""
    with running_dev(tmp_path / ".dev"), closing(Terminal(shell, tmp_path)) as terminal:
        out = ""
        for sample in printed(ROOT / document):
            if sample.language == "json":
                wrong = mismatch(json.loads(sample.text), json.loads(out))
                assert wrong is None, f"{sample.document}:{sample.line} {wrong}"
                continue
            text = sample.text
            for name in re.findall(r"^(\w+)=…", text, re.MULTILINE):
                text = text.replace(f"{name}=…", f"{name}={shlex.quote(json.loads(out)[name])}")
            out = terminal.type(text)
