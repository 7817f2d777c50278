"""The rules of the house that no linter knows."""

import ast
import json
import re
from pathlib import Path

import pytest

from app.main import openapi_document
from app.services.event_types import HANDLED
from app.settings_reference import env_example, markdown_table

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "app").rglob("*.py"))
TRANSACTION_VERBS = {"commit", "rollback", "begin"}
# db.transaction and db.release are the edge everybody uses; workers and this middleware open transactions of their own.
TRANSACTION_OWNERS = ("db.py", "api/idempotency.py", "worker/")


def relative(path: Path) -> str:
    return path.relative_to(ROOT / "app").as_posix()


def transaction_verbs(source: str) -> list[str]:
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in TRANSACTION_VERBS]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_transactions_end_at_the_edge(path: Path) -> None:
    if not relative(path).startswith(TRANSACTION_OWNERS):
        assert transaction_verbs(path.read_text()) == []


def test_the_search_for_transaction_verbs_finds_them() -> None:
    assert transaction_verbs("async def f(session): await session.commit()") == ["commit"]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    source = path.read_text()
    if source.strip():
        docstring = ast.get_docstring(ast.parse(source))
        assert docstring, "no docstring"
        assert len(docstring.split()) > 2, docstring


def test_no_module_is_a_drawer() -> None:
    names = {part for path in MODULES for part in path.relative_to(ROOT / "app").with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "common", "core", "manager", "misc"}


def test_the_env_template_is_that_of_the_settings() -> None:
    assert (ROOT / ".env.example").read_text() == env_example(), "run: billhook settings > .env.example"


def test_the_readme_s_table_is_that_of_the_settings() -> None:
    assert markdown_table() in (ROOT / "README.md").read_text(), "paste: billhook settings --markdown"


def test_the_webhook_page_lists_the_events_we_act_on() -> None:
    page = (ROOT / "docs" / "webhooks.md").read_text()
    assert re.findall(r"^\| `([a-z_.]+)` \|", page, re.MULTILINE) == list(HANDLED)


def test_the_openapi_document_is_that_of_the_app() -> None:
    assert json.loads((ROOT / "openapi.json").read_text()) == openapi_document(), "run: make openapi"


# What must not be in the repository, written so that the rule does not match itself.
FORBIDDEN = re.compile(r"pypi[.]org|pythonhosted[.]|registry[.]npm|deb[.]debian[.]|sk_live_[0-9A-Za-z]{8}")


def is_ours(path: Path) -> bool:
    """Not what tools leave in hidden folders, nor what others wrote."""
    folders = path.relative_to(ROOT).parts[:-1]
    return not any((name.startswith(".") and name != ".ci") or name in {"vendor", "__pycache__"} for name in folders)


def test_no_file_names_a_package_host_or_holds_a_live_key() -> None:
    texts = {".py", ".md", ".yml", ".yaml", ".toml", ".txt", ".lock", ".html", ".js", ".css", ".json", ".ini", ""}
    files = [path for path in ROOT.rglob("*") if path.suffix in texts and path.is_file() and is_ours(path)]
    assert ROOT / ".ci" / "run" in files
    assert [path for path in files if FORBIDDEN.search(path.read_text(errors="ignore"))] == []
