"""DCAE-V from an image: a published DC-AE, its kernels given a depth in time, and a stage on top that folds time.

Upstream's is the image model: arrangement, block types, names and weights of diffusers' `AutoencoderDC` (the folders
dc-ae-f32c32-sana-1.0 and 1.1, f32c32-in/mix-1.0, f64c128 and their kind, arXiv 2410.10733; Apache-2.0), and the idea to
begin a video autoencoder at an image one, as DCAE-V did. Ours is how it is done here:

- A 2-D kernel becomes the middle tap of a 3-D one, the taps before and after it zero. At the ends of a chunk our
  convolutions see the edge frame again, so any split of the kernel over the taps would do for one frame; this one also
  keeps frames apart in film: each comes out of the spatial stages as its own image would.
- The stage that folds time starts as its shortcut alone: the mean of t frames on the way down, t equal frames on the
  way up. Its convolutions and the norms of its blocks start at zero.
- Where a stage of depth 0 stands first, upstream's convolution at pixel size is written over folded pixels.
- A batch norm becomes part of the convolution before it, as it is in use anyway.

So one frame gives what the image model gives, and a film the mean of its frames' latents, t at a time: both tested.
dc-ae-f32c32-sana has 312,250,275 weights, and our `inflated` preset, which holds them, 794,175,523: three taps for one,
and the new stage. `from_image(folder).save_pretrained(start)` makes what a training stage of that preset may start at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from sana_video import weights
from sana_video.autoencoder.blocks import Activation, Residual, Stride
from sana_video.autoencoder.config import Block, DcaeVConfig, Stages
from sana_video.autoencoder.dcae_v import DcaeV

CLASS = "AutoencoderDC"
FILE_NAME = "diffusion_pytorch_model.safetensors"
BATCH_NORM_EPSILON = 1e-5
HALVING: Stride = (1, 2, 2)
TIME: Stride = (4, 1, 1)


class ImageConfig(BaseModel):
    """What of `AutoencoderDC`'s config.json shapes the network; defaults are the class's own."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    in_channels: Literal[3] = 3
    latent_channels: int = 32
    attention_head_dim: int = 32
    encoder_block_types: str | tuple[str, ...] = "ResBlock"
    decoder_block_types: str | tuple[str, ...] = "ResBlock"
    encoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    decoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_layers_per_block: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers_per_block: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    encoder_qkv_multiscales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    decoder_qkv_multiscales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    upsample_block_type: str = "pixel_shuffle"
    downsample_block_type: str = "pixel_unshuffle"
    decoder_norm_types: str | tuple[str, ...] = "rms_norm"
    decoder_act_fns: str | tuple[str, ...] = "silu"
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    decoder_conv_act_fn: Activation = "relu"
    scaling_factor: float = 1.0


