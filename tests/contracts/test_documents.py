"""docs/data.md says of each table exactly the columns and types that the schema has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_pipeline.tables import SCHEMAS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()


@pytest.mark.parametrize("table", SCHEMAS)
def test_the_page_lists_the_columns_and_types_of(table: str) -> None:
    section = re.search(rf"^## {table}: .*?(?=^## )", PAGE, re.S | re.M)
    assert section, f"docs/data.md has no section for {table}"
    listed = re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section[0], re.M)
    actual = [(f.name, str(f.type).replace("item: ", "").replace("element: ", "")) for f in SCHEMAS[table]]
    assert listed == actual
