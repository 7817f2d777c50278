"""`billhook dev`: the whole product on a bare machine, in one process, with the sandbox as Stripe."""

import asyncio
import errno
import fcntl
import gc
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import uvicorn
from dotenv import dotenv_values
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.applications import Starlette

from app import embedded
from app.db import Sessions, create_engine, create_sessions, transaction
from app.embedded_process import EmbeddedServer
from app.errors import BillingError
from app.main import create_app
from app.migrate import upgrade
from app.observability import configure_logging
from app.provider.stripe import StripeProvider
from app.sandbox import thin_events
from app.sandbox.app import create_sandbox
from app.sandbox.sandbox import Sandbox
from app.services import identity, plans_apply, plans_file
from app.settings import Settings

API_PORT = 8000
SANDBOX_PORT = 12111
SHARED = (
    *("environment", "database_url", "redis_url", "stripe_secret_key", "stripe_api_base"),
    *("jwt_secret", "jwt_issuer", "jwt_audience", "public_url"),
)
DEMO_USER = ("demo-1", "ada@example.com", "Ada")


class DevError(Exception):
    """What keeps `billhook dev` from starting; the message says what to do."""


@dataclass(slots=True)
class Kept:
    """What a second start must find again: secrets, and ports while they are free."""

    jwt_secret: str
    stripe_key: str
    webhook_secret: str
    service_key: str | None = None
    api_port: int = API_PORT
    sandbox_port: int = SANDBOX_PORT

    @classmethod
    def load(cls, path: Path) -> "Kept":
        if path.exists():
            return cls(**json.loads(path.read_text()))
        return cls(
            jwt_secret=secrets.token_urlsafe(32),
            stripe_key=f"sk_test_billhook{secrets.token_hex(12)}",
            webhook_secret=f"whsec_{secrets.token_urlsafe(24)}",
        )

    def save(self, path: Path) -> None:
        write_private(path, json.dumps({name: getattr(self, name) for name in self.__slots__}))


def write_private(path: Path, content: str) -> None:
    """Replace `path` in one step by a file only its owner may read."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
    draft.replace(path)


def dev(directory: Path, *, port: int | None) -> None:
    """Run until interrupted. Data, secrets and `dev.json` live in `directory`. Raises DevError."""
    started = time.monotonic()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(directory) as lock:
        given = {**dotenv_values(".env"), **os.environ}
        with _servers(directory, given) as (database_url, redis_url):
            say("migrating the database")
            upgrade(database_url)
            runner = _Dev(directory, given, database_url=database_url, redis_url=redis_url, port=port)
            asyncio.run(runner.run(started))
        lock.truncate(0)
    say("stopped; the data is kept in", str(directory))


def say(*words: str) -> None:
    print("billhook:", *words, file=sys.stderr, flush=True)  # noqa: T201 - progress for the person who waits


@contextmanager
def _only_one(directory: Path) -> Iterator[IO[str]]:
    with (directory / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DevError(f"billhook dev is already running on {directory}") from error
        yield lock


@contextmanager
def _servers(directory: Path, given: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    """Postgres and Valkey: those of the environment where it names them, else our own."""
    database_url, redis_url = given.get("DATABASE_URL"), given.get("REDIS_URL")
    started: list[EmbeddedServer] = []
    try:
        if not database_url:
            say("starting Postgres")
            started.append(postgres := embedded.start_postgres(directory))
            database_url = postgres.url
        if not redis_url:
            say("starting Valkey")
            started.append(valkey := embedded.start_valkey(directory))
            redis_url = valkey.url
        yield database_url, redis_url
    finally:
        for server in reversed(started):
            server.stop()


class _Server(uvicorn.Server):
    """A uvicorn server among others: who stops it is decided outside."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[explicit-override]  # uvicorn's own hook
        yield


