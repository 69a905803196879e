"""Decoded frames to pictures of one size: upright, square pixels, in the colours they mean.

A frame is scaled once, in YCbCr, then turned to RGB by the matrix and range that it is tagged with (untagged: BT.709
from 720 lines up, BT.601 below, limited range), or to BT.709 through linear light where it is HDR or wide (`colour`),
then turned and mirrored as its display matrix says (`orientation`). A `Sketch` keeps the colours at half the size, as
4:2:0 films have them, and costs an eighth of a `Picture` of 480 lines. `points` picks pixels where all else averages
them: what is no linear function of a pixel, as saturation, has the mean of a film's own size in few points of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from sana_video.video.colour import matrix_and_range, needs_light, rgb_weights, to_sdr
from sana_video.video.orientation import Orientation, orientation

Pixels = NDArray[np.uint8]

SCALE = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
BT601 = 5  # SWS_CS_*
PICK = Interpolation.POINT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True)
class Picture:
    """One frame as shown: `rgb` uint8 (H, W, 3) 0-255, `luma` uint8 (H, W) the Y plane as coded (16-235 if limited).

    Of an HDR or wide picture it is the limited-range BT.709 luma of `rgb`.
    """

    pts: int
    rgb: Pixels
    luma: Pixels


@dataclass(frozen=True)
class Sketch:
    """One frame as most measures look at it: `luma` uint8 (H, W) as in `Picture`, `rgb` uint8 of half the height and
    width, rounded up. Rows of luma may lie apart: it is the scaler's own."""

    luma: Pixels
    rgb: Pixels


