"""The registry as tables for people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra import registry


def rows(root: Path, name: str) -> list[dict[str, Any]]:
    """Every version, oldest first, with the stages it holds now."""
    holders = {entry.stage: entry.commit for entry in registry.journal(root, name)}
    return [
        {
            "version": version.version,
            "stages": ", ".join(sorted(stage for stage, commit in holders.items() if commit == version.commit)),
            "commit": version.commit[:12],
            "manifest": version.digest[:12],
            "uncommitted": ", ".join(version.uncommitted),
        }
        for version in registry.list_versions(root, name)
    ]


def describe(root: Path, name: str, wanted: str) -> dict[str, Any]:
    """One version with its journal. ValueError for one that is not registered."""
    version = registry.resolve(root, f"{name}@{wanted}")
    entries = [e for e in registry.journal(root, name) if e.commit == version.commit]
    return {
        "version": f"{version.name}@{version.version}",
        "commit": version.commit,
        "manifest": version.digest,
        "made on": version.head,
        "uncommitted": list(version.uncommitted),
        "journal": [f"#{e.number} {e.stage}: {e.reason}" for e in entries],
    }
