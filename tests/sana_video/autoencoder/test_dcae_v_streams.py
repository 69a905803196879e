"""DCAE-V in use: both frame rules, every kind of block, streams against the whole, tiles, lower precision."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sana_video.autoencoder import load_autoencoder
from sana_video.autoencoder.blocks import ChunkConv
from sana_video.autoencoder.config import PRESETS, DcaeVConfig, Stages
from sana_video.autoencoder.dcae_v import DcaeV

EXACT = {"atol": 2e-5, "rtol": 1e-5}  # fp32; the order of sums differs between kernels


def _narrow(stages: dict[str, object], by: int) -> dict[str, object]:
    widths, depths = stages["widths"], stages["depths"]
    assert isinstance(widths, tuple) and isinstance(depths, tuple)
    return stages | {"widths": tuple(w // by for w in widths), "depths": tuple(min(d, 1) for d in depths)}


def _miniature(preset: str, by: int) -> DcaeVConfig:
    """The preset's stages, strides and kinds of block, narrow and one block deep, in chunks of 2."""
    fields = _narrow(PRESETS[preset].model_dump(), by) | {"latent_channels": 4, "chunk": 2, "head_width": 8}
    if isinstance(decoder := fields["decoder"], dict):
        fields["decoder"] = Stages.model_validate(_narrow(decoder, by))
    return DcaeVConfig.model_validate(fields)


SHAPES = {
    "small": PRESETS["small"],
    "full": _miniature("full", 32),
    "inflated": _miniature("inflated", 16),
}


def _awake(config: DcaeVConfig) -> DcaeV:
    """A model whose weights all matter."""
    torch.manual_seed(0)
    model = DcaeV(config)
    for head in (model.encoder.head, model.decoder.head):
        nn.init.normal_(head.weight, std=0.05)
    model.set_normalisation(torch.linspace(-1, 1, model.latent_channels), torch.linspace(0.5, 2, model.latent_channels))
    return model.eval()


@pytest.fixture(scope="module", params=[(shape, rule) for shape in SHAPES for rule in ("4k+1", "4k")], ids="-".join)
def model(request: pytest.FixtureRequest) -> DcaeV:
    shape, rule = request.param
    return _awake(SHAPES[shape].model_copy(update={"first_frame_alone": rule == "4k+1"}))


@pytest.fixture(scope="module")
def film() -> Tensor:
    return torch.rand(1, 3, 25, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _clip(model: DcaeV, film: Tensor) -> Tensor:
    """24 or 25 frames: three chunks of two latents, and one latent before them where a first frame stands alone."""
    return film if model.images else film[:, :, :24]


def test_shapes_and_rule(model: DcaeV, film: Tensor) -> None:
    video = _clip(model, film)
    latents = model.encode(video)
    _, h, w = model.stride
    assert latents.shape == (1, model.latent_channels, 6 + model.images, 32 // h, 64 // w)
    decoded = model.decode(latents)
    assert decoded.shape == video.shape and decoded.dtype == latents.dtype == torch.float32


@pytest.mark.parametrize("size", [1, 3, 7, 10])
def test_encoding_a_stream_equals_encoding_the_whole(model: DcaeV, film: Tensor, size: int) -> None:
    video = _clip(model, film)
    streamed = list(model.encode_stream(video.split(size, dim=2)))
    assert max(latents.shape[2] for latents in streamed) <= model.config.chunk
    torch.testing.assert_close(torch.cat(streamed, dim=2), model.encode(video), **EXACT)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_decoding_a_stream_equals_decoding_the_whole(model: DcaeV, film: Tensor, size: int) -> None:
    latents = model.encode(_clip(model, film))
    streamed = list(model.decode_stream(latents.split(size, dim=2)))
    assert max(pixels.shape[2] for pixels in streamed) <= 4 * model.config.chunk
    torch.testing.assert_close(torch.cat(streamed, dim=2), model.decode(latents), **EXACT)


def test_a_still_film_is_one_image_repeated(model: DcaeV, film: Tensor) -> None:
    still = _clip(model, film[:, :, :1].expand(-1, -1, 25, -1, -1))
    latents = model.encode(still)
    torch.testing.assert_close(latents, latents[:, :, :1].expand_as(latents), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("frames", "nearest"), [(0, "take 4$"), (1, "take 4$"), (17, "16 or 20"), (19, "16 or 20")])
def test_the_plain_rule_names_the_nearest_counts(frames: int, nearest: str) -> None:
    with torch.device("meta"):
        plain = DcaeV(SHAPES["full"].model_copy(update={"first_frame_alone": False}))
    assert not plain.images and plain.latent_frames(40) == 10
    with pytest.raises(ValueError, match=rf"{frames} frames .*4k, no image alone.* {nearest}"):
        plain.latent_frames(frames)
    with pytest.raises(ValueError, match=f"{frames} frames"):
        plain.encode(torch.empty(1, 3, frames, 32, 32, device="meta"))


def test_what_is_kept_between_chunks_does_not_grow(model: DcaeV) -> None:
    sizes = []
    for chunks in (1, 5):
        memory: dict[nn.Module, Tensor] = {}
        for _ in range(chunks):
            model.decoder(torch.randn(1, model.latent_channels, 2, 2, 2), memory)
        sizes.append(sum(kept.untyped_storage().nbytes() for kept in memory.values()))
    assert sizes[0] == sizes[1] and all(kept.shape[2] == 1 for kept in memory.values())


def _largest(model: DcaeV, latents: Tensor) -> int:
    """Elements of the largest result of a convolution while `latents` are decoded one by one."""
    sizes: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: sizes.append(out.numel()))
        for layer in model.modules()
        if isinstance(layer, ChunkConv | nn.Conv2d)
    ]
    for _ in model.decode_stream(latents.split(1, dim=2)):
        pass
    for hook in hooks:
        hook.remove()
    return max(sizes)