class Painter:
    """Paints the frames of one stream, whose samples are `aspect` as wide as high, at one size.

    `short_side` scales so that the shorter displayed side has that many pixels, up only to `enlarge`; `size` (H, W)
    scales to cover and crops about the centre. Neither: the displayed size. Every method raises ValueError UNSUPPORTED
    for odd colours or turns.
    """

    def __init__(
        self,
        aspect: Fraction,
        *,
        short_side: int | None = None,
        size: tuple[int, int] | None = None,
        enlarge: bool = False,
        threads: int = 1,
    ) -> None:
        self._aspect, self._short_side, self._size, self._threads = aspect, short_side, size, threads
        self._enlarge = enlarge
        self._sizes: dict[tuple[int, int, bool], tuple[int, int]] = {}
        # one for each pass: they keep tables
        self._scaler, self._colourer, self._picker = VideoReformatter(), VideoReformatter(), VideoReformatter()

    def picture(self, frame: av.VideoFrame) -> Picture:
        """The frame in full colour. Its PTS must be known."""
        assert frame.pts is not None
        way = orientation(frame)
        height, width = self._scaled_size(frame, way)
        if needs_light(frame):
            rgb, luma = to_sdr(frame, width, height, SCALE, self._scaler, self._threads)
        else:
            rgb, luma = self._to_rgb(frame, width, height)
        return Picture(frame.pts, self._upright(rgb, way), self._upright(luma, way))

    def sketch(self, frame: av.VideoFrame) -> Sketch:
        """The frame with its colours at half the size, in one pass of the scaler; for `short_side` and no `size`."""
        way = orientation(frame)
        height, width = self._scaled_size(frame, way)
        if needs_light(frame):
            full, luma = to_sdr(frame, width, height, SCALE, self._scaler, self._threads)
            rgb = cv2.resize(full, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
        else:
            meaning = matrix_and_range(frame)
            small, weights = self._scaled(frame, meaning, width, height, "yuv420p"), rgb_weights(*meaning)
            luma, blue, red = planes_of(small)
            y = cv2.resize(luma, blue.shape[::-1], interpolation=cv2.INTER_AREA)
            rgb = cv2.transform(cv2.merge((y, blue, red)), weights)
        return Sketch(*(self._turned(plane.astype(np.uint8, copy=False), way) for plane in (luma, rgb)))

    def points(self, frame: av.VideoFrame) -> Pixels:
        """uint8 RGB (H, W, 3): of each pixel of the `picture` one of the frame's own that it covers, not their mean."""
        way = orientation(frame)
        height, width = self._scaled_size(frame, way)
        if needs_light(frame):
            return self._upright(to_sdr(frame, width, height, PICK, self._picker, self._threads)[0], way)
        matrix, span = matrix_and_range(frame)
        picked = self._picker.reformat(
            frame, width, height, "yuv444p", src_colorspace=matrix, dst_colorspace=matrix,
            src_color_range=span, dst_color_range=span, interpolation=PICK, threads=self._threads,
        )  # fmt: skip
        rgb = cv2.transform(cv2.merge(planes_of(picked)), rgb_weights(matrix, span))
        return self._upright(rgb.astype(np.uint8, copy=False), way)

    def grey(self, frame: av.VideoFrame) -> Pixels:
        """uint8 (H, W): the frame's luma, 0 black and 255 white whatever range it is coded in."""
        way = orientation(frame)
        height, width = self._scaled_size(frame, way)
        if needs_light(frame):
            coded = to_sdr(frame, width, height, SCALE, self._scaler, self._threads)[1]  # 16-235
            full = cv2.convertScaleAbs(coded, alpha=255 / 219, beta=-16 * 255 / 219)
            return self._upright(full.astype(np.uint8, copy=False), way)
        meaning, layout = matrix_and_range(frame), "yuv420p"
        if len(frame.format.components) > 2 and not frame.format.is_rgb:
            # without colours, in half the time, and the same; by other matrices the scaler goes to grey through RGB
            meaning, layout = (BT601, meaning[1]), "gray"
        small = self._scaled(frame, meaning, width, height, layout, ColorRange.JPEG)
        return self._upright(planes_of(small)[0], way)

    def _scaled(
        self,
        frame: av.VideoFrame,
        meaning: tuple[int, int],
        width: int,
        height: int,
        layout: str,
        into: int | None = None,
    ) -> av.VideoFrame:
        """A frame of standard range and primaries at another size, in the same matrix, and range but for `into`."""
        matrix, span = meaning
        return self._scaler.reformat(
            frame, width, height, layout, src_colorspace=matrix, dst_colorspace=matrix,
            src_color_range=span, dst_color_range=span if into is None else into, interpolation=SCALE,
            threads=self._threads,
        )  # fmt: skip

    def _to_rgb(self, frame: av.VideoFrame, width: int, height: int) -> tuple[Pixels, Pixels]:
        """(rgb, luma) of a frame of standard range and primaries."""
        matrix, span = matrix_and_range(frame)
        small = self._scaled(frame, (matrix, span), width, height, "yuv444p")
        rgb = self._colourer.reformat(
            small, format="rgb24", src_colorspace=matrix, dst_colorspace=Colorspace.DEFAULT,
            src_color_range=span, dst_color_range=ColorRange.JPEG, interpolation=SCALE, threads=self._threads,
        ).to_ndarray()  # fmt: skip
        return rgb.astype(np.uint8, copy=False), planes_of(small)[0]

    def _scaled_size(self, frame: av.VideoFrame, way: Orientation) -> tuple[int, int]:
        """(height, width) before rotation: square pixels, and large enough for what is asked."""
        given = frame.height, frame.width, way.transposed
        if given not in self._sizes:
            self._sizes[given] = self._size_of(*given)
        return self._sizes[given]

    def _size_of(self, coded_height: int, coded_width: int, transposed: bool) -> tuple[int, int]:
        height, width = Fraction(coded_height), Fraction(coded_width) * self._aspect
        if self._size is not None:
            want_h, want_w = self._size[::-1] if transposed else self._size
            scale = max(want_h / height, want_w / width)
            return max(want_h, round(height * scale)), max(want_w, round(width * scale))
        if self._short_side is None or (self._short_side >= min(height, width) and not self._enlarge):
            return int(height), round(width)
        scale = self._short_side / min(height, width)
        return max(self._short_side, 2 * round(height * scale / 2)), max(self._short_side, 2 * round(width * scale / 2))

    def _upright(self, picture: Pixels, way: Orientation) -> Pixels:
        return np.ascontiguousarray(self._turned(picture, way))

    def _turned(self, picture: Pixels, way: Orientation) -> Pixels:
        picture = way.apply(picture)
        if self._size is not None:
            top, left = ((have - want) // 2 for have, want in zip(picture.shape, self._size, strict=False))
            picture = picture[top : top + self._size[0], left : left + self._size[1]]
        return picture


def planes_of(frame: av.VideoFrame) -> list[Pixels]:
    """The planes of a frame with 8 bits a sample, uint8 (H, W): views."""
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes
    ]
