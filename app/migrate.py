"""The migrations that ship with the package, run and known by name."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the schema of `database_url` to `revision`. Safe to run twice, and by two at once."""
    config = _config()
    config.attributes["url"] = database_url
    command.upgrade(config, revision)


def outdated_revisions() -> frozenset[str]:
    """All revisions before the newest: a database at one of them must be migrated before this code can serve."""
    scripts = ScriptDirectory.from_config(_config())
    return frozenset(script.revision for script in scripts.walk_revisions()) - set(scripts.get_heads())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
