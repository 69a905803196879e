"""The network against an independent implementation, its published sizes, and what it must and must not see."""

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel

from sana_video.config import SanaVideoConfig
from sana_video.model import SanaVideo

SMALL = SanaVideoConfig(in_channels=4, width=48, heads=2, depth=2, text_width=12, text_tokens=6)
PATCHED = SMALL.with_(patch_size=(1, 2, 2), origin="diffusers")

GLOBAL_NAMES = {
    "patch_embed": "patch_embedding",
    "time_embed.fc1": "time_embed.emb.timestep_embedder.linear_1",
    "time_embed.fc2": "time_embed.emb.timestep_embedder.linear_2",
    "time_modulation": "time_embed.linear",
    "text_embed.fc1": "caption_projection.linear_1",
    "text_embed.fc2": "caption_projection.linear_2",
    "text_embed.norm": "caption_norm",
    "final.linear": "proj_out",
}
BLOCK_NAMES = {
    "attn.q_norm": "attn1.norm_q",
    "attn.k_norm": "attn1.norm_k",
    "attn.out": "attn1.to_out.0",
    "cross.q_norm": "attn2.norm_q",
    "cross.k_norm": "attn2.norm_k",
    "cross.q": "attn2.to_q",
    "cross.out": "attn2.to_out.0",
    "ffn.expand": "ff.conv_inverted",
    "ffn.depth": "ff.conv_depth",
    "ffn.project": "ff.conv_point",
    "ffn.temporal": "ff.conv_temp",
}
SPLIT = {"attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"), "cross.kv": ("attn2.to_k", "attn2.to_v")}


