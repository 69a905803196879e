"""From what a frame's samples mean to sRGB-like BT.709 pixels: matrix, range, primaries, and HDR to SDR.

Standard dynamic range in BT.709 or BT.601 goes through FFmpeg's scaler alone (`sana_video.video.io`). What is HDR (PQ
or HLG by its transfer tag) or has wider primaries (BT.2020, P3) goes through linear light in numpy:

1. Y'CbCr to R'G'B' by the tagged matrix and range.
2. To light on the display, cd/m2. PQ: the EOTF of BT.2100 table 4. HLG: the inverse OETF and the OOTF of table 5 for a
   display of 1000 cd/m2 (gamma 1.2). SDR: the EOTF of BT.1886, a power of 2.4, with white at 203.
3. Primaries to BT.709 through XYZ; what falls outside is clipped at zero.
4. HDR only: the tone curve of BT.2390 (EETF, black at zero) from a peak of 1000 to 203 cd/m2, the reference white of
   BT.2408. It is taken of the largest of R, G, B and scales all three, so hue stays. Below 88 cd/m2 it changes nothing.
5. Back to code values with the inverse of BT.1886.
"""

from __future__ import annotations

import functools
from typing import Final

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

Light = NDArray[np.float32]
Pixels = NDArray[np.uint8]

PQ, HLG = 16, 18  # AVCOL_TRC_*
BT2020 = 9  # AVCOL_PRI_*
WHITE, PEAK = 203.0, 1000.0  # cd/m2
GAMMA = 2.4
_WIDE = {9: "bt2020", 11: "p3", 12: "p3"}  # AVCOL_PRI_*

SWS_MATRIX = {0: 1, 1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # AVCOL_SPC_* -> SWS_CS_*; RGB: any, it goes there and back
_UNTAGGED = 2
_LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}  # Kr, Kb

_PRIMARIES = {  # chromaticities x, y of red, green, blue; white is D65 in all
    "bt709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    "bt2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "p3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_D65 = (0.3127, 0.3290)


def matrix_and_range(frame: av.VideoFrame) -> tuple[int, int]:
    """(SWS matrix, range) of a frame, by the usual convention where it is untagged: BT.709 from 720 lines up.

    ValueError UNSUPPORTED for a matrix that is no plain 3x3 on R'G'B' of the tables above (ICtCp, constant luminance…).
    """
    tag = int(frame.colorspace)
    guess = 1 if max(frame.height, frame.width) >= 1280 or min(frame.height, frame.width) >= 720 else 5
    if int(frame.color_primaries) == BT2020:
        guess = 9
    if tag != _UNTAGGED and tag not in SWS_MATRIX:
        raise ValueError(f"UNSUPPORTED: colour matrix {tag} of H.273")
    full = int(frame.color_range) == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    return SWS_MATRIX.get(tag, guess), ColorRange.JPEG if full else ColorRange.MPEG


@functools.cache
def rgb_weights(matrix: int, span: int) -> Light:
    """(3, 4): 8-bit R', G', B' 0-255 as weights of 8-bit Y', Cb, Cr and 1, for a matrix and range of the above."""
    kr, kb = _LUMA[matrix]
    kg = 1 - kr - kb
    of_chroma = [(0, 2 * (1 - kr)), (-2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg), (2 * (1 - kb), 0)]
    light, chroma, black = (1.0, 1.0, 0.0) if span == ColorRange.JPEG else (255 / 219, 255 / 224, 16.0)
    rows = [(light, chroma * cb, chroma * cr, -light * black - 128 * chroma * (cb + cr)) for cb, cr in of_chroma]
    weights = np.array(rows, np.float32)
    weights.flags.writeable = False
    return weights


def is_hdr(frame: av.VideoFrame) -> bool:
    return int(frame.color_trc) in (PQ, HLG)


def needs_light(frame: av.VideoFrame) -> bool:
    """Whether a frame has to go through linear light: HDR, or primaries far from BT.709's."""
    return is_hdr(frame) or int(frame.color_primaries) in _WIDE


def to_sdr(
    frame: av.VideoFrame, width: int, height: int, interpolation: int, scaler: VideoReformatter, threads: int
) -> tuple[Pixels, Pixels]:
    """Scale a frame for which `needs_light` and bring it to BT.709: rgb uint8 (H, W, 3), luma uint8 (H, W) 16-235."""
    matrix, span = matrix_and_range(frame)
    small = scaler.reformat(
        frame, width, height, "yuv444p16le", src_colorspace=matrix, dst_colorspace=matrix,
        src_color_range=span, dst_color_range=span, interpolation=interpolation, threads=threads,
    )  # fmt: skip
    planes = [np.frombuffer(memoryview(p), "<u2").reshape(height, -1)[:, :width] for p in small.planes]
    signal = _rgb_signal(np.stack(planes, axis=-1).astype(np.float32), matrix, span == ColorRange.JPEG)
    rgb = to_bt709(signal, int(frame.color_trc), int(frame.color_primaries))
    luma = 16.0 + 219.0 * (rgb @ np.array([0.2126, 0.7152, 0.0722], np.float32))
    return np.rint(rgb * 255.0).astype(np.uint8), np.rint(luma).astype(np.uint8)


def _rgb_signal(ycc: Light, matrix: int, full: bool) -> Light:
    """R'G'B' in [0, 1] from 16-bit Y'CbCr (H, W, 3)."""
    if full:
        luma, blue, red = ycc[..., 0] / 65535.0, ycc[..., 1] / 65535.0 - 0.5, ycc[..., 2] / 65535.0 - 0.5
    else:
        luma = (ycc[..., 0] / 256.0 - 16.0) / 219.0
        blue, red = ((ycc[..., k] / 256.0 - 128.0) / 224.0 for k in (1, 2))
    kr, kb = _LUMA[matrix]
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    signal: Light = np.clip(np.stack([r, g, b], axis=-1), 0.0, 1.0)
    return signal


def _display_light(signal: Light, transfer: int) -> Light:
    if transfer == PQ:
        return pq_light(signal)
    if transfer == HLG:
        return hlg_light(signal)
    return WHITE * signal**GAMMA


def to_bt709(signal: Light, transfer: int, primaries: int) -> Light:
    """R'G'B' (..., 3) in [0, 1] under a transfer and primaries (H.273 codes) to BT.709 R'G'B' in [0, 1]: steps 2-5."""
    light = _display_light(signal, transfer)
    wide = _WIDE.get(primaries, "bt709")
    if wide != "bt709":
        light = np.maximum(light @ _TO_BT709[wide].T, 0.0)
    if transfer in (PQ, HLG):
        brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-4)
        light *= tone(brightest) / brightest
    code: Light = np.clip(light / WHITE, 0.0, 1.0) ** (1 / GAMMA)
    return code


