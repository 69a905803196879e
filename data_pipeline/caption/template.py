"""Captions written from what was measured: the stand-in for a video-language model.

A clip's caption names its source, picture shape, light, colours and how much moves, in plain English. Words and
sentence shapes are picked by a hash of the clip id, so captions vary, and the same clip always gets the same one.
The caption never speaks of a score: the motion suffix belongs to `encode`, which appends it to every caption alike.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from typing import Any

from data_pipeline.caption.text import clean

CAPTIONER = "template (stand-in for Qwen2.5-VL)"
NEEDED = ("flow_motion", "saturation", "brightness", "technical", "colour")
MAX_CHARACTERS = 300

Row = dict[str, Any]

# (upper bounds, words for each interval); flow is in pixels of the 320x576 picture per 0.5 s, the others 0-255
_MOTION = (
    (0.5, 2.0, 6.0, 15.0),
    (
        ("almost nothing moves", "the picture is nearly still"),
        ("slow, gentle motion", "the movement is slow and calm"),
        ("steady motion", "things move at an even pace"),
        ("lively motion", "there is a lot of movement"),
        ("fast, sweeping motion", "everything moves quickly"),
    ),
)
_LIGHT = (
    (50.0, 95.0, 150.0, 205.0),
    (
        ("very dark", "night-like"),
        ("dim", "softly lit"),
        ("evenly lit", "balanced"),
        ("bright", "well lit"),
        ("very bright", "radiant"),
    ),
)
_SATURATION = (
    (25.0, 70.0, 130.0, 180.0),
    (
        ("faint", "washed-out"),
        ("muted", "soft"),
        ("natural", "moderate"),
        ("rich", "strong"),
        ("vivid", "intense"),
    ),
)
_HUES = (
    (15.0, 45.0, 70.0, 165.0, 195.0, 260.0, 295.0, 345.0),
    ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "red"),
)
_SHAPES = ((0.9, 1.12, 2.0), ("portrait", "square", "landscape", "very wide"))
_SHARPNESS = ((0.25, 0.6), ("soft", "clear", "crisp"))

_SENTENCES = (
    "A {light} {shape} video of {title}: {motion}, with {saturation} {colour} colours.",
    "{title}, a {shape} shot with {saturation} colours, mostly {colour}; the scene is {light} and {motion}.",
    "In this {shape} clip from {title}, {motion}. The image is {light}, {sharpness} and mostly {colour}.",
    "A {sharpness} {shape} view from {title}, {light}, with {saturation} colours that lean to {colour}; {motion}.",
    "Mostly {colour} and {light}, this {shape} scene comes from {title}, and {motion}.",
    "{title} in a {light} {colour} scene with {saturation} colours, where {motion}.",
)


def describe(clip_id: str, source: str, aspect: float | None, score: Row) -> str:
    """The caption of one clip from its measures (units as in `tables.SCORES`); `aspect` is width over height."""
    pick = _Picker(clip_id)
    words = {
        "title": title(source),
        "shape": word(_SHAPES, aspect) if aspect else "full-frame",
        "light": pick(word(_LIGHT, score["brightness"])),
        "saturation": pick(word(_SATURATION, score["saturation"])),
        "motion": _clause(pick(word(_MOTION, score["flow_motion"]))),
        "sharpness": word(_SHARPNESS, score["technical"]),
        "colour": colour_name(score["colour"]),
    }
    text = clean(pick(_SENTENCES).format(**words), MAX_CHARACTERS)
    return text[0].upper() + text[1:]


class _Picker:
    """Choices drawn from the bytes of a hash of the clip id, one byte a choice."""

    def __init__(self, clip_id: str) -> None:
        self._bytes = iter(hashlib.sha256(clip_id.encode()).digest())

    def __call__(self, choices: tuple[str, ...]) -> str:
        return choices[next(self._bytes) % len(choices)]


def word(scale: tuple[tuple[float, ...], tuple[Any, ...]], value: float) -> Any:
    """The entry of `scale` (upper bounds, entries) whose interval holds `value`."""
    bounds, entries = scale
    return entries[bisect_right(bounds, value)]


def _clause(motion: str) -> str:
    return motion if " move" in motion or " is " in motion else f"there is {motion}"


def colour_name(rgb: list[float]) -> str:
    """A plain name for a mean colour, RGB 0-255: hue where there is chroma, else black, grey or white."""
    low, high = min(rgb), max(rgb)
    if high - low < 12.0:
        return ("black", "grey", "white")[bisect_right((40.0, 215.0), high)]
    name = word(_HUES, _hue(rgb, low, high))
    if name == "orange" and high < 150.0:
        return "brown"
    shade = ("dark ", "", "pale ")[bisect_right((90.0, 190.0), (low + high) / 2)]
    return shade + str(name)


def _hue(rgb: list[float], low: float, high: float) -> float:
    red, green, blue = rgb
    span = high - low
    if high == red:
        return (60.0 * (green - blue) / span) % 360.0
    return 60.0 * ((blue - red) / span + 2.0) if high == green else 60.0 * ((red - green) / span + 4.0)


def display_aspect(video: Row) -> float | None:
    """Width over height as shown, in square pixels and after rotation; null where the size is unknown."""
    width, height = video["width"], video["height"]
    if not width or not height:
        return None
    width *= video.get("sample_aspect") or 1.0
    return float(height / width if (video["rotation"] or 0) % 180 else width / height)


def title(source: str) -> str:
    """Source name as words: `big-buck-bunny_trailer` -> `Big Buck Bunny Trailer`."""
    words = [w for w in re.split(r"[\W_]+", clean(source, MAX_CHARACTERS)) if w]
    return " ".join(w[0].upper() + w[1:] for w in words) or "an unnamed source"