class _Dev:
    def __init__(
        self, directory: Path, given: dict[str, str | None], *, database_url: str, redis_url: str, port: int | None
    ) -> None:
        self.directory = directory
        self.given = given
        self.database_url = database_url
        self.redis_url = redis_url
        self.kept = Kept.load(directory / "secrets.json")
        self.sandboxed = not given.get("STRIPE_SECRET_KEY")
        self.api_socket = _bind(self.kept.api_port if port is None else port, strict=port is not None)
        self.sandbox_socket = _bind(self.kept.sandbox_port, strict=False) if self.sandboxed else None
        self.kept.api_port = self.api_socket.getsockname()[1]
        if self.sandbox_socket is not None:
            self.kept.sandbox_port = self.sandbox_socket.getsockname()[1]
        self.kept.save(directory / "secrets.json")
        self.public_url = f"http://localhost:{self.kept.api_port}"
        self.sandbox_url = f"http://localhost:{self.kept.sandbox_port}"
        self.settings = self._settings()

    def _settings(self) -> Settings:
        """What the environment says, and for the rest what makes everything work together here."""
        defaults: dict[str, Any] = {
            "environment": "development",
            "database_url": self.database_url,
            "redis_url": self.redis_url,
            "jwt_secret": self.kept.jwt_secret,
            "jwt_issuer": "billhook-dev",
            "jwt_audience": "billhook",
            "public_url": self.public_url,
            "redirect_origins": (self.public_url, f"http://127.0.0.1:{self.kept.api_port}", "http://localhost:3000"),
            "cors_origins": ("http://localhost:3000",),
            "log_level": "warning",
            "log_format": "console",
        }
        if self.sandboxed:
            defaults |= {
                "stripe_secret_key": self.kept.stripe_key,
                "stripe_webhook_secrets": (self.kept.webhook_secret,),
                "stripe_api_base": self.sandbox_url,
            }
        return Settings(**{name: value for name, value in defaults.items() if not self.given.get(name.upper())})

    def _env(self) -> str:
        """What this run is set to, so that `billhook token`, `keys` and the rest work beside it."""
        held = {name: getattr(self.settings, name) for name in SHARED}
        lines = [
            f"{name.upper()}={value.get_secret_value() if isinstance(value, SecretStr) else value}"
            for name, value in held.items()
            if value
        ]
        return "\n".join(lines) + "\n"

    async def run(self, started: float) -> None:
        configure_logging(level=self.settings.log_level, fmt=self.settings.log_format)
        stop = asyncio.Event()
        for sign in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(sign, stop.set)
        async with AsyncExitStack() as stack:
            if self.sandbox_socket is not None:
                say("starting the Stripe sandbox")
                sandbox = create_sandbox(
                    secret_key=self.kept.stripe_key,
                    base_url=self.sandbox_url,
                    state_file=self.directory / "sandbox.json",
                )
                self._register_webhook(sandbox)
                await stack.enter_async_context(_Serving(sandbox, self.sandbox_socket, date_header=False))
            await self._prepare()
            say("starting the API and its worker")
            app: FastAPI = create_app(self.settings)
            await stack.enter_async_context(_Serving(app, self.api_socket))
            gc.freeze()  # what start-up made stays: collecting around it would only cost pauses
            self._announce(time.monotonic() - started)
            await stop.wait()
            say("stopping")
            for name in ("dev.json", "env"):  # what they say is no longer so
                (self.directory / name).unlink(missing_ok=True)

    def _register_webhook(self, app: Starlette) -> None:
        """Have the sandbox deliver to this run's port; what an earlier run left undelivered goes there too."""
        sandbox: Sandbox = app.state.sandbox
        url = f"http://127.0.0.1:{self.kept.api_port}{self.settings.api_prefix}/webhook"
        secret = self.kept.webhook_secret
        # Snapshots of what changed go to the one, notes on usage that could not be billed to the other.
        for kind, address, add in (
            ("webhook_endpoint", "url", sandbox.add_webhook_endpoint),
            (thin_events.DESTINATION, "_url", partial(thin_events.add_destination, sandbox)),
        ):
            ours = [row for row in sandbox.rows(kind) if row["_secret"] == secret]
            if not ours:
                add(url, secret)
                continue
            with sandbox.transaction():
                sandbox.get(kind, ours[0]["id"])[address] = url

    async def _prepare(self) -> None:
        """Bring the sandbox's catalogue in line with plans.yaml and have a service key to show."""
        engine = create_engine(self.database_url, pool_size=1)
        try:
            sessions = create_sessions(engine)
            await self._apply_plans(sessions)
            async with transaction(sessions) as session:
                if not await identity.is_valid_key(session, self.kept.service_key or ""):
                    _, self.kept.service_key = await identity.create_key(
                        session, name="billhook dev", scopes=identity.SCOPES, actor="cli"
                    )
        finally:
            await engine.dispose()
        self.kept.save(self.directory / "secrets.json")

    async def _apply_plans(self, sessions: Sessions) -> None:
        """Without prices nothing can be sold. A Stripe that can't be asked now is no reason not to start."""
        say("applying", str(self.settings.plans_file), "to", "the sandbox" if self.sandboxed else "Stripe's test mode")
        plans = plans_file.load(self.settings.plans_file)
        key = self.settings.stripe_secret_key.get_secret_value()
        try:
            async with (
                StripeProvider(key, base_url=self.settings.stripe_api_base) as provider,
                transaction(sessions) as session,
            ):
                await plans_apply.apply(session, provider, plans)
        except BillingError as error:
            say("that failed:", error.message, "Try `billhook plans apply` later.")

    def _announce(self, seconds: float) -> None:
        user_id, email, name = DEMO_USER
        token = identity.mint_development_token(self.settings, user_id, email=email, name=name)
        facts = {
            "api_url": f"{self.public_url}{self.settings.api_prefix}",
            "docs_url": f"{self.public_url}/docs",
            "storefront_url": f"{self.public_url}/demo" if self.sandboxed else None,
            "sandbox_url": self.sandbox_url if self.sandboxed else None,
            "demo_user": user_id,
            "demo_token": token,
            "service_key": self.kept.service_key,
            "stripe_secret_key": self.kept.stripe_key if self.sandboxed else None,
            "webhook_url": f"{self.public_url}{self.settings.api_prefix}/webhook",
            "webhook_secret": self.kept.webhook_secret if self.sandboxed else None,
            "pid": os.getpid(),
        }
        write_private(self.directory / "dev.json", json.dumps(facts, indent=2) + "\n")
        write_private(self.directory / "env", self._env())
        lines = [
            f"\nBillhook is ready after {seconds:.1f} s.\n",
            f"  Storefront   {facts['storefront_url'] or 'only with the sandbox (no STRIPE_SECRET_KEY)'}",
            f"  API          {facts['api_url']}",
            f"  API docs     {facts['docs_url']}",
            "  Dashboard    to come",
            f"  Stripe       {facts['sandbox_url'] or 'as STRIPE_SECRET_KEY says'}",
            f"  User token   {token}",
            f"               ({user_id}, {email})",
            f"  Service key  {self.kept.service_key}",
            f"\nAll of this for scripts: {self.directory / 'dev.json'}. Ctrl-C stops everything and keeps the data.\n",
        ]
        if not self.sandboxed:
            lines.insert(5, f"  Webhooks     stripe listen --forward-to {facts['webhook_url']}")
        print("\n".join(lines), flush=True)  # noqa: T201 - what the command is run for


def _bind(port: int, *, strict: bool) -> socket.socket:
    """A listening socket on `port`, or on any free one when `port` is taken and not insisted upon."""
    for candidate in (port, 0):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", candidate))
            sock.listen(128)
        except OSError as error:
            sock.close()
            if strict or error.errno != errno.EADDRINUSE:
                raise DevError(f"port {port} can't be used: {error.strerror}") from error
        else:
            return sock
    raise DevError("there is no free port")


class _Serving:
    """A running uvicorn server as a context: entering waits until it answers, leaving until it has stopped.

    The sandbox sends a `Date` of its own: in its tests Stripe's clock is not the machine's.
    """

    def __init__(self, app: Starlette, sock: socket.socket, *, date_header: bool = True) -> None:
        self._sock = sock
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=date_header,
                timeout_graceful_shutdown=5,
                lifespan="on",
            )
        )

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise DevError("a server did not start; the reason is above")
            await asyncio.sleep(0.01)

    async def __aexit__(self, *_error: object) -> None:
        self._server.should_exit = True
        await self._task
