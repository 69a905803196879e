"""What of a clip its measures look at: a few small planes, each made once while the frames pass by.

Sizes belong to the definitions of the measures and to nothing else: no setting, and not what the clips are encoded to,
moves a score. Motion, bars, marks and cuts look at every frame; colours, light, quality and likeness at a frame every
half second. Saturation and light are no linear functions of a pixel: they look at single pixels of the film's own size,
as means of pixels are paler and darker than the film. Small films are enlarged to the size of luma; smaller grey than
asked for stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import av
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
AHEAD = 12_000_000  # pixels decoded before the first of them is looked at: 13 frames of 720 lines
FLOW_LINES = 480  # of the pictures that UniMatch stretches to 320x576
QUALITY_LINES = 480  # of grey of every second sample: sharpness, noise and blocks are gone at LINES


@dataclass(frozen=True)
class Seen:
    """A clip of F frames and its samples, which are the frames `indices`.

    `luma` uint8 (F, h, w) as coded; `rgb` uint8 (F, h/2, w/2, 3); `grey` S/2 pictures uint8 (H, W), 0-255, and `points`
    uint8 RGB (S, h/2, w/2, 3), single pixels of the samples: None if not asked. Where the last frame is `shared` with
    the next window of a film it is none of the `pictures`, nor of `grey` and `points`; flow and motion reach up to it.
    """

    luma: Pixels
    rgb: Pixels
    grey: Sequence[Pixels] | None
    points: Pixels | None
    indices: tuple[int, ...]
    shared: bool = False

    @property
    def hsv(self) -> Iterator[Pixels]:
        """HSV of `rgb`, frame by frame: of all at once it would be the largest thing in memory, for one look."""
        return (m.to_hsv(picture[np.newaxis])[0] for picture in self.rgb)

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


def ahead(frames: Iterable[av.VideoFrame], pixels: int) -> Iterator[av.VideoFrame]:
    """The same frames, so many decoded at a time: in turns of one frame decoder and scaler empty each other's caches,
    which costs a twentieth of both."""
    held: list[av.VideoFrame] = []
    for frame in frames:
        held.append(frame)
        if len(held) * frame.width * frame.height >= pixels:
            yield from held
            held.clear()
    yield from held


class Onlooker:
    """Looks at clips of one open film, for `own` measures and for `networks`, which look at larger pictures.

    Fresh memory costs more than what is written into it, so `luma` and `rgb` of a clip lie where those of the clip
    before lay: what was seen is to be measured before the next look.
    """

    def __init__(self, film: io.Film, own: Sequence[str], networks: Sequence[str], settings: Settings) -> None:
        self._film, self._own, self._networks, self._settings = film, own, networks, settings
        self._small, self._large = film.painter(LINES, enlarge=True), film.painter(QUALITY_LINES)
        self._points = film.painter(LINES // 2, enlarge=True)
        self._flow, self._few, self._full = film.painter(FLOW_LINES), film.painter(settings.short_side), film.painter()
        self._room: tuple[Pixels, Pixels] | None = None

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
        grey, points, paired_pictures, few_pictures, before = [], [], [], [], None
        shown = io.clip_frames(self._film, start, end, self._settings.fps, frames)
        for k, frame in enumerate(ahead(shown, AHEAD)):
            if frame is not before:
                sketch, before = self._small.sketch(frame), frame
            luma, rgb = self._place(frames, sketch)
            luma[k], rgb[k] = sketch.luma, sketch.rgb
            if k in graded:
                grey.append(self._large.grey(frame))
            if k in coloured:
                points.append(self._points.points(frame))
            if k in paired:
                paired_pictures.append(self._flow.picture(frame).rgb)
            if k in few:
                few_pictures.append(self._few.picture(frame).rgb)
            if views is not None and views.wants(k):
                views.add(k, self._full.picture(frame).rgb)
        taken = {"samples": paired_pictures, "few": few_pictures}
        kinds = {kind: np.stack(pictures) for kind, pictures in taken.items() if pictures}
        if views is not None:
            kinds |= {"technical": views.technical, "aesthetic": views.aesthetic}
        single = np.stack(points) if points else None
        return Seen(luma, rgb, grey or None, single, tuple(indices), self._settings.shared_end), kinds

    def _place(self, frames: int, sketch: Sketch) -> tuple[Pixels, Pixels]:
        """Where the sketches of a clip lie."""
        shapes = tuple((frames, *plane.shape) for plane in (sketch.luma, sketch.rgb))
        if self._room is None or tuple(plane.shape for plane in self._room) != shapes:
            self._room = np.empty(shapes[0], np.uint8), np.empty(shapes[1], np.uint8)
        return self._room

    def _views(self, frames: int) -> dover.Views | None:
        wanted = self._settings.dover if "aesthetic" in self._networks else None
        return dover.Views(frames, wanted["seed"]) if wanted else None
