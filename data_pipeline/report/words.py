"""What the report calls things: measures with their units, reasons in plain words, and whose place a stand-in takes."""

from __future__ import annotations

import re
from collections.abc import Iterable

MEASURES = {
    "flow_motion": "Mean flow over half a second, pixels of the 320×576 picture.",
    "camera_motion": "The part of the flow that one camera model explains, pixels.",
    "camera_jitter": "How much the camera's motion changes from pair to pair, pixels.",
    "object_motion": "The flow that the camera leaves, pixels.",
    "vmaf_motion": "Mean change of luma from frame to frame, 0-255.",
    "vmaf_percentile": "The same as a percentile within its source, 0-100.",
    "saturation": "Mean HSV saturation, 0-255.",
    "saturation_lit": "The same without dark pixels and bars, 0-255.",
    "brightness": "Mean HSV value, 0-255.",
    "aesthetic": "Aesthetic quality, 0-1.",
    "technical": "Technical quality, 0-1.",
    "overall": "Aesthetic and technical quality together, 0-1.",
    "borders": "Share of the picture under black bars, 0-1.",
    "watermark": "Edges that stand still in a corner, 0-1.",
    "stillness": "Share of the pairs of frames that do not move, 0-1.",
    "flicker": "Brightness up and down from frame to frame, levels of 255.",
    "duplicate_frames": "Share of the frames that repeat the one before, 0-1.",
    "text_area": "Share of the picture under text, 0-1.",
    "nsfw": "Probability of nudity, 0-1.",
    "cuts_inside": "Cuts found inside the clip.",
    "height": "Height of the luma that the measures of every frame look at, pixels.",
    "width": "Width of the luma that the measures of every frame look at, pixels.",
}
ESTIMATORS = {
    **dict.fromkeys(("flow_motion", "camera_motion", "camera_jitter", "object_motion"), "flow_estimator"),
    **dict.fromkeys(("aesthetic", "technical", "overall"), "aesthetic_scorer"),
    "text_area": "text_detector",
    "nsfw": "nsfw_detector",
}
_REASONS = {
    "TWIN": "near copy of a clip that stays",
    "SHOT_TOO_SHORT": "the shot does not hold one clip",
    "SPLIT_GUARD": "too near to the held-out part of the same film",
    "QUARANTINED": "breaks a rule of the gate",
}


def about_reason(reason: str) -> str:
    """A reason in plain words."""
    if reason.startswith("MISSING_"):
        return f"{reason[8:].lower()} could not be told"
    for ending, words in (("_LOW", "below its range"), ("_HIGH", "above its range")):
        if reason.endswith(ending):
            return f"{reason.removesuffix(ending).lower()} {words}"
    return _REASONS.get(reason, reason.replace("_", " ").lower())


def stand_in(names: Iterable[str]) -> str:
    """Whose place is taken, as the estimators say in their own names: `UniMatch`; empty where none stands in."""
    found = {match[1] for name in names if (match := re.search(r"stand-in for ([^)]+)\)", name))}
    return ", ".join(sorted(found))


def clipped(text: str, most: int) -> str:
    """At most so many characters: a caption or a name may be as long as its author liked."""
    return text if len(text) <= most else text[: most - 1] + "…"