_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128


def pq_light(signal: Light) -> Light:
    """BT.2100 table 4, EOTF: [0, 1] to 0-10000 cd/m2."""
    root = signal ** (1 / _M2)
    light: Light = 10000.0 * (np.maximum(root - _C1, 0.0) / (_C2 - _C3 * root)) ** (1 / _M1)
    return light


def pq_signal(light: Light) -> Light:
    """The inverse of `pq_light`."""
    power = (np.maximum(light, 0.0) / 10000.0) ** _M1
    signal = ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2
    return signal.astype(np.float32)


def hlg_light(signal: Light) -> Light:
    """BT.2100 table 5, inverse OETF and OOTF: [0, 1] (..., 3) in BT.2020 to cd/m2 on a display of 1000."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = np.maximum(scene @ np.array([0.2627, 0.6780, 0.0593]), 1e-6)[..., None]
    light: Light = (PEAK * luminance**0.2 * scene).astype(np.float32)
    return light


def tone(light: Light) -> Light:
    """BT.2390 section 5.4.1, EETF: 0-PEAK cd/m2 to 0-WHITE, straight below a knee and a Hermite spline above."""
    top, white = pq_signal(np.array([PEAK, WHITE], np.float32))
    given, ceiling = np.minimum(pq_signal(light) / top, 1.0), white / top
    knee = 1.5 * ceiling - 0.5
    t = np.maximum(given - knee, 0.0) / (1 - knee)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * ceiling
    return pq_light(np.where(given < knee, given, bent) * top)


def _to_xyz(name: str) -> NDArray[np.float64]:
    """The 3x3 from linear R, G, B of these primaries to XYZ, white at Y = 1 (SMPTE RP 177)."""
    corners = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in _PRIMARIES[name]]).T
    white = np.array([_D65[0] / _D65[1], 1.0, (1 - _D65[0] - _D65[1]) / _D65[1]])
    return np.asarray(corners * np.linalg.solve(corners, white))


_TO_BT709: Final[dict[str, Light]] = {
    name: (np.linalg.inv(_to_xyz("bt709")) @ _to_xyz(name)).astype(np.float32) for name in ("bt2020", "p3")
}
