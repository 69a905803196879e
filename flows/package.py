"""`release package`: everything a user of the model needs, and everything a doubter asks for, in one folder.

The folder is the pipeline's own format, so `SanaVideoPipeline.from_pretrained("release")` reads it. Its bytes follow
from weights, evaluation and verdicts alone (no time, no host): the digest of the manifest names the release.
What is not known before it is committed, the git commit, stands in the tag that registers it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline import tables
from flows.params import Params
from flows.training import judged
from infra import gates
from infra.registry import write_manifest
from infra.storage import atomic_dir, digest
from sana_video.config import SamplingDefaults
from sana_video.text import MiniLmTextEncoder

RELEASE_VERSION = 1
GATES = ("data", "shards-pixels", "eval", "release")  # with those of the views and stages, which params.yaml names
SMALL_AUTOENCODER = "small DCAE-V, the demo's own autoencoder (stand-in for DCAE-V f32t4c32)"
_TABLES_READ = ("videos", "scores", "captions")
PROMPTS = (
    "a wide shot of a green meadow under a bright sky, camera still",
    "a close-up of an animal with fur looking around, slow motion",
    "a forest path in soft light, camera moving forward",
    "a dark scene with one bright object moving across the picture",
)


@dataclass(frozen=True)
class Release:
    """What goes into the folder, read and checked before anything is written."""

    root: Path
    params: Params
    summary: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]]  # summaries from the first stage of the line to the released one
    sources: Sequence[tuple[str, str, str]]  # source, licence, attribution
    stand_ins: Sequence[str]


def package(root: Path, params: Params) -> dict[str, int]:
    """Write release/ and return counters.

    Raises GateRed or GateBroken unless every verdict that goes into the folder is green for what lies there now and
    the evaluation was of these very weights, FileNotFoundError for a part that is missing.
    """
    _open_gates(root, params)
    release = _gather(root, params)
    with atomic_dir(root / "release") as folder:
        _weights(release, folder)
        _papers(release, folder)
        write_manifest(folder)
        return {"files": sum(p.is_file() for p in folder.rglob("*"))}


def require_same_gate(root: Path) -> None:
    """GateRed or GateBroken unless release/ was let through by the release verdict that stands now, and it is green."""
    standing, packaged = _verdict(root, "release"), root / "release" / "gates" / "release.json"
    gates.require(standing, tables={"reports/eval": root / "reports" / "eval"})
    if not packaged.is_file():
        raise FileNotFoundError(f"{packaged}: no such file; run `sana-video release package`")
    if packaged.read_bytes() != standing.read_bytes():
        raise gates.GateRed(f"release/ is stale: {standing.name} changed since it was packaged; package it again")


def _open_gates(root: Path, params: Params) -> None:
    """Each verdict on what it has to be about, and on all else it saw that still lies there."""
    for path in _verdicts(root, params):
        seen = {name for name in gates.read(path).tables if (root / name).exists()}
        gates.require(path, tables={name: root / name for name in sorted(seen | _subjects(path.stem, params))})
    stated = _json(root / "reports" / "eval" / "summary.json").get("digests", {})
    for name in (f"models/{params.eval.stage}", params.eval.autoencoder):
        if not (root / name).is_dir():
            raise FileNotFoundError(f"{root / name}: no such folder; run the stage that writes it")
        if stated.get(name) != digest(root / name):
            raise gates.GateRed(f"the evaluation is stale: {name} is not what was evaluated; evaluate again")


def _subjects(boundary: str, params: Params) -> set[str]:
    """What a verdict cannot do without: other tables of its making may be gone by now."""
    if boundary == "data":
        return {f"data/{table}/{batch}.parquet" for table in _TABLES_READ for batch in params.data.batches}
    if boundary == "sft":
        return {"data/sft.parquet"}
    return {"reports/eval"} if boundary in ("eval", "release") else set(judged(boundary))


def _gather(root: Path, params: Params) -> Release:
    training = [_json(root / "models" / name / "summary.json") for name in _line(params)]
    summary = _json(root / "reports" / "eval" / "summary.json")
    used = [video for video in _rows(root, params, "videos") if video["reason"] is None]
    return Release(
        root=root,
        params=params,
        summary=summary,
        training=training,
        sources=sorted({(v["source"] or "", v["licence"] or "unknown", v["attribution"] or "") for v in used}),
        stand_ins=sorted(_stand_ins(root, params, summary, training)),
    )


def _stand_ins(
    root: Path, params: Params, summary: Mapping[str, Any], training: Sequence[Mapping[str, Any]]
) -> set[str]:
    """Every part that is not the production one, by the name it gives itself: in data, training and evaluation."""
    named = {name for stage in training for name in stage["stand_ins"]} | set(summary.get("stand_ins", ()))
    named |= {measure["stand_in"] for measure in summary["measures"].values() if measure.get("stand_in")}
    columns = {"captions": ("captioner",), "scores": ("flow_estimator", "aesthetic_scorer")}
    for table, names in columns.items():
        named |= {row[name] for row in _rows(root, params, table) for name in names if "stand-in" in (row[name] or "")}
    if params.text.encoder == "minilm":
        named.add(MiniLmTextEncoder.name)
    if _maker(params) and params.autoencoder.preset == "small":
        named.add(SMALL_AUTOENCODER)
    return named


def _rows(root: Path, params: Params, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tables.read_batches(
        table, root / "data" / table, list(params.data.batches)
    ).to_pylist()
    return rows


def _line(params: Params) -> list[str]:
    """The stages that led to the released one, the autoencoder's first."""
    stages, line = params.train.stages, []
    current: str | None = params.eval.stage
    while current in stages:
        line.append(current)
        current = stages[current].init.removeprefix("models/")
    return [*_maker(params), *reversed(line)]


