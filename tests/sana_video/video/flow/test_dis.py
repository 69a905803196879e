"""Dense inverse search gives the true displacement of a texture, in pixels of the stretched picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sana_video.video.flow.dis import dis_flows


@pytest.mark.parametrize("size", [(320, 576), (160, 288), (576, 320)], ids=["full", "half", "portrait"])
def test_a_moved_texture_is_found_where_it_went(size: tuple[int, int]) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (size[0] // 8, size[1] // 8)).astype(np.uint8)
    first = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
    second = np.roll(first, (2, 4), (0, 1))  # 2 down, 4 to the right
    flow, back = dis_flows([first, second, first])
    assert flow.shape == back.shape == (2, 160, 288) and flow.dtype == np.float32 and flow.flags.c_contiguous
    scale = 2 if size == (160, 288) else 1
    expected = (2, 4) if size == (576, 320) else (4 * scale, 2 * scale)
    assert np.median(flow, (1, 2)) == pytest.approx(expected, abs=0.1)
    assert np.median(back, (1, 2)) == pytest.approx([-value for value in expected], abs=0.1)
    assert np.array_equal(flow, dis_flows([first, second])[0])
