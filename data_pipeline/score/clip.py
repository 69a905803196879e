"""One clip, decoded once: what the child process measures, and the small pictures it leaves for the networks.

Runs in the sandbox: whatever a decoder does here costs a clip, never the stage. No network runs here, where the limits
leave it no room; its worker runs them, for several clips at once, on the pictures that are left in `folder`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.score.settings import SIZE, Settings
from sana_video.video import io
from sana_video.video import measures as m
from sana_video.video.flow import camera
from sana_video.video.measures import dover, extras

Values = dict[str, Any]
Pixels = NDArray[np.uint8]
Span = Sequence[Any]  # clip_id, start_pts, end_pts, frames


class Watched(io.Film):
    """A film that shows each frame it is about to convert, still at its own size, to `watch`."""

    watch: Callable[[av.VideoFrame], None] | None = None

    def picture(self, frame: av.VideoFrame) -> io.Picture:
        if self.watch is not None:
            self.watch(frame)
        return super().picture(frame)


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
    film, painter = Watched(Path(path), short_side=chosen.short_side), io.Film(Path(path))
    with film, painter:
        for clip_id, start, end, frames in spans:
            views = dover.Views(frames, chosen.dover["seed"]) if "aesthetic" in networks and chosen.dover else None
            film.watch = _watcher(painter, views) if views else None
            try:
                clip = io.decode_clip(film, start, end, chosen.fps, frames)
                values, kinds = measure(clip, own, chosen), _for_networks(clip.rgb, networks, views, chosen)
            except ValueError as error:
                result[clip_id] = {"reason": str(error)}
            else:
                result[clip_id] = values
                for kind, pictures in kinds.items():
                    np.save(stored(Path(str(folder)), clip_id, kind), pictures, allow_pickle=False)
    return result


def _watcher(painter: io.Film, views: dover.Views) -> Callable[[av.VideoFrame], None]:
    """Gives each frame of a clip, one after another, to DOVER's views, converted at its own size where it is wanted."""
    seen = 0

    def watch(frame: av.VideoFrame) -> None:
        nonlocal seen
        if views.wants(seen):
            views.add(seen, painter.picture(frame).rgb)
        seen += 1

    return watch


def _for_networks(
    pictures: Pixels, networks: Sequence[str], views: dover.Views | None, settings: Settings
) -> dict[str, Pixels]:
    """The pictures that the named networks need, by kind."""
    found: dict[str, Pixels] = {}
    if "flow_motion" in networks:
        found["samples"] = _paired(_samples(pictures, settings), len(pictures), settings)
    if "text_area" in networks or "nsfw" in networks:
        found["few"] = pictures[extras.few_indices(len(pictures))]
    if views is not None:
        found |= {"technical": views.technical, "aesthetic": views.aesthetic}
    return found


def stored(folder: Path, clip_id: str, kind: str) -> Path:
    """Where the pictures of one kind lie: `samples` of the flow, `few` for text and nudity, DOVER's two views."""
    return folder / f"{clip_id}-{kind}.npy"


def measure(clip: io.Clip, measures: Sequence[str], settings: Settings) -> Values:
    """The columns of the named measures, none of them a network's, and the clip's height and width."""
    values: Values = dict(zip(SIZE, clip.rgb.shape[1:3], strict=True))
    samples = _samples(clip.rgb, settings)
    for name in measures:
        values |= _MEASURES[name](clip, samples, settings)
    return values


def flow_columns(flows: Sequence[NDArray[np.float32]], frames: int, settings: Settings, estimator: str) -> Values:
    """The columns of `flow_motion`, of the fields (2, 320, 576) between the samples of a clip of `frames`."""
    indices = m.sample_indices(frames, settings.fps, settings.sample_seconds)
    pairs = [m.flow_pair(flow) for flow in flows]
    split = camera.split_motion(list(flows), [(b - a) / settings.fps for a, b in itertools.pairwise(indices)])
    return {
        "flow_motion": sum(pair.l2 for pair in pairs) / len(pairs),
        "flow_pairs": [pair.l2 for pair in pairs],
        "flow_absmean_pairs": [pair.absmean for pair in pairs],
        "flow_times": [index / settings.fps for index in indices[:-1]],
        "camera_motion": split.camera_motion,
        "camera_jitter": split.camera_jitter,
        "object_motion": split.object_motion,
        "flow_estimator": estimator,
    }


def _samples(pictures: Pixels, settings: Settings) -> Pixels:
    return pictures[m.sample_indices(len(pictures), settings.fps, settings.sample_seconds)]


def _paired(samples: Pixels, frames: int, settings: Settings) -> Pixels:
    """The samples, where there are two between which there is flow; else ValueError."""
    if len(samples) < 2:
        every = settings.sample_seconds
        raise ValueError(f"TOO_SHORT: {frames} frames at {settings.fps:g} fps hold no pair {every:g} s apart")
    return samples


def _flow(clip: io.Clip, samples: Pixels, settings: Settings) -> Values:
    flows = m.flows_between(_paired(samples, len(clip.rgb), settings))
    return flow_columns(flows, len(clip.rgb), settings, m.FLOW_ESTIMATOR)


def _classical(clip: io.Clip, samples: Pixels, settings: Settings) -> Values:
    art, craft = m.aesthetic(samples), m.technical(samples)
    return {
        "aesthetic": art,
        "technical": craft,
        "overall": m.overall(art, craft),
        "aesthetic_scorer": m.AESTHETIC_SCORER,
    }


_MEASURES: dict[str, Callable[[io.Clip, Pixels, Settings], Values]] = {
    "flow_motion": _flow,
    "vmaf_motion": lambda clip, _, __: {"vmaf_motion": m.vmaf_motion(clip.luma)},
    "saturation": lambda _, samples, __: {
        "saturation": m.saturation(samples),
        "brightness": m.brightness(samples),
        "colour": m.mean_colour(samples),
    },
    "saturation_lit": lambda clip, samples, _: {"saturation_lit": m.saturation_lit(samples, m.picture_box(clip.luma))},
    "aesthetic": _classical,
    "borders": lambda clip, _, __: {"borders": m.borders(clip.luma)},
    "watermark": lambda clip, _, __: {"watermark": m.watermark(clip.luma)},
    "stillness": lambda clip, _, __: {"stillness": m.stillness(clip.luma)},
    "flicker": lambda clip, _, __: {"flicker": m.flicker(clip.luma)},
    "duplicate_frames": lambda clip, _, __: {"duplicate_frames": m.duplicate_frames(clip.luma)},
    "cuts_inside": lambda clip, _, settings: {"cuts_inside": m.cuts_inside(clip.rgb, settings.cut_threshold)},
    "phash": lambda _, samples, __: {"phash": [m.phash(picture) for picture in samples]},
    "embedding": lambda _, samples, __: {"embedding": m.embedding(samples), "embedder": m.EMBEDDER},
}
