"""The settings as a `.env` template and as a table for the README, both made from Settings itself."""

from collections.abc import Iterator

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.settings import Settings


def env_example() -> str:
    """Every setting with its description; those with a default are commented out, showing it."""
    blocks = [
        f"# {about}\n{name}=" if default is None else f"# {about}\n#{name}={default}"
        for name, default, about in _rows()
    ]
    return "\n\n".join(blocks) + "\n"


def markdown_table() -> str:
    lines = ["| variable | default | what it does |", "|---|---|---|"]
    for name, default, about in _rows():
        shown = "required" if default is None else f"`{default}`" if default else ""
        lines.append(f"| `{name}` | {shown} | {about} |")
    return "\n".join(lines) + "\n"


def _rows() -> Iterator[tuple[str, str | None, str]]:
    for name, field in Settings.model_fields.items():
        yield name.upper(), _default(field), field.description or ""


def _default(field: FieldInfo) -> str | None:
    """As it would be written in the environment; None for a setting that has no default."""
    value = field.default
    if value is PydanticUndefined:
        return None
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
