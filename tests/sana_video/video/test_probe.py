"""What is in a file, and every way in which it may not be a video."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import pytest

from sana_video.video.probe import describe, probe, sniff

LIMIT = 1 << 22


def test_a_good_file(tmp_path: Path, make_video: Any) -> None:
    info = probe(make_video(tmp_path / "a.mp4", seconds=2, audio=True), max_pixels=LIMIT)
    assert (info.container, info.codec, info.width, info.height, info.frames) == ("mov", "h264", 160, 96, 48)
    assert (info.fps, info.duration, info.has_audio, info.rotation) == (pytest.approx(24), pytest.approx(2), True, 0)
    assert info.pixel_format == "yuv420p"


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.ts", "a.mov", "a.mpg"])
def test_other_containers(tmp_path: Path, make_video: Any, name: str) -> None:
    codec = "mpeg2video" if name.endswith("mpg") else "libx264"
    fields = describe(str(make_video(tmp_path / name, seconds=2, codec=codec)), LIMIT)
    assert fields["duration"] == pytest.approx(2, abs=0.1) and fields["fps"] == pytest.approx(24, rel=0.05)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_is_clockwise_for_display(tmp_path: Path, make_video: Any, turn: int) -> None:
    info = probe(make_video(tmp_path / "phone.mp4", seconds=1, rotate=turn), max_pixels=LIMIT)
    assert (info.rotation, info.width, info.height) == (turn, 160, 96)
    assert info.display_size == ((160, 96) if turn != 180 else (96, 160))


def test_a_variable_rate_has_its_true_duration(tmp_path: Path, make_video: Any) -> None:
    times = [k / 30 for k in range(30)] + [1 + k / 5 for k in range(10)]
    fields = describe(str(make_video(tmp_path / "vfr.mp4", times=times)), LIMIT)
    assert fields["duration"] == pytest.approx(3.0, abs=0.2)
    assert fields["fps"] == pytest.approx(40 / 3, rel=0.08)


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "EMPTY_FILE"),
        (b"this is not a film\n" * 50, "NOT_A_VIDEO"),
        (PLAYLIST, "NOT_A_VIDEO"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "NOT_A_VIDEO"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", "NOT_A_VIDEO"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "NOT_A_VIDEO"),
        (b"\x00\x00\x00\x20ftypisom" + bytes(200), "TRUNCATED"),
    ],
)
def test_what_is_not_a_video(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{code}: "):
        describe(str(path), LIMIT)


def test_sound_alone(tmp_path: Path) -> None:
    import av
    import numpy as np

    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"^NO_VIDEO_STREAM: "):
        describe(str(path), LIMIT)
    with wave.open(str(tmp_path / "song.avi"), "wb") as wav:  # RIFF, but not AVI
        wav.setparams((1, 2, 8000, 0, "NONE", ""))
        wav.writeframes(bytes(800))
    with pytest.raises(ValueError, match=r"^NOT_A_VIDEO: "):
        sniff(tmp_path / "song.avi")


def test_one_frame(tmp_path: Path, make_video: Any) -> None:
    with pytest.raises(ValueError, match=r"^TOO_FEW_FRAMES: 1"):
        describe(str(make_video(tmp_path / "still.mp4", times=[0.0])), LIMIT)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_a_file_that_ends_too_early(tmp_path: Path, make_video: Any, name: str, kept: float) -> None:
    path = make_video(tmp_path / name, seconds=6)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ValueError, match=r"^TRUNCATED: "):
        describe(str(path), LIMIT)


def test_a_file_with_its_index_first_that_ends_too_early(tmp_path: Path) -> None:
    import numpy as np

    from sana_video.video.mp4 import encode_mp4

    noise = np.random.default_rng(0).integers(0, 255, (32, 64, 64, 3), dtype=np.uint8)
    encode_mp4(tmp_path / "a.mp4", noise, 16, {})
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(ValueError, match=r"^TRUNCATED: "):
        describe(str(tmp_path / "a.mp4"), LIMIT)


def test_huge_frames_are_refused_before_decoding(tmp_path: Path, make_video: Any) -> None:
    path = make_video(tmp_path / "wide.mp4", times=[0.0, 0.1], size=(1088, 4096))
    with pytest.raises(ValueError, match=r"^TOO_LARGE: 4096x1088"):
        probe(path, max_pixels=LIMIT)
