"""DCAE-V: what its place in the house rests on, that is images are clips, prefixes hold, streams equal the whole."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sana_video.autoencoder import AutoencoderParams, load_autoencoder
from sana_video.autoencoder.blocks import ChunkConv, LinearShortcut, fold, regroup, unfold
from sana_video.autoencoder.dcae_v import PRESETS, DcaeV, DcaeVConfig, reconstruction_loss

EXACT = {"atol": 2e-5, "rtol": 1e-5}  # fp32; the order of sums differs between kernels


def _awake(config: DcaeVConfig) -> DcaeV:
    """A model whose weights all matter: heads off zero, a normalisation that is not the identity."""
    torch.manual_seed(0)
    model = DcaeV(config)
    for head in (model.encoder.head, model.decoder.head):
        nn.init.normal_(head.weight, std=0.05)
    model.set_normalisation(
        torch.linspace(-1, 1, config.latent_channels), torch.linspace(0.5, 2, config.latent_channels)
    )
    return model.eval()


# The published shape (time folded last, no linear shortcut) in miniature, and the small preset itself.
LATE_TIME = DcaeVConfig(
    latent_channels=8,
    chunk=2,
    patch=(1, 2, 2),
    widths=(16, 16, 32),
    depths=(1, 1, 1),
    strides=((1, 2, 2), (4, 1, 1)),
    linear_shortcut=False,
)


@pytest.fixture(scope="module", params=["small", "late time"])
def model(request: pytest.FixtureRequest) -> DcaeV:
    return _awake(PRESETS["small"] if request.param == "small" else LATE_TIME)


@pytest.fixture(scope="module")
def video() -> Tensor:
    return torch.rand(2, 3, 17, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shapes(model: DcaeV, video: Tensor) -> None:
    _, h, w = model.stride
    latents = model.encode(video)
    assert latents.shape == (2, model.latent_channels, 5, 32 // h, 48 // w)
    assert model.latent_frames(17) == 5
    decoded = model.decode(latents)
    assert decoded.shape == video.shape and decoded.abs().max() <= 1


def test_an_image_is_a_one_frame_clip(model: DcaeV, video: Tensor) -> None:
    latents = model.encode(video)
    torch.testing.assert_close(model.encode(video[:, :, :1]), latents[:, :, :1], **EXACT)
    torch.testing.assert_close(model.decode(latents[:, :, :1]), model.decode(latents)[:, :, :1], **EXACT)


def test_a_prefix_that_ends_with_a_chunk_has_the_prefix_of_the_latents(model: DcaeV, video: Tensor) -> None:
    latents = model.encode(video)
    torch.testing.assert_close(model.encode(video[:, :, :9]), latents[:, :, :3], **EXACT)
    torch.testing.assert_close(model.decode(latents[:, :, :3]), model.decode(latents)[:, :, :9], **EXACT)


def test_a_chunk_reads_the_one_before_it_and_never_the_one_after(model: DcaeV, video: Tensor) -> None:
    changed = video.clone()
    changed[:, :, 8] = 0.3  # the last frame of the second chunk
    differs = (model.encode(video) != model.encode(changed)).any(dim=4).any(dim=3).any(dim=1).all(dim=0)
    assert differs.tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("pieces", [[1] * 17, [3, 7, 7], [17]])
def test_encoding_a_stream_equals_encoding_the_whole(model: DcaeV, video: Tensor, pieces: list[int]) -> None:
    streamed = torch.cat(list(model.encode_stream(video.split(pieces, dim=2))), dim=2)
    torch.testing.assert_close(streamed, model.encode(video), **EXACT)


@pytest.mark.parametrize("pieces", [[1] * 5, [2, 3], [4, 1]])
def test_decoding_a_stream_equals_decoding_the_whole(model: DcaeV, video: Tensor, pieces: list[int]) -> None:
    latents = model.encode(video)
    streamed = torch.cat(list(model.decode_stream(latents.split(pieces, dim=2))), dim=2)
    torch.testing.assert_close(streamed, model.decode(latents), **EXACT)


def test_a_still_film_is_its_image_repeated(model: DcaeV, video: Tensor) -> None:
    still = video[:, :, :1].expand(-1, -1, 9, -1, -1)
    latents = model.encode(still)
    torch.testing.assert_close(latents, latents[:, :, :1].expand_as(latents), atol=1e-4, rtol=1e-4)


def _definition(conv: ChunkConv, x: Tensor, ends: list[int]) -> Tensor:
    """Chunk-causal convolution said frame by frame over the whole film: three 2-D taps and the neighbours they read."""
    frames = []
    for i in range(x.shape[2]):
        after = i if i + 1 in ends else i + 1
        taps = zip((max(i - 1, 0), i, after), conv.weight.unbind(2), strict=True)
        frames.append(sum(torch.nn.functional.conv2d(x[:, :, j], weight, padding=1) for j, weight in taps))
    return torch.stack(frames, dim=2) + conv.bias.view(-1, 1, 1, 1)


@pytest.mark.parametrize("batch", [1, 2])
def test_convolution_equals_its_definition_with_gradients(batch: int) -> None:
    torch.manual_seed(0)
    conv, x = ChunkConv(3, 5), torch.randn(batch, 3, 7, 6, 8, requires_grad=True)
    memory: dict[nn.Module, Tensor] = {}
    chunked = torch.cat([conv(chunk, memory) for chunk in x.split([1, 2, 2, 2], dim=2)], dim=2)
    whole = _definition(conv, x, [1, 3, 5, 7])
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(whole)
    for ours, wanted in zip(
        torch.autograd.grad((chunked * weights).sum(), [x, conv.weight]),
        torch.autograd.grad((whole * weights).sum(), [x, conv.weight]),
        strict=True,
    ):
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)


def test_memory_is_one_frame_per_convolution_however_long_the_film(video: Tensor) -> None:
    model = _awake(LATE_TIME)
    sizes = []
    for chunks in (2, 8):
        memory: dict[nn.Module, Tensor] = {}
        for _ in range(chunks):
            model.encoder(video[:, :, :8], memory)
        sizes.append(sum(kept.untyped_storage().nbytes() for kept in memory.values()))
    assert sizes[0] == sizes[1] and all(kept.shape[2] == 1 for kept in memory.values())


def test_regroup_takes_pieces_of_any_length() -> None:
    film = torch.arange(12.0).view(1, 1, 12, 1, 1)
    groups = list(regroup(film.split([5, 1, 6], dim=2), 4))
    assert [group.shape[2] for group in groups] == [1, 4, 4, 3]
    assert torch.equal(torch.cat(groups, dim=2), film)


def test_fold_and_unfold_are_inverse() -> None:
    x = torch.randn(2, 3, 4, 8, 6)
    assert torch.equal(unfold(fold(x, (2, 4, 3)), (2, 4, 3)), x)


def test_linear_shortcut_inverts_what_lies_in_its_rows() -> None:
    torch.manual_seed(0)
    shortcut = LinearShortcut(16, (4, 16, 16))
    latents = torch.randn(1, 16, 2, 1, 3)
    torch.testing.assert_close(shortcut.analyse(shortcut.synthesise(latents)), latents, atol=1e-5, rtol=0)


def test_small_starts_as_its_linear_shortcut_and_training_improves_it() -> None:
    torch.manual_seed(0)
    model = DcaeV(PRESETS["small"])
    axis = torch.linspace(0, 12, 32)
    waves = torch.sin(axis[None, :] * axis[:, None] / 6 + torch.arange(5.0)[:, None, None] / 3)
    video = waves.expand(2, 3, 5, 32, 32)
    shortcut = model.shortcut
    assert shortcut is not None
    first = shortcut.synthesise(shortcut.analyse(video[:, :, 1:]))
    torch.testing.assert_close(model(video)[:, :, 1:], first, atol=1e-5, rtol=0)

    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = reconstruction_loss(model(video), video)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_loss_is_zero_for_the_target_and_sees_motion() -> None:
    target = torch.rand(1, 3, 5, 8, 8)
    assert reconstruction_loss(target, target) == 0
    flicker = target + 0.1 * torch.tensor([1.0, -1, 1, -1, 1]).view(5, 1, 1)
    assert reconstruction_loss(flicker, target) > reconstruction_loss(target + 0.1, target)
    assert torch.isfinite(reconstruction_loss(target[:, :, :1] * 0.5, target[:, :, :1]))


def test_normalisation_is_applied_both_ways(video: Tensor) -> None:
    model = DcaeV(LATE_TIME)
    raw, decoded = model.encode(video), model.decode(model.encode(video))
    model.set_normalisation(raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4)))
    latents = model.encode(video)
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(model.decode(latents), decoded, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"channels \[2\]"):
        model.set_normalisation(torch.zeros(8), torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 1]))


def test_save_and_load(model: DcaeV, video: Tensor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "autoencoder")
    loaded = load_autoencoder(tmp_path / "autoencoder")
    assert loaded.stride == model.stride and loaded.latent_channels == model.latent_channels
    assert torch.equal(loaded.encode(video), model.encode(video))


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_autoencoder(tmp_path)
    config = tmp_path / "config.json"
    config.write_text("not json")
    with pytest.raises(ValueError, match="not a model's configuration"):
        load_autoencoder(tmp_path)
    config.write_text(json.dumps({"kind": "sana-video"}))
    with pytest.raises(ValueError, match="sana-video"):
        load_autoencoder(tmp_path)
    config.write_text(LATE_TIME.model_dump_json())
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize(("frames", "nearest"), [(0, "1 or 5"), (16, "13 or 17"), (18, "17 or 21")])
def test_frame_counts_off_the_rule_name_the_nearest(model: DcaeV, frames: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"{frames} frames .* take {nearest}"):
        model.latent_frames(frames)


def test_sizes_off_the_stride_and_broken_streams_are_refused(video: Tensor) -> None:
    model = DcaeV(PRESETS["small"])
    with pytest.raises(ValueError, match=r"width 40 .* 32 or 48"):
        model.encode(video[..., :40])
    with pytest.raises(ValueError, match="16 frames"):
        list(model.encode_stream([video[:, :, :16]]))


def test_presets_have_their_published_strides() -> None:
    assert PRESETS["small"].stride == (4, 16, 16) and PRESETS["small"].latent_channels == 16
    assert PRESETS["full"].stride == (4, 32, 32) and PRESETS["full"].latent_channels == 32
    with torch.device("meta"):
        full = DcaeV(PRESETS["full"])
    assert full.encode(torch.empty(1, 3, 5, 64, 96, device="meta")).shape == (1, 32, 2, 2, 3)
    assert full.decode(torch.empty(1, 32, 2, 2, 3, device="meta")).shape == (1, 3, 5, 64, 96)
    assert AutoencoderParams(preset="full").preset in PRESETS


def test_inconsistent_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="stride"):
        DcaeVConfig(**{**LATE_TIME.model_dump(), "depths": (1, 1)})
    with pytest.raises(ValueError, match="chunk 0"):
        DcaeVConfig(**{**LATE_TIME.model_dump(), "chunk": 0})
