"""One clip, decoded once: what the child process measures, and the small pictures it leaves for the networks.

Runs in the sandbox: whatever a decoder does here costs a clip, never the stage. No network runs here, where the limits
leave it no room; its worker runs them, for several clips at once, on the pictures that are left in `folder`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.score.seen import Onlooker, Seen
from data_pipeline.score.settings import SIZE, Settings
from sana_video.video import io
from sana_video.video import measures as m
from sana_video.video.flow import camera

Values = dict[str, Any]
MODELS = "camera_models"  # beside the columns, in no table: jitter across windows needs them
Span = Sequence[Any]  # clip_id, start_pts, end_pts, frames


def measure_clips(
    path: str, spans: Sequence[Span], measures: Sequence[str], settings: Mapping[str, Any], folder: str | None
) -> dict[str, Values]:
    """{clip_id: columns of the asked measures that need no network, or {"reason": …}}, one decode a clip.

    `spans` come in rising order. The pictures for the networks among `measures` go into `folder`, see `stored`.
    ValueError if the file itself cannot be opened.
    """
    cv2.setNumThreads(1)  # the workers share the cores
    chosen, result = Settings(**settings), {}
    networks = [name for name in measures if name in chosen.networks]
    own = [name for name in measures if name not in networks]
    with io.Film(Path(path)) as film:
        look = Onlooker(film, own, networks, chosen)
        for clip_id, start, end, frames in spans:
            try:
                seen, kinds = look(start, end, frames)
                values = measure(seen, own, chosen)
                if "flow_motion" in networks:
                    _paired(seen, chosen)
            except ValueError as error:
                result[clip_id] = {"reason": str(error)}
            else:
                result[clip_id] = values
                for kind, pictures in kinds.items():
                    np.save(stored(Path(str(folder)), clip_id, kind), pictures, allow_pickle=False)
    return result


def stored(folder: Path, clip_id: str, kind: str) -> Path:
    """Where the pictures of one kind lie: those of `Onlooker`."""
    return folder / f"{clip_id}-{kind}.npy"


def measure(seen: Seen, measures: Sequence[str], settings: Settings) -> Values:
    """The columns of the named measures, none of them a network's, and height and width of the luma looked at."""
    values: Values = dict(zip(SIZE, seen.luma.shape[1:], strict=True))
    for name in measures:
        values |= _MEASURES[name](seen, settings)
    return values


def flow_columns(flows: Sequence[NDArray[np.float32]], frames: int, settings: Settings, estimator: str) -> Values:
    """The columns of `flow_motion`, of the fields (2, h, w) between the samples of a clip of `frames`: in pixels of a
    320x576 picture, of which they may hold every second pixel."""
    indices = m.sample_indices(frames, settings.fps, settings.sample_seconds)
    pairs = [m.flow_pair(flow) for flow in flows]
    seconds = [(b - a) / settings.fps for a, b in itertools.pairwise(indices)]
    split = camera.split_motion(list(flows), seconds, m.FLOW_SIZE[0] // flows[0].shape[1])
    return {
        "flow_motion": sum(pair.l2 for pair in pairs) / len(pairs),
        "flow_pairs": [pair.l2 for pair in pairs],
        "flow_absmean_pairs": [pair.absmean for pair in pairs],
        "flow_times": [index / settings.fps for index in indices[:-1]],
        "camera_motion": split.camera_motion,
        "camera_jitter": split.camera_jitter,
        "object_motion": split.object_motion,
        "flow_estimator": estimator,
        MODELS: {"shape": list(flows[0].shape[1:]), "of": [model.tolist() for model in split.models]},
    }


def _paired(seen: Seen, settings: Settings) -> None:
    """ValueError unless there are two samples, between which there is flow."""
    if len(seen.indices) < 2:
        frames, every = len(seen.luma), settings.sample_seconds
        raise ValueError(f"TOO_SHORT: {frames} frames at {settings.fps:g} fps hold no pair {every:g} s apart")


def _flow(seen: Seen, settings: Settings) -> Values:
    _paired(seen, settings)
    flows = m.flows_between(seen.samples(seen.luma))
    return flow_columns(flows, len(seen.luma), settings, m.FLOW_ESTIMATOR)


def _colours(seen: Seen, _: Settings) -> Values:
    hsv, colour = seen.colours, m.mean_colour(seen.pictures(seen.rgb))
    return {"saturation": m.saturation(hsv), "brightness": m.brightness(hsv), "colour": colour}


def _lit(seen: Seen, _: Settings) -> Values:
    return {"saturation_lit": m.saturation_lit(seen.colours, seen.box.halved if seen.box else None)}


def _classical(seen: Seen, _: Settings) -> Values:
    assert seen.grey is not None  # `Onlooker` sees to it
    art, craft = m.aesthetic(seen.pictures(seen.rgb)), m.technical(seen.grey)
    return {
        "aesthetic": art,
        "technical": craft,
        "overall": m.overall(art, craft),
        "aesthetic_scorer": m.AESTHETIC_SCORER,
    }


def _embedding(seen: Seen, _: Settings) -> Values:
    return {"embedding": m.embedding(seen.pictures(seen.rgb)), "embedder": m.EMBEDDER}


_MEASURES: dict[str, Callable[[Seen, Settings], Values]] = {
    "flow_motion": _flow,
    "vmaf_motion": lambda seen, settings: {"vmaf_motion": m.vmaf_motion(seen.at_motion_rate(settings.fps))},
    "saturation": _colours,
    "saturation_lit": _lit,
    "aesthetic": _classical,
    "borders": lambda seen, _: {"borders": m.borders(seen.luma, seen.box)},
    "watermark": lambda seen, _: {"watermark": m.watermark(seen.luma, seen.box)},
    "stillness": lambda seen, _: {"stillness": m.stillness(seen.luma)},
    "flicker": lambda seen, _: {"flicker": m.flicker(seen.luma)},
    "duplicate_frames": lambda seen, _: {"duplicate_frames": m.duplicate_frames(seen.luma)},
    "cuts_inside": lambda seen, settings: {"cuts_inside": m.cuts_inside(seen.hsv, settings.cut_threshold)},
    "phash": lambda seen, _: {"phash": [m.phash(picture) for picture in seen.pictures(seen.rgb)]},
    "embedding": _embedding,
}
