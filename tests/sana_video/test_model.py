"""The network: its published sizes, what it starts from, and what it must and must not see."""

import time
from pathlib import Path

import pytest
import torch
from oracle import SMALL, inputs, shaken

from sana_video.config import SanaVideoConfig
from sana_video.model import SanaVideo

PATCHED = SMALL.with_(patch_size=(1, 2, 2))


def private_memory() -> int:
    """Bytes of this process that no file backs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    ("preset", "count"),
    [("2b-480p", 2_056_862_144), ("2b-720p", 2_057_148_928), ("2b-720p-dcaev", 2_056_718_752)],
)
def test_published_sizes_cost_nothing_on_the_meta_device(preset: str, count: int) -> None:
    before, start = private_memory(), time.perf_counter()
    with torch.device("meta"):
        model = SanaVideo(SanaVideoConfig.preset(preset))
    assert time.perf_counter() - start < 5
    assert private_memory() - before < 50 * 2**20  # the weights would take 8 GB
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert not list(model.buffers())


def test_tiny_is_small() -> None:
    model = SanaVideo(SanaVideoConfig.preset("tiny"))
    assert 1_000_000 < sum(parameter.numel() for parameter in model.parameters()) < 3_000_000


def test_fresh_weights_follow_the_seed_and_the_temporal_convolution_starts_at_zero() -> None:
    first, again, other = (SanaVideo(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])
    assert first["blocks.1.ffn.temporal.weight"].count_nonzero() == 0
    assert torch.allclose(first["text_embed.norm.weight"], torch.tensor(0.01))


def test_drawing_weights_anew_leaves_none_of_the_old() -> None:
    model, fresh = shaken(SMALL), SanaVideo(SMALL, seed=3).state_dict()
    model.init_weights(3)
    assert all(torch.equal(weight, fresh[name]) for name, weight in model.state_dict().items())


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


def test_a_float32_stream_takes_most_of_the_error_of_bf16() -> None:
    """Rounding the stream three times a block outweighs what products and norms lose: 20 blocks, as published."""
    wide = shaken(SMALL.with_(depth=20)).requires_grad_(False)
    latents, timestep, text, mask = inputs(SMALL)
    narrow = SanaVideo(wide.config)
    narrow.load_state_dict(wide.state_dict())
    narrow.bfloat16()
    wide.load_state_dict({name: weight.float() for name, weight in narrow.state_dict().items()})
    reference = wide(latents, timestep, text, mask)

    def error() -> float:
        return float((narrow(latents, timestep, text, mask).float() - reference).norm() / reference.norm())

    with torch.no_grad():
        plain = error()
        narrow.for_sampling()
        assert narrow(latents, timestep, text, mask).dtype == torch.bfloat16
        assert error() < 0.6 * plain
        wide.for_sampling()
        assert torch.equal(wide(latents, timestep, text, mask), reference)


def test_sampling_reads_the_temporal_weight_where_it_is() -> None:
    from sana_video.ops.mix_ffn import temporal

    model = SanaVideo(SMALL).requires_grad_(False)
    before, latents = model.state_dict(), inputs(SMALL)
    expected = model(*latents)
    assert model.for_sampling() is model
    assert torch.equal(model(*latents), expected)
    for block in model.blocks:
        weight = block.ffn.temporal.weight
        assert all(
            tap.untyped_storage().data_ptr() == weight.data_ptr() for tap in temporal._taps(weight, weight.dtype)
        )
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
