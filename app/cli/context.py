"""What verbs share: their settings, a transaction, and how they end when something is wrong."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from dotenv import dotenv_values
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.settings import Settings

T = TypeVar("T")


def fail(message: str) -> NoReturn:
    print(f"billhook: {message}", file=sys.stderr)
    raise SystemExit(1)


def say(message: str) -> None:
    print(message)


def load_settings() -> Settings:
    """Of the environment and `.env`; where neither names a database, those of a running `billhook dev`."""
    beside = Path(".dev/env")
    try:
        if beside.exists() and not {**dotenv_values(".env"), **os.environ}.get("DATABASE_URL"):
            return Settings(_env_file=(beside, ".env"))
        return Settings()
    except ValidationError as error:
        fail(wrong_settings(error))


def wrong_settings(error: ValidationError) -> str:
    lines = [f"{'.'.join(str(part) for part in e['loc']).upper() or 'settings'}: {e['msg']}" for e in error.errors()]
    return "the settings don't hold:\n  " + "\n  ".join(lines)


def in_transaction(
    settings: Settings, work: Callable[[AsyncSession], Awaitable[T]], *, statement_seconds: float = 30
) -> T:
    """Run `work` and commit; nothing of it stays if it raises."""
    from app.worker import session

    return asyncio.run(session.in_transaction(settings, work, statement_seconds=statement_seconds))
