"""Rotations: relative, absolute over chunks, and the published split and layout."""

import math

import torch

from sana_video.rope import Rotary, rotary_tables, rotate

CPU = torch.device("cpu")
SPLIT = (40, 36, 36)


def test_angles_of_one_token_by_hand() -> None:
    rotary = rotary_tables(SPLIT, (4, 3, 5), 0, CPU)
    token = (2 * 3 + 1) * 5 + 4  # frame 2, row 1, column 4
    angles = [2 * 10000 ** (-2 * i / 40) for i in range(20)]
    angles += [1 * 10000 ** (-2 * i / 36) for i in range(18)]
    angles += [4 * 10000 ** (-2 * i / 36) for i in range(18)]
    expected = torch.tensor([math.cos(a) for a in angles]), torch.tensor([math.sin(a) for a in angles])
    torch.testing.assert_close(rotary.cos[token], expected[0])
    torch.testing.assert_close(rotary.sin[token], expected[1])


def test_adjacent_channels_turn_together() -> None:
    quarter = Rotary(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))  # first pair by 90 degrees
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    assert rotate(x, quarter).flatten().tolist() == [-2.0, 1.0, 3.0, 4.0]


def test_products_depend_on_distance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 112, generator=generator).expand(1, 60, 1, 112) for _ in range(2))
    early, late = (rotary_tables(SPLIT, (4, 3, 5), first, CPU) for first in (0, 500))
    scores = [torch.einsum("bnae,bmae->nm", rotate(q, table), rotate(k, table)) for table in (early, late)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-3)


def test_a_later_chunk_is_a_slice_of_the_whole() -> None:
    whole, part = rotary_tables(SPLIT, (6, 2, 2), 0, CPU), rotary_tables(SPLIT, (2, 2, 2), 4, CPU)
    assert torch.equal(whole.cos[16:], part.cos)
    assert torch.equal(whole.sin[16:], part.sin)


def test_late_frames_keep_their_precision() -> None:
    late = rotary_tables(SPLIT, (1, 1, 1), 1023, CPU)
    assert abs(float(late.sin[0, 0]) - math.sin(1023)) < 1e-7