def _maker(params: Params) -> list[str]:
    """The stage that trained the released autoencoder; none for weights from elsewhere."""
    name = params.eval.autoencoder.removeprefix("models/")
    return [name] if name in params.train.stages else []


def _weights(release: Release, folder: Path) -> None:
    """The null embedding is the one that the released stage trained with."""
    from sana_video.weights import NULL_FILE

    root, params = release.root, release.params
    for name in ("model.safetensors", "config.json"):
        _copy(root / "models" / params.eval.stage / name, folder / name)
    _autoencoder(root / params.eval.autoencoder, folder / "autoencoder")
    _copy(root / "models" / params.eval.stage / NULL_FILE, folder / NULL_FILE)
    _write_json(folder / "text.json", params.text.model_dump(mode="json", exclude={"folder"}, exclude_none=True))
    _write_json(folder / "sampling.json", _sampling(release).model_dump(mode="json"))


def _autoencoder(source: Path, folder: Path) -> None:
    """Our own layout file by file; a published one, as it was fetched, in our layout."""
    from sana_video.autoencoder import load_autoencoder

    if (source / "diffusion_pytorch_model.safetensors").is_file() or (source / "vae").is_dir():
        load_autoencoder(source).save_pretrained(folder)
        return
    for name in ("model.safetensors", "config.json"):
        _copy(source / name, folder / name)


def _sampling(release: Release) -> SamplingDefaults:
    """As it was evaluated; the motion score is that of the held-out real clips where params.yaml names none."""
    params, size = release.params, release.summary["size"]
    measured = release.summary["measures"]["t2v/flow_motion"]["real"]["mean"]
    chosen = params.release.motion_score
    return params.eval.sampling(
        params.train.stages[params.eval.stage],
        fps=params.data.split.fps,
        height=size["height"],
        width=size["width"],
        frames=size["frames"],
        motion_score=round(measured) if chosen is None else chosen,
    )


def _papers(release: Release, folder: Path) -> None:
    reports = release.root / "reports"
    for name in ("summary.json", "report.html"):
        _copy(reports / "eval" / name, folder / "evaluation" / name)
    for verdict in _verdicts(release.root, release.params):
        _copy(verdict, folder / "gates" / verdict.name)
    _copy(release.root / "LICENSE", folder / "LICENSE")
    _write_json(folder / "prompts.json", list(PROMPTS))
    _write_json(folder / "lineage.json", _lineage(release))
    (folder / "README.md").write_text(card(release))


def _verdicts(root: Path, params: Params) -> list[Path]:
    views = {params.train.stages[name].view for name in _line(params)} - {"pixels"}
    chosen = {params.data.views[view].clips_after for view in views}
    names = {*GATES, *chosen, *(f"shards-{view}" for view in views), *(f"train-{name}" for name in _line(params))}
    return [_verdict(root, name) for name in sorted(names)]


