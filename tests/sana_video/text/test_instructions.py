"""Texts that are inputs of the model are, byte for byte, those of the sources that diffusers repeats."""

import inspect

import pytest

from sana_video.text import IMAGE_INSTRUCTION, NEGATIVE_PROMPT, VIDEO_INSTRUCTION

diffusers = pytest.importorskip("diffusers")


def shipped(pipeline: str) -> str:
    call = inspect.signature(getattr(diffusers, pipeline).__call__)
    return "\n".join(call.parameters["complex_human_instruction"].default)


def test_video_wording_is_that_of_the_video_pipeline() -> None:
    assert shipped("SanaVideoPipeline") == VIDEO_INSTRUCTION


def test_image_wording_is_that_of_the_image_pipeline_but_for_the_quotes() -> None:
    ours = IMAGE_INSTRUCTION.replace('"Enhanced prompt"', "'Enhanced prompt'")
    assert ours != IMAGE_INSTRUCTION, "the published configurations have double quotes"
    assert shipped("SanaPipeline") == ours


def test_the_wordings_are_eight_lines_that_end_before_the_prompt() -> None:
    for text in (IMAGE_INSTRUCTION, VIDEO_INSTRUCTION):
        assert len(text.split("\n")) == 8 and text.endswith("\nUser Prompt: ")


def test_negative_prompt_is_the_one_in_the_documented_example() -> None:
    from diffusers.pipelines.sana_video import pipeline_sana_video

    assert f'"{NEGATIVE_PROMPT}"' in pipeline_sana_video.EXAMPLE_DOC_STRING