def from_image(
    source: Path | Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    temporal_depth: int = 2,
    chunk: int = 10,
    first_frame_alone: bool = True,
) -> DcaeV:
    """A DcaeV that codes one frame as the image autoencoder in `source` does, in evaluation mode on the CPU.

    `source`: diffusers' folder, or the weights by name with their `config`. `temporal_depth`: blocks in the stage that
    folds time. Latents come scaled as upstream scales them (`scaling_factor`). Raises MissingWeights if the folder is
    incomplete; ValueError for another model, one that cannot be told in our stages, or weights that do not fit.
    """
    if isinstance(source, Path):
        config, state = read_folder(source)
    else:
        state = dict(source)
    image = _validated(config or {})
    ours = inflated_config(image, temporal_depth=temporal_depth, chunk=chunk, first_frame_alone=first_frame_alone)
    with torch.device("meta"):
        model = DcaeV(ours)
    tensors = inflated_state(state, image, ours)
    weights.check_fit(model, tensors, str(source) if isinstance(source, Path) else "the image autoencoder")
    model.load_state_dict(tensors, assign=True)
    return model.requires_grad_(True).eval()


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of diffusers' folder. MissingWeights, or ValueError for another model's folder."""
    path = folder / "config.json"
    if not path.is_file() or not (folder / FILE_NAME).is_file():
        raise weights.MissingWeights("dc-ae-f32c32", folder)
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a model's configuration: {error}") from None
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != CLASS:
        raise ValueError(f"{path} describes a {kind!r}; an {CLASS} is wanted")
    return config, {name: tensor.float() for name, tensor in weights.load(folder / FILE_NAME).items()}


def inflated_config(
    image: ImageConfig, *, temporal_depth: int = 2, chunk: int = 10, first_frame_alone: bool = True
) -> DcaeVConfig:
    """Our configuration of the image model with time folded last. ValueError for what our stages do not have."""
    if image.encoder_out_shortcut != image.decoder_in_shortcut:
        raise ValueError("an image autoencoder with a latent shortcut on one side only cannot be inflated")
    encoder = _stages(image, "encoder", temporal_depth)
    return DcaeVConfig(
        **encoder.model_dump(),
        decoder=_stages(image, "decoder", temporal_depth),
        latent_channels=image.latent_channels,
        chunk=chunk,
        linear_shortcut=False,
        first_frame_alone=first_frame_alone,
        latent_shortcut=image.encoder_out_shortcut,
        head_width=image.attention_head_dim,
        last_activation=image.decoder_conv_act_fn,
    )


def inflated_state(state: Mapping[str, Tensor], image: ImageConfig, ours: DcaeVConfig) -> dict[str, Tensor]:
    """Weights of DcaeV(ours) from those of the image model, by name; float32, on their device.

    ValueError names every key that is missing or has no place, and those whose shapes cannot be joined.
    """
    rows = list(_rows(image, ours))
    wanted = {name for row in rows for name in row.sources}
    missing = sorted(wanted - state.keys())
    unexpected = sorted(name for name in state.keys() - wanted if not name.endswith("num_batches_tracked"))
    if missing or unexpected:
        raise ValueError(
            f"the weights are not those of this {CLASS}: missing {missing or 'none'}; unexpected {unexpected or 'none'}"
        )
    tensors = {}
    for row in rows:
        try:
            tensors[row.target] = row.make(*(state[name].float() for name in row.sources)).contiguous()
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"{', '.join(row.sources)}: shapes that no {CLASS} has ({error})") from None
    tensors |= _still(ours)
    tensors["latent_mean"] = torch.zeros(ours.latent_channels)
    tensors["latent_std"] = torch.full((ours.latent_channels,), 1 / image.scaling_factor)
    return tensors


def _validated(config: Mapping[str, Any]) -> ImageConfig:
    try:
        return ImageConfig.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{CLASS}: {field} is {first['input']!r}: {first['msg']}") from None


def _stages(image: ImageConfig, side: Literal["encoder", "decoder"], temporal_depth: int) -> Stages:
    """One side's stages, pixels first; a first stage of depth 0 becomes the fold of the pixels, and time comes last."""
    widths: tuple[int, ...] = getattr(image, f"{side}_block_out_channels")
    depths: tuple[int, ...] = getattr(image, f"{side}_layers_per_block")
    kinds = [_kind(image, side, i) for i in range(len(widths))]
    if 0 in depths[1:]:
        raise ValueError(f"{CLASS}: {side}_layers_per_block {list(depths)}: only the first stage may be empty")
    folded = int(depths[0] == 0)
    if side == "encoder":
        resize = image.downsample_block_type != "pixel_unshuffle"
    else:
        resize = image.upsample_block_type == "interpolate"
        if resize and folded:
            raise ValueError(f"{CLASS}: a decoder that interpolates cannot have an empty first stage")
    return Stages(
        patch=HALVING if folded else (1, 1, 1),
        widths=(*widths[folded:], widths[-1]),
        depths=(*depths[folded:], temporal_depth),
        strides=(*[HALVING] * (len(widths) - 1 - folded), TIME),
        blocks=(*kinds[folded:], "conv"),
        resample="resize" if resize else "fold",
    )


def _kind(image: ImageConfig, side: str, stage: int) -> Block:
    """Our name for a stage's blocks. ValueError for a combination that no published model has."""

    def of(field: str) -> Any:
        value = getattr(image, f"{side}_{field}")
        return value if isinstance(value, str) else value[stage]

    block, scales = of("block_types"), tuple(of("qkv_multiscales"))
    norm, activation = ("rms_norm", "silu") if side == "encoder" else (of("norm_types"), of("act_fns"))
    ours: dict[tuple[object, ...], Block] = {
        ("ResBlock", "rms_norm", "silu"): "conv",
        ("ResBlock", "batch_norm", "relu"): "relu",
        ("EfficientViTBlock", "rms_norm", ()): "attention",
        ("EfficientViTBlock", "rms_norm", (5,)): "attention5",
    }
    asked = (block, norm, activation if block == "ResBlock" else scales)
    if asked not in ours:
        raise ValueError(f"{CLASS}: the {side}'s stage {stage} has blocks {asked}, which cannot be inflated")
    return ours[asked]


