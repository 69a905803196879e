"""PSNR and SSIM against closed forms and against the definition written out position by position."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.metrics.fullref import K1, K2, PSNR_CAP, gaussian, mean_colour, psnr, psnr_pooled, ssim


def noise(seed: int, shape: tuple[int, ...] = (3, 16, 20, 3)) -> NDArray[np.uint8]:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, size=shape, dtype=np.uint8)


def flat(level: int) -> NDArray[np.uint8]:
    return np.full((2, 12, 14, 3), level, dtype=np.uint8)


def test_psnr_of_a_constant_shift() -> None:
    assert psnr(flat(100), flat(110)) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr_pooled(flat(100), flat(110)) == pytest.approx(20 * np.log10(255 / 10))


def test_psnr_of_a_known_error() -> None:
    reference = flat(100)
    clip = reference.copy()
    clip[:, ::2] += 20  # half of the rows are 20 off: the mean squared error is 200
    assert psnr(clip, reference) == pytest.approx(10 * np.log10(255**2 / 200))


def test_equal_frames_are_capped_and_frames_are_averaged() -> None:
    reference = flat(100)
    clip = reference.copy()
    clip[1] += 10
    assert psnr(reference, reference) == PSNR_CAP
    assert psnr(clip, reference) == pytest.approx((PSNR_CAP + 20 * np.log10(25.5)) / 2)
    assert psnr_pooled(clip, reference) == pytest.approx(10 * np.log10(255**2 / 50))


def test_mean_colour() -> None:
    clip = flat(0)
    clip[..., 1] = 200
    clip[0, ..., 2] = 100
    assert mean_colour(clip)[1, 3, 3].tolist() == [0, 200, 50]


def test_ssim_of_itself_is_one() -> None:
    assert ssim(noise(0), noise(0)) == pytest.approx(1.0, abs=1e-12)


def test_ssim_of_flat_pictures_has_a_closed_form() -> None:
    a, b = 100 / 255, 110 / 255
    assert ssim(flat(100), flat(110)) == pytest.approx((2 * a * b + K1**2) / (a * a + b * b + K1**2), abs=1e-9)


def test_ssim_is_its_definition() -> None:
    """Every window written out with its 2-D weights."""
    x, y = noise(1, (1, 13, 12, 3)), noise(2, (1, 13, 12, 3))
    weight = np.outer(gaussian().numpy(), gaussian().numpy())
    scores = []
    for i in range(3):
        for j in range(2):
            for c in range(3):
                a, b = x[0, i : i + 11, j : j + 11, c] / 255.0, y[0, i : i + 11, j : j + 11, c] / 255.0
                ma, mb = (weight * a).sum(), (weight * b).sum()
                va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
                cov = (weight * (a - ma) * (b - mb)).sum()
                scores.append((2 * ma * mb + K1**2) * (2 * cov + K2**2) / ((ma**2 + mb**2 + K1**2) * (va + vb + K2**2)))
    assert ssim(x, y) == pytest.approx(np.mean(scores), abs=1e-12)


@pytest.mark.parametrize("other", [noise(0)[:2], noise(0).astype(np.float32)])
def test_what_cannot_be_compared_is_refused(other: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="clips to compare"):
        psnr(noise(0), other)


def test_ssim_refuses_small_frames() -> None:
    with pytest.raises(ValueError, match="11x11"):
        ssim(noise(0, (1, 8, 20, 3)), noise(1, (1, 8, 20, 3)))