def test_what_is_computed_at_once_is_a_chunk_and_with_tiles_a_tile_of_it(model: DcaeV) -> None:
    def latents(frames: int, width: int) -> Tensor:
        return torch.randn(1, model.latent_channels, frames, 2, width)

    assert _largest(model, latents(3, 2)) == _largest(model, latents(6, 2))
    small = _largest(model, latents(3, 2))
    model.tile(2 * model.stride[1])
    tiled = _largest(model, latents(3, 4))
    model.tile(None)
    assert tiled == small


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles(shape: str, film: Tensor) -> None:
    model = _awake(SHAPES[shape])
    side = model.stride[1]
    video = film[:, :, :9].repeat(1, 1, 1, side // 16, 2 * side // 16)
    whole, shown = model.encode(video), model.decode(model.encode(video))
    model.tile(max(video.shape[3:]))
    assert torch.equal(model.encode(video), whole)  # one tile that holds all is no tile
    model.tile(4 * side)
    latents = model.encode(video)
    decoded = model.decode(whole)
    streamed = torch.cat(list(model.decode_stream(whole.split(3, dim=2))), dim=2)
    torch.testing.assert_close(streamed, decoded, **EXACT)  # each tile has kept its own memory
    assert latents.shape == whole.shape and decoded.shape == shown.shape
    # Random weights see far, and attention all of a tile of four latents: 0.02 to 0.12 of the variance is seen here.
    assert (latents - whole).square().mean() < 0.2 * whole.var()
    assert (decoded - shown).square().mean() < 0.2 * shown.var()


@pytest.mark.parametrize("pixels", [16, 48, 0, -64])
def test_tiles_that_do_not_fit_are_refused(pixels: int) -> None:
    with torch.device("meta"):
        model = DcaeV(SHAPES["full"])
    with pytest.raises(ValueError, match=f"tile of {pixels} pixels .* multiple of 32"):
        model.tile(pixels)


def _pieces(video: Tensor) -> Iterator[Tensor]:
    yield from video.double().split(5, dim=2)


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_takes_any_input_and_gives_float32_close_to_fp32(shape: str, film: Tensor) -> None:
    """bf16 rounds to 2^-9 relative. Every weight and every result of a layer is rounded once; such errors add like a
    random walk over the some 100 roundings in a row of the deepest of these: 2^-9 · sqrt(100) = 0.02 of the signal, and
    up to three times that where norms and attention quotients magnify a difference (0.037 is seen). The normalisation
    is computed in fp32 throughout."""
    model = _awake(SHAPES[shape])
    wanted = model.encode(film)
    shown = model.decode(wanted)
    model.to(dtype=torch.bfloat16)
    latents = model.encode(film)
    assert latents.dtype == torch.float32
    assert (latents - wanted).std() < 0.06 * wanted.std()
    decoded = model.decode(wanted.half())
    assert decoded.dtype == torch.float32
    assert (decoded - shown).std() < 0.06 * shown.std()
    streamed = torch.cat(list(model.encode_stream(_pieces(film))), dim=2)
    assert (streamed - latents).std() < 0.06 * wanted.std()


@pytest.mark.parametrize("shape", SHAPES)
def test_save_and_load(shape: str, film: Tensor, tmp_path: Path) -> None:
    model = _awake(SHAPES[shape].model_copy(update={"first_frame_alone": False}))
    model.save_pretrained(tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert isinstance(loaded, DcaeV) and loaded.config == model.config
    assert torch.equal(loaded.encode(film[:, :, :24]), model.encode(film[:, :, :24]))


def test_presets_are_what_is_published() -> None:
    with torch.device("meta"):
        full = DcaeV(PRESETS["full"])
        inflated = DcaeV(PRESETS["inflated"])
    assert sum(p.numel() for p in full.parameters()) == 2_138_754_860
    assert full.encoder.stem.out_channels == 256  # the stage of width 128 has no blocks: it is the fold of the pixels
    assert PRESETS["full"].widths == (256, 512, 512, 1024, 1024, 1024) and PRESETS["full"].depths == (5, 10, 4, 4, 4, 4)
    for model in (full, inflated):
        assert model.stride == (4, 32, 32)
        assert model.encode(torch.empty(1, 3, 5, 64, 96, device="meta")).shape == (1, 32, 2, 2, 3)
        assert model.decode(torch.empty(1, 32, 2, 2, 3, device="meta")).shape == (1, 3, 5, 64, 96)


def test_latents_of_another_autoencoder_and_stages_that_contradict_are_refused() -> None:
    with torch.device("meta"):
        model = DcaeV(SHAPES["full"])
    with pytest.raises(ValueError, match="16 channels are not this autoencoder's 4"):
        model.decode(torch.empty(1, 16, 1, 2, 2, device="meta"))
    with pytest.raises(ValueError, match="width 40"):
        list(model.encode_stream([torch.empty(1, 3, 1, 32, 40, device="meta")]))
    fields = SHAPES["inflated"].model_dump()
    with pytest.raises(ValueError, match="decoder's stride"):
        DcaeVConfig.model_validate(fields | {"decoder": fields["decoder"] | {"patch": (1, 2, 2)}})
    with pytest.raises(ValueError, match="7 widths need as many blocks"):
        DcaeVConfig.model_validate(fields | {"blocks": ("conv",)})
