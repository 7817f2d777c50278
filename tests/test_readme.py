"""The README's curl flows, run as they stand against `billhook dev`, their answers held to what is printed there."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from printed_samples import DOTS, mismatch
from processes import running_dev

README = Path(__file__).parent.parent / "README.md"
STEPS = 5
WEBHOOK_SECONDS = 10.0


def curl_section() -> str:
    text = README.read_text()
    return text[text.index("## The first checkout, by curl") : text.index("## In your front end")]


def steps() -> list[tuple[str, list[tuple[str, Any]]]]:
    """Each numbered step with its commands and the JSON printed after each (None where nothing is)."""
    found = []
    for part in re.split(r"\n(?=\*\*\d\. )", curl_section())[1:]:
        blocks = re.findall(r"```(sh|json)\n(.*?)```", part, re.DOTALL)
        commands: list[tuple[str, Any]] = []
        for kind, body in blocks:
            if kind == "sh":
                commands.append((body, None))
            else:
                commands[-1] = (commands[-1][0], json.loads(body))
        found.append((part.splitlines()[0], commands))
    return found


def test_the_comparison_can_fail() -> None:
    assert mismatch({"a": [1, "x_…"]}, {"a": [1, "x_9"]}) is None
    assert mismatch({"a": 1}, {"a": 1, "b": 2})
    assert mismatch({"a": 1, DOTS: DOTS}, {"a": 2, "b": 2})
    assert mismatch({"id": "in_…"}, {"id": "sub_1"})
    assert mismatch([{"a": True}], [{"a": 1}])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if shutil.which("curl") is None:
        pytest.skip("no curl found")
    with running_dev(tmp_path_factory.mktemp("readme")) as dev:
        path = shutil.which("bash") or "/bin/bash"
        yield {
            "API": dev["api_url"],
            "TOKEN": dev["demo_token"],
            "KEY": dev["service_key"],
            "SHELL": path,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "SANDBOX": dev["sandbox_url"],
        }


def test_the_flows_answer_what_the_readme_shows(environment: dict[str, str]) -> None:
    flows = steps()
    assert len(flows) == STEPS
    for title, commands in flows:
        assert commands, title
        for command, shown in commands:
            if shown is None:
                filled_in = command.replace("url=…", "#")  # by the step before
                assert run(filled_in, environment).startswith("http://localhost:3000/done?session_id=cs_test_")
                continue
            if "url" in shown:
                shown["url"] = f"{environment['SANDBOX']}/c/pay/cs_test_{DOTS}"
            got = json.loads(run(command, environment))
            deadline = time.monotonic() + WEBHOOK_SECONDS
            while mismatch(shown, got) and " -d " not in command and time.monotonic() < deadline:
                time.sleep(0.1)  # the webhook is on its way
                got = json.loads(run(command, environment))
            assert mismatch(shown, got) is None, f"{title}: {mismatch(shown, got)}"
            if "url" in shown:
                environment["url"] = got["url"]


def run(command: str, environment: dict[str, str]) -> str:
    return subprocess.run(  # noqa: S603 - the README's own commands
        [environment["SHELL"], "-c", command], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_the_variables_of_the_flows_are_read_as_the_readme_says(tmp_path: Path) -> None:
    [line] = re.findall(r"```bash\n(read API .*?)\n```", README.read_text(), re.DOTALL)
    facts = {"api_url": "http://localhost/api", "demo_token": "t", "service_key": "k"}
    (tmp_path / ".dev").mkdir()
    (tmp_path / ".dev" / "dev.json").write_text(json.dumps(facts))
    bash = shutil.which("bash") or "/bin/bash"
    ran = subprocess.run(  # noqa: S603 - the README's own command
        [bash, "-c", f'{line}; echo "$API $TOKEN $KEY"'], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "http://localhost/api t k\n"


def test_the_readme_names_only_files_that_exist() -> None:
    text = README.read_text()
    named = re.findall(r"`((?:tests|app|docs|migrations)/[\w./]+)`", text)
    named += re.findall(r"\]\(((?!http|#)[^)]+)\)", text)
    assert len(named) > STEPS
    missing = [name for name in named if not (README.parent / name).exists()]
    assert missing == []
