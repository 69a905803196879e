"""The folder that diffusers keeps a SanaVideoTransformer3DModel in: its config.json, one file of weights or several."""

import json
from pathlib import Path
from typing import Any

from sana_video.config import SanaVideoConfig, read_json, validated
from sana_video.weights.names import DEFAULT_TOKENS

CLASS = "SanaVideoTransformer3DModel"
FILE_NAME = "diffusion_pytorch_model.safetensors"
INDEX_NAME = f"{FILE_NAME}.index.json"
PIPELINE_INDEX = "model_index.json"
_FIXED = {  # what the class can be told and SANA-Video never is
    "attention_bias": False,
    "guidance_embeds": False,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "qk_norm": "rms_norm_across_heads",
}


def transformer_folder(folder: Path) -> Path | None:
    """The folder of the network in `folder`, its own or a whole pipeline's; None if it is not diffusers'."""
    inner = folder / "transformer" if (folder / PIPELINE_INDEX).is_file() else folder
    path = inner / "config.json"
    return inner if path.is_file() and read_json(path).get("_class_name") == CLASS else None


def read_config(path: Path) -> SanaVideoConfig:
    """Our configuration of the network that a diffusers config.json describes. ValueError for one that ours is not."""
    fields = read_json(path)
    if (kind := fields.get("_class_name")) != CLASS:
        raise ValueError(f"{path} describes a {kind}; a {CLASS} is wanted")
    heads, head_width = _number(fields, "num_attention_heads", path), _number(fields, "attention_head_dim", path)
    same = {
        "num_cross_attention_heads": heads,
        "cross_attention_head_dim": head_width,
        "cross_attention_dim": heads * head_width,
        "out_channels": fields.get("in_channels"),
    }
    for name, wanted in (_FIXED | same).items():
        if fields.get(name, wanted) not in (wanted, None):
            raise ValueError(f"{path}: {name} is {fields[name]!r}; SANA-Video has {wanted!r}")
    read = {
        "in_channels": fields.get("in_channels"),
        "patch_size": fields.get("patch_size"),
        "width": heads * head_width,
        "heads": heads,
        "depth": fields.get("num_layers"),
        "ffn_ratio": fields.get("mlp_ratio"),
        "text_width": fields.get("caption_channels"),
        "text_tokens": DEFAULT_TOKENS,
        "rope_max": fields.get("rope_max_seq_len", 1024),
        "origin": "diffusers",
    }
    return validated(SanaVideoConfig, read, path)


def dump_config(config: SanaVideoConfig) -> str:
    """The text of the config.json that diffusers reads for the network of `config`."""
    fields: dict[str, Any] = {
        "_class_name": CLASS,
        "_diffusers_version": "0.36.0.dev0",  # of the published folder, whose fields these are
        "attention_head_dim": config.head_width,
        "caption_channels": config.text_width,
        "cross_attention_dim": config.width,
        "cross_attention_head_dim": config.head_width,
        "dropout": 0.0,
        "guidance_embeds_scale": 0.1,
        "in_channels": config.in_channels,
        "interpolation_scale": None,
        "mlp_ratio": config.ffn_ratio,
        "num_attention_heads": config.heads,
        "num_cross_attention_heads": config.heads,
        "num_layers": config.depth,
        "out_channels": config.in_channels,
        "patch_size": list(config.patch_size),
        "rope_max_seq_len": config.rope_max,
        "sample_size": 30 if config.patch_size[1] == 2 else 22,  # latent side of 480p and of 720p; not used
        **_FIXED,
    }
    return json.dumps(dict(sorted(fields.items())), indent=2) + "\n"


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the network's weights: those of the index where there is one.

    FileNotFoundError names shards that are missing; ValueError an index that is no index.
    """
    index = folder / INDEX_NAME
    if not index.is_file():
        return [folder / FILE_NAME]
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) and Path(s).name == s for s in shards.values()):
        raise ValueError(f"{index} holds no weight_map of tensors to files beside it")
    files = [folder / name for name in sorted(set(shards.values()))]
    if absent := [path.name for path in files if not path.is_file()]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(absent)}, which {INDEX_NAME} names")
    return files


def _number(fields: dict[str, Any], name: str, path: Path) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{path}: {name} is {value!r}; a positive number is wanted")
    return value
