"""`sana-video data …`: each stage of the data pipeline as one thin command.

A command reads its section of params.yaml, opens the tables it needs, runs inside `infra.stage.run` under the name
that dvc.yaml gives the stage, and writes one table. Heavy imports stand inside the commands: `--help` must not wait.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_pipeline.classifying import classify
from data_pipeline.exporting import export
from data_pipeline.job import (
    QUARANTINE,
    SELECTION,
    Job,
    Overrides,
    Show,
    as_json,
    known,
    measure_versions,
    open_job,
    refuse,
)
from data_pipeline.judging import gate
from data_pipeline.measure import measure
from data_pipeline.sft.commands import sft
from infra.settings import load_section

if TYPE_CHECKING:
    from data_pipeline.encode import Encoders
    from data_pipeline.params import ViewParams
    from infra.stage import Progress

    Counters = Mapping[str, float | int | str]

app = typer.Typer(no_args_is_help=True, help="From films to shards: each stage of the data pipeline alone.")
app.add_typer(gate, name="gate")
app.command()(measure)
app.command()(export)
app.add_typer(sft, name="sft")
app.add_typer(classify, name="classify")

Batch = Annotated[str, typer.Option("--batch", help="A name under data.batches in params.yaml.")]
View = Annotated[str, typer.Option("--view", help="pixels, or a name under data.views in params.yaml.")]


@app.command()
def ingest(context: typer.Context, batch: Batch, overrides: Overrides = None, show: Show = False) -> None:
    """Look into every file of a batch: what it is, where it comes from, or why it is rejected."""
    job = open_job(context, overrides, show)
    known("batch", batch, job.params.batches)

    def work(progress: Progress) -> Counters:
        from data_pipeline import ingest as stage

        rows = stage.run(batch, job.params.batches[batch].path, job.params.ingest, job.root, progress.track)
        return job.write("videos", rows, f"data/videos/{batch}.parquet")

    job.run(f"ingest@{batch}", work)


@app.command()
def split(context: typer.Context, batch: Batch, overrides: Overrides = None, show: Show = False) -> None:
    """Find the shots of each video and lay clips of equal length into them."""
    job = open_job(context, overrides, show)
    known("batch", batch, job.params.batches)

    def work(progress: Progress) -> Counters:
        from data_pipeline import split as stage

        rows = stage.run(job.read("videos", batch), job.params.limit, job.params.split, job.root, progress.track)
        return job.write("clips", rows, f"data/clips/{batch}.parquet")

    job.run(f"split@{batch}", work)


@app.command()
def score(context: typer.Context, batch: Batch, overrides: Overrides = None, show: Show = False) -> None:
    """Measure every clip from one decode: motion, saturation, quality, cuts, perceptual hashes."""
    job = open_job(context, overrides, show)
    known("batch", batch, job.params.batches)

    def work(progress: Progress) -> Counters:
        from data_pipeline import score as stage

        versions = measure_versions(job.root)
        videos, clips, params = job.read("videos", batch), job.read("clips", batch), job.params
        rows = stage.run(videos, clips, params.limit, params.split, params.score, versions, job.root, progress.track)
        return job.write("scores", rows, f"data/scores/{batch}.parquet")

    job.run(f"score@{batch}", work)


@app.command()
def caption(context: typer.Context, batch: Batch, overrides: Overrides = None, show: Show = False) -> None:
    """Write a caption for every clip: from its measures, or by a model that looks at it."""
    job = open_job(context, overrides, show)
    known("batch", batch, job.params.batches)

    def work(progress: Progress) -> Counters:
        from data_pipeline import caption as stage

        videos, clips, scores = (job.read(table, batch) for table in ("videos", "clips", "scores"))
        place = job.params.batches[batch].path
        rows = stage.run(videos, clips, scores, job.params.caption, place, job.root, progress.track)
        return job.write("captions", rows, f"data/captions/{batch}.parquet")

    job.run(f"caption@{batch}", work)


@app.command()
def dedup(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Find near copies over all batches; tables of batches that params no longer name are removed first."""
    job = open_job(context, overrides, show)

    def work(progress: Progress) -> Counters:
        from data_pipeline import dedup as stage

        for path in stage.sweep(job.root, list(job.params.batches)):
            progress.say(f"removed {path.relative_to(job.root)}: params.yaml names no such batch")
        inputs = stage.load(job.root, list(job.params.batches))
        return job.write_columns("twins", stage.run(*inputs, job.params.dedup), "data/twins.parquet")

    job.run("dedup", work)


