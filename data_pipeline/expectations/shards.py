"""Boundary `shards`: every file of a view undamaged, exactly the kept clips, on their side, in shape and finite."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from data_pipeline.expectations.rules import equal, one_of, within
from data_pipeline.params import View
from infra.gates import Rule, Section, expect

Row = dict[str, Any]


def shard_sections(
    folder: Path, selection: pa.Table, view: View, text_tokens: int | None, measured: Mapping[str, float] | None
) -> dict[str, Section]:
    """The sections of the boundary. ValueError for nothing; what is wrong with the folder is a row of `files`.

    `text_tokens` is None for the pixel view; `measured` is the motion of each clip that a latent view must repeat.
    """
    from sana_video.data.shards import read_index, verify

    try:
        verify(folder)
        if text_tokens is not None:
            _check_null(folder, text_tokens)
    except (ValueError, FileNotFoundError) as error:
        return {"files": _files(folder.name, str(error))}
    index = read_index(folder).to_pylist()
    kept_ids = selection.select(["clip_id", "subset"]).filter(selection.column("keep"))
    kept = dict(zip(*(kept_ids.column(name).to_pylist() for name in ("clip_id", "subset")), strict=True))
    samples = _samples(folder, index, text_tokens is None)
    return {
        "files": _files(folder.name, "none"),
        "samples": _sample_section(index, kept, samples, view, text_tokens, measured),
        "balance": _balance(index, kept),
    }


def rules_of_files() -> list[Rule]:
    return [one_of("damage", ["none"], "every shard has the digest of its index; a latent view has its null embedding")]


def _files(view: str, damage: str) -> Section:
    return Section(pd.DataFrame([{"view": view, "damage": damage}]), rules_of_files(), "damage")


def _check_null(folder: Path, tokens: int) -> None:
    """ValueError or FileNotFoundError unless the embedding of no caption is there, of the view's length and finite."""
    from sana_video.data.shards import read_null

    text, mask = read_null(folder)
    if text.shape[0] != tokens or mask.shape != (tokens,) or not bool(text.isfinite().all()):
        raise ValueError(f"the null embedding of {folder} is {list(text.shape)}, or not finite; {tokens} tokens belong")


def rules_of_balance() -> list[Rule]:
    return [
        within("missing", 0, 0, "every kept clip is there"),
        within("train", 1, None, "something to train on"),
        within("val", 1, None, "something held out"),
    ]


def _balance(index: list[Row], kept: Mapping[str, str]) -> Section:
    sides = Counter(row["subset"] for row in index)
    missing = len(set(kept) - {row["key"] for row in index})
    frame = pd.DataFrame([{"data": "all", "missing": missing, "train": sides["train"], "val": sides["val"]}])
    return Section(frame, rules_of_balance(), "data")


def rules_of_samples(view: View, text_tokens: int | None, multiple: int = 1) -> list[Rule]:
    """`multiple`: pixels of a latent's side, of which the sides of a view with several sizes are multiples."""
    sizes = view.sizes(multiple)
    key = "data.pixels" if text_tokens is None else "data.views"
    rules = [
        expect("ExpectColumnValuesToBeUnique", column="key", about="no clip stands twice"),
        equal("side", "chosen_side", "on the side that the selection chose; a clip that is not kept is on none"),
        one_of("bucket", [f"{h}x{w}x{view.frames}" for h, w in sizes], "of the size of its view", key),
        one_of("finite", [True], "every number is finite"),
        within("spread", 1e-3, None, "is no flat grey: standard deviation of its numbers"),
    ]
    if text_tokens is None:
        shapes = [f"{view.frames}x{h}x{w}x3" for h, w in sizes]
        return [*rules, one_of("shape", shapes, "all frames of the size of its view, RGB", key)]
    return [
        *rules,
        expect("ExpectColumnUniqueValueCountToBeBetween", column="shape" if len(sizes) == 1 else "grain", min_value=1,
               max_value=1, about="all latents have one shape" if len(sizes) == 1 else "latents of one grain"),
        expect("ExpectColumnMeanToBeBetween", column="mean", min_value=-1.0, max_value=1.0,
               about="latents are normalised: mean over all of them near 0"),
        within("spread", 0.05, 10.0, "latents are normalised: standard deviation near 1"),
        one_of("tokens", [text_tokens], "text is as long as the encoder's", "text.tokens"),
        within("words", 1, text_tokens, "some of its tokens count"),
        within("caption_bytes", 10, None, "its caption is beside it"),
        within("motion_off", 0.0, 1e-3, "carries the motion that was measured"),
    ]  # fmt: skip


def _sample_section(
    index: list[Row],
    kept: Mapping[str, str],
    samples: list[Row],
    view: View,
    text_tokens: int | None,
    measured: Mapping[str, float] | None,
) -> Section:
    frame = pd.DataFrame(samples)
    frame["key"] = [row["key"] for row in index]
    frame["bucket"] = [row["bucket"] for row in index]
    frame["side"] = [row["subset"] for row in index]
    frame["chosen_side"] = [kept.get(row["key"], "not kept") for row in index]
    if text_tokens is not None:
        told = measured or {}
        frame["motion_off"] = [
            abs(sample["motion"] - told.get(row["key"], -1.0)) for row, sample in zip(index, samples, strict=True)
        ]
        frame["grain"] = [_grain(sample["shape"], row["bucket"]) for row, sample in zip(index, samples, strict=True)]
    multiple = int(frame["grain"].iloc[0].split("x")[2].split(".")[0]) if text_tokens is not None and index else 1
    return Section(frame, rules_of_samples(view, text_tokens, min(max(1, multiple), 64)), "key")


def _grain(shape: str, bucket: str) -> str:
    """ "CxTxhxw" of latents as channels, latent frames and the pixels that a latent stands for, down and across."""
    channels, frames, *sides = (int(part) for part in shape.split("x"))
    pixels = [int(part) for part in bucket.split("x")[:2]]
    strides = [p / max(1, side) for p, side in zip(pixels, sides, strict=False)]
    return "x".join(f"{n:g}" for n in (channels, frames, *strides))


def _samples(folder: Path, index: list[Row], pixels: bool) -> list[Row]:
    """What each sample holds, in the order of the index: shape, mean, spread, and the state of its text."""
    import torch

    from sana_video.data.shards import ShardReader

    found = []
    with ShardReader(folder) as reader:
        for at in range(len(index)):
            sample = reader.sample(at)
            values = (sample["pixels"] if pixels else sample["latents"]).float()
            row: Row = {
                "shape": "x".join(map(str, values.shape)),
                "finite": bool(torch.isfinite(values).all()),
                "mean": round(_number(values.mean()), 4),
                "spread": round(_number(values.std()), 4),
            }
            if not pixels:
                row |= {
                    "finite": row["finite"] and bool(torch.isfinite(sample["text"]).all()),
                    "tokens": len(sample["mask"]),
                    "words": int(sample["mask"].sum()),
                    "caption_bytes": len(sample["caption"]),
                    "motion": float(sample["motion"]),
                }
            found.append(row)
    return found


def _number(value: Any) -> float:
    number = float(value)
    return number if math.isfinite(number) else 0.0  # `finite` tells of it
