"""Dockerfile, compose file, Makefile and CI script: what they promise holds without running them."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from app.cli.main import app
from app.settings import Settings

ROOT = Path(__file__).parent.parent
SECRET_NAME = re.compile(r"KEY|SECRET|PASSWORD|TOKEN")

Instruction = tuple[str, str]


@pytest.fixture(scope="module")
def stages() -> list[list[Instruction]]:
    """The Dockerfile's instructions, by stage."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[Instruction]] = []
    for line in filter(None, text.splitlines()):
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, " ".join(arguments.split())))
    return found


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def of(stage: list[Instruction], name: str) -> list[str]:
    return [arguments for instruction, arguments in stage if instruction == name]


def test_the_image_runs_as_an_unprivileged_numeric_user(stages: list[list[Instruction]]) -> None:
    names = [name for name, _ in stages[-1]]
    assert of(stages[-1], "USER") == ["10001:10001"]
    assert "RUN" not in names
    assert names.index("USER") > max(position for position, name in enumerate(names) if name == "COPY")


def test_both_stages_stand_on_one_pinned_base(stages: list[list[Instruction]]) -> None:
    build, final = stages
    assert of(build, "FROM")[0].removesuffix(" AS build") == of(final, "FROM")[0]
    assert re.fullmatch(r"python:3\.\d+-slim", of(final, "FROM")[0])


def test_everything_installed_into_the_image_is_checked_by_hash(stages: list[list[Instruction]]) -> None:
    steps = [step.strip() for stage in stages for run in of(stage, "RUN") for step in run.split("&&")]
    assert len(steps) == 6
    for step in steps:
        if step.startswith(("pip install", "uv pip install", "uv build")):
            assert "--require-hashes" in step or ("--no-deps" in step and step.endswith("dist/*.whl"))


def test_the_image_takes_its_uv_from_the_lock_file(stages: list[list[Instruction]]) -> None:
    command = shlex.split(of(stages[0], "RUN")[0].partition(">")[0])
    entry = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout  # noqa: S603 - the Dockerfile's
    lines = [line for line in entry.splitlines() if not line.strip().startswith("#")]
    assert re.match(r"uv==[\d.]+ \\", lines[0])
    assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines[1:])
    assert not lines[-1].endswith("\\")


def test_every_file_the_image_copies_exists_and_is_let_into_the_build(stages: list[list[Instruction]]) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    copies = [
        copy.split()[:-1] for stage in stages for copy in of(stage, "COPY") if not copy.startswith("--from=build")
    ]
    sources = {source for copy in copies for source in copy}
    assert sources == {rule[1:] for rule in rules if rule.startswith("!")}
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_holds_no_secret(stages: list[list[Instruction]]) -> None:
    assert not [ARG for stage in stages for ARG in of(stage, "ARG")]
    for stage in stages:
        for environment in of(stage, "ENV"):
            assert not SECRET_NAME.search(re.sub(r'"[^"]*"', "", environment))


def test_the_image_stops_and_reports_its_health_without_extra_tools(stages: list[list[Instruction]]) -> None:
    assert of(stages[-1], "STOPSIGNAL") == ["SIGTERM"]
    check = json.loads(of(stages[-1], "HEALTHCHECK")[0].partition("CMD ")[2])
    assert check[:2] == ["python", "-c"]
    compile(check[2], "HEALTHCHECK", "exec")
    assert "http://127.0.0.1:8000/healthz" in check[2]


def test_image_and_compose_file_call_commands_that_exist(
    stages: list[list[Instruction]], compose: dict[str, Any]
) -> None:
    assert json.loads(of(stages[-1], "ENTRYPOINT")[0]) == ["billhook"]
    ours = {name: service for name, service in compose["services"].items() if service.get("image") == "billhook"}
    calls = [json.loads(of(stages[-1], "CMD")[0]), *(service["command"] for service in ours.values())]
    assert {call[0] for call in calls} == {"serve", "worker", "migrate"}
    cli = typer.main.get_command(app)
    for call in calls:
        cli.commands[call[0]].make_context(call[0], list(call[1:]))  # type: ignore[attr-defined] # a click group


def test_the_compose_file_gives_settings_that_hold_in_production(
    compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # away from a developer's .env
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    example = {
        "POSTGRES_PASSWORD": "letters1",
        "STRIPE_SECRET_KEY": "sk_live_example",
        "STRIPE_WEBHOOK_SECRETS": "whsec_example",
        "JWT_ISSUER": "https://login.example.com/",
        "JWT_AUDIENCE": "billing",
        "REDIRECT_ORIGINS": "https://app.example.com",
    }

    def value(template: str) -> str:
        return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: example[found[1]], template)

    environment = compose["services"]["api"]["environment"]
    assert set(environment) <= {name.upper() for name in Settings.model_fields}
    given = {name.lower(): value(template) for name, template in environment.items() if template is not None}
    settings = Settings.model_validate({"environment": "production", **given})
    assert settings.livemode
    assert "letters1@postgres:5432" in settings.database_url.get_secret_value()


def test_the_compose_file_has_no_default_for_a_secret(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if SECRET_NAME.search(name) and value is not None:
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value)


def test_nothing_of_ours_starts_before_the_migration_is_through(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "worker"):
        assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert services[name]["depends_on"]["valkey"] == {"condition": "service_healthy"}
    for name in ("postgres", "valkey"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert services["worker"]["healthcheck"] == {"disable": True}  # the image's check is for `serve`


def test_data_survive_and_images_are_pinned(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        assert service["image"] == "billhook" or re.fullmatch(r"[\w/-]+:v?\d[\d.]*", service["image"])
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert services["valkey"]["command"] == ["valkey-server", "--appendonly", "yes"]
    assert set(compose["volumes"]) == {"postgres", "valkey"}


def test_our_containers_are_hardened_and_only_the_api_is_reachable_from_this_host(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert name == "api" or "ports" not in service
        if service["image"] == "billhook":
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
    assert compose["services"]["api"]["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]


def test_the_stripe_profile_forwards_to_the_webhook_route(compose: dict[str, Any]) -> None:
    stripe = compose["services"]["stripe"]
    assert stripe["profiles"] == ["stripe"]
    prefix = Settings.model_fields["api_prefix"].default
    assert stripe["command"] == ["listen", "--forward-to", f"http://api:8000{prefix}/webhook"]
    assert not [name for name, service in compose["services"].items() if "profiles" in service and name != "stripe"]


def test_make_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert targets == {"help", "install", "dev", "test", "check", "lint", "format", "openapi", "lock"}
    assert targets == set(re.findall(r"^([a-z]+):.*## \w", makefile, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == targets


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_make_lock_repeats_how_the_lock_files_were_made(lock: str) -> None:
    made_by = (ROOT / lock).read_text().splitlines()[1].removeprefix("#    ")
    makefile = (ROOT / "Makefile").read_text()
    compile_flags = re.search(r"^COMPILE := .*?/(uv pip compile .*)$", makefile, re.MULTILINE)
    assert compile_flags is not None
    recipe = re.search(rf"-o {re.escape(lock)} .*$", makefile, re.MULTILINE)
    assert recipe is not None
    assert made_by == f"{compile_flags[1]} {recipe[0]}".replace("--quiet ", "")


def test_the_ci_script_is_valid_and_executable() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111 == 0o111
    subprocess.run(["bash", "-n", script], check=True)  # noqa: S603, S607 - bash where CI has it
    assert script.read_text().endswith("exec make test\n")
