"""UniMatch is the published network: its names and shapes, its numbers, its preprocessing."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sana_video import weights
from sana_video.video.flow import unimatch
from sana_video.video.flow.unimatch import UniMatch, load_unimatch, prepare

GOLDENS = Path(__file__).parents[3] / "goldens"
KEYS: dict[str, list[int]] = json.loads((GOLDENS / "unimatch_keys.json").read_text())


def drawn(name: str, shape: list[int]) -> Tensor:
    """Weights for `name`: normal, seeded by the CRC of the name, of variance 1/fan-in; vectors 0.1 about 0 or 1."""
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return torch.tensor(normal / np.sqrt(np.prod(shape[1:])))
    return torch.tensor(0.1 * normal + (1.0 if name.endswith("weight") else 0.0))


@pytest.fixture(scope="module")
def drawn_weights() -> dict[str, Tensor]:
    return {name: drawn(name, shape) for name, shape in KEYS.items()}


@pytest.fixture(scope="module")
def network(drawn_weights: dict[str, Tensor]) -> UniMatch:
    network = UniMatch().double().eval()
    network.load_state_dict(drawn_weights, strict=True)
    return network


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    """Two pairs of noise (2, 3, 64, 96), the second picture moved by (3, -5) and darker."""
    first = np.random.RandomState(7).uniform(0, 255, (2, 3, 64, 96))
    return torch.tensor(first), torch.tensor(np.roll(first, (3, -5), (2, 3)) * 0.9)


def test_names_and_shapes_are_those_of_the_published_checkpoint() -> None:
    state = UniMatch().state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == KEYS
    assert sum(tensor.numel() for tensor in state.values()) == 7_360_688


def test_flow_equals_the_published_networks(network: UniMatch, pictures: tuple[Tensor, Tensor]) -> None:
    """In float64, where both agree to 1e-10; a shift, a mask or a projection left out moves the flow by pixels."""
    golden = json.loads((GOLDENS / "unimatch_flow.json").read_text())
    with torch.no_grad():
        flow = network(*pictures).numpy()
    assert flow.shape == (2, 2, 64, 96)
    np.testing.assert_allclose(flow[:, :, 8::16, 8::16].ravel(), golden["every_16th"], atol=1e-6)
    length = np.hypot(flow[:, 0], flow[:, 1]).mean()
    assert (flow.mean(), flow.std(), length) == pytest.approx((golden["mean"], golden["std"], golden["length"]))


def test_a_pair_does_not_know_of_the_others_in_its_batch(network: UniMatch, pictures: tuple[Tensor, Tensor]) -> None:
    first, second = pictures
    with torch.no_grad():
        alone = network(first[1:], second[1:])
        torch.testing.assert_close(network(first, second)[1:], alone, atol=1e-7, rtol=0)


def test_pictures_are_stretched_corner_to_corner_and_portrait_ones_transposed() -> None:
    ramp = torch.arange(1153, dtype=torch.float32).clamp(max=1152) / 1152 * 255
    wide = ramp.round().to(torch.uint8)[None, None, :, None].expand(1, 700, 1153, 3)
    ready = prepare(wide)
    assert ready.shape == (1, 3, 320, 576) and ready.dtype == torch.float32
    at = torch.linspace(0, 1152, 576)  # corners on corners: pixel k shows place 1152 k / 575
    low, part = at.floor().long().clamp(max=1151), at - at.floor().clamp(max=1151)
    expected = wide[0, 0, low, 0] * (1 - part) + wide[0, 0, low + 1, 0] * part
    torch.testing.assert_close(ready[0, 0, 100], expected, atol=1e-2, rtol=0)
    assert ready.max() == 255.0
    torch.testing.assert_close(prepare(wide.transpose(1, 2)), ready)


@pytest.mark.parametrize("size", [(64, 96), pytest.param((320, 576), marks=pytest.mark.slow)])
def test_flow_of_bytes_is_the_networks_on_prepared_pictures(
    size: tuple[int, int], drawn_weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a file as published, with its wrapper, and in float32 though autocast is on; the true size is slow."""
    monkeypatch.setattr(unimatch, "SIZE", size)
    path = tmp_path / "gmflow-scale2-regrefine6-mixdata-train320x576-4e7b215d.pth"
    torch.save({"model": {name: tensor.float() for name, tensor in drawn_weights.items()}}, path)
    network = load_unimatch(tmp_path)
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    first, second = np.random.RandomState(1).randint(0, 256, (2, 1, 160, 90, 3)).astype(np.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        flow = network.flow(first, second)
    assert flow.shape == (1, 2, *size) and flow.dtype == torch.float32
    with torch.no_grad():
        expected = network(prepare(torch.tensor(first)), prepare(torch.tensor(second)))
    torch.testing.assert_close(flow, expected)


def test_what_is_not_there_or_does_not_fit_is_named(drawn_weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(weights.MissingWeights) as missing:
        load_unimatch(tmp_path)
    assert missing.value.name == "unimatch-flow"
    kept = {name: tensor.float() for name, tensor in drawn_weights.items() if name != "refine_proj.bias"}
    weights.save(tmp_path / "model.safetensors", kept)
    with pytest.raises(ValueError, match=r"does not hold the weights of this UniMatch: missing: refine_proj\.bias"):
        load_unimatch(tmp_path)
    with pytest.raises(ValueError, match=r"flow is between two \(B, H, W, 3\), not \(1, 8, 8, 3\) and \(1, 8, 9, 3\)"):
        UniMatch().flow(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="pictures of 64x90: both must be multiples of 32"):
        UniMatch()(torch.zeros(1, 3, 64, 90), torch.zeros(1, 3, 64, 90))
