"""Wan 2.1, Wan 2.2 and LTX-2 behind the protocol: equal to diffusers whole or in pieces, in constant memory."""

import gc
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLLTX2Video, AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from sana_video.autoencoder import PUBLISHED, Autoencoder, load_autoencoder
from sana_video.autoencoder.ltx2 import Ltx2
from sana_video.autoencoder.published import Published
from sana_video.autoencoder.wan import Wan
from sana_video.weights import MissingWeights

KINDS = ("wan2.1", "wan2.2", "ltx2")
EXACT = {"atol": 5e-5, "rtol": 1e-5}  # fp32; convolutions over pieces of other lengths sum in another order


def small_vae(kind: str) -> Any:
    """A random one of diffusers' class: as published but for width, depth and a normalisation that shows."""
    torch.manual_seed(3)
    if kind == "ltx2":
        vae = AutoencoderKLLTX2Video(
            latent_channels=6,
            block_out_channels=(8, 16, 32, 64),
            decoder_block_out_channels=(8, 16, 32),
            layers_per_block=(1, 2, 1, 1, 1),
            decoder_layers_per_block=(1, 2, 1, 1),
            decoder_causal=False,
            scaling_factor=0.9,
        )
        vae.latents_mean.copy_(torch.linspace(-0.5, 0.5, 6))
        vae.latents_std.copy_(torch.linspace(0.5, 2, 6))
        return vae.eval()
    scales = {"latents_mean": [0.3, -0.2, 0.1, 0.0], "latents_std": [0.5, 1.0, 1.5, 2.0]}
    later = {"is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16}
    extra: dict[str, Any] = {**later, "decoder_base_dim": 12} if kind == "wan2.2" else {}
    return AutoencoderKLWan(base_dim=8, z_dim=4, num_res_blocks=1, **scales, **extra).eval()


def wrapped(vae: Any) -> Published:
    return Ltx2(vae) if isinstance(vae, AutoencoderKLLTX2Video) else Wan(vae)


@pytest.fixture(scope="module", params=KINDS)
def vae(request: pytest.FixtureRequest) -> Any:
    return small_vae(request.param)


@pytest.fixture(scope="module")
def model(vae: Any) -> Published:
    return wrapped(vae)


@pytest.fixture(scope="module")
def video(model: Published) -> Tensor:
    unit = model.stride[1]
    return torch.rand(2, 3, 17, 2 * unit, 3 * unit, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def latents(model: Published, video: Tensor) -> Tensor:
    return model.encode(video)


def cut(x: Tensor, lengths: list[int]) -> Iterator[Tensor]:
    """`x` in pieces of these lengths along time, over and over."""
    start = 0
    while start < x.shape[2]:
        for length in lengths:
            if start < x.shape[2]:
                yield x[:, :, start : start + length]
            start += length


@pytest.fixture(scope="module")
def mode(vae: Any, video: Tensor) -> Tensor:
    """diffusers' own latents, as it gives them."""
    with torch.no_grad():
        return vae.encode(video).latent_dist.mode()  # type: ignore[no-any-return]


def test_latents_are_the_normalised_mode_of_diffusers_posterior(
    vae: Any, model: Published, latents: Tensor, mode: Tensor
) -> None:
    source = vae if model.kind == "ltx2" else vae.config
    mean, std = (torch.as_tensor(v).view(-1, 1, 1, 1) for v in (source.latents_mean, source.latents_std))
    torch.testing.assert_close(latents, (mode - mean) * (0.9 if model.kind == "ltx2" else 1.0) / std, **EXACT)
    assert latents.shape == (2, model.latent_channels, 1 + 16 // model.stride[0], 2, 3)


def test_decoding_is_diffusers_own(vae: Any, model: Published, latents: Tensor, mode: Tensor) -> None:
    with torch.no_grad():
        expected = vae.decode(mode).sample.clamp(-1, 1)
    decoded = model.decode(latents)
    assert decoded.shape == (2, 3, 17, 2 * model.stride[1], 3 * model.stride[1])
    torch.testing.assert_close(decoded, expected, **EXACT)


@pytest.mark.parametrize("lengths", [[1], [3, 7, 2], [11]])
def test_pieces_of_any_length_encode_to_the_whole(
    model: Published, video: Tensor, latents: Tensor, lengths: list[int]
) -> None:
    torch.testing.assert_close(torch.cat(list(model.encode_stream(cut(video, lengths))), dim=2), latents, **EXACT)


@pytest.mark.parametrize("lengths", [[1], [3, 1], [2, 4]])
def test_pieces_of_any_length_decode_to_the_whole(model: Published, latents: Tensor, lengths: list[int]) -> None:
    whole = model.decode(latents)
    torch.testing.assert_close(torch.cat(list(model.decode_stream(cut(latents, lengths))), dim=2), whole, **EXACT)


def test_an_image_is_a_one_frame_clip(vae: Any, model: Published, video: Tensor, latents: Tensor) -> None:
    assert model.images
    image = model.encode(video[:, :, :1])
    torch.testing.assert_close(image, latents[:, :, :1], **EXACT)
    with torch.no_grad():
        expected = vae.decode(vae.encode(video[:, :, :1]).latent_dist.mode()).sample.clamp(-1, 1)
    torch.testing.assert_close(model.decode(image), expected, **EXACT)


def live_bytes() -> int:
    """Of all tensors that exist, each memory counted once."""
    held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in gc.get_objects() if type(x) is Tensor}
    return sum(held.values())


@pytest.mark.parametrize("direction", ["encode", "decode"])
@pytest.mark.parametrize("tile", [None, "tiles"])
def test_a_stream_holds_no_more_at_its_end_than_in_its_middle(
    model: Published, tile: str | None, direction: str
) -> None:
    """Twice as long a video, not a byte more; in tiles too."""
    t, unit, noise, held = model.stride[0], model.stride[1], torch.Generator().manual_seed(2), []

    def pieces() -> Iterator[Tensor]:
        for i in range(24):
            if direction == "encode":
                yield torch.rand(1, 3, t if i else 1, 2 * unit, 3 * unit, generator=noise)
            else:
                yield torch.randn(1, model.latent_channels, 1, 2, 3, generator=noise)
            if i in (11, 12, 22, 23):
                held.append(live_bytes())

    model.tile(2 * unit if tile else None)
    try:
        for piece in getattr(model, f"{direction}_stream")(pieces()):
            del piece
    finally:
        model.tile(None)
    assert max(held[2:]) <= max(held[:2])


def test_the_published_ltx2_decoder_looks_22_latents_ahead() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLLTX2Video(
        latent_channels=2,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_causal=False,
    )
    assert vae.config.decoder_layers_per_block == (5, 5, 5, 5)
    read = 0

    def codes() -> Iterator[Tensor]:
        nonlocal read
        for _ in range(40):
            read += 1
            yield torch.randn(1, 2, 1, 2, 2)

    next(Ltx2(vae).decode_stream(codes()))
    assert read == 1 + 22


def test_tiles_that_cover_the_picture_are_the_plain_path(model: Published, video: Tensor, latents: Tensor) -> None:
    model.tile(3 * model.stride[1])
    try:
        torch.testing.assert_close(model.encode(video), latents, **EXACT)
        plain = model.decode(latents)
    finally:
        model.tile(None)
    torch.testing.assert_close(model.decode(latents), plain, **EXACT)


def test_tiles_stream_as_they_come_whole(model: Published) -> None:
    unit = model.stride[1]
    codes = torch.randn(1, model.latent_channels, 3, 4, 5, generator=torch.Generator().manual_seed(4))
    whole = model.decode(codes)
    model.tile(3 * unit)
    try:
        tiles = model.decode(codes)
        streamed = torch.cat(list(model.decode_stream(cut(codes, [2, 1]))), dim=2)
    finally:
        model.tile(None)
    torch.testing.assert_close(streamed, tiles, **EXACT)
    assert tiles.shape == whole.shape and not torch.equal(tiles, whole)


@pytest.mark.parametrize("pixels", [1, 41])
def test_a_tile_that_does_not_fit_is_refused(model: Published, pixels: int) -> None:
    with pytest.raises(ValueError, match=f"a tile of {pixels} pixels"):
        model.tile(pixels)


def test_bf16_is_close(model: Published, video: Tensor) -> None:
    """Each of some 30 roundings (unit 2^-9) moves the result by its own size; independent, they add as a root."""
    low = wrapped(small_vae(model.kind)).to(torch.bfloat16)
    assert isinstance(low, Published)
    clip = video[:1, :, :9]
    codes = model.encode(clip)
    for found, expected in ((low.encode(clip), codes), (low.decode(codes), model.decode(codes))):
        assert found.dtype == torch.float32
        error = (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        assert error < 4 * 30**0.5 * 2**-9


@pytest.mark.parametrize("kind", ["wan2.1", "wan2.2"])
@pytest.mark.parametrize(
    "ways", [{"latents_at_once": 3}, {"fused": True}, {"fused": True, "latents_at_once": 3}], ids=str
)
def test_other_ways_to_decode_give_the_same_pixels(kind: str, ways: dict[str, Any]) -> None:
    wan = wrapped(small_vae(kind))
    assert isinstance(wan, Wan)
    codes = torch.randn(1, 4, 6, 2, 3, generator=torch.Generator().manual_seed(4))
    expected = wan.decode(codes)
    torch.testing.assert_close(wan.arrange(**ways).decode(codes), expected, **EXACT)
    pieces = torch.cat(list(wan.decode_stream(cut(codes, [2, 1]))), dim=2)
    torch.testing.assert_close(pieces, expected, **EXACT)
    with pytest.raises(ValueError, match="latents_at_once 0"):
        wan.arrange(latents_at_once=0)


def test_inputs_of_any_float_dtype_are_taken(model: Published, video: Tensor, latents: Tensor) -> None:
    clip = video[:1, :, :9]
    torch.testing.assert_close(model.encode(clip.double()), model.encode(clip))
    half = latents[:1, :, :2].half()
    torch.testing.assert_close(model.decode(half), model.decode(half.float()))


def test_what_does_not_fit_is_named_with_the_nearest(model: Published, video: Tensor) -> None:
    t, unit = model.stride[0], model.stride[1]
    with pytest.raises(ValueError, match=rf"12 frames do not fit .* take 9 or {9 + t}"):
        model.encode(video[:, :, :12])
    with pytest.raises(ValueError, match=rf"12 frames do not fit .* take 9 or {9 + t}"):
        list(model.encode_stream([video[:, :, :12]]))
    with pytest.raises(ValueError, match=f"width {2 * unit + 1} is no multiple of {unit}: take {2 * unit}"):
        list(model.encode_stream([torch.zeros(1, 3, 1, unit, 2 * unit + 1)]))
    with pytest.raises(ValueError, match="latent channels; these have 7"):
        model.decode(torch.zeros(1, 7, 1, 2, 2))
    if model.kind == "ltx2":
        with pytest.raises(ValueError, match="2 latents a side, not 1x4"):
            model.decode(torch.zeros(1, model.latent_channels, 1, 1, 4))


def test_a_folder_comes_back(model: Published, video: Tensor, latents: Tensor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == model.kind
    again: Autoencoder = load_autoencoder(tmp_path)
    torch.testing.assert_close(again.encode(video), latents)
    again.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_folder_of_diffusers_is_read(vae: Any, video: Tensor, latents: Tensor, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path, safe_serialization=True)
    torch.testing.assert_close(load_autoencoder(tmp_path).encode(video), latents)
    low = load_autoencoder(tmp_path, dtype=torch.bfloat16)
    assert isinstance(low, Published) and {p.dtype for p in low.parameters()} == {torch.bfloat16}
    vae.save_pretrained(tmp_path / "fetched" / "vae")
    torch.testing.assert_close(load_autoencoder(tmp_path / "fetched").encode(video), latents)


def test_ltx2_keeps_the_dtype_of_its_file_and_wan_is_fp32(tmp_path: Path) -> None:
    for kind, expected in (("ltx2", torch.bfloat16), ("wan2.1", torch.float32)):
        small_vae(kind).to(torch.bfloat16).save_pretrained(tmp_path / kind)
        loaded = load_autoencoder(tmp_path / kind)
        assert isinstance(loaded, Published) and next(loaded.parameters()).dtype == expected


@pytest.mark.parametrize(("name", "cls"), [("wan2.1-vae", AutoencoderKLWan), ("ltx2-vae", AutoencoderKLLTX2Video)])
def test_the_shapes_known_beforehand_are_those_of_diffusers_defaults(name: str, cls: Any) -> None:
    with torch.device("meta"):
        vae = cls()
    if name == "ltx2-vae":
        vae.latents_mean, vae.latents_std = torch.zeros(128), torch.ones(128)
    model = wrapped(vae)
    assert (model.kind, model.latent_channels, model.stride) == PUBLISHED[name]


Damage = Callable[[Path], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:999]),
        "damaged",
    ),
    "another": (lambda f: save_file({"x": torch.zeros(1)}, f / "model.safetensors"), "does not hold the weights"),
    "kind": (lambda f: (f / "config.json").write_text('{"kind": "sana-video"}'), "describes a 'sana-video'"),
    "class": (lambda f: (f / "config.json").write_text('{"_class_name": "AutoencoderKL"}'), "'AutoencoderKL'; an auto"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "is not a model's configuration"),
    "list": (lambda f: (f / "config.json").write_text("[]"), "is not a model's configuration"),
    "other kind": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("wan2.1", "wan2.2")),
        "says wan2.2 and configures a wan2.1",
    ),
    "no number": (
        lambda f: (f / "config.json").write_text(
            (f / "config.json").read_text().replace('"base_dim": 8', '"base_dim": "x"')
        ),
        "does not configure an AutoencoderKLWan",
    ),
    "pickle": (lambda f: (f / "model.safetensors").rename(f / "model.bin"), "model.bin, a pickle"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_line(damage: str, tmp_path: Path) -> None:
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    wrapped(small_vae("wan2.1")).save_pretrained(tmp_path)
    spoil, said = DAMAGES[damage]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=said) as caught:
        load_autoencoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_published_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights) as caught:
        load_autoencoder(tmp_path / "weights" / "ltx2-vae")
    assert caught.value.name == "ltx2-vae"
    wrapped(small_vae("wan2.2")).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingWeights) as caught:
        load_autoencoder(tmp_path)
    assert caught.value.name == "wan2.2-vae"
    with pytest.raises(FileNotFoundError, match="holds no autoencoder"):
        load_autoencoder(tmp_path / "nowhere")


def test_an_ltx2_that_was_never_published_is_refused() -> None:
    vae = AutoencoderKLLTX2Video(
        latent_channels=2,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        decoder_inject_noise=(True, False, False, False),
    )
    with pytest.raises(ValueError, match="decoder_inject_noise"):
        Ltx2(vae)
