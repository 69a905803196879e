"""Facts made of whole columns against their definitions."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.expectations.facts import WORD, words

TEXT = st.text(st.sampled_from("ab'-’ .é1½²Ⅷ\u0301"), max_size=8)


@given(st.lists(st.none() | TEXT, max_size=8), st.integers(0, 3))
def test_words_are_the_matches_of_their_pattern(texts: list[str | None], start: int) -> None:
    column = pa.array(texts, pa.string()).slice(start)
    assert words(column).to_pylist() == pc.count_substring_regex(column, WORD).to_pylist()
