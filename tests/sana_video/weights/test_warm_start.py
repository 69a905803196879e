"""An image network grown to video computes on each frame what it did before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sana_video import weights
from sana_video.config import SanaVideoConfig
from sana_video.model import SanaVideo

IMAGE = SanaVideoConfig(in_channels=8, width=112, heads=1, depth=2, text_width=12, text_tokens=6, ffn_ratio=2.5)
VIDEO = IMAGE.with_(in_channels=4, patch_size=(1, 2, 2), ffn_ratio=3.0)


def image_state() -> dict[str, Tensor]:
    """In official names: another patch embedding and last layer, a narrower FFN, nothing over time."""
    state = SanaVideo(IMAGE, seed=1).state_dict()
    generator = torch.Generator().manual_seed(2)
    shaken = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    named = weights.to_official(shaken, IMAGE)
    return {name: tensor for name, tensor in named.items() if ".t_conv" not in name}


def test_the_grown_network_computes_what_the_image_network_did() -> None:
    image = image_state()
    grown = SanaVideo(VIDEO)
    grown.load_state_dict(weights.grow(image, VIDEO))
    before = SanaVideo(IMAGE)
    zero = {f"blocks.{i}.mlp.t_conv.weight": torch.zeros(112, 112, 3, 1) for i in range(2)}
    before.load_state_dict(weights.from_official({**image, **zero}, IMAGE))
    x = torch.randn(3, 2, 4 * 6, 112, generator=torch.Generator().manual_seed(3))
    for old, new in zip(before.blocks, grown.blocks, strict=True):
        wanted, along_time, _ = old.ffn(x, 4, (0,), None)
        got, grown_along_time, _ = new.ffn(x, 4, (0,), None)
        assert torch.allclose(got, wanted, atol=1e-5)
        assert torch.equal(along_time, grown_along_time)  # zeros
        assert torch.equal(old.attn.qkv.weight, new.attn.qkv.weight)
        assert torch.equal(old.cross.kv.bias, new.cross.kv.bias)


def test_each_half_of_the_gate_is_filled_up_by_itself() -> None:
    image = image_state()
    state = weights.grow(image, VIDEO)
    old, new = 280, 336
    expand, was = state["blocks.1.ffn.expand.weight"], image["blocks.1.mlp.inverted_conv.conv.weight"]
    assert torch.equal(expand[:old], was[:old])
    assert torch.equal(expand[new : new + old], was[old:])
    assert expand[old:new].count_nonzero() == expand[new + old :].count_nonzero() == 0
    assert torch.equal(
        state["blocks.0.ffn.depth.bias"][new : new + old], image["blocks.0.mlp.depth_conv.conv.bias"][old:]
    )
    project = state["blocks.0.ffn.project.weight"]
    assert torch.equal(project[:, :old], image["blocks.0.mlp.point_conv.conv.weight"])
    assert project[:, old:].count_nonzero() == 0
    assert state["blocks.0.ffn.temporal.weight"].count_nonzero() == 0


def test_taps_that_are_there_stay_in_the_middle() -> None:
    tap = torch.randn(112, 112, 1, 1)
    image = image_state() | {f"blocks.{i}.mlp.t_conv.weight": tap for i in range(2)}
    temporal = weights.grow(image, VIDEO)["blocks.1.ffn.temporal.weight"]
    assert torch.equal(temporal[:, :, 1:2], tap)
    assert temporal[:, :, ::2].count_nonzero() == 0


def test_first_and_last_layer_are_drawn_from_the_seed_as_a_new_network_draws_them() -> None:
    state, again, other = (weights.grow(image_state(), VIDEO, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state["patch_embed.weight"], SanaVideo(VIDEO.with_(depth=1), seed=3).patch_embed.weight)
    assert torch.equal(state["final.linear.weight"], again["final.linear.weight"])
    assert not torch.equal(state["final.linear.weight"], other["final.linear.weight"])
    assert torch.equal(state["final.table"], image_state()["final_layer.scale_shift_table"])


def test_a_file_becomes_a_folder(tmp_path: Path) -> None:
    image = image_state()
    torch.save({"state_dict": image | {"y_embedder.y_embedding": torch.zeros(6, 12)}}, tmp_path / "SANA1.5.pth")
    done = weights.convert_image_model(tmp_path / "SANA1.5.pth", tmp_path / "video", VIDEO, seed=3)
    loaded, wanted = SanaVideo.from_pretrained(tmp_path / "video"), weights.grow(image, VIDEO, seed=3)
    assert loaded.config == VIDEO
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.state_dict().items())
    assert done["parameters"] == sum(tensor.numel() for tensor in wanted.values())


def test_the_1_6b_image_network_fits_the_2b_video_network() -> None:
    """Names and shapes of SANA1.5_1.6B_1024px: depth 20, width 2240, FFN ratio 2.5, 32 channels, no patches."""
    from sana_video.weights.warm_start import _check

    image = SanaVideoConfig.preset("2b-720p-dcaev").with_(ffn_ratio=2.5, heads=20)
    with torch.device("meta"):
        named = weights.to_official(SanaVideo(image).state_dict(), image)
    named = {name: tensor for name, tensor in named.items() if ".t_conv" not in name}
    named["x_embedder.proj.weight"] = torch.empty(2240, 32, 1, 1, device="meta")
    for preset in ("2b-480p", "2b-720p", "2b-720p-dcaev"):
        _check(named, SanaVideoConfig.preset(preset), "x")


def test_what_cannot_be_grown_is_named_in_a_line() -> None:
    image = image_state()
    del image["t_block.1.bias"]
    image["extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"missing: t_block\.1\.bias; unexpected: extra"):
        weights.grow(image, VIDEO)
    with pytest.raises(ValueError, match=r"cannot be grown: .*inverted_conv\.conv\.weight \[560, 112, 1, 1\] to \[448"):
        weights.grow(image_state(), VIDEO.with_(ffn_ratio=2.0))
    with pytest.raises(
        ValueError, match=r"cannot be grown: y_embedder\.y_proj\.fc1\.weight \[112, 12\] to \[112, 13\]"
    ):
        weights.grow(image_state(), VIDEO.with_(text_width=13))
    with pytest.raises(ValueError, match="no SANA image model"):
        weights.grow({"conv.weight": torch.zeros(1)}, VIDEO)
    with pytest.raises(ValueError, match=r"t_block\.1\.weight .*NaN"):
        weights.grow(image_state() | {"t_block.1.weight": torch.full((672, 112), float("nan"))}, VIDEO)