class _Row(NamedTuple):
    """A weight of ours, and the image model's weights that it is made of."""

    target: str
    sources: tuple[str, ...]
    make: Callable[..., Tensor]


def _rows(image: ImageConfig, ours: DcaeVConfig) -> Iterator[_Row]:
    """Every weight but those of the temporal stage."""
    yield from _folded_stem(ours) if ours.patch == HALVING else _conv("encoder.stem", "encoder.conv_in")
    yield from _encoder_rows(ours, len(image.encoder_block_out_channels))
    yield from _conv("encoder.head", "encoder.conv_out")
    yield from _conv("decoder.stem", "decoder.conv_in")
    yield from _decoder_rows(ours.decoding, len(image.decoder_block_out_channels))
    yield from _pair("decoder.norm", "decoder.norm_out")
    yield from _conv("decoder.head", "decoder.conv_out.conv" if ours.decoding.patch == HALVING else "decoder.conv_out")


def _folded_stem(ours: DcaeVConfig) -> Iterator[_Row]:
    """The halving convolution over pixels as one over pixels folded by 2."""
    phases = [(0, 0)] if ours.resample == "resize" else [(0, 0), (0, 1), (1, 0), (1, 1)]
    weight, bias = "encoder.conv_in.conv.weight", "encoder.conv_in.conv.bias"
    yield _Row("encoder.stem.weight", (weight,), lambda kernel: inflate(over_folded(kernel, phases)))
    yield _Row("encoder.stem.bias", (bias,), lambda values: values.repeat_interleave(len(phases)))


def _encoder_rows(stages: Stages, upstream: int) -> Iterator[_Row]:
    layer, spatial = 0, len(stages.widths) - 1
    for i in range(spatial):
        theirs = f"encoder.down_blocks.{i + upstream - spatial}"
        for j in range(stages.depths[i]):
            yield from _block(stages.kinds[i], f"encoder.layers.{layer}", f"{theirs}.{j}")
            layer += 1
        if i + 1 < spatial:
            yield from _conv(f"encoder.layers.{layer}.conv", f"{theirs}.{stages.depths[i]}.conv")
            layer += 1


def _decoder_rows(stages: Stages, upstream: int) -> Iterator[_Row]:
    layer, spatial = stages.depths[-1] + 1, len(stages.widths) - 1  # the temporal stage stands first
    for i in reversed(range(spatial)):
        theirs = f"decoder.up_blocks.{i + upstream - spatial}"
        above = int(i + 1 < spatial)
        if above:
            yield from _conv(f"decoder.layers.{layer}.conv", f"{theirs}.0.conv")
        for j in range(stages.depths[i]):
            yield from _block(stages.kinds[i], f"decoder.layers.{layer + above + j}", f"{theirs}.{above + j}")
        layer += above + stages.depths[i]


