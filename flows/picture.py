"""Pictures from outside, and a PNG that says what it is."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 50_000_000  # of a picture that is decoded; a few bytes of PNG can claim any size
ABOUT = "Description"  # the PNG text that holds what `png` is told


def read_picture(path: Path) -> NDArray[np.uint8]:
    """uint8 RGB (H, W, 3) of a PNG or JPEG, upright by its EXIF, 16 bits cut to 8, what is transparent over white.

    FileNotFoundError without the file; ValueError, one line, for what is no such picture, damaged, or too large.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width}x{height} are more than {MAX_PIXELS / 1e6:.0f} million pixels")
            return np.asarray(_rgb(ImageOps.exif_transpose(picture)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), "it").replace("\n", " ")
        raise ValueError(f"{path}: not a PNG or JPEG that can be read ({reason})") from None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits of grey, which PIL would clip
        return Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        solid = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return picture.convert("RGB")


def png(picture: NDArray[np.uint8], about: Mapping[str, Any]) -> bytes:
    """A PNG of uint8 (H, W, 3) with `about` as JSON in its text."""
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt(ABOUT, json.dumps(about, ensure_ascii=False, sort_keys=True))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", pnginfo=notes)
    return buffer.getvalue()


def read_about(path: Path) -> dict[str, Any]:
    """What `png` was told about the picture in `path`; nothing if it was made otherwise."""
    with Image.open(path, formats=("PNG",)) as picture:
        told = picture.info.get(ABOUT)
    about = json.loads(told) if told else {}
    return about if isinstance(about, dict) else {}
