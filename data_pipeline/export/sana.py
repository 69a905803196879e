"""What the video loader of the official code reads (`SanaZipDataset`), and nothing that it would have to skip.

    train/<source>/00000.zip               <key>.mp4, <key>.json {prompt, width, height, frames, …}, stored, not packed
    train/<source>/00000_unimatch.json     {key: {"unimatch_flow_score": [a number for each pair]}}
    train/<source>/00000_vmafmotion.json, 00000_dover.json, 00000_Qwen2.5-VL.json
    train-index/<source>-<zips>_unimatch_<low>-<high>_f<frames>_cached_dataset.json, <source>-<zips>_cached_dataset.json
    loader.yaml                            the loader's arguments
    val/, val-index/                       the held-out clips, likewise: no training may be pointed at them

That loader applies no filter itself: it opens the index of the name that its filter gives, else the plain one, else
all zips. So only kept clips are exported, and both indexes list them. Where a number comes from a stand-in, its side
file is left out: a name such as `_unimatch` says who measured. A zip is made whole, its side files first, then renamed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.encode import decoded
from data_pipeline.export import (
    MANIFEST,
    STATED,
    Item,
    Plan,
    Row,
    Say,
    Track,
    is_stand_in,
    licences,
    stand_ins,
    written,
)
from infra.storage import atomic_text, require_space, sha256_file
from sana_video.video.mp4 import encode_mp4

CLIPS_A_ZIP = 1000  # the official ones hold up to 10,000; a killed run loses one
LOADER_FRAMES = 81  # the official configurations skip what is shorter
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can tell


def write(
    out: Path, plan: Plan, track: Track, say: Say, clips_a_zip: int = CLIPS_A_ZIP
) -> dict[str, int | float | str]:
    """Write the export to `out`, or what is missing of it; returns counters. OSError if the disk is full."""
    for left in out.glob(".part-*"):  # of a run that was killed
        shutil.rmtree(left)
    work = list(_zips(out, plan.items, clips_a_zip))
    missing = [(path, clips) for path, clips in work if not path.exists()]
    progress = iter(track(range(sum(len(clips) for _, clips in missing)), sum(len(c) for _, c in missing), "clips"))
    for path, clips in missing:
        _write_zip(path, clips, plan, out, lambda: next(progress, None))
    _hint(plan, say)
    _write_indexes(out, plan, work)
    _write_card(out, plan)
    files = sorted(path for side in ("train", "val") for path in (out / side).rglob("*.*") if path.is_file())
    written(out / MANIFEST, {path.relative_to(out).as_posix(): sha256_file(path) for path in files})
    return {"clips": len(plan.items), "zips": len(work), "written": len(missing)}


def folder_of(source: str) -> str:
    """A name for the folder of a source: its own where that is harmless, else what is left of it and a digest."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", source)[:60].strip("-") or "source"
    return plain if plain == source else f"{plain}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def _zips(out: Path, found: Sequence[Item], clips_a_zip: int) -> Iterator[tuple[Path, list[Item]]]:
    """(path, clips) of each zip: a source's clips in the order of the export, the two sides apart."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in found:
        groups.setdefault((item.kept.subset, item.source), []).append(item)
    for (side, source), clips in sorted(groups.items()):
        for number, start in enumerate(range(0, len(clips), clips_a_zip)):
            yield out / side / folder_of(source) / f"{number:05d}.zip", clips[start : start + clips_a_zip]


def _write_zip(path: Path, clips: list[Item], plan: Plan, out: Path, done: Callable[[], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    by_key = {item.key: item for item in clips}
    with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as scratch:
        part = Path(scratch) / "zip"
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            kept = [item.kept for item in clips]
            for clip, pixels in decoded(kept, plan.sizes, plan.frames, plan.fps, plan.root):
                item = by_key[clip.clip_id]
                mp4 = Path(scratch) / "clip.mp4"
                encode_mp4(mp4, pixels, plan.fps, {"copyright": f"{item.licence}; {item.attribution}"})
                require_space(out, 2 * mp4.stat().st_size)
                _add(archive, f"{item.key}.mp4", mp4.read_bytes())
                _add(archive, f"{item.key}.json", json.dumps(_facts(item, plan), ensure_ascii=False).encode())
                done()
        with part.open("rb") as file:
            os.fsync(file.fileno())
        for suffix, content in _side_files(clips, plan).items():
            written(path.with_name(f"{path.stem}{suffix}.json"), content)
        os.replace(part, path)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    archive.writestr(entry, data)


def _facts(item: Item, plan: Plan) -> Row:
    """What the loader reads, then what must not get lost. The motion score is the loader's to add."""
    return {
        "prompt": item.caption["text"],
        "width": item.size[1],
        "height": item.size[0],
        "frames": plan.frames,
        "fps": plan.fps,
        **{name: getattr(item, name) for name in STATED},
        "captioner": item.caption["captioner"],
        "stand_ins": stand_ins([item]),
    }


