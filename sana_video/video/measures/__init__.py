"""Measures of a clip: pure functions of arrays, each with its exact definition.

Pictures are uint8 RGB (F, H, W, 3), luma is uint8 (F, H, W) as coded, times come in as `fps`. A measure depends on
the size and rate of the pictures it is given (the motion measures strongly so), hence both stand beside the scores.
Raise the version of a measure here and in versions.yaml when its meaning changes: it alone is then measured again.

What is a stand-in is called one: `FLOW_ESTIMATOR`, `AESTHETIC_SCORER` and `EMBEDDER` go into the table beside the
numbers, and numbers of a stand-in and of what it stands for are never compared.
"""

from __future__ import annotations

from sana_video.video.flow.dis import ESTIMATOR as FLOW_ESTIMATOR
from sana_video.video.flow.dis import SIZE as FLOW_SIZE
from sana_video.video.measures.colour import brightness, mean_colour, saturation, saturation_lit, to_grey, to_hsv
from sana_video.video.measures.content import EMBEDDER, content_values, cuts_inside, embedding, phash
from sana_video.video.measures.frame import Box, borders, picture_box, watermark
from sana_video.video.measures.motion import (
    FlowPair,
    duplicate_frames,
    flicker,
    flow_motion,
    flow_pair,
    flows_between,
    sample_indices,
    stillness,
    vmaf_motion,
    vmaf_motion_exact,
    vmaf_motion_frames,
)
from sana_video.video.measures.quality import (
    AESTHETIC_SCORER,
    aesthetic,
    blockiness,
    colourfulness,
    contrast,
    exposure,
    noise,
    overall,
    sharpness,
    technical,
)

MEASURE_VERSIONS = {
    "flow_motion": 4,
    "vmaf_motion": 4,
    "saturation": 4,
    "saturation_lit": 3,
    "aesthetic": 4,
    "borders": 3,
    "watermark": 3,
    "stillness": 3,
    "flicker": 3,
    "duplicate_frames": 3,
    "text_area": 1,
    "nsfw": 1,
    "cuts_inside": 5,
    "phash": 4,
    "embedding": 3,
}

__all__ = [
    "AESTHETIC_SCORER",
    "EMBEDDER",
    "FLOW_ESTIMATOR",
    "FLOW_SIZE",
    "MEASURE_VERSIONS",
    "Box",
    "FlowPair",
    "aesthetic",
    "blockiness",
    "borders",
    "brightness",
    "colourfulness",
    "content_values",
    "contrast",
    "cuts_inside",
    "duplicate_frames",
    "embedding",
    "exposure",
    "flicker",
    "flow_motion",
    "flow_pair",
    "flows_between",
    "mean_colour",
    "noise",
    "overall",
    "phash",
    "picture_box",
    "sample_indices",
    "saturation",
    "saturation_lit",
    "sharpness",
    "stillness",
    "technical",
    "to_grey",
    "to_hsv",
    "vmaf_motion",
    "vmaf_motion_exact",
    "vmaf_motion_frames",
    "watermark",
]
