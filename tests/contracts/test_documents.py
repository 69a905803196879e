"""docs/data.md says of each table exactly the columns and types that the schema has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_pipeline.tables import SCHEMAS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text()


@pytest.mark.parametrize("table", SCHEMAS)
def test_the_page_lists_the_columns_and_types_of(table: str) -> None:
    section = re.search(rf"^## {table}: .*?(?=^## )", PAGE, re.S | re.M)
    assert section, f"docs/data.md has no section for {table}"
    listed = re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section[0], re.M)
    actual = [(f.name, str(f.type).replace("item: ", "").replace("element: ", "")) for f in SCHEMAS[table]]
    assert listed == actual


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")), ids=lambda p: p.name)
def test_no_placeholder_is_left(document: Path) -> None:
    assert not re.findall(r"\b[A-Z]+_[A-Z_]+\b(?!`)(?<!TORCH_INDEX)(?<!PREFECT_API_URL)", document.read_text())


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")), ids=lambda p: p.name)
def test_every_make_target_named_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", document.read_text())) <= targets
