"""A folder of files as nobody should deliver them, each with the verdict that it must get.

Rendered or mutated on the spot from a few seconds of film. A verdict is `ok` (clips of it are scored), or the code of
the reason at the first stage that refuses it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from films import flat, grey, picture, waves, write

PIXELS = 1 << 20  # data.ingest.max_pixels that the verdicts go with
SECONDS = 60.0  # data.ingest.max_seconds

Render = Callable[..., Path]


@dataclass(frozen=True)
class Entry:
    """A file's name inside the batch, what makes it, and its verdict."""

    name: str | bytes
    make: Callable[[Path], object]
    verdict: str


def corpus(render: Render, store: Path) -> list[Entry]:
    """Every entry; `store` is a folder outside the project, for the films that others are made of."""
    good = render(store / "good.mp4", seconds=2.0, shots=2)
    return [
        Entry("good.mp4", copy(good), "ok"),
        Entry("twin.mp4", copy(good), "DUPLICATE_OF"),
        *_no_videos(),
        *_cut(render, store, good),
        *_headers(good),
        *_times(render, store),
        *_pictures(render, store),
        *_names(render, store, good),
        *_links(store, good),
    ]


def copy(source: Path) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(source.read_bytes())


def text(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _no_videos() -> Iterator[Entry]:
    noise = np.random.default_rng(5).bytes(200_000)
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n%s\n#EXT-X-ENDLIST\n"
    yield Entry("empty.mp4", text(b""), "EMPTY_FILE")
    yield Entry("one-byte.mkv", text(b"\x1a"), "NOT_A_VIDEO")
    yield Entry("text.mp4", text(b"hello, I am a film\n" * 50), "NOT_A_VIDEO")
    yield Entry("page.mp4", text(b"<html><script>alert(1)</script></html>" * 30), "NOT_A_VIDEO")
    yield Entry("playlist.mp4", text(playlist % b"file:///etc/passwd"), "NOT_A_VIDEO")
    yield Entry("address.ts", text(playlist % b"http://127.0.0.1:9/a.ts"), "NOT_A_VIDEO")
    yield Entry("playlist.m3u8", text(playlist % b"/etc/passwd"), "UNKNOWN_SUFFIX")
    yield Entry("script.mp4", text(b"ffconcat version 1.0\nfile /etc/passwd\n"), "NOT_A_VIDEO")
    yield Entry("script.ffconcat", text(b"ffconcat version 1.0\nfile good.mp4\n"), "UNKNOWN_SUFFIX")
    yield Entry("session.mp4", text(b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"), "NOT_A_VIDEO")
    yield Entry("manifest.mp4", text(b'<?xml version="1.0"?><MPD><BaseURL>file:///etc/</BaseURL></MPD>'), "NOT_A_VIDEO")
    yield Entry("picture.mp4", text(b"\x89PNG\r\n\x1a\n" + bytes(900)), "NOT_A_VIDEO")
    yield Entry("animation.mp4", text(b"GIF89a" + bytes(900)), "NOT_A_VIDEO")
    yield Entry("archive.mov", text(b"PK\x03\x04" + noise[:900]), "NOT_A_VIDEO")
    yield Entry("program.avi", text(b"\x7fELF" + noise[:900]), "NOT_A_VIDEO")
    yield Entry("encrypted.mp4", text(noise), "NOT_A_VIDEO")
    yield Entry("encrypted-body.mp4", text(b"\x00\x00\x00\x20ftypisom" + bytes(20) + noise), "TRUNCATED")
    yield Entry("ebml.mkv", text(b"\x1a\x45\xdf\xa3" + noise[:5000]), "TRUNCATED")
    yield Entry("syncs.ts", text((b"\x47" + bytes(187)) * 40), "TRUNCATED")
    yield Entry("riff.avi", text(b"RIFF\xff\xff\xff\xffAVI LIST" + bytes(900)), "TRUNCATED")


def _cut(render: Render, store: Path, good: Path) -> Iterator[Entry]:
    def part(source: Path, kept: float) -> Callable[[Path], object]:
        data = source.read_bytes()
        return lambda path: path.write_bytes(data[: max(1, int(len(data) * kept))])

    for kept in (0.02, 0.3, 0.7, 0.95):
        yield Entry(f"cut-{kept}.mp4", part(good, kept), "TRUNCATED")
    first = write(
        store / "first.mp4", [grey(40 + k % 100) for k in range(50)], container_options={"movflags": "+faststart"}
    )
    yield Entry("cut-index-first.mp4", part(first, 0.9), "TRUNCATED")
    for name in ("a.mkv", "a.avi"):
        source = render(store / f"cut-{name}", seconds=3.0, seed=1)
        yield Entry(f"cut-{name}", part(source, 0.5), "TRUNCATED")
    stream = render(store / "cut.ts", seconds=3.0, seed=2)  # without an index: only its last frame tells
    yield Entry(
        "cut.ts",
        lambda path: path.write_bytes(stream.read_bytes()[: 188 * (stream.stat().st_size // 376)]),
        "DECODE_FAILED",
    )

    def damaged(path: Path) -> None:
        data = bytearray(render(store / "whole.mp4", seconds=3.0, seed=3).read_bytes())
        start = data.index(b"mdat") + len(data) // 3
        data[start : start + 600] = b"\xff" * 600
        path.write_bytes(data)

    yield Entry("damaged.mp4", damaged, "DECODE_FAILED")

    def joined(path: Path) -> None:
        small = write(store / "small.ts", [grey(90)] * 40, codec="mpeg2video")
        large = write(store / "large.ts", [grey(90, (96, 128))] * 40, codec="mpeg2video")
        path.write_bytes(small.read_bytes() + large.read_bytes())

    yield Entry("size-changes.ts", joined, "TRUNCATED")  # its packets stop counting up


def _patched(source: Path, box: bytes, offset: int, new: bytes) -> Callable[[Path], object]:
    """The file with `new` written `offset` bytes after the name of a box."""

    def make(path: Path) -> None:
        data = bytearray(source.read_bytes())
        at = data.index(box) + 4 + offset
        data[at : at + len(new)] = new
        path.write_bytes(data)

    return make


def _box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + name + body


def _headers(good: Path) -> Iterator[Entry]:
    start = _box(b"ftyp", b"isom", bytes(4), b"isom")
    bomb = zlib.compress(bytes(50_000_000), 9)
    compressed = _box(
        b"moov", _box(b"cmov", _box(b"dcom", b"zlib"), _box(b"cmvd", struct.pack(">I", 1 << 31 - 1), bomb))
    )
    nested = b""
    for _ in range(2000):
        nested = _box(b"moov", nested)
    flip = bytearray(good.read_bytes())
    for at in np.random.default_rng(1).integers(flip.index(b"stbl"), len(flip), 40):
        flip[at] ^= 1 << int(at) % 8
    yield Entry("zero-sized.mp4", _patched(good, b"avc1", 24, struct.pack(">HH", 0, 0)), "ok")  # the stream knows
    yield Entry("absurd-size.mp4", _patched(good, b"avc1", 24, struct.pack(">HH", 65535, 65535)), "ok")
    yield Entry("no-codec.mp4", _patched(good, b"stsd", 12, b"\x00\x00\x00\x00"), "UNSUPPORTED")
    yield Entry("many-samples.mp4", _patched(good, b"stsz", 4, struct.pack(">II", 0, 0xFFFFFFFF)), "TRUNCATED")
    yield Entry(
        "long-index.mp4", _patched(good, b"mdhd", 16, struct.pack(">I", 0x7FFFFFFF)), "ok"
    )  # the samples tell more
    yield Entry("no-timescale.mp4", _patched(good, b"mdhd", 12, struct.pack(">I", 0)), "TOO_FEW_FRAMES")
    yield Entry("huge-box.mp4", text(start + b"\xff\xff\xff\xffmoov" + bytes(500)), "NO_VIDEO_STREAM")
    yield Entry("zip-bomb.mp4", text(start + compressed), "NO_VIDEO_STREAM")
    yield Entry("nested.mp4", text(start + nested), "TRUNCATED")
    yield Entry("no-moov.mp4", text(start + _box(b"mdat", bytes(9000))), "TRUNCATED")
    yield Entry("flipped-bits.mp4", text(bytes(flip)), "TRUNCATED")
    yield Entry("bomb.avi", jpeg_bomb, "DECODE_FAILED")


def jpeg_bomb(path: Path, side: int = 16_000) -> None:
    """An AVI that states 64x64 and holds JPEGs whose own header says `side` x `side`."""
    write(path, [grey(90, pixel_format="yuvj420p") for _ in range(30)], codec="mjpeg", options={})
    data = path.read_bytes()
    size = struct.pack(">HH", 64, 64)
    at = data.index(b"\xff\xc0\x00\x11\x08" + size)
    assert at > 0
    path.write_bytes(
        data.replace(b"\xff\xc0\x00\x11\x08" + size, b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", side, side))
    )


def endless(path: Path, packets: int = 20_000_000) -> None:
    """An mp4 of a few kB whose index names millions of frames of one byte: reading it takes many seconds."""
    source = write(path.with_suffix(".source.mp4"), [grey(60 + k) for k in range(40)], codec="mpeg4", options={})
    data = bytearray(source.read_bytes())
    source.unlink()
    at = data.index(b"stsz")
    data[at + 8 : at + 16] = struct.pack(">II", 1, packets)  # one size for all
    at = data.index(b"stts")
    data[at + 12 : at + 20] = struct.pack(">II", packets, 1)
    at = data.index(b"stsc")
    data[at + 12 : at + 24] = struct.pack(">III", 1, packets, 1)
    path.write_bytes(data)


def _times(render: Render, store: Path) -> Iterator[Entry]:
    free = {"avoid_negative_ts": "disabled"}

    def shades(count: int, first: int = 30) -> list[av.VideoFrame]:
        return [waves(first + 150 - abs(k % 300 - 150)) for k in range(count)]  # no jump that is a cut

    def at(name: str, times: list[Fraction], verdict: str, first: int = 30, **how: Any) -> Entry:
        return Entry(name, lambda path: write(path, shades(len(times), first), times=times, **how), verdict)

    def audio(path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    regular = [Fraction(k, 25) for k in range(50)]
    yield Entry("1000fps.mp4", lambda path: write(path, shades(900, 31), rate=1000), "ok")
    yield at("negative.ts", [t - 1 for t in regular], "ok", 32, container_options=free)
    yield at("hidden.mp4", [t - 1 for t in regular], "ok", 33, container_options=free)
    yield at("late.mkv", [t + 500 for t in regular], "ok", 34, container_options=free)
    yield at("no-times.mkv", [t - 5 for t in regular], "UNSUPPORTED", 35, container_options=free)
    yield at("ten-hours.mp4", [Fraction(0), Fraction(1, 25), Fraction(36000)], "TOO_LONG", 36)
    yield at("gap.mp4", [*regular, *(t + 30 for t in regular)], "ok", 37)
    yield Entry("4000fps.mp4", lambda path: write(path, shades(3000, 42), rate=4000), "ODD_RATE")
    yield at("slides.mp4", [Fraction(0), Fraction(20), Fraction(40)], "ODD_RATE", 43)
    yield at("one-frame.mp4", [Fraction(0)], "TOO_FEW_FRAMES", 38)
    yield at("blink.mp4", regular[:6], "TOO_SHORT", 39)
    yield at("short-shot.mp4", regular[:13], "SHOT_TOO_SHORT", 40)
    yield Entry("song.mp4", audio, "NO_VIDEO_STREAM")

    def metadata(path: Path) -> None:
        with av.open(str(path), "w") as container:
            container.metadata["comment"] = "<script>alert(1)</script>" * 200_000
            stream = container.add_stream("mpeg4", rate=25, options={})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for index, frame in enumerate(shades(50, 41)):
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    yield Entry("giant-metadata.mp4", metadata, "ok")


def _pictures(render: Render, store: Path) -> Iterator[Entry]:
    def lossless(
        name: str, pixel_format: str, level: int, verdict: str = "ok", size: tuple[int, int] = (64, 96)
    ) -> Entry:
        def make(path: Path) -> None:
            colours = [waves(level + k, size, pixel_format) for k in range(40)]
            write(path, colours, codec="ffv1", options={})

        return Entry(name, make, verdict)

    def tagged(name: str, verdict: str, **tags: int) -> Entry:
        samples = lambda: [flat((400 + k, 512, 512), (64, 64), "yuv420p10le") for k in range(40)]  # noqa: E731
        return Entry(name, lambda path: write(path, samples(), codec="ffv1", options={}, tags=tags), verdict)

    def turned(linear: tuple[float, ...]) -> Callable[[Path], object]:
        a, b, c, d = (round(value * 65536) for value in linear)
        source = render(store / f"turned{a}{b}.mp4", seconds=1.5, seed=abs(a) % 97)
        return _patched(source, b"tkhd", 40, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))

    def interlaced(path: Path) -> None:
        rows = np.arange(64)[:, None] % 2
        frames = []
        for k in range(50):
            luma = np.where((np.arange(96)[None] + 4 * k + 2 * rows) % 48 < 24, 60, 190).astype(np.uint8)
            frames.append(picture([luma, *[np.full((32, 48), 128, np.uint8)] * 2], "yuv420p"))
        write(path, frames, options={"x264-params": "interlaced=1"})

    def samples(aspect: Fraction) -> Callable[[Path], object]:
        return lambda path: write(path, [waves(50 + k) for k in range(40)], sample_aspect=aspect)

    yield lossless("gray.mkv", "gray", 40)
    yield lossless("alpha.mkv", "bgra", 42)
    yield lossless("16-bit.mkv", "yuv444p16le", 44)
    yield lossless("rgb-planes.mkv", "gbrp10le", 46)
    yield lossless("odd-size.mkv", "yuv444p", 48, size=(67, 101))
    yield lossless("tiny.mkv", "yuv420p", 50, "TOO_SMALL", size=(16, 16))
    yield lossless("large.mkv", "gray", 52, "TOO_LARGE", size=(1030, 1030))
    yield Entry("16k-wide.mkv", lambda p: write(p, [grey(9, (70, 16384))] * 2, codec="ffv1", options={}), "TOO_LARGE")
    yield tagged("pq.mkv", "ok", colorspace=9, color_primaries=9, color_trc=16)
    yield tagged("hlg.mkv", "ok", colorspace=9, color_primaries=9, color_trc=18)
    yield tagged("ictcp.mkv", "UNSUPPORTED", colorspace=14, color_primaries=9, color_trc=16)
    yield Entry("interlaced.mp4", interlaced, "ok")
    yield Entry("turned-45.mp4", turned((0.7071, 0.7071, -0.7071, 0.7071)), "UNSUPPORTED")
    yield Entry("mirrored.mp4", turned((-1, 0, 0, 1)), "ok")
    yield Entry("no-turn.mp4", turned((0, 0, 0, 0)), "UNSUPPORTED")
    yield Entry("anamorphic.mp4", samples(Fraction(4, 3)), "ok")
    yield Entry("thin-samples.mp4", samples(Fraction(10, 1)), "UNSUPPORTED")


def _names(render: Render, store: Path, good: Path) -> Iterator[Entry]:
    """Names that would be addresses, options, patterns or markup elsewhere; the bytes are good, and differ."""

    def film(seed: int) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(
            render(store / f"name{seed}.mp4", seconds=1.6, seed=30 + seed).read_bytes()
        )

    hostile = (
        "<img src=x onerror=alert(1)>.mp4", "-rf.mp4", "concat:good.mp4|good.mp4", "%d.mp4", "$(touch owned).mp4",
        "up..%2f..%2fetc%2fpasswd.mp4", "file:x.mp4", "'; drop table videos;--.mp4", "{0.__class__}.mp4",
        "фильм 🎬.mp4",
    )  # fmt: skip
    for seed, name in enumerate(hostile):
        named = name if name.endswith(".mp4") else f"{name}.mp4"
        yield Entry(named, film(seed), "ok")
    yield Entry("up..\\..\\etc.mp4", film(20), "BAD_NAME")
    yield Entry("line\nbreak.mp4", film(21), "BAD_NAME")
    yield Entry("\x1b[2Jclear.mp4", film(22), "BAD_NAME")
    yield Entry("right\u202e4pm.mp4", film(23), "BAD_NAME")
    yield Entry(b"latin-\xe9\xff.mp4", film(24), "BAD_NAME")
    yield Entry("x" * 240 + ".mp4", film(25), "ok")
    yield Entry(
        "matroska.mp4", lambda path: write(path, [waves(50 + k) for k in range(40)], container_format="matroska"), "ok"
    )
    yield Entry("mp4.avi", film(26), "ok")
    yield Entry("film.dat", copy(good), "UNKNOWN_SUFFIX")
    yield Entry("no-suffix", copy(good), "UNKNOWN_SUFFIX")


def _links(store: Path, good: Path) -> Iterator[Entry]:
    yield Entry("passwd.mp4", lambda path: path.symlink_to("/etc/passwd"), "LINK_OUTSIDE")
    yield Entry("up.mp4", lambda path: path.symlink_to(os.path.relpath(good, path.parent)), "LINK_OUTSIDE")
    yield Entry("gone.mp4", lambda path: path.symlink_to("nowhere.mp4"), "NOT_A_FILE")
    yield Entry("loop.mp4", lambda path: path.symlink_to("loop.mp4"), "NOT_A_FILE")
    yield Entry("folder.mp4", lambda path: path.symlink_to("."), "NOT_A_FILE")
    yield Entry("root", lambda path: path.symlink_to("/"), "LINK_OUTSIDE")
    yield Entry("within.mp4", lambda path: path.symlink_to("good.mp4"), "DUPLICATE_OF")
    yield Entry("pipe.mp4", lambda path: os.mkfifo(path), "NOT_A_FILE")
