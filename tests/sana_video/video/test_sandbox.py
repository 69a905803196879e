"""A child that crashes, hangs, grows or goes wrong costs one call."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from films import write
from hostile import endless

from sana_video.video.probe import probe
from sana_video.video.sandbox import Sandbox


def test_answers_and_is_kept_between_calls() -> None:
    with Sandbox() as sandbox:
        assert sandbox.call("json:loads", s="[1, null]") == [1, None]
        assert sandbox.call("os:getpid") == sandbox.call("os:getpid") != os.getpid()


def test_a_crash_is_a_value_error_and_the_next_call_works() -> None:
    with Sandbox() as sandbox:
        with pytest.raises(ValueError, match=r"DECODER_CRASHED: .* signal 6"):
            sandbox.call("os:abort")
        assert sandbox.call("json:loads", s="1") == 1


def test_a_child_that_is_killed_by_chance_costs_nothing(tmp_path: Path) -> None:
    with Sandbox() as sandbox:
        assert sandbox.call("engine_work:die_once", marker=str(tmp_path / "died")) == "alive"
    assert (tmp_path / "died").exists()


def test_a_hang_is_ended_at_the_wall_clock_and_the_next_call_works() -> None:
    started = time.monotonic()
    with Sandbox(seconds=1.0) as sandbox:
        with pytest.raises(ValueError, match="DECODER_TIMEOUT"):
            sandbox.call("signal:pause")
        assert time.monotonic() - started < 5
        assert sandbox.call("json:loads", s="1") == 1


def test_memory_is_limited() -> None:
    with Sandbox(memory=1 << 28) as sandbox, pytest.raises(ValueError, match="DECODER_MEMORY"):
        sandbox.call("secrets:token_bytes", nbytes=1 << 30)


def test_a_film_that_needs_more_memory_than_allowed(tmp_path: Path) -> None:
    """45 kB hold two frames of 16 MiB."""
    black = [av.VideoFrame.from_ndarray(np.zeros((4096, 4096), np.uint8), "gray") for _ in range(2)]
    path = write(tmp_path / "a.mov", black, codec="png", options={})
    assert path.stat().st_size < 100_000
    with Sandbox(memory=12 << 20) as sandbox:
        with pytest.raises(ValueError, match=r"^DECODER_MEMORY: needs more than 12 MiB"):
            probe(path, max_pixels=1 << 28, sandbox=sandbox)
        assert sandbox.call("json:loads", s="1") == 1
    assert probe(path, max_pixels=1 << 28).width == 4096  # nothing else is wrong with it


def test_a_film_whose_index_never_ends(tmp_path: Path) -> None:
    """3 kB name twenty million frames of one byte each."""
    path = tmp_path / "a.mp4"
    endless(path)
    assert path.stat().st_size < 10_000
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"^DECODER_TIMEOUT: no answer within 1 s"):
        probe(path, max_pixels=1 << 28, seconds=1.0)
    assert time.monotonic() - started < 5


def test_a_bug_is_no_verdict_on_the_video_but_a_value_error_is() -> None:
    with Sandbox() as sandbox:
        with pytest.raises(RuntimeError, match="AttributeError"):
            sandbox.call("os:no_such_function")
        with pytest.raises(ValueError, match="Expecting"):
            sandbox.call("json:loads", s="{")


def test_the_child_ends_with_its_parent() -> None:
    program = (
        "from sana_video.video.sandbox import Sandbox; import os\n"
        "print(Sandbox().call('os:getpid'), flush=True); os._exit(1)"
    )
    child = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stdout)
    for _ in range(50):
        if not os.path.exists(f"/proc/{child}"):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} outlived its parent")
