"""TransNet V2 is the published network: its names and shapes, its numbers; every frame is judged once."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sana_video import weights
from sana_video.video import transnet
from sana_video.video.transnet import TransNetV2, load_transnet

GOLDENS = Path(__file__).parents[2] / "goldens"
KEYS: dict[str, list[int]] = json.loads((GOLDENS / "transnetv2_keys.json").read_text())


def drawn(name: str, shape: list[int]) -> Tensor:
    """Weights for `name`: normal, seeded by the CRC of the name, of variance 2/fan-in; vectors 0.1 about 0 or 1."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return torch.tensor(normal * np.sqrt(2 / np.prod(shape[1:]))).float()
    return torch.tensor(0.1 * normal + (1.0 if name.endswith(("running_var", "bn.weight")) else 0.0)).float()


@pytest.fixture(scope="module")
def drawn_weights() -> dict[str, Tensor]:
    return {name: drawn(name, shape) for name, shape in KEYS.items()}


@pytest.fixture(scope="module")
def network(drawn_weights: dict[str, Tensor]) -> TransNetV2:
    network = TransNetV2().eval()
    network.load_state_dict(drawn_weights, strict=True)
    return network


def film(frames: int, shot: int = 23, seed: int = 7) -> np.ndarray:
    """Stills of noise, each shown for `shot` frames."""
    stills = np.random.RandomState(seed).randint(0, 256, (-(-frames // shot), 27, 48, 3)).astype(np.uint8)
    return stills[np.arange(frames) // shot]


def test_names_and_shapes_are_those_of_the_published_checkpoint() -> None:
    state = TransNetV2().state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == KEYS
    assert sum(parameter.numel() for parameter in TransNetV2().parameters()) == 7_616_258


def test_logits_equal_the_published_networks(network: TransNetV2) -> None:
    """With the same drawn weights; another padding, order of parts or shortcut moves them by more than 0.1."""
    golden = json.loads((GOLDENS / "transnetv2_logits.json").read_text())
    with torch.no_grad():
        one, many = network(torch.from_numpy(film(100)[None]))
    np.testing.assert_allclose(one[0, ::9], golden["one"], atol=2e-3)
    np.testing.assert_allclose(many[0, ::9], golden["many"], atol=2e-3)


@pytest.mark.parametrize("frames", [1, 49, 50, 51, 100, 149, 275])
def test_windows_judge_every_frame_once_and_in_order(frames: int) -> None:
    taken = [window[transnet.MARGIN : -transnet.MARGIN] for window in transnet.windows(frames)]
    assert all(len(window) == 100 for window in transnet.windows(frames))
    judged = np.concatenate(taken)[:frames]
    assert judged.tolist() == list(range(frames))


@pytest.mark.slow
def test_a_verdict_does_not_depend_on_what_is_far_away_nor_on_the_batch(network: TransNetV2) -> None:
    long = film(101)
    whole = network.predict(long)
    assert whole.shape == (101, 2) and whole.min() >= 0 and whole.max() <= 1
    np.testing.assert_allclose(network.predict(long, batch=2), whole, atol=1e-5)
    np.testing.assert_allclose(network.predict(long[:76])[:50], whole[:50], atol=1e-5)


def test_frames_of_another_size_are_refused(network: TransNetV2) -> None:
    with pytest.raises(ValueError, match="is wanted"):
        network.predict(np.zeros((4, 48, 27, 3), np.uint8))


@pytest.mark.parametrize("name", ["model.safetensors", "transnetv2-pytorch-weights.pth"])
def test_weights_load_strictly_from_both_kinds_of_file(
    tmp_path: Path, drawn_weights: dict[str, Tensor], name: str
) -> None:
    def put(tensors: dict[str, Tensor]) -> None:
        save = weights.save if name.endswith(".safetensors") else lambda path, state: torch.save(state, path)
        save(tmp_path / name, tensors)

    put(drawn_weights)
    loaded = load_transnet(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in drawn_weights.items())
    put({key: tensor for key, tensor in drawn_weights.items() if key != "cls_layer2.bias"})
    with pytest.raises(ValueError, match=r"cls_layer2\.bias"):
        load_transnet(tmp_path / name)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(weights.MissingWeights, match="transnetv2"):
        load_transnet(tmp_path)
