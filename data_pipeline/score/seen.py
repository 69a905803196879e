"""What of a clip its measures look at: a few small planes, each made once while the frames pass by.

Sizes belong to the definitions of the measures and to nothing else: no setting, and not what the clips are encoded to,
moves a score. Motion, bars, marks and cuts look at every frame; colours, light, quality and likeness at a frame every
half second. Saturation and light are no linear functions of a pixel: they look at single pixels of the film's own size,
as means of pixels are paler and darker than the film. Small films are enlarged to the size of luma; smaller grey than
asked for stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_pipeline.score.settings import Settings
from sana_video.video import io
from sana_video.video import measures as m
from sana_video.video.measures import dover, extras
from sana_video.video.painter import Sketch

Pixels = NDArray[np.uint8]

LINES = 240  # of luma of every frame, of small films too; colours have half as many, as 4:2:0 films store them
MOTION_FPS = 16  # of VMAF motion: that of a clip at more is taken of the frames nearest to so many a second
QUALITY_LINES = 480  # of grey of every second sample: sharpness, noise and blocks are gone at LINES


@dataclass(frozen=True)
class Seen:
    """A clip of F frames and its samples, which are the frames `indices`.

    `luma` uint8 (F, h, w) as coded; `rgb` uint8 (F, h/2, w/2, 3); `grey` uint8 (S/2, H, W), 0-255, and `points` uint8
    RGB (S, h/2, w/2, 3), single pixels of the samples: None if not asked. Where the last frame is `shared` with the
    next window of a film it is none of the `pictures`, nor of `grey` and `points`; flow and motion reach up to it.
    """

    luma: Pixels
    rgb: Pixels
    grey: Pixels | None
    points: Pixels | None
    indices: tuple[int, ...]
    shared: bool = False

    @cached_property
    def hsv(self) -> Pixels:
        return m.to_hsv(self.rgb)

    @cached_property
    def colours(self) -> Pixels:
        """HSV of `points`."""
        assert self.points is not None  # `Onlooker` sees to it
        return m.to_hsv(self.points)

    @cached_property
    def box(self) -> m.Box | None:
        """The picture without its bars, on `luma`."""
        return m.picture_box(self.luma)

    def at_motion_rate(self, fps: int) -> Pixels:
        """Of `luma` at `fps` the frames that VMAF motion is taken of; all of them up to `MOTION_FPS`."""
        indices = m.sample_indices(len(self.luma), fps, 1 / MOTION_FPS)
        return self.luma if len(indices) == len(self.luma) else self.luma[indices]

    def samples(self, planes: Pixels) -> Pixels:
        """Of planes of all frames those of the samples."""
        return planes[list(self.indices)]

    def pictures(self, planes: Pixels) -> Pixels:
        """`samples` but for one that the next window has too."""
        return planes[list(own_samples(self.indices, len(self.luma), self.shared))]


def own_samples(indices: Sequence[int], frames: int, shared: bool) -> Sequence[int]:
    """Of a window's samples those that no other window has."""
    return indices[:-1] if shared and indices[-1] == frames - 1 else indices


class Onlooker:
    """Looks at clips of one open film, for `own` measures and for `networks`, which look at larger pictures."""

    def __init__(self, film: io.Film, own: Sequence[str], networks: Sequence[str], settings: Settings) -> None:
        self._film, self._own, self._networks, self._settings = film, own, networks, settings
        self._small, self._large = film.painter(LINES, enlarge=True), film.painter(QUALITY_LINES)
        self._points = film.painter(LINES // 2, enlarge=True)
        self._network, self._full = film.painter(settings.short_side), film.painter()

    def __call__(self, start: int, end: int, frames: int) -> tuple[Seen, dict[str, Pixels]]:
        """The clip of `io.clip_frames`, with its errors, and the networks' pictures by kind.

        Kinds: `samples` for the flow, `few` for text and nudity, DOVER's two views.
        """
        indices = m.sample_indices(frames, self._settings.fps, self._settings.sample_seconds)
        own = own_samples(indices, frames, self._settings.shared_end)
        graded = own[::2] if "aesthetic" in self._own else []
        coloured = own if {"saturation", "saturation_lit"} & {*self._own} else []
        few = extras.few_indices(frames) if {"text_area", "nsfw"} & {*self._networks} else []
        paired = indices if "flow_motion" in self._networks else []
        views = self._views(frames)
        sketches: list[Sketch] = []
        grey, points, pictures, before = [], [], {}, None
        for k, frame in enumerate(io.clip_frames(self._film, start, end, self._settings.fps, frames)):
            sketches.append(sketches[-1] if frame is before else self._small.sketch(frame))
            before = frame
            if k in graded:
                grey.append(self._large.grey(frame))
            if k in coloured:
                points.append(self._points.points(frame))
            if k in few or k in paired:
                pictures[k] = self._network.picture(frame).rgb
            if views is not None and views.wants(k):
                views.add(k, self._full.picture(frame).rgb)
        kinds = {
            kind: np.stack([pictures[k] for k in which]) for kind, which in (("samples", paired), ("few", few)) if which
        }
        if views is not None:
            kinds |= {"technical": views.technical, "aesthetic": views.aesthetic}
        luma, rgb = np.stack([each.luma for each in sketches]), np.stack([each.rgb for each in sketches])
        large, single = (np.stack(planes) if planes else None for planes in (grey, points))
        return Seen(luma, rgb, large, single, tuple(indices), self._settings.shared_end), kinds

    def _views(self, frames: int) -> dover.Views | None:
        wanted = self._settings.dover if "aesthetic" in self._networks else None
        return dover.Views(frames, wanted["seed"]) if wanted else None