def _block(kind: Block, ours: str, theirs: str) -> Iterator[_Row]:
    if kind in ("attention", "attention5"):
        yield from _attention(ours, theirs, scales=int(kind == "attention5"))
        return
    yield from _conv(f"{ours}.conv1", f"{theirs}.conv1")
    second, norm = f"{theirs}.conv2.weight", f"{theirs}.norm"
    if kind == "conv":
        yield _Row(f"{ours}.conv2.weight", (second,), inflate)
        yield _Row(f"{ours}.conv2.bias", (second,), lambda kernel: kernel.new_zeros(len(kernel)))
        yield from _pair(f"{ours}.norm", norm)
    else:
        weight, bias, mean, var = (f"{norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
        yield _Row(f"{ours}.conv2.weight", (second, weight, var), _scaled_kernel)
        yield _Row(f"{ours}.conv2.bias", (weight, bias, mean, var), lambda w, b, m, v: b - m * _gain(w, v))


def _attention(ours: str, theirs: str, scales: int) -> Iterator[_Row]:
    attention, gated = f"{theirs}.attn", f"{theirs}.conv_out"
    qkv = tuple(f"{attention}.to_{name}.weight" for name in "qkv")
    yield _Row(f"{ours}.attention.qkv.weight", qkv, lambda q, k, v: _pointwise(torch.cat([q, k, v])))
    for i in range(scales):
        for j, name in enumerate(("proj_in", "proj_out")):
            source = f"{attention}.to_qkv_multiscale.{i}.{name}.weight"
            yield _Row(f"{ours}.attention.scales.{i}.{j}.weight", (source,), _same)
    yield _Row(f"{ours}.attention.out.weight", (f"{attention}.to_out.weight",), _pointwise)
    yield from _pair(f"{ours}.attention.norm", f"{attention}.norm_out")
    yield from _pair(f"{ours}.convolution.widen", f"{gated}.conv_inverted")
    yield from _pair(f"{ours}.convolution.depthwise", f"{gated}.conv_depth")
    yield _Row(f"{ours}.convolution.narrow.weight", (f"{gated}.conv_point.weight",), _same)
    yield from _pair(f"{ours}.convolution.norm", f"{gated}.norm")


def _pair(ours: str, theirs: str) -> Iterator[_Row]:
    """Weight and bias as they are."""
    for name in ("weight", "bias"):
        yield _Row(f"{ours}.{name}", (f"{theirs}.{name}",), _same)


def _conv(ours: str, theirs: str) -> Iterator[_Row]:
    yield _Row(f"{ours}.weight", (f"{theirs}.weight",), inflate)
    yield _Row(f"{ours}.bias", (f"{theirs}.bias",), _same)


def inflate(kernel: Tensor) -> Tensor:
    """(O, I, 3, 3) -> (O, I, 3, 3, 3): the middle tap in time; a frame does not see its neighbours."""
    nothing = torch.zeros_like(kernel)
    return torch.stack([nothing, kernel, nothing], dim=2)


def over_folded(kernel: Tensor, phases: list[tuple[int, int]]) -> Tensor:
    """(O, I, 3, 3) on pixels -> (O·P, I·4, 3, 3) on pixels folded by 2, once for each of P positions in the 2x2 block.

    Output position (y, x) of phase (p, q) is what the kernel gives at pixel (2y+p, 2x+q), zeros outside in both.
    """
    placed = [F.pad(kernel, (q + 1, 2 - q, p + 1, 2 - p)) for p, q in phases]  # of pixels -2 ... 3
    folded: Tensor = rearrange(torch.stack(placed), "p o i (y a) (x b) -> (o p) (i a b) y x", a=2, b=2)
    return folded


def _same(values: Tensor) -> Tensor:
    return values


def _pointwise(matrix: Tensor) -> Tensor:
    return matrix[:, :, None, None]


def _gain(weight: Tensor, var: Tensor) -> Tensor:
    return weight * torch.rsqrt(var + BATCH_NORM_EPSILON)


def _scaled_kernel(kernel: Tensor, weight: Tensor, var: Tensor) -> Tensor:
    return inflate(kernel * _gain(weight, var).view(-1, 1, 1, 1))


def _still(ours: DcaeVConfig) -> dict[str, Tensor]:
    """The temporal stages' weights at the start: folds that are their shortcut alone, and blocks that add nothing."""
    width, t = ours.widths[-1], TIME[0]
    fold_at = sum(ours.depths[:-1]) + len(ours.strides) - 1
    unfold_at = ours.decoding.depths[-1]
    tensors = {
        f"encoder.layers.{fold_at}.conv.weight": torch.zeros(width // t, width, 3, 3, 3),
        f"encoder.layers.{fold_at}.conv.bias": torch.zeros(width // t),
        f"decoder.layers.{unfold_at}.conv.weight": torch.zeros(width * t, width, 3, 3, 3),
        f"decoder.layers.{unfold_at}.conv.bias": torch.zeros(width * t),
    }
    blocks = [f"encoder.layers.{fold_at + 1 + i}" for i in range(ours.depths[-1])]
    blocks += [f"decoder.layers.{i}" for i in range(unfold_at)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in blocks:
            tensors |= {f"{name}.{key}": value for key, value in Residual(width).state_dict().items()}
            tensors[f"{name}.norm.weight"] = torch.zeros(width)
    return tensors
