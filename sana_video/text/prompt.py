"""The words themselves, before any encoder: the motion score behind a caption, and prompts that are refused."""

from __future__ import annotations

import bisect
import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sana_video.text.encoder import TextEncoder

MOTION_SUFFIX = re.compile(r"\s*\bmotion score: -?\d+\.\s*$")


def with_motion(caption: str, score: float) -> str:
    """The caption with ` motion score: {int}.` behind it, replacing any such suffix; the score is cut, not rounded.

    A still clip is ` motion score: 0.`, as the published loader writes it in training; the words ` low motion` and
    ` high motion`, which the official sampling script puts for a score of 0, never occur there. ValueError for a score
    below 0 or not finite.
    """
    if not math.isfinite(score) or score < 0:
        raise ValueError(f"motion score {score:g} is not a number from 0 up (published range about 1 to 30)")
    return f"{MOTION_SUFFIX.sub('', caption).strip()} motion score: {int(score)}."


def check_prompt(encoder: TextEncoder, prompt: str) -> None:
    """ValueError for an empty prompt, and for one of which `encoder` would cut the end off, naming what would be lost.

    `prompt` is the whole of what the network is told, the motion suffix included: it stands last and would go first.
    """
    if not prompt.strip():
        raise ValueError("the prompt is empty; say what the video shows")
    if over := encoder.overflow(prompt):
        words = prompt.split()
        kept = bisect.bisect_left(range(len(words)), True, key=lambda n: encoder.overflow(" ".join(words[:n])) > 0) - 1
        lost = " ".join(words[max(kept, 0) :])
        raise ValueError(
            f"the prompt is {over} tokens too long for {encoder.name} at {encoder.tokens} tokens; "
            f'shorten it, or this would be lost: "{_shown(lost)}"'
        )


def _shown(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]} ..."