@app.command()
def quarantine(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """List every file and clip that was refused, or set aside since it breaks a rule, with its reason."""
    job = open_job(context, overrides, show)

    def work(progress: Progress) -> Counters:
        from data_pipeline import quarantine as stage
        from data_pipeline.dedup import sweep
        from data_pipeline.expectations.facts import on_disk

        sweep(job.root, list(job.params.batches))
        table = stage.run(on_disk(job.root, list(job.params.batches)), job.params)
        job.write_columns("quarantine", table, QUARANTINE)
        return stage.counters(table)

    job.run("quarantine", work)


@app.command()
def curate(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Choose the clips to keep, with every reason for those that are not, and the side each one trains."""
    job = open_job(context, overrides, show)

    def work(progress: Progress) -> Counters:
        from data_pipeline import curate as stage

        inputs = stage.load(job.root, list(job.params.batches))
        selection = stage.run(**vars(inputs), params=job.params.curate, classifiers=job.params.classify)
        job.write_columns("selection", selection, SELECTION)
        return {"clips": selection.num_rows, "kept": selection.column("keep").to_numpy().sum().item()}

    job.run("curate", work)


@app.command()
def calibrate(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option("--out", help="Write the fragment here instead of printing it.")] = None,
    overrides: Overrides = None,
    show: Show = False,
) -> None:
    """How each measure spreads in each source, and the ranges that follow, as a fragment of params.yaml."""
    job = open_job(context, overrides, show)
    from data_pipeline import calibrate as stage
    from data_pipeline import curate
    from infra.storage import atomic_text

    try:
        inputs = curate.load(job.root, list(job.params.batches))
    except ValueError as error:
        refuse(str(error))
    sources = stage.run(inputs.videos, inputs.clips, inputs.scores)
    if out is not None:
        atomic_text(out, stage.fragment(sources, job.params.curate))
    if as_json(context):
        typer.echo(json.dumps(sources, indent=1))
    elif out is None:
        typer.echo(stage.fragment(sources, job.params.curate), nl=False)


@app.command()
def whatif(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """What other thresholds (--set data.curate.…) would keep, against the selection as it stands; writes nothing."""
    job = open_job(context, overrides, show)
    from data_pipeline import whatif as stage

    try:
        answer = stage.run(job.root, list(job.params.batches), job.params.curate, job.params.classify)
    except ValueError as error:
        refuse(str(error))
    typer.echo(json.dumps(answer, indent=1) if as_json(context) else stage.shown(answer))


@app.command()
def encode(context: typer.Context, view: View, overrides: Overrides = None, show: Show = False) -> None:
    """Write the shards of a view: pixels, or latents with text embeddings."""
    job = open_job(context, overrides, show)
    known("view", view, ["pixels", *job.params.views])

    def work(progress: Progress) -> Counters:
        from data_pipeline import encode as stage

        job.open_gate(job.clips(view))
        kept = stage.kept_clips(**job.kept(job.clips(view)))
        folder, fps, limit = job.root / "data" / "shards" / view, job.params.split.fps, job.params.shards.max_bytes
        if view == "pixels":
            count = stage.write_pixels(folder, kept, job.params.pixels, fps, limit, job.root, progress.track)
        else:
            params = job.params.views[view]
            encoders = _encoders(job, params)
            count = stage.write_latents(folder, kept, params, fps, limit, job.root, encoders, progress.track)
        return {"samples": count}

    job.run("shards@pixels" if view == "pixels" else f"encode@{view}", work)


def _encoders(job: Job, view: ViewParams) -> Encoders:
    """The view's autoencoder, once the gate on it is green, and the text encoder, which reads a caption once for all.

    Both work on the GPU where there is one. A published autoencoder has no gate of ours: `after` is then another
    verdict, and says nothing of its folder. Embeddings are kept under runs/text/ by content: another view, or the same
    one again, finds them there.
    """
    import torch

    from data_pipeline.encode import Encoders, Words, check_view
    from infra.gates import require
    from infra.storage import digest
    from sana_video.autoencoder import load_autoencoder
    from sana_video.device import best_device
    from sana_video.text import TextParams, cached, load_text_encoder, null_condition

    folder = job.root / view.autoencoder
    judged = {view.autoencoder: folder} if view.autoencoder.startswith("models/") else {}
    require(job.verdict(view.after), tables=judged)
    text = load_section(job.params_path, "text", TextParams, job.overrides)
    device = best_device()
    autoencoder = load_autoencoder(folder, device=device)
    multiple = check_view(view, autoencoder)
    place = job.root / text.folder if text.folder else None
    words = cached(load_text_encoder(text, place, device=device), job.root / "runs" / "text")
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    identity = f"{digest(folder)} {words.identity} {machine}"
    return Encoders(autoencoder.encode_stream, Words(words.encode, null_condition(words)), multiple, identity)


@app.command()
def report(
    context: typer.Context,
    only_throughput: Annotated[
        bool, typer.Option("--throughput", help="Write only the page of how fast each stage was.")
    ] = False,
    overrides: Overrides = None,
    show: Show = False,
) -> None:
    """Write reports/data/: the page to judge the data by, its numbers and the funnel, and how fast each stage was.

    It stands beside the gate, not below it: a red gate is when the page is needed most.
    """
    job = open_job(context, overrides, show)
    batches = list(job.params.batches)
    if only_throughput:
        from data_pipeline.report import throughput

        try:
            throughput.write(job.root, batches, job.params.limit)
        except ValueError as error:
            refuse(str(error))
        typer.echo(job.root / throughput.PAGE)
        return

    def work(progress: Progress) -> Counters:
        from data_pipeline import report as stage

        return stage.run(job.root, batches, job.params, progress.track)

    job.run("data_report", work)
