"""Interlaced films come out without combs, at the times of their frames; progressive ones untouched."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.filter import Graph
from films import picture, write

from sana_video.video.io import Film, iter_frames
from sana_video.video.probe import describe

HEIGHT, WIDTH, SPEED = 96, 192, 4  # pixels a field
INTERLACED = {"flags": "+ildct+ilme", "qmin": "1", "qmax": "2", "g": "12"}
CASES = [
    ("mpeg2video", INTERLACED, "a.ts"),
    ("mpeg2video", INTERLACED, "a.mpg"),
    ("libx264", {"qp": "4", "x264-params": "interlaced=1"}, "a.mp4"),
    ("libx264", {"qp": "4", "x264-params": "interlaced=1"}, "a.mkv"),
]


def bar_at(moment: float) -> np.ndarray:
    """A white bar on black, (H, W) luma, that has moved on by `moment` fields."""
    row = np.full(WIDTH, 16, np.uint8)
    left = 8 + round(moment * SPEED)
    row[left : left + 24] = 235
    return np.tile(row, (HEIGHT, 1))


def woven(count: int, top_first: bool = True) -> Iterator[av.VideoFrame]:
    """Frames, flagged as what they are, whose two fields show the bar at two moments."""
    graph = Graph()
    source = graph.add_buffer(width=WIDTH, height=HEIGHT, format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 25))
    flag = graph.add("setfield", "tff" if top_first else "bff")
    graph.link_nodes(source, flag, graph.add("buffersink")).configure()
    for k in range(count):
        luma = bar_at(2 * k)
        luma[1 if top_first else 0 :: 2] = bar_at(2 * k + 1)[::2]
        chroma = np.full((HEIGHT // 2, WIDTH // 2), 128, np.uint8)
        graph.vpush(picture([luma, chroma, chroma], "yuv420p"))
        yield graph.vpull()


def combs(luma: np.ndarray) -> float:
    """Mean absolute difference of each line from the mean of its neighbours: 0 for upright bars, high for combs."""
    lines = luma.astype(float)
    return float(np.abs(lines[1:-1] - (lines[:-2] + lines[2:]) / 2).mean())


@pytest.mark.parametrize("top_first", [True, False])
@pytest.mark.parametrize(("codec", "options", "name"), CASES)
def test_combs_are_gone_and_time_stays(
    tmp_path: Path, codec: str, options: dict[str, str], name: str, top_first: bool
) -> None:
    path = write(tmp_path / name, woven(20, top_first), codec=codec, options=options)
    fields = describe(str(path), 1 << 20)
    assert fields["interlaced"] is True and fields["fps"] == pytest.approx(25, rel=0.06)
    with av.open(str(path)) as container:
        raw = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    done = list(iter_frames(path))
    assert len(done) == len(raw) == 20
    assert np.mean([combs(frame) for frame in raw]) > 8
    assert np.mean([combs(one.luma[8:-8]) for one in done]) < 1.5
    steps = np.diff([one.pts for one in done])
    assert (steps == steps[0]).all()
    for k in range(2, 18):  # each shows the bar where its first field has it, within a pixel and a half
        middle = np.flatnonzero(done[k].luma[48] > 125).mean()
        assert abs(middle - (8 + 2 * k * SPEED + 11.5)) <= 1.5, k


def test_the_order_that_only_the_container_knows(tmp_path: Path) -> None:
    """Uncompressed fields in a mov: no frame carries a flag."""
    packed = (frame.reformat(format="uyvy422") for frame in woven(12, top_first=False))
    path = write(tmp_path / "a.mov", packed, codec="rawvideo", options={}, tags={"field_order": 3})
    assert describe(str(path), 1 << 20)["interlaced"] is True
    assert np.mean([combs(one.luma[8:-8]) for one in iter_frames(path)]) < 1.5


def test_any_entry_gives_the_same_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", woven(40), codec="mpeg2video", options=INTERLACED)
    through = list(iter_frames(path))
    for k in range(0, 40, 3):
        with Film(path) as film:
            found = film.at(through[k].pts * film.time_base)
        np.testing.assert_array_equal(found.rgb, through[k].rgb, err_msg=str(k))


def test_progressive_film_is_left_alone(tmp_path: Path, make_video: Any) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=1)
    assert describe(str(path), 1 << 20)["interlaced"] is False
    with av.open(str(path)) as container:
        raw = [frame.to_ndarray()[:96] for frame in container.decode(video=0)]
    for luma, one in zip(raw, iter_frames(path), strict=True):
        np.testing.assert_array_equal(one.luma, luma)


def test_film_that_turns_interlaced_keeps_its_progressive_part(tmp_path: Path) -> None:
    """Two recordings, one after the other in one transport stream, at rising times."""

    def still(count: int) -> Iterator[av.VideoFrame]:
        chroma = np.full((HEIGHT // 2, WIDTH // 2), 128, np.uint8)
        for k in range(count):
            yield picture([bar_at(2 * k), chroma, chroma], "yuv420p")

    options = {"qmin": "1", "qmax": "2", "bf": "0"}
    first = write(tmp_path / "1.ts", still(12), codec="mpeg2video", options=options)
    later = [Fraction(12 + k, 25) for k in range(12)]
    second = write(
        tmp_path / "2.ts", woven(12), times=later, codec="mpeg2video", options={**INTERLACED, "bf": "0"},
        time_base=Fraction(1, 25),
    )  # fmt: skip
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    alone = list(iter_frames(first))
    done = list(iter_frames(both))
    for a, b in zip(alone, done, strict=False):
        np.testing.assert_array_equal(a.rgb, b.rgb)
    assert len(done) >= 23 and np.mean([combs(one.luma[8:-8]) for one in done[12:]]) < 1.5
