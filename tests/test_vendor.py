"""What others wrote and we ship: unchanged, and with its licence."""

import hashlib
import json
from pathlib import Path

VENDOR = Path(__file__).parent.parent / "app" / "web" / "static" / "vendor"


def test_vendored_files_are_exactly_those_of_the_manifest() -> None:
    manifest = json.loads((VENDOR / "manifest.json").read_text())
    promised = {
        f"{directory}/{name}": digest
        for directory, entry in manifest.items()
        for name, digest in entry["sha256"].items()
    }
    present = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert present == promised


def test_every_vendored_package_says_its_version_and_brings_its_licence() -> None:
    manifest = json.loads((VENDOR / "manifest.json").read_text())
    for directory, entry in manifest.items():
        assert entry["package"]
        assert entry["version"]
        assert entry["licence"]
        assert "LICENSE" in entry["sha256"], directory
