"""What makes an answer a caption: the form that was asked for, and text that describes. Anything else has a reason.

Reasons: BAD_FORM (not the JSON object, or an unknown category or style), EMPTY, NOT_TEXT (no prose: markup, code, an
encoded blob), REFUSAL, LOOPING (the same words over and over, how a language model fails), TOO_SHORT, TOO_LONG.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from data_pipeline.caption.ask import CATEGORIES, STYLES
from data_pipeline.caption.text import clean

MAX_CHARACTERS = 2000
LONGEST_WORD = 40
GRAM, REPEATS = 4, 3  # so many words in a row, so many times
SHARE_OF_LETTERS = 0.65
SHARE_OF_KINDS = 0.3  # fewer different words than this share of all is no prose

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.DOTALL)
REFUSAL = re.compile(
    r"\b(?:I(?:'m| am)(?: really| very)? (?:sorry|unable|not able|not allowed)"
    r"|I (?:cannot|can't|can not|won't|must decline)|as an? (?:AI|language model|artificial)"
    r"|(?:cannot|can't|unable to) (?:assist|help|comply|fulfil|describe|provide|view|see)"
    r"|no (?:video|pictures?|images?) (?:was|were|is|are|has been) (?:provided|given|attached))",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"</?[a-z!][^>]{0,200}>|```|\{\{|\}\}|https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Caption:
    """A caption with what it is about and how it looks, one of `CATEGORIES` and `STYLES`."""

    text: str
    category: str
    style: str


def read(answer: str, words: tuple[int, int]) -> Caption:
    """The caption in an answer. `words`: fewest and most it may have. Raises ValueError with a reason code."""
    form = _form(answer)
    text = clean(form["caption"], MAX_CHARACTERS + 1)
    if reason := fault(text, words):
        raise ValueError(reason)
    return Caption(text, form["category"], form["style"])


def fault(text: str, words: tuple[int, int]) -> str | None:
    """Why a cleaned text is no caption, None if it is one."""
    told = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text.lower())
    if not text:
        return "EMPTY"
    if REFUSAL.search(text):
        return "REFUSAL"
    if not _is_prose(text):
        return "NOT_TEXT"
    if loops(told):
        return "LOOPING"
    if len(told) < words[0]:
        return "TOO_SHORT"
    return "TOO_LONG" if len(told) > words[1] or len(text) > MAX_CHARACTERS else None


def loops(words: list[str]) -> bool:
    """Whether a row of words comes back again and again, or there are few different words in it."""
    grams = Counter(tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1))
    if grams and max(grams.values()) >= REPEATS:
        return True
    return len(words) >= 4 * GRAM and len(set(words)) < SHARE_OF_KINDS * len(words)


def _form(answer: str) -> dict[str, str]:
    """The three fields as they were asked for; a code fence around them is forgiven."""
    if not answer.strip():
        raise ValueError("EMPTY")
    fenced = _FENCE.match(answer.strip())
    try:
        form: Any = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        raise ValueError("REFUSAL" if REFUSAL.search(answer) else "BAD_FORM") from None
    if not isinstance(form, dict) or form.keys() != {"caption", "category", "style"}:
        raise ValueError("BAD_FORM")
    if not isinstance(form["caption"], str) or form["category"] not in CATEGORIES or form["style"] not in STYLES:
        raise ValueError("BAD_FORM")
    return form


def _is_prose(text: str) -> bool:
    letters = sum(c.isalpha() or c == " " for c in text) / len(text)
    longest = max(len(word) for word in text.split())
    return letters >= SHARE_OF_LETTERS and longest <= LONGEST_WORD and not _MARKUP.search(text) and "\ufffd" not in text
