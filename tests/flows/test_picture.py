"""Pictures from outside: every kind that a camera or a program writes, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows import picture
from flows.picture import png, read_about, read_picture

RED = (200, 30, 60)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_kinds_of_pictures_become_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (6, 4), RED)
    plain = np.asarray(red)
    assert np.array_equal(read_picture(saved(tmp_path / "a.png", red)), plain)
    assert np.array_equal(
        read_picture(saved(tmp_path / "p.png", red.convert("P", palette=Image.Palette.ADAPTIVE))), plain
    )
    jpeg = read_picture(saved(tmp_path / "a.jpg", red, quality=95)).astype(int)
    cmyk = read_picture(saved(tmp_path / "c.jpg", red.convert("CMYK"), quality=95)).astype(int)
    assert abs(jpeg - plain).max() < 8 and abs(cmyk - plain).max() < 12
    assert read_picture(saved(tmp_path / "1.png", Image.new("1", (6, 4), 1))).min() == 255


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    grey = read_picture(saved(tmp_path / "g.png", Image.fromarray(ramp)))
    assert np.array_equal(grey, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_what_is_transparent_lies_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    shown = read_picture(saved(tmp_path / "a.png", image))
    assert shown.tolist() == [[list(RED), [255, 255, 255]]]


def test_a_camera_held_upright_gives_an_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image = Image.fromarray(np.array([[[255, 0, 0]] * 64, [[0, 0, 255]] * 64], np.uint8).repeat(16, axis=0))
    shown = read_picture(saved(tmp_path / "a.jpg", image, exif=exif, quality=95, subsampling=0))
    assert shown.shape == (64, 32, 3)
    assert shown[0, -1, 0] > 200 > 60 > shown[0, -1, 2]  # the red upper half is now on the right


def claimed(width: int, height: int) -> bytes:
    """A PNG of 60 bytes that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["text", "empty", "gif", "cut", "large", "huge", "folder"])
def test_what_is_no_picture_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    gif = io.BytesIO()
    Image.new("RGB", (4, 4)).save(gif, "GIF")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    files = {
        "text": b"no picture\n",
        "empty": b"",
        "gif": gif.getvalue(),
        "cut": png(np.asarray(noise), {})[:2000],
        "large": claimed(10_000, 6_000),
        "huge": claimed(60_000, 60_000),
    }
    if kind == "folder":
        path.mkdir()
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_picture(path)
        return
    path.write_bytes(files[kind])
    with pytest.raises(ValueError, match=r"a\.png: not a PNG or JPEG that can be read") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)


def test_a_png_says_what_it_is(tmp_path: Path) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    (tmp_path / "a.png").write_bytes(png(pixels, {"prompt": "ünïcode", "seed": 3}))
    assert read_about(tmp_path / "a.png") == {"prompt": "ünïcode", "seed": 3}
    assert np.array_equal(picture.read_picture(tmp_path / "a.png"), pixels)
    assert read_about(saved(tmp_path / "b.png", Image.new("RGB", (2, 2)))) == {}
