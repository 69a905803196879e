"""What each weight is called: here, in the official checkpoints and in diffusers. Pure renames and cuts by rows.

The table below is the whole mapping. Where diffusers keeps apart what we keep fused (queries, keys and values), it
names the parts in the order of their rows. Nothing is permuted, so every way back gives the same bits.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sana_video.config import SanaVideoConfig, validated
from sana_video.weights.files import listed, misfits, refuse

Layout = Literal["ours", "official", "diffusers"]

WEIGHT, BOTH, BARE = (".weight",), (".weight", ".bias"), ("",)
OUTSIDE = (  # ours, official, diffusers, what the module holds
    ("patch_embed", "x_embedder.proj", "patch_embedding", BOTH),
    ("time_embed.fc1", "t_embedder.mlp.0", "time_embed.emb.timestep_embedder.linear_1", BOTH),
    ("time_embed.fc2", "t_embedder.mlp.2", "time_embed.emb.timestep_embedder.linear_2", BOTH),
    ("time_modulation", "t_block.1", "time_embed.linear", BOTH),
    ("text_embed.fc1", "y_embedder.y_proj.fc1", "caption_projection.linear_1", BOTH),
    ("text_embed.fc2", "y_embedder.y_proj.fc2", "caption_projection.linear_2", BOTH),
    ("text_embed.norm", "attention_y_norm", "caption_norm", WEIGHT),
    ("final.table", "final_layer.scale_shift_table", "scale_shift_table", BARE),
    ("final.linear", "final_layer.linear", "proj_out", BOTH),
)
IN_BLOCK = (
    ("table", "scale_shift_table", "scale_shift_table", BARE),
    ("attn.qkv", "attn.qkv", "attn1.to_q attn1.to_k attn1.to_v", WEIGHT),
    ("attn.q_norm", "attn.q_norm", "attn1.norm_q", WEIGHT),
    ("attn.k_norm", "attn.k_norm", "attn1.norm_k", WEIGHT),
    ("attn.out", "attn.proj", "attn1.to_out.0", BOTH),
    ("cross.q", "cross_attn.q_linear", "attn2.to_q", BOTH),
    ("cross.kv", "cross_attn.kv_linear", "attn2.to_k attn2.to_v", BOTH),
    ("cross.q_norm", "cross_attn.q_norm", "attn2.norm_q", WEIGHT),
    ("cross.k_norm", "cross_attn.k_norm", "attn2.norm_k", WEIGHT),
    ("cross.out", "cross_attn.proj", "attn2.to_out.0", BOTH),
    ("ffn.expand", "mlp.inverted_conv.conv", "ff.conv_inverted", BOTH),
    ("ffn.depth", "mlp.depth_conv.conv", "ff.conv_depth", BOTH),
    ("ffn.project", "mlp.point_conv.conv", "ff.conv_point", WEIGHT),
    ("ffn.temporal", "mlp.t_conv", "ff.conv_temp", WEIGHT),
)
NULL = "null_embedding"  # the null prompt (L, text width): travels in official checkpoints, is no weight of a network
NULL_OFFICIAL = "y_embedder.y_embedding"
DROPPED = re.compile(r"pos_embed$|logvar_linear\.")  # official leftovers that the network does not use
_BLOCK = re.compile(r"(?:transformer_)?blocks\.(\d+)\.")
DEFAULT_TOKENS = 300


class Row(NamedTuple):
    """One of our tensors and its names elsewhere; several in diffusers where it is cut into equal blocks of rows."""

    ours: str
    official: str
    diffusers: tuple[str, ...]

    def names(self, layout: Layout) -> tuple[str, ...]:
        """What `layout` calls it."""
        return self.diffusers if layout == "diffusers" else (self.ours if layout == "ours" else self.official,)


def rows(depth: int) -> tuple[Row, ...]:
    """The mapping for a network of `depth` blocks, in the order of its state dict."""
    outside = [_row(entry, leaf, "", "") for entry in OUTSIDE for leaf in entry[3]]
    blocks = [
        _row(entry, leaf, f"blocks.{i}.", f"transformer_blocks.{i}.")
        for i in range(depth)
        for entry in IN_BLOCK
        for leaf in entry[3]
    ]
    last = sum(len(entry[3]) for entry in OUTSIDE[-2:])
    return (*outside[:-last], *blocks, *outside[-last:])


def _row(entry: tuple[str, str, str, tuple[str, ...]], leaf: str, block: str, diffusers_block: str) -> Row:
    ours, official, diffusers, _ = entry
    parts = tuple(f"{diffusers_block}{part}{leaf}" for part in diffusers.split())
    return Row(f"{block}{ours}{leaf}", f"{block}{official}{leaf}", parts)


def from_official(state: Mapping[str, Tensor], config: SanaVideoConfig | None = None) -> dict[str, Tensor]:
    """Our state dict from an official one; the null prompt, if it has one, is under `null_embedding`.

    With `config` the state must be that network's, else the one its own shapes tell. ValueError names every key that
    is missing, unexpected or of a wrong shape.
    """
    return _translated(state, "official", "ours", config)


def to_official(state: Mapping[str, Tensor], config: SanaVideoConfig | None = None) -> dict[str, Tensor]:
    """The reverse of `from_official`, `null_embedding` included."""
    return _translated(state, "ours", "official", config)


def from_diffusers(state: Mapping[str, Tensor], config: SanaVideoConfig | None = None) -> dict[str, Tensor]:
    """Our state dict from that of diffusers' SanaVideoTransformer3DModel, which has no null prompt; else as above."""
    return _translated(state, "diffusers", "ours", config)


