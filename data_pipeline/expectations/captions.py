"""Boundary `captions`: what every caption that goes on must be. Texts are looked at as columns of facts about them."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipeline.caption import CAPTIONERS
from data_pipeline.caption.answer import MAX_CHARACTERS
from data_pipeline.expectations.rules import differs, one_of, within
from data_pipeline.expectations.scores import STAND_IN
from data_pipeline.params import DataParams
from infra.gates import Rule

NULLABLE = ()
TEMPLATE_WORDS = (5, 80)  # fewest and most of what the template writes


def of_rows(params: DataParams) -> list[Rule]:
    caption = params.caption
    fewest, most = TEMPLATE_WORDS if caption.captioner == "template" else caption.words
    return [
        within("words", fewest, most, "is as long as was asked for, words", "data.caption.words"),
        within("characters", 10, MAX_CHARACTERS, "is as long as a caption, characters"),
        one_of("plain", [True], "is one line without control and direction characters"),
        one_of("refuses", [False], "is no refusal"),
        one_of("tells_motion_score", [False], "leaves the motion score to the encoder, which appends it"),
        one_of("captioner", [CAPTIONERS[caption.captioner]], "names the captioner of params", "data.caption.captioner"),
        one_of("prompt_version", [caption.prompt_version], "was asked for with the prompt of params",
               "data.caption.prompt_version"),
    ]  # fmt: skip


def of_tables(params: DataParams) -> Iterator[Rule]:
    """Where the production captioner is demanded, no stand-in's words pass."""
    if params.gate.production:
        yield differs("captioner", STAND_IN, "is no stand-in", "data.gate.production")
