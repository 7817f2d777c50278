"""Recorded-looking events of six API generations, and junk to put into them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

DATA = Path(__file__).parent.parent / "data" / "stripe"
GENERATIONS = sorted(path.stem for path in DATA.glob("*.json"))
LATEST = GENERATIONS[-1]
START = 1767225600  # 2026-01-01, when the shop of these events opens

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)

# A busy machine is slow to draw the first text; that says nothing about what is tested.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def events(generation: str) -> Mapping[str, dict[str, Any]]:
    """The generation's events by type."""
    return {event["type"]: event for event in json.loads((DATA / f"{generation}.json").read_text())}


def shown(generation: str, event_type: str) -> dict[str, Any]:
    """The object in the generation's event of that type."""
    content: dict[str, Any] = events(generation)[event_type]["data"]["object"]
    return content
