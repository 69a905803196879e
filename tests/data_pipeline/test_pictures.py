"""Pictures of clips come from a child: the same as read here, and whatever becomes of it costs clips and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_pictures import FALSE, FATAL, PICKLED

from data_pipeline.encode import Kept, decoded
from data_pipeline.pictures import clips_of
from sana_video.video.io import decode_spans
from sana_video.video.sandbox import Sandbox

SPANS = [(n * 5120, n * 5120 + 4800) for n in range(6)]  # of a time base of 12288


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, make_video: Any) -> Path:
    return Path(make_video(tmp_path_factory.mktemp("film") / "a.mp4", seconds=3, fps=24, shots=2))


@pytest.mark.parametrize("wanted", [{"size": (48, 80)}, {"short_side": 64}])
def test_they_are_the_pictures_of_one_pass(film: Path, wanted: dict[str, Any]) -> None:
    with Sandbox() as sandbox:
        found = list(clips_of(sandbox, film, SPANS, 16, [5] * 6, **wanted))
    for pictures, expected in zip(found, decode_spans(film, SPANS, 16, 5, **wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(pictures), expected)


def test_a_clip_that_kills_its_decoder_costs_itself(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Sandbox.call
    monkeypatch.setattr(Sandbox, "call", lambda self, _, **given: call(self, "faulty_pictures:leave", **given))
    with Sandbox() as sandbox:
        found = dict(zip(SPANS, clips_of(sandbox, film, SPANS, 16, [5] * 6, size=(48, 80)), strict=True))
    said = {span[0]: pictures for span, pictures in found.items() if isinstance(pictures, str)}
    assert said.keys() == {FATAL, PICKLED, FALSE}
    assert said[FATAL].startswith("DECODER_CRASHED: the decoding process ended with signal 6")
    assert said[PICKLED].startswith("DECODER_CRASHED: no pictures")
    assert said[FALSE] == "DECODER_CRASHED: pictures are uint8 (1, 2, 3, 3)"


def test_a_span_beyond_the_film_is_a_reason_and_the_rest_goes_on(film: Path) -> None:
    spans = [SPANS[0], (90 * 12288, 91 * 12288), SPANS[1]]
    with Sandbox() as sandbox:
        first, beyond, last = clips_of(sandbox, film, spans, 16, [5] * 3, short_side=64)
    assert isinstance(beyond, str) and beyond.startswith("TOO_FEW_FRAMES")
    assert not isinstance(first, str) and not isinstance(last, str)


def test_a_film_that_was_damaged_after_it_was_scored_is_named(film: Path, tmp_path: Path) -> None:
    data = film.read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    clip = Kept("a0", "a.mp4", SPANS[0], "words", 1.0, "train", (96, 160))
    with pytest.raises(RuntimeError, match=r"^clip a0 of a\.mp4 was scored but does not decode: "):
        list(decoded([clip], ((48, 80),), 5, 16, tmp_path))
    (tmp_path / "a.mp4").write_bytes(data)
    [(_, pixels)] = decoded([clip], ((48, 80),), 5, 16, tmp_path)
    assert pixels.shape == (5, 48, 80, 3)
