"""A thread that takes pieces: all of them, in order, and no error of its is lost."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sana_video.video.behind import WAITING, Behind
from sana_video.video.io import Pixels
from sana_video.video.mp4 import Mp4Writer, encode_mp4


def piece(value: int) -> Pixels:
    return np.full((1, 64, 64, 3), value, np.uint8)


def test_pieces_are_taken_in_order_by_another_thread() -> None:
    taken, threads = [], set()

    def take(frames: Pixels) -> None:
        time.sleep(0.001)
        taken.append(int(frames[0, 0, 0, 0]))
        threads.add(threading.get_ident())

    with Behind(take) as behind:
        for i in range(5 * WAITING):
            behind.add(piece(i))
    assert taken == list(range(5 * WAITING))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_no_more_wait_than_allowed() -> None:
    gate, handed = threading.Event(), []

    def hand_in() -> None:
        with Behind(lambda frames: (gate.wait(), None)[1]) as behind:
            for i in range(3 * WAITING):
                behind.add(piece(i))
                handed.append(i)

    thread = threading.Thread(target=hand_in)
    thread.start()
    time.sleep(0.2)
    assert len(handed) <= WAITING + 1  # one is being taken
    gate.set()
    thread.join(10)
    assert len(handed) == 3 * WAITING


@pytest.mark.parametrize("count", [1, 4 * WAITING])
def test_an_error_reaches_the_one_who_asked(count: int) -> None:
    taken = []

    def take(frames: Pixels) -> None:
        taken.append(1)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"), Behind(take) as behind:
        for i in range(count):
            behind.add(piece(i))
    assert taken == [1]


def test_after_an_exception_what_waits_is_dropped() -> None:
    gate, taken = threading.Event(), []

    def take(frames: Pixels) -> None:
        taken.append(1)
        gate.wait()

    with pytest.raises(KeyError), Behind(take) as behind:
        for i in range(WAITING):
            behind.add(piece(i))
        threading.Timer(0.1, gate.set).start()
        raise KeyError
    assert len(taken) == 1


def test_a_film_encoded_behind_has_the_same_bytes_and_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    frames = np.concatenate([piece(9 * i) for i in range(20)])
    encode_mp4(tmp_path / "plain.mp4", frames, 16, {})
    with Mp4Writer(tmp_path / "behind.mp4", (64, 64), 16, {}) as film, Behind(film.add) as behind:
        for i in range(0, 20, 3):
            behind.add(frames[i : i + 3])
            assert not (tmp_path / "behind.mp4").exists()
    assert (tmp_path / "behind.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes()
    with (
        pytest.raises(ValueError, match="frames must be"),
        Mp4Writer(tmp_path / "wrong.mp4", (64, 64), 16, {}) as film,
        Behind(film.add) as behind,
    ):
        behind.add(frames)
        behind.add(frames[:, :32])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["behind.mp4", "plain.mp4"]
