"""bootstrap.py: instant when up to date, one at a time, and clear when it can't go on."""

import ast
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {"PATH": os.defpath, "VIRTUAL_ENV": "/nowhere", "PYTHONPATH": "/nowhere", "PIP_NO_INDEX": "1"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with its .venv, but nothing in it, in a directory with spaces."""
    directory = tmp_path / "a project"
    directory.mkdir()
    shutil.copy(ROOT / "bootstrap.py", directory)
    (directory / "pyproject.toml").write_text('[project]\nname = "empty"\n')
    (directory / "requirements-dev.lock").write_text("uv==0.0.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    venv.EnvBuilder(symlinks=True).create(directory / ".venv")
    (directory / ".venv" / "installed").write_text("\n".join(module(directory).current_stamp()))
    return directory


def module(project: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", project / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def bootstrap(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own script
        [sys.executable, project / "bootstrap.py", *arguments],
        env=ENVIRONMENT,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_happens_when_all_is_up_to_date(project: Path) -> None:
    before = sorted(project.rglob("*"))
    done = bootstrap(project)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path for path in project.rglob("*") if "__pycache__" not in path.parts) == [
        path for path in before if "__pycache__" not in path.parts
    ]


def test_a_command_runs_in_the_projects_environment_whatever_the_callers_is(project: Path) -> None:
    (project / "app").mkdir()
    (project / "app" / "__init__.py").touch()
    (project / "app" / "cli.py").write_text("import sys\nprint(sys.prefix, sys.argv[1:])\n")
    done = bootstrap(project, "dev", "--port", "8123")
    assert done.stdout == f"{project / '.venv'} ['dev', '--port', '8123']\n"


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements-dev.lock"])
def test_a_changed_dependency_is_installed_without_a_new_environment(project: Path, changed: str) -> None:
    with (project / changed).open("a") as file:
        file.write("# changed\n")
    done = bootstrap(project)
    assert done.stderr.startswith("[3/4] installing the packages")
    assert done.returncode != 0  # this environment has no uv to install with
    assert not (project / ".venv" / "installed").exists()


def test_an_interrupted_installation_is_made_anew(project: Path) -> None:
    (project / ".venv" / "installed").unlink()
    (project / ".venv" / "half-written").touch()
    done = bootstrap(project)
    assert done.stderr.startswith("[1/4] making .venv\n[2/4] getting uv from PyPI\n")
    assert "uv==0.0.0" in done.stderr
    assert done.returncode != 0
    assert not (project / ".venv" / "half-written").exists()


def test_a_moved_project_is_set_up_again(project: Path) -> None:
    moved = project.rename(project.with_name("moved"))
    assert module(moved).read_stamp()[1] == module(moved).current_stamp()[1]
    assert module(moved).read_stamp() != module(moved).current_stamp()


def test_a_second_run_waits_for_the_first(project: Path) -> None:
    stamp = (project / ".venv" / "installed").read_text()
    (project / ".venv" / "installed").unlink()
    (project / ".dev").mkdir()
    with (project / ".dev" / "bootstrap.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, project / "bootstrap.py"], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        ) as second:
            assert second.stderr is not None
            assert second.stderr.readline().startswith("waiting for another set-up")
            (project / ".venv" / "installed").write_text(stamp)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.stderr.read() == ""
    assert second.returncode == 0


def test_a_python_that_is_too_old_can_still_read_the_file() -> None:
    ast.parse((ROOT / "bootstrap.py").read_text(), feature_version=(3, 6))


def test_a_python_that_is_too_old_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer; this is 3\."):
        module(ROOT).run_with_newer_python(["dev"])
