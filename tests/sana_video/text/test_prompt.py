"""The motion suffix, and prompts that are refused."""

import math
from pathlib import Path

import pytest

from sana_video.text import GemmaTextEncoder, MiniLmTextEncoder, check_prompt, with_motion


@pytest.mark.parametrize(
    ("caption", "score", "expected"),
    [
        ("a hill", 7.9, "a hill motion score: 7."),
        ("a hill motion score: 3.", 12, "a hill motion score: 12."),
        ("a hill. motion score: 30. ", 0.4, "a hill. motion score: 0."),
        ("motion score: high", 2, "motion score: high motion score: 2."),
        ("slow emotion score: 3.", 2, "slow emotion score: 3. motion score: 2."),
        (" a hill.\n", 5, "a hill. motion score: 5."),
    ],
)
def test_motion_suffix_is_exact_and_never_doubled(caption: str, score: float, expected: str) -> None:
    assert with_motion(caption, score) == expected


@pytest.mark.parametrize("score", [-1.0, math.nan, math.inf])
def test_a_score_that_no_clip_has_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match=f"motion score {score:g}"):
        with_motion("a hill", score)


def test_a_prompt_that_fits_passes(minilm: MiniLmTextEncoder) -> None:
    check_prompt(minilm, "a bunny in a meadow")


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_refused(minilm: MiniLmTextEncoder, prompt: str) -> None:
    with pytest.raises(ValueError, match="the prompt is empty"):
        check_prompt(minilm, prompt)


def test_an_over_long_prompt_is_refused_with_what_would_be_lost(minilm: MiniLmTextEncoder) -> None:
    prompt = "one two three four five six seven eight nine ten eleven twelve"  # with [CLS] and [SEP] two more than fit
    assert minilm.overflow(prompt) == 2
    with pytest.raises(ValueError, match=r'2 tokens too long .* at 12 tokens; .* lost: "eleven twelve"') as caught:
        check_prompt(minilm, prompt)
    assert "\n" not in str(caught.value)


def test_a_word_too_long_by_itself_is_all_lost_and_shown_in_part(gemma_folder: Path) -> None:
    encoder = GemmaTextEncoder(gemma_folder, 12, "say : ")
    with pytest.raises(ValueError, match=r'110 tokens too long .* lost: "(qz){40} \.\.\."'):
        check_prompt(encoder, "qz" * 60)