def to_oracle(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names to diffusers'; fused projections are cut into equal row blocks."""
    renamed = {}
    for name, tensor in state.items():
        owner, leaf = name.rsplit(".", 1)
        if owner in GLOBAL_NAMES:
            renamed[f"{GLOBAL_NAMES[owner]}.{leaf}"] = tensor
        elif name == "final.table":
            renamed["scale_shift_table"] = tensor
        else:
            _, index, part = owner.split(".", 2) if leaf != "table" else (*owner.split("."), "")
            block = f"transformer_blocks.{index}"
            if leaf == "table":
                renamed[f"{block}.scale_shift_table"] = tensor
            elif part in SPLIT:
                rows = tensor.chunk(len(SPLIT[part]))
                renamed |= {f"{block}.{to}.{leaf}": piece for to, piece in zip(SPLIT[part], rows, strict=True)}
            else:
                renamed[f"{block}.{BLOCK_NAMES[part]}.{leaf}"] = tensor
    return renamed


def shaken(config: SanaVideoConfig, seed: int = 0) -> SanaVideo:
    """A model with every weight random, the zero convolutions and the unit norms included."""
    model = SanaVideo(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def oracle_of(model: SanaVideo) -> SanaVideoTransformer3DModel:
    config = model.config
    oracle = SanaVideoTransformer3DModel(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        num_layers=config.depth,
        num_cross_attention_heads=config.heads,
        cross_attention_head_dim=config.head_width,
        cross_attention_dim=config.width,
        caption_channels=config.text_width,
        mlp_ratio=config.ffn_ratio,
        patch_size=config.patch_size,
    )
    oracle.load_state_dict(to_oracle(model.state_dict()))
    return oracle


def inputs(config: SanaVideoConfig, frames: int = 5, batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, config.in_channels, frames, 4, 6, generator=generator)
    text = torch.randn(batch, config.text_tokens, config.text_width, generator=generator)
    mask = torch.ones(batch, config.text_tokens, dtype=torch.bool)
    mask[0, 4:] = False
    return latents, torch.tensor([37.0, 812.0, 500.0])[:batch], text, mask


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("patch", [1, 2])
def test_forward_agrees_with_diffusers(frames: int, patch: int) -> None:
    model = shaken(PATCHED.with_(patch_size=(1, patch, patch)))
    latents, timestep, text, mask = inputs(model.config, frames)
    theirs = oracle_of(model)(latents, text, timestep, encoder_attention_mask=mask.float()).sample
    assert relative(model(latents, timestep, text, mask), theirs) < 1e-5


def test_time_per_frame_agrees_with_time_per_token_of_diffusers() -> None:
    model = shaken(PATCHED)
    latents, _, text, mask = inputs(model.config)
    per_frame = torch.tensor([[0.0, 100, 200, 300, 999], [0.0, 5, 5, 900, 901]])
    per_token = per_frame.repeat_interleave(2 * 3, dim=1)
    theirs = oracle_of(model)(latents, text, per_token, encoder_attention_mask=mask.float()).sample
    assert relative(model(latents, per_frame, text, mask), theirs) < 1e-5


def test_gradients_agree_with_diffusers() -> None:
    model = shaken(PATCHED)
    latents, timestep, text, mask = inputs(model.config)
    oracle = oracle_of(model)
    model(latents, timestep, text, mask).square().sum().backward()
    oracle(latents, text, timestep, encoder_attention_mask=mask.float()).sample.square().sum().backward()
    ours = to_oracle({name: p.grad for name, p in model.named_parameters()})
    theirs = dict(oracle.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert relative(gradient, theirs[name].grad) < 1e-4, name


@pytest.mark.parametrize(
    ("preset", "count"),
    [("2b-480p", 2_056_862_144), ("2b-720p", 2_057_148_928), ("2b-720p-dcaev", 2_056_718_752)],
)
def test_published_sizes(preset: str, count: int) -> None:
    with torch.device("meta"):
        model = SanaVideo(SanaVideoConfig.preset(preset))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_tiny_is_small() -> None:
    model = SanaVideo(SanaVideoConfig.preset("tiny"))
    assert 1_000_000 < sum(parameter.numel() for parameter in model.parameters()) < 3_000_000


def test_fresh_weights_follow_the_seed_and_the_temporal_convolution_starts_at_zero() -> None:
    first, again, other = (SanaVideo(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])
    assert first["blocks.1.ffn.temporal.weight"].count_nonzero() == 0
    assert torch.allclose(first["text_embed.norm.weight"], torch.tensor(0.01))


def test_every_weight_learns() -> None:
    model = shaken(SMALL)
    model(*inputs(SMALL)).square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.count_nonzero() == 0]
    assert idle == []


def test_a_chunk_sees_itself_and_the_past_but_not_the_future() -> None:
    model = shaken(SMALL)
    latents, timestep, text, mask = inputs(SMALL, frames=6)
    changed = latents.clone()
    changed[:, :, 3:] += 1
    before, after = (model(x, timestep, text, mask, chunk_index=(0, 3)) for x in (latents, changed))
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.allclose(before[:, :, 3:], after[:, :, 3:])
    changed = latents.clone()
    changed[:, :, 2] += 1
    after = model(changed, timestep, text, mask, chunk_index=(0, 3))
    assert all(not torch.allclose(before[:, :, t], after[:, :, t]) for t in range(6))


def test_chunk_frames_of_the_configuration_is_the_default_chunking() -> None:
    causal, latents = shaken(SMALL.with_(chunk_frames=2)), inputs(SMALL, frames=5)
    assert torch.equal(causal(*latents), causal(*latents, chunk_index=(0, 3)))
    assert not torch.allclose(causal(*latents), causal(*latents, chunk_index=(0,)))


def test_padded_text_is_not_read() -> None:
    model = shaken(SMALL)
    latents, timestep, text, mask = inputs(SMALL)
    other = text.clone()
    other[0, 4:] = 9.0
    assert torch.equal(model(latents, timestep, text, mask), model(latents, timestep, other, mask))


def test_all_padding_is_finite() -> None:
    latents, timestep, text, mask = inputs(SMALL)
    assert torch.isfinite(shaken(SMALL)(latents, timestep, text, torch.zeros_like(mask))).all()


def test_bf16_stays_near_fp32() -> None:
    model = shaken(SMALL)
    latents, timestep, text, mask = inputs(SMALL)
    exact = model(latents, timestep, text, mask)
    rough = model.to(torch.bfloat16)(latents, timestep, text, mask)
    # bf16 keeps 8 bits: 0.4 % per rounding, some dozens of them along two blocks; a wrong cast shows as tens of percent
    assert rough.dtype == torch.bfloat16
    assert relative(rough.float(), exact) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(2, 3, 5, 4, 6)}, "3 channels"),
        ({"latents": torch.zeros(2, 4, 5, 3, 6)}, "3x6"),
        ({"latents": torch.zeros(2, 4, 1025, 2, 2)}, "1024"),
        ({"timestep": torch.zeros(3)}, r"\[3\]"),
        ({"text": torch.zeros(2, 6, 13)}, "13"),
        ({"text_mask": torch.zeros(2, 6)}, "bool"),
    ],
)
def test_wrong_shapes_are_named(change: dict[str, torch.Tensor], message: str) -> None:
    arguments = dict(zip(("latents", "timestep", "text", "text_mask"), inputs(PATCHED), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        SanaVideo(PATCHED)(**arguments)