def _lineage(release: Release) -> dict[str, Any]:
    """From which data, by which training, past which gates; digests are those the gates saw."""
    params, root = release.params, release.root
    kept = (
        "stage",
        "objective",
        "steps",
        "fingerprint",
        "data_digest",
        "init_digest",
        "checkpoint_sha256",
        "parameters",
    )
    return {
        "release": RELEASE_VERSION,
        "params": {
            "data": {"batches": params.data.model_dump(mode="json")["batches"]},
            "text": params.text.model_dump(mode="json"),
            "eval": params.eval.model_dump(mode="json"),
        },
        "model": {"stage": params.eval.stage, "digest": digest(root / "models" / params.eval.stage)},
        "autoencoder": {"path": params.eval.autoencoder, "digest": digest(root / params.eval.autoencoder)},
        "training": [{key: stage[key] for key in kept if key in stage} for stage in release.training],
        "tables": {path.stem: dict(gates.read(path).tables) for path in _verdicts(root, params)},
        "sources": [{"source": s, "licence": li, "attribution": a} for s, li, a in release.sources],
        "stand_ins": list(release.stand_ins),
    }


def card(release: Release) -> str:
    """The model card: front matter that the Hugging Face Hub reads, then what a reader must know before use."""
    name = release.params.release.name
    front = {
        "license": "apache-2.0",
        "pipeline_tag": "text-to-video",
        "library_name": "sana-video",
        "tags": ["text-to-video", "image-to-video", "linear-attention", "diffusion"],
        "datasets": sorted({source for source, _, _ in release.sources if source}),
    }
    sampling = _sampling(release)
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {name}",
        "A linear-attention video diffusion model after SANA-Video (arXiv 2509.24695), trained and released by this "
        "project's own pipeline: every step from raw film to this folder passed a gate, see `gates/`.",
        f'## Use\n\n```\nsana-video sample --model {name}@champion --prompt "{PROMPTS[0]}" --out sample.mp4\n```\n\n'
        f"By default {sampling.frames} frames of {sampling.height}x{sampling.width} at {sampling.fps:g} frames per "
        f"second, {_schedule(sampling)}. `prompts.json` holds prompts to try.",
        f"## Data\n\n{_source_list(release.sources)}\n\n"
        "Clips made by this model derive from these films; keep the attribution.",
        f"## Training\n\n{_training_table(release.training)}",
        f"## Evaluation\n\n{_measure_table(release.summary['measures'])}\n\n"
        "Intervals are 95 %; a failed video counts as the worst value. The whole report is `evaluation/report.html`.",
        f"## Stand-ins\n\n{_stand_in_text(release.stand_ins)}",
        "## Limits\n\nThe model knows only the films listed above. Its clips are synthetic and must be labelled so; "
        "do not use them to deceive, or to depict real people. Weights: Apache-2.0; the films keep their own licences.",
    ]
    return "\n\n".join(parts) + "\n"


def _schedule(sampling: SamplingDefaults) -> str:
    if sampling.step_list is not None:
        return f"in {len(sampling.step_list)} steps without guidance"
    return f"{sampling.steps} steps, guidance {sampling.guidance:g}, shift {sampling.flow_shift:g}"


def _source_list(sources: Iterable[tuple[str, str, str]]) -> str:
    return "\n".join(
        f"- **{source or 'unnamed source'}**, {licence}{': ' + note if note else ''}"
        for source, licence, note in sources
    )


def _training_table(training: Iterable[Mapping[str, Any]]) -> str:
    rows = ["| stage | objective | steps | held-out loss, start | end |", "|---|---|---:|---:|---:|"]
    rows += [
        f"| {s['stage']} | {s['objective']} | {s['steps']} | {s['heldout_start']:.4f} | {s['heldout_end']:.4f} |"
        for s in training
    ]
    return "\n".join(rows)


def _measure_table(measures: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ["| measure | mean | 95 % interval | n | note |", "|---|---:|---|---:|---|"]
    for name, measure in sorted(measures.items()):
        low_high = measure["ci95"]
        interval = f"{low_high[0]:.4g} to {low_high[1]:.4g}" if low_high else ""
        note = measure.get("stand_in") or measure.get("unit") or ""
        rows.append(f"| {name} | {measure['mean']:.4g} | {interval} | {measure['n']} | {note} |")
    return "\n".join(rows)


def _stand_in_text(names: Sequence[str]) -> str:
    if not names:
        return "None: every part is the production one."
    return (
        "These parts stand in for the production ones, and numbers that rest on them are not the paper's:\n\n"
        + "\n".join(f"- {name}{'' if 'stand-in' in name else ' (stand-in)'}" for name in names)
    )


def _verdict(root: Path, boundary: str) -> Path:
    return root / "reports" / "gates" / f"{boundary}.json"


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file; run the stage that writes it")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run the stage that writes it")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
