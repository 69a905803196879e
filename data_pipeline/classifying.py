"""`sana-video data classify`: apply the classifiers that params name; `data classify fit`: make one out of labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_pipeline.job import CLASSES, Overrides, Show, as_json, open_job, refuse

if TYPE_CHECKING:
    from infra.stage import Progress

classify = typer.Typer(help="What fitted classifiers make of each clip.", invoke_without_command=True)


@classify.callback()
def apply(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Write data/classes.parquet: what each classifier under data.classify makes of the clips of its sources."""
    if context.invoked_subcommand is not None:
        return
    job = open_job(context, overrides, show)

    def work(progress: Progress) -> Mapping[str, int]:
        from data_pipeline import classify as stage

        asked = job.params.classify
        fitted = {name: stage.read(job.root / each.file) for name, each in asked.items()}
        clips = job.join("clips", ("clip_id", "source"))
        scores = job.join("scores", stage.NEEDED if asked else ("clip_id",))
        written = job.write_columns("classes", stage.run(clips, scores, asked, fitted), CLASSES)
        return {"classifiers": len(asked), "probabilities": int(written["classes"])}

    job.run("classify", work)


@classify.command()
def fit(
    context: typer.Context,
    labels: Annotated[Path, typer.Option("--labels", help="CSV clip_id,label (1 or 0), or a review as JSON.")],
    name: Annotated[str, typer.Option("--name", help="What it finds, such as low_quality_game.")],
    out: Annotated[Path | None, typer.Option("--out", help="classifiers/NAME.json by default.")] = None,
    overrides: Overrides = None,
    show: Show = False,
) -> None:
    """Fit a classifier on labelled clips and say how well it does on videos that it has not seen."""
    job = open_job(context, overrides, show)
    from data_pipeline import classify as stage
    from infra.storage import atomic_text

    try:
        told = stage.read_labels(labels)
        clips = job.join("clips", ("clip_id", "video_id"))
        fitted = stage.fit(name, told, clips, job.join("scores", stage.NEEDED))
    except (ValueError, FileNotFoundError) as error:
        refuse(" ".join(str(error).split()))
    path = out or job.root / "classifiers" / f"{name}.json"
    atomic_text(path, fitted.text())
    typer.echo(fitted.text() if as_json(context) else f"{stage.shown(fitted)}\n  written to {path}")
