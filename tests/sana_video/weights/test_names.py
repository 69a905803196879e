"""Every weight has one name in each layout, and every way back gives the same bits."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel
from torch import Tensor

from sana_video import weights
from sana_video.config import SanaVideoConfig
from sana_video.model import SanaVideo
from sana_video.weights import names
from sana_video.weights.diffusers import dump_config

# the published checkpoint, written down here by hand: an owner and what it holds
OUTSIDE = """x_embedder.proj wb|t_embedder.mlp.0 wb|t_embedder.mlp.2 wb|t_block.1 wb|y_embedder.y_proj.fc1 wb
y_embedder.y_proj.fc2 wb|attention_y_norm w|final_layer.linear wb"""
BLOCK = """attn.qkv w|attn.q_norm w|attn.k_norm w|attn.proj wb|cross_attn.q_linear wb|cross_attn.kv_linear wb
cross_attn.q_norm w|cross_attn.k_norm w|cross_attn.proj wb|mlp.inverted_conv.conv wb|mlp.depth_conv.conv wb
mlp.point_conv.conv w|mlp.t_conv w"""
LEAVES = {"w": ["weight"], "wb": ["weight", "bias"]}


def published(text: str, prefix: str = "") -> set[str]:
    pairs = [entry.split() for entry in text.replace("\n", "|").split("|")]
    return {f"{prefix}{owner}.{leaf}" for owner, held in pairs for leaf in LEAVES[held]}


def meta(config: SanaVideoConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return SanaVideo(config).state_dict()


@pytest.mark.parametrize("preset", ["2b-480p", "2b-720p", "2b-720p-dcaev"])
def test_the_official_names_of_the_2b_network_are_the_published_ones(preset: str) -> None:
    config = SanaVideoConfig.preset(preset)
    state = weights.to_official(meta(config), config)
    wanted = published(OUTSIDE) | {"final_layer.scale_shift_table"}
    for i in range(20):
        wanted |= published(BLOCK, f"blocks.{i}.") | {f"blocks.{i}.scale_shift_table"}
    assert state.keys() == wanted
    assert weights.from_official(state).keys() == meta(config).keys()


@pytest.mark.parametrize("preset", ["2b-480p", "2b-720p", "2b-720p-dcaev"])
def test_every_name_and_shape_of_diffusers_2b_network_is_met(preset: str) -> None:
    config = SanaVideoConfig.preset(preset)
    with torch.device("meta"):
        oracle = SanaVideoTransformer3DModel.from_config(json.loads(dump_config(config)))
    theirs = oracle.state_dict()
    ours = weights.to_diffusers(meta(config), config)
    assert len(theirs) == 496
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}
    back = weights.from_diffusers(ours)
    assert {name: t.shape for name, t in back.items()} == {name: t.shape for name, t in meta(config).items()}


def test_official_to_ours_to_official_is_the_identity(official: dict[str, Tensor]) -> None:
    again = weights.to_official(weights.from_official(official))
    assert again.keys() == official.keys()
    assert "y_embedder.y_embedding" in again
    assert all(again[name] is official[name] for name in official)


def test_ours_to_diffusers_to_ours_is_the_identity_but_for_the_null_prompt(official: dict[str, Tensor]) -> None:
    ours = weights.from_official(official)
    back = weights.from_diffusers(weights.to_diffusers(ours))
    assert ours.keys() - back.keys() == {"null_embedding"}
    assert all(torch.equal(back[name], ours[name]) for name in back)


def test_fused_rows_are_queries_keys_values_in_this_order(model: SanaVideo) -> None:
    state = weights.to_diffusers(model.state_dict())
    fused = model.blocks[1].attn.qkv.weight
    for i, part in enumerate(("to_q", "to_k", "to_v")):
        assert torch.equal(state[f"transformer_blocks.1.attn1.{part}.weight"], fused[112 * i : 112 * (i + 1)])
    assert torch.equal(state["transformer_blocks.0.attn2.to_v.bias"], model.blocks[0].cross.kv.bias[112:])


def test_official_leftovers_are_dropped(official: dict[str, Tensor], model: SanaVideo) -> None:
    extra = {
        "pos_embed": torch.zeros(1, 9, 112),
        "logvar_linear.weight": torch.zeros(1),
        "logvar_linear.bias": torch.zeros(1),
    }
    ours = weights.from_official({**official, **extra})
    assert ours.keys() == {*model.state_dict(), "null_embedding"}


def test_the_configuration_follows_from_shapes() -> None:
    for preset in ("2b-480p", "2b-720p", "2b-720p-dcaev"):
        config = SanaVideoConfig.preset(preset)
        assert names.infer(weights.to_official(meta(config)), "official", "x") == config
        assert names.infer(weights.to_diffusers(meta(config)), "diffusers", "x") == config.with_(origin="diffusers")


def test_an_inferred_width_of_the_ffn_is_exact() -> None:
    state = {
        "patch_embed.weight": torch.empty(112, 4, 1, 2, 2, device="meta"),
        "text_embed.fc1.weight": torch.empty(112, 12, device="meta"),
    }
    for hidden in range(1, 400):
        state["blocks.0.ffn.expand.weight"] = torch.empty(2 * hidden, 112, 1, 1, device="meta")
        assert names.infer(state, "ours", "x").ffn_width == hidden


def test_all_faults_are_named_in_one_line(official: dict[str, Tensor]) -> None:
    del official["blocks.1.cross_attn.kv_linear.bias"]
    official["blocks.0.attn.q_norm.weight"] = torch.zeros(5)
    official["head.weight"] = torch.zeros(3)
    official["t_block.1.bias"] = official["t_block.1.bias"].to(torch.int8)
    official["y_embedder.y_embedding"] = torch.zeros(6, 13)
    with pytest.raises(ValueError, match="of this SanaVideo") as caught:
        weights.from_official(official)
    message = str(caught.value)
    assert "missing: blocks.1.cross_attn.kv_linear.bias;" in message
    assert "unexpected: head.weight;" in message
    assert "wrong shape: blocks.0.attn.q_norm.weight [5] instead of [112], y_embedder.y_embedding [6, 13]" in message
    assert "not floating point: t_block.1.bias" in message
    assert "\n" not in message


def test_what_the_inference_looks_at_is_named_with_the_rest(official: dict[str, Tensor]) -> None:
    for name in ("x_embedder.proj.weight", "final_layer.linear.bias"):
        del official[name]
    with pytest.raises(ValueError, match=r"missing: x_embedder.proj.weight, final_layer.linear.bias$"):
        weights.from_official(official)


def test_a_flat_patch_embedding_is_told(official: dict[str, Tensor]) -> None:
    official["x_embedder.proj.weight"] = torch.zeros(112, 4, 2, 2)
    with pytest.raises(ValueError, match=r"of another rank: x_embedder.proj.weight \[112, 4, 2, 2\]"):
        weights.from_official(official)


def test_another_network_is_refused(official: dict[str, Tensor], config: SanaVideoConfig) -> None:
    with pytest.raises(ValueError, match=r"no SANA-Video network: none of its 1 tensors .*conv1.weight"):
        weights.from_official({"conv1.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="no SANA-Video network"):
        weights.from_official({})
    with pytest.raises(ValueError, match=r"unexpected: blocks\.1"):
        weights.from_official(official, config.with_(depth=1))
    image = {name: tensor for name, tensor in official.items() if ".t_conv" not in name}
    with pytest.raises(ValueError, match="an image model; a warm start"):
        weights.from_official(image)


def test_a_width_of_other_heads_needs_a_configuration() -> None:
    config = SanaVideoConfig(in_channels=4, width=48, heads=2, depth=1, text_width=12, text_tokens=6)
    state = SanaVideo(config).state_dict()
    with pytest.raises(ValueError, match="width 48 is no multiple of 112; give its configuration"):
        weights.to_official(state)
    assert weights.from_official(weights.to_official(state, config), config).keys() == state.keys()
