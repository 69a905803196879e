"""Matching and propagation against their definitions, at the edges of the picture too."""

from __future__ import annotations

import torch
from torch import Tensor

from sana_video.video.flow.matching import Propagation, correlate, match_globally, match_locally, warp, window
from sana_video.video.flow.transformer import APART, shift_mask


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_pixels_that_are_alike_match_wherever_they_went() -> None:
    first = drawn(1, 6, 10, 64) * 9  # far enough from each other that the likest takes it all
    second = first.roll((1, 3), (1, 2))
    flow = match_globally(first, second)[0, :5, :7]
    torch.testing.assert_close(flow, torch.tensor([3.0, 1.0], dtype=flow.dtype).expand(5, 7, 2))
    near = match_locally(first, second, 3)[0, :5, :7]
    torch.testing.assert_close(near, flow)
    torch.testing.assert_close(warp(second, match_globally(first, second))[0, :5, :7], first[0, :5, :7])


def test_where_all_is_alike_the_mean_of_what_lies_inside_is_the_match() -> None:
    blank = torch.zeros(1, 12, 16, 8)
    flow = match_locally(blank, blank, 4)[0]
    torch.testing.assert_close(flow[0, 0], torch.tensor([2.0, 2.0]))  # of 0 … 4 in both directions
    torch.testing.assert_close(flow[11, 4], torch.tensor([0.0, -2.0]))
    torch.testing.assert_close(flow[6, 8], torch.zeros(2))


def test_correlation_is_the_scaled_product_with_what_lies_around_the_target() -> None:
    first, second = drawn(2, 5, 7, 8), drawn(2, 5, 7, 8)
    flow = drawn(2, 5, 7, 2) * 2
    offsets = window(2, flow)
    assert offsets[:6].tolist() == [[-2, -2], [-1, -2], [0, -2], [1, -2], [2, -2], [-2, -1]]
    slow = torch.stack([(first * warp(second, flow + offset)).sum(-1) / 8**0.5 for offset in offsets], -1)
    torch.testing.assert_close(correlate(first, second, flow, 2), slow)


def test_flow_is_propagated_to_what_looks_alike_and_zeros_lie_outside() -> None:
    attention = Propagation(4)
    flow = torch.full((1, 3, 5, 2), 9.0)
    blank = torch.zeros(1, 3, 5, 4)
    with torch.no_grad():
        for weight in attention.parameters():
            weight.zero_()
        near, whole = attention(blank, flow, 1)[0], attention(blank, flow, None)[0]
    torch.testing.assert_close(near[:, :, 0], torch.tensor([[4.0, 6, 6, 6, 4], [6, 9, 9, 9, 6], [4, 6, 6, 6, 4]]))
    torch.testing.assert_close(whole, flow[0])


def test_a_shifted_window_keeps_apart_what_the_shift_brought_together() -> None:
    mask = shift_mask(4, 4, 2, torch.zeros(()))
    assert mask.shape == (4, 4, 4)
    assert (mask[0] == 0).all()  # neighbours in the picture
    assert mask[1].tolist() == [[0, APART, 0, APART], [APART, 0, APART, 0]] * 2  # left and right of the seam
    assert (mask[3] == 0).sum() == 4  # four corners of the picture: each sees itself
