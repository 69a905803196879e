"""The `text` section: what goes with which encoder."""

import pytest
from pydantic import ValidationError

from sana_video.text import TextParams


def test_gemma_is_told_the_wording_of_the_published_training_by_default() -> None:
    assert TextParams(encoder="gemma-2-2b-it", tokens=300).instruction == "image"
    assert TextParams(encoder="gemma-2-2b-it", tokens=300, instruction="video").instruction == "video"


def test_minilm_has_neither_instruction_nor_folder() -> None:
    assert TextParams(encoder="minilm", tokens=48).instruction is None
    with pytest.raises(ValidationError, match="instruction video has no use"):
        TextParams(encoder="minilm", tokens=48, instruction="video")
    with pytest.raises(ValidationError, match="folder weights/gemma has no use"):
        TextParams(encoder="minilm", tokens=48, folder="weights/gemma")


def test_params_survive_the_release() -> None:
    for params in (TextParams(encoder="minilm", tokens=48), TextParams(encoder="gemma-2-2b-it", tokens=300)):
        assert TextParams.model_validate(params.model_dump(mode="json", exclude_none=True)) == params