def _side_files(clips: Sequence[Item], plan: Plan) -> dict[str, dict[str, Row]]:
    """{suffix: {key: value}}, without what no clip may state under that name."""
    kinds: dict[str, tuple[Callable[[Item], bool], Callable[[Item], Row]]] = {
        "_unimatch": (_is_unimatch, lambda item: {"unimatch_flow_score": _pairs(item)}),
        "_vmafmotion": (_always, lambda item: {"vmafmotion_score": item.scores["vmaf_motion"]}),
        "_dover": (_is_dover, lambda item: {"dover_score": item.scores["overall"]}),
        "_Qwen2.5-VL": (_is_qwen, lambda item: {"prompt": item.caption["text"]}),
    }
    files = {
        suffix: {item.key: value(item) for item in clips if plan.allow_stand_ins or honest(item)}
        for suffix, (honest, value) in kinds.items()
    }
    return {suffix: entries for suffix, entries in files.items() if entries}


def _pairs(item: Item) -> list[float] | float:
    pairs: list[float] = item.scores["flow_pairs"] or []
    return pairs or float(item.scores["flow_motion"])  # the loader divides by the length of a list


def _always(item: Item) -> bool:
    return True


def _is_unimatch(item: Item) -> bool:
    return not is_stand_in(item.scores["flow_estimator"])


def _is_dover(item: Item) -> bool:
    return not is_stand_in(item.scores["aesthetic_scorer"])


def _is_qwen(item: Item) -> bool:
    """An endpoint may be asked for any model: then its name decides."""
    named = f"{item.caption['captioner']} {item.caption['model'] or ''}".lower()
    return not is_stand_in(item.caption["captioner"]) and "qwen2.5-vl" in named


def _hint(plan: Plan, say: Say) -> None:
    if plan.frames < LOADER_FRAMES:
        say(f"clips have {plan.frames} frames: a configuration with num_frames {LOADER_FRAMES} skips every one of them")
    for name, honest in (("_unimatch", _is_unimatch), ("_dover", _is_dover), ("_Qwen2.5-VL", _is_qwen)):
        without = sum(not honest(item) for item in plan.items)
        if without and plan.allow_stand_ins:
            say(f"{name} holds {without} values that {name[1:]} did not give (--allow-stand-ins)")
        elif without:
            say(f"{name} is not written for {without} clips: their value is a stand-in's or another model's")


def _filters(plan: Plan, clips: Sequence[Item]) -> dict[str, dict[str, float]]:
    """The filter under which the loader looks for the index of a source: as published, of UniMatch alone."""
    bounds = plan.ranges[clips[0].source].get("flow_motion")
    told = plan.allow_stand_ins or all(_is_unimatch(item) for item in clips)
    return {"_unimatch": {"min": float(bounds[0]), "max": float(bounds[1])}} if bounds is not None and told else {}


def index_name(name: str, zips: int, filters: dict[str, dict[str, float]], frames: int) -> str:
    """The name under which the loader looks for the index of a source."""
    parts = [f"{kind.lstrip('_')}_{rule['min']}-{rule['max']}" for kind, rule in filters.items()]
    middle = f"_{'_'.join(parts)}_f{max(frames, LOADER_FRAMES)}" if parts else ""
    return f"{name}-{zips}{middle}_cached_dataset.json"


def _write_indexes(out: Path, plan: Plan, work: Sequence[tuple[Path, list[Item]]]) -> None:
    """Made anew by every run: the paths in them are absolute."""
    arguments: dict[str, Any] = {"data_dir": {}, "json_cache_dir": str((out / "train-index").resolve())}
    arguments["external_data_filter"] = {}
    for folder, group in itertools.groupby(work, key=lambda entry: entry[0].parent):
        zips = list(group)
        clips = [item for _, some in zips for item in some]
        filters, side = _filters(plan, clips), folder.parent.name
        entries = [_entry(folder.name, path, item) for path, some in zips for item in some]
        for name in {index_name(folder.name, len(zips), rules, plan.frames) for rules in (filters, {})}:
            atomic_text(out / f"{side}-index" / name, json.dumps(entries, indent=4))
        if side == "train":
            arguments["data_dir"][folder.name] = str(folder.resolve())
            if filters:
                arguments["external_data_filter"][folder.name] = filters
    arguments |= {
        "num_frames": plan.frames,
        "motion_score_file_thres": {"_unimatch": None},
        "external_caption_suffixes": ["_Qwen2.5-VL"],
        "caption_proportion": {"prompt": 0.05, "_Qwen2_5-VL": 0.95},
    }
    atomic_text(out / "loader.yaml", yaml.safe_dump(arguments, sort_keys=False))


def _entry(name: str, path: Path, item: Item) -> Row:
    return {
        "info": {},
        "cache_key": f"{name}/{item.key}",
        "key": item.key,
        "zip_file": str(path.resolve()),
        "ext": ".mp4",
        "json_name": f"{item.key}.json",
        "dataset_name": name,
    }


def _write_card(out: Path, plan: Plan) -> None:
    card = {
        "clips": len(plan.items),
        "of": plan.clips,
        "frames": plan.frames,
        "fps": plan.fps,
        "sources": [row | {"folder": folder_of(row["source"])} for row in licences(plan.items)],
        "ranges": plan.ranges,
        "stand_ins": stand_ins(plan.items),
        "stand_ins_under_production_names": plan.allow_stand_ins,
    }
    written(out / "dataset_card.json", card)