def to_diffusers(state: Mapping[str, Tensor], config: SanaVideoConfig | None = None) -> dict[str, Tensor]:
    """The reverse of `from_diffusers`; a `null_embedding` is dropped, for diffusers has no place for it."""
    return _translated(state, "ours", "diffusers", config)


def _translated(
    state: Mapping[str, Tensor], source: Layout, target: Layout, config: SanaVideoConfig | None
) -> dict[str, Tensor]:
    network, null = part_null(state, source)
    check(network, source, config, f"the {source} state dict", null)
    state_out = translate(network, rows(depth_of(network)), source, target)
    if null is not None and target != "diffusers":
        state_out[NULL if target == "ours" else NULL_OFFICIAL] = null
    return state_out


def translate(state: Mapping[str, Tensor], wanted: Iterable[Row], source: Layout, target: Layout) -> dict[str, Tensor]:
    """The tensors of the rows `wanted`, which `state` holds as `source` names them, as `target` names them."""
    out: dict[str, Tensor] = {}
    for row in wanted:
        whole = _joined([state[name] for name in row.names(source)])
        names = row.names(target)
        out |= zip(names, whole.chunk(len(names)) if len(names) > 1 else (whole,), strict=True)
    return out


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def part_null(state: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], Tensor | None]:
    """The network's tensors, and the null prompt if `state` holds it; official leftovers are left out. Reads nothing
    of a lazy mapping but what it names.
    """
    null_name = NULL_OFFICIAL if layout == "official" else NULL
    kept = {
        name: tensor
        for name, tensor in state.items()
        if name != null_name and not (layout == "official" and DROPPED.match(name))
    }
    return kept, state.get(null_name)


def depth_of(names: Iterable[str]) -> int:
    """Number of blocks that `names` speak of."""
    return 1 + max((int(found[1]) for name in names if (found := _BLOCK.match(name))), default=-1)


def layout_of(names: Iterable[str]) -> Layout | None:
    """Which layout calls its patch embedding as one of `names`; None if no layout does."""
    known = set(names)
    first = rows(0)[0]
    layouts: tuple[Layout, ...] = ("ours", "official", "diffusers")
    return next((layout for layout in layouts if first.names(layout)[0] in known), None)


def check(
    shapes: Mapping[str, Tensor],
    layout: Layout,
    config: SanaVideoConfig | None,
    source: str,
    null: Tensor | None = None,
) -> SanaVideoConfig:
    """The configuration of the network whose tensors are exactly `shapes` (meta will do): `config`, or as they tell.

    ValueError, with `source` in it, names what is missing, unexpected, of a wrong shape or no real number.
    """
    known = {name for row in rows(depth_of(shapes)) for name in row.names(layout)}
    if not known & shapes.keys():
        raise ValueError(
            f"{source} is no SANA-Video network: none of its {len(shapes)} tensors has a name of one "
            f"({listed(list(shapes)) or 'there is none'})"
        )
    settled = config or infer(shapes, layout, source, null)
    faults = misfits(expected(settled, layout), shapes)
    faults["not floating point"] = [name for name, tensor in shapes.items() if not tensor.is_floating_point()]
    if null is not None and null.shape != (settled.text_tokens, settled.text_width):
        faults["wrong shape"].append(
            f"{NULL_OFFICIAL} {list(null.shape)} instead of {[settled.text_tokens, settled.text_width]}"
        )
    if faults["missing"] and all(name.endswith(".mlp.t_conv.weight") for name in faults["missing"]):
        raise ValueError(f"{source} has no convolution over time: an image model; a warm start grows it to video")
    refuse(source, "SanaVideo", faults)
    return settled


def expected(config: SanaVideoConfig, layout: Layout) -> dict[str, Tensor]:
    """Every tensor of the network of `config`, as `layout` names it, on the meta device."""
    from sana_video.model import SanaVideo  # it reads its own weights through this package

    with torch.device("meta"):
        state = SanaVideo(config).state_dict()
    return translate(state, rows(config.depth), "ours", layout)


def infer(
    shapes: Mapping[str, Tensor], layout: Layout, source: str, null: Tensor | None = None, head_width: int = 112
) -> SanaVideoConfig:
    """The configuration that shapes alone tell; heads are `head_width` wide, as in all published networks.

    ValueError if the few tensors it looks at are missing, or are of another rank.
    """
    called = {row.ours: row.names(layout)[0] for row in rows(1)}
    looked_at = {"patch_embed.weight": 5, "text_embed.fc1.weight": 2, "blocks.0.ffn.expand.weight": 4}
    ranks = {called[name]: rank for name, rank in looked_at.items()}
    if any(name not in shapes or shapes[name].ndim != rank for name, rank in ranks.items()):
        known = [name for row in rows(max(1, depth_of(shapes))) for name in row.names(layout)]
        others = [name for name, rank in ranks.items() if name in shapes and shapes[name].ndim != rank]
        faults = {
            "missing": [name for name in known if name not in shapes],
            "unexpected": [name for name in shapes if name not in known],
            "of another rank": [f"{name} {list(shapes[name].shape)}" for name in others],
        }
        refuse(source, "SanaVideo", faults)
    patch, text, expand = (shapes[name].shape for name in ranks)
    width, hidden = patch[0], expand[0] // 2
    if width % head_width:
        raise ValueError(f"{source}: width {width} is no multiple of {head_width}; give its configuration")
    ratio = hidden / width
    fields = {
        "in_channels": patch[1],
        "patch_size": tuple(patch[2:]),
        "width": width,
        "heads": width // head_width,
        "depth": depth_of(shapes),
        "ffn_ratio": ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf),
        "text_width": text[1],
        "text_tokens": DEFAULT_TOKENS if null is None else null.shape[0],
        "origin": "diffusers" if layout == "diffusers" else "official",
    }
    return validated(SanaVideoConfig, fields, Path(source))
