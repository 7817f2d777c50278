"""Metrics, what is written of them, and the alert rules on them: three places that must agree."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from billing import Account
from processes import free_port, start, stop, wait_until
from prometheus_client.metrics import MetricWrapperBase
from sqlalchemy import text
from typer.testing import CliRunner, Result

from app.cli.main import app
from app.observability import registry
from app.services import audit
from app.settings import Settings
from app.worker.audit_heads import publish_heads

ROOT = Path(__file__).parent.parent
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
DURATION = re.compile(r"\d+[smhd]")

Rule = dict[str, Any]


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """The labels of every sample that Billhook can show, by the sample's name."""
    found: dict[str, set[str]] = {}
    for metric in {m for m in registry._collector_to_names if isinstance(m, MetricWrapperBase)}:
        for suffix in SUFFIXES[metric._type or ""]:
            found[metric._name + suffix] = {*metric._labelnames, *(["le"] if suffix == "_bucket" else [])}
    return found


@pytest.fixture(scope="module")
def rules() -> list[Rule]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> Iterator[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])


def test_the_page_lists_exactly_the_metrics_there_are_with_their_labels() -> None:
    shown = {
        (metric._name + ("_total" if metric._type == "counter" else ""), tuple(metric._labelnames))
        for metric in registry._collector_to_names
        if isinstance(metric, MetricWrapperBase)
    }
    told = [(name.strip("`"), tuple(filter(None, names.split(", ")))) for name, names, _ in rows("Metrics")]
    assert sorted(told) == sorted(shown)


def test_the_page_lists_exactly_the_alerts_there_are(rules: list[Rule]) -> None:
    told = [(name.strip("`"), severity) for name, severity, _ in rows("Alerts")]
    assert told == [(rule["alert"], rule["labels"]["severity"]) for rule in rules]


def test_the_file_of_alerts_has_prometheus_shape() -> None:
    loaded = yaml.safe_load(ALERTS.read_text())
    assert loaded.keys() == {"groups"}
    names = [group["name"] for group in loaded["groups"]]
    assert len(names) == len(set(names)) > 1
    for group in loaded["groups"]:
        assert group.keys() == {"name", "rules"}
        for rule in group["rules"]:
            assert {"alert", "expr", "labels", "annotations"} <= rule.keys() <= {*RULE_FIELDS}, rule["alert"]
            assert re.fullmatch(r"Billhook[A-Za-z]+", rule["alert"])
            assert DURATION.fullmatch(rule.get("for", "1m"))
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert rule["annotations"].keys() == {"summary", "description"}
            assert all(isinstance(told, str) and told for told in rule["annotations"].values())


RULE_FIELDS = ("alert", "expr", "for", "labels", "annotations")


def test_alerts_ask_only_for_samples_and_labels_that_exist(rules: list[Rule], labels: dict[str, set[str]]) -> None:
    for rule in rules:
        asked = re.findall(r"\b(billing_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert asked, rule["alert"]
        known = set[str]()
        for name, matchers in asked:
            assert name in labels, rule["alert"]
            known |= labels[name]
            assert set(re.findall(r'(\w+)\s*[!=]~?\s*"', matchers)) <= labels[name], rule["alert"]
        grouped = {label.strip() for names in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in names.split(",")}
        assert grouped <= known, rule["alert"]
        mentioned = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert mentioned <= grouped, rule["alert"]


def test_alerts_have_balanced_brackets_and_quotes(rules: list[Rule]) -> None:
    for rule in rules:
        expression = re.sub(r'"[^"]*"', "", rule["expr"])
        assert '"' not in expression
        while (shorter := re.sub(r"\([^()]*\)|\[\d+[smhd]\]|\{[^(){}\[\]]*\}", "", expression)) != expression:
            expression = shorter
        assert not re.search(r"[()\[\]{}]", expression), rule["alert"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_the_alerts() -> None:
    subprocess.run(["promtool", "check", "rules", ALERTS], check=True)  # noqa: S603, S607 - wherever it is installed


def heads_shown() -> dict[str, tuple[float | None, list[str]]]:
    """Seq and hashes by chain, as Prometheus would see them."""
    hashes: dict[str, list[str]] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            if sample.name == "billing_audit_head_info":
                hashes.setdefault(sample.labels["chain"], []).append(sample.labels["hash"])
    return {
        chain: (registry.get_sample_value("billing_audit_head_seq", {"chain": chain}), found)
        for chain, found in hashes.items()
    }


async def note(account: Account, subject: str) -> None:
    async with account.sessions.begin() as session:
        await audit.record(session, actor="cli", action="plan.updated", subject=subject)


async def test_the_head_of_each_chain_is_shown_and_the_former_hash_is_not(account: Account) -> None:
    await note(account, "a")
    await publish_heads(account.sessions)
    [seq, [first]] = heads_shown()["0"]
    await note(account, "b")
    await publish_heads(account.sessions)
    assert heads_shown()["0"][0] == (seq or 0) + 1
    [second] = heads_shown()["0"][1]
    assert len(second) == 64
    assert second != first


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {
        "ENVIRONMENT": "development",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "STRIPE_SECRET_KEY": "sk_test_1",
        "STRIPE_API_BASE": "http://localhost:1",
    }


def verify(environment: dict[str, str], *options: str) -> Result:
    return CliRunner().invoke(app, ["audit", "verify", *options], env=environment)


async def test_verify_prints_heads_and_checks_the_log_against_earlier_ones(
    environment: dict[str, str], account: Account
) -> None:
    async def told(*options: str, code: int = 0) -> list[str]:
        # In a thread, as the verb has an event loop of its own.
        result: Result = await asyncio.to_thread(verify, environment, *options)
        assert result.exit_code == code, result.output
        return result.output.splitlines()

    await note(account, "a")
    earlier, _ = await told()
    await note(account, "b")
    head, verdict = await told("--head", earlier)
    assert verdict == "The audit log is whole."
    assert (int(head.split(":")[1]) - int(earlier.split(":")[1]), head[:2]) == (1, "0:")
    async with account.sessions.begin() as session:
        await session.execute(text("ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only"))
        await session.execute(text("DELETE FROM audit_log WHERE subject = 'b'"))
    await told()  # what is left is whole in itself
    await told("--head", earlier)
    seq = head.split(":")[1]
    assert await told("--head", head, code=1) == [
        f"billhook: the audit log no longer has row {seq} of chain 0 as it was"
    ]
    await told("--head", earlier[:-1] + ("0" if earlier[-1] != "0" else "1"), code=1)


@pytest.mark.parametrize("head", ["", "0:1", "zero:1:00", "0:1:xyz", "0:1:00:00"])
def test_a_head_that_is_none_is_refused(environment: dict[str, str], head: str) -> None:
    refused = verify(environment, "--head", head)
    assert (refused.exit_code, refused.stderr) == (1, "billhook: a head is written chain:seq:hash\n")


async def test_a_worker_of_its_own_shows_its_metrics(
    environment: dict[str, str], account: Account, tmp_path: Path
) -> None:
    await note(account, "a")
    port, log = free_port(), tmp_path / "log"
    worker = start("worker", log=log, env=environment | {"WORKER_METRICS_PORT": str(port)})
    shown = ""

    def has_published() -> bool:
        nonlocal shown
        try:
            shown = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx.TransportError:
            return False
        return 'billing_audit_head_seq{chain="0"}' in shown

    try:
        wait_until(has_published, worker, log)
    finally:
        stop(worker)
    assert "billing_webhook_backlog 0.0" in shown
    assert "billing_lock_waits_total" in shown
