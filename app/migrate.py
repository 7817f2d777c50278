"""Runs the migrations that ship with the package."""

from pathlib import Path

from alembic import command
from alembic.config import Config


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the schema of `database_url` to `revision`. Safe to run twice, and by two at once."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = database_url
    command.upgrade(config, revision)
