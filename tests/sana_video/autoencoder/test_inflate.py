"""Inflation: one frame through DCAE-V is one image through diffusers' AutoencoderDC; every published key has a place.

Tolerance: both compute in fp32, but a 3-D kernel's sums run over three taps (two of them zero) and in another order,
and attention is written as one formula where diffusers has two; 5e-6 of the largest value is some forty roundings, and
six times what is seen.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC
from torch import Tensor

from sana_video.autoencoder.blocks import ChunkConv, fold
from sana_video.autoencoder.config import PRESETS
from sana_video.autoencoder.dcae_v import DcaeV
from sana_video.autoencoder.inflate import (
    ImageConfig,
    from_image,
    inflate,
    inflated_config,
    inflated_state,
    over_folded,
)
from sana_video.weights import MissingWeights

# dc-ae-f32c32-sana-1.0 and 1.1: config.json of the diffusers folders; what is not named is the class's default.
SANA: dict[str, Any] = {
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
    "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
    "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 0.41407,
}
# dc-ae-f32c32-in/mix-1.0 and dc-ae-lite-f32c32-sana-1.1, where they differ.
MIX: dict[str, Any] = SANA | {
    "encoder_layers_per_block": [0, 4, 8, 2, 2, 2],
    "decoder_layers_per_block": [0, 5, 10, 2, 2, 2],
    "encoder_qkv_multiscales": [[]] * 6,
    "decoder_qkv_multiscales": [[]] * 6,
    "downsample_block_type": "pixel_unshuffle",
    "upsample_block_type": "pixel_shuffle",
    "decoder_norm_types": ["batch_norm"] * 3 + ["rms_norm"] * 3,
    "decoder_act_fns": ["relu"] * 3 + ["silu"] * 3,
}
LITE: dict[str, Any] = SANA | {
    "decoder_block_types": "ResBlock",
    "decoder_layers_per_block": [0, 3, 5, 4, 4, 4],
    "upsample_block_type": "pixel_shuffle",
    "decoder_conv_act_fn": "silu",
}


def _small(config: dict[str, Any]) -> dict[str, Any]:
    """Stages 0, 1, 3 and 5 of a published configuration, narrow, with no more than two blocks each."""
    kept = (0, 1, 3, 5)
    small = dict(config, latent_channels=4, attention_head_dim=8)
    for name, value in config.items():
        if isinstance(value, list):
            small[name] = [value[i] for i in kept]
    for side in ("encoder", "decoder"):
        small[f"{side}_block_out_channels"] = [8, 16, 16, 32]
        small[f"{side}_layers_per_block"] = [min(2, small[f"{side}_layers_per_block"][i]) for i in range(4)]
    return small


def _image_model(config: dict[str, Any]) -> Any:
    """Random, with norms and statistics that are not the identity."""
    torch.manual_seed(0)
    model = AutoencoderDC(**_small(config)).eval()
    for name, tensor in model.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model


def _config(model: Any) -> dict[str, Any]:
    return json.loads(model.to_json_string())


@pytest.fixture(scope="module", params=["sana", "mix", "lite"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, DcaeV]:
    image = _image_model({"sana": SANA, "mix": MIX, "lite": LITE}[request.param])
    return image, from_image(image.state_dict(), _config(image), temporal_depth=1, chunk=2)


@pytest.fixture(scope="module")
def film() -> Tensor:
    return torch.rand(2, 3, 9, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=5e-6 * float(theirs.abs().max()), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(48, 64), (16, 24)])  # the deepest frames have 48 and 6 positions, heads 8 channels:
def test_one_frame_is_the_image_models(  # diffusers writes attention over few positions as the quadratic form
    pair: tuple[Any, DcaeV], film: Tensor, size: tuple[int, int]
) -> None:
    image, model = pair
    picture = film[:, :, 0, : size[0], : size[1]]
    theirs = image.encode(picture).latent
    latents = model.encode(picture[:, :, None])
    assert latents.std() > 0.01  # a network that says nothing would pass for anything
    _close(latents[:, :, 0], theirs * image.config.scaling_factor)
    _close(model.decode(latents)[:, :, 0], image.decode(theirs).sample.clamp(-1, 1))
    _close(model(picture[:, :, None])[:, :, 0], image(picture).sample)


@torch.no_grad()
def test_before_training_latents_are_the_means_of_their_frames(pair: tuple[Any, DcaeV], film: Tensor) -> None:
    image, model = pair
    each = torch.stack([image.encode(frame).latent for frame in film.unbind(2)], dim=2) * image.config.scaling_factor
    latents = model.encode(film)
    _close(latents[:, :, 0], each[:, :, 0])
    _close(latents[:, :, 1], each[:, :, 1:5].mean(2))
    _close(latents[:, :, 2], each[:, :, 5:9].mean(2))
    shown = model.decode(latents)
    _close(shown[:, :, 1:5], shown[:, :, 1:2].expand(-1, -1, 4, -1, -1))


def test_a_film_streams(pair: tuple[Any, DcaeV], film: Tensor) -> None:
    _, model = pair
    latents = model.encode(film)
    _close(torch.cat(list(model.encode_stream(film.split([2, 3, 4], dim=2))), dim=2), latents)
    _close(torch.cat(list(model.decode_stream(latents.split([2, 1], dim=2))), dim=2), model.decode(latents))


def test_all_of_it_learns(film: Tensor) -> None:
    image = _image_model(SANA)
    model = from_image(image.state_dict(), _config(image), temporal_depth=1, chunk=2)
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(2):  # what starts at zero hides what lies behind it from the first step
        optimiser.zero_grad()
        (model(film[:1, :, :5]) - film[:1, :, :5]).square().mean().backward()
        optimiser.step()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert dead == []


def test_a_diffusers_folder_is_read_and_kept_as_ours(film: Tensor, tmp_path: Path) -> None:
    image = _image_model(SANA)
    image.save_pretrained(tmp_path / "image")
    model = from_image(tmp_path / "image", chunk=2)
    model.save_pretrained(tmp_path / "video")
    loaded = DcaeV.from_pretrained(tmp_path / "video")
    assert torch.equal(loaded.encode(film[:, :, :5]), model.encode(film[:, :, :5]))


@pytest.mark.parametrize(("config", "parameters"), [(SANA, 312_250_275), (MIX, None), (LITE, None)])
def test_every_key_of_the_published_shapes_has_its_place(config: dict[str, Any], parameters: int | None) -> None:
    with torch.device("meta"):
        theirs = AutoencoderDC(**config)
        image = ImageConfig.model_validate(_config(theirs))
        ours = inflated_config(image)
        model = DcaeV(ours)
        tensors = inflated_state(theirs.state_dict(), image, ours)
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert parameters is None or sum(p.numel() for p in theirs.parameters()) == parameters
    assert ours.stride == (4, 32, 32)


def test_the_preset_is_the_published_model_inflated() -> None:
    assert inflated_config(ImageConfig.model_validate(SANA)) == PRESETS["inflated"]
    with torch.device("meta"):
        assert sum(p.numel() for p in DcaeV(PRESETS["inflated"]).parameters()) == 794_175_523


@pytest.mark.parametrize("fold_after", [True, False])
def test_a_halving_convolution_is_one_over_folded_pixels(fold_after: bool) -> None:
    torch.manual_seed(0)
    kernel, x = torch.randn(5, 3, 3, 3), torch.randn(2, 3, 8, 12)
    phases = [(0, 0), (0, 1), (1, 0), (1, 1)] if fold_after else [(0, 0)]
    theirs = torch.nn.functional.conv2d(x, kernel, stride=1 if fold_after else 2, padding=1)
    if fold_after:
        theirs = torch.nn.functional.pixel_unshuffle(theirs, 2)
    folded = fold(x[:, :, None], (1, 2, 2))[:, :, 0]
    ours = torch.nn.functional.conv2d(folded, over_folded(kernel, phases), padding=1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_an_inflated_kernel_keeps_frames_apart() -> None:
    torch.manual_seed(0)
    kernel, film = torch.randn(5, 3, 3, 3), torch.randn(1, 3, 4, 6, 8)
    conv = ChunkConv(3, 5)
    conv.load_state_dict({"weight": inflate(kernel), "bias": torch.zeros(5)})
    with torch.no_grad():
        out = conv(film, {})
    for i in range(4):
        wanted = torch.nn.functional.conv2d(film[:, :, i], kernel, padding=1)
        torch.testing.assert_close(out[:, :, i], wanted, atol=1e-5, rtol=0)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    image = _image_model(SANA)
    state, config = dict(image.state_dict()), _config(image)
    weight = state.pop("decoder.conv_in.weight")
    with pytest.raises(ValueError, match=r"missing \['decoder.conv_in.weight'\]; unexpected \['extra'\]"):
        from_image(state | {"extra": weight}, config)
    with pytest.raises(ValueError, match=r"decoder.stem.weight \[32, 4, 3, 3, 1\]"):
        from_image(state | {"decoder.conv_in.weight": weight[..., :1]}, config)
    with pytest.raises(ValueError, match=r"not finite: decoder.stem.weight"):
        from_image(state | {"decoder.conv_in.weight": weight * float("nan")}, config)
    with pytest.raises(ValueError, match=r"stage 0 has blocks \('ResBlock', 'layer_norm', 'silu'\)"):
        from_image(state, config | {"decoder_norm_types": "layer_norm"})
    with pytest.raises(ValueError, match="latent_channels is 'many'"):
        from_image(state, config | {"latent_channels": "many"})
    with pytest.raises(MissingWeights, match="dc-ae-f32c32"):
        from_image(tmp_path)
    image.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(ValueError, match="AutoencoderKL"):
        from_image(tmp_path)
