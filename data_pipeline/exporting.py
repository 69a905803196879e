"""`sana-video data export`: the kept clips as files that other trainers read.

Beside the package that it calls, not inside: `--help` must not wait for what that imports.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from data_pipeline.job import Overrides, Show, known, open_job, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data_pipeline.job import Job
    from infra.stage import Progress
    from sana_video.data.buckets import Size


def export(
    context: typer.Context,
    form: Annotated[Literal["sana", "hf"], typer.Option("--format", help="sana: zips; hf: mp4 and parquet.")],
    out: Annotated[
        str, typer.Option("--out", help="Empty, or that of the same export: a folder; hf: or an s3:// prefix.")
    ],
    view: Annotated[str | None, typer.Option("--view", help="Clips, sizes and frames of this view.")] = None,
    size: Annotated[Literal["480p", "720p"] | None, typer.Option("--size", help="11 aspects; 480p if no view.")] = None,
    clips: Annotated[
        Literal["selection", "sft"] | None,
        typer.Option("--clips", help="All kept, or the SFT set; all if no view."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many clips.")] = None,
    allow_stand_ins: Annotated[
        bool, typer.Option("--allow-stand-ins", help="sana: write stand-ins' numbers under production names.")
    ] = False,
    overrides: Overrides = None,
    show: Show = False,
) -> None:
    """Write the kept clips for the official trainer (sana) or as a Hugging Face dataset (hf)."""
    job = open_job(context, overrides, show)
    for name, given in (("size", size), ("clips", clips)):
        if view is not None and given is not None:
            refuse(f"--view {view} and --{name} {given}: a view has its own {name}, give one of the two")
    if view is not None:
        known("view", view, ["pixels", *job.params.views])
    chosen = job.clips(view) if view is not None else clips or "selection"
    remote = _is_remote(out)
    if remote and form == "sana":
        refuse(f"--out {out}: the official loader's indexes name files of this machine; give a folder")
    sizes, frames = _shape(job, view, size)

    def work(progress: Progress) -> Mapping[str, float | int | str]:
        from data_pipeline import export as stage
        from data_pipeline.export import hf, sana

        job.open_gate(chosen)
        found = stage.items(**job.kept(chosen), sizes=sizes, limit=limit)
        ranges = {item.source: job.params.curate.ranges_of(item.source) for item in found}
        plan = stage.Plan(found, frames, job.params.split.fps, sizes, ranges, allow_stand_ins, job.root, chosen)
        if remote:
            return stage.send_whole(out, plan.digest(form), job.root, lambda to: hf.write(to, plan, progress.track))
        folder = Path(out)
        stage.claim(folder, plan.digest(form))
        if form == "hf":
            return hf.write(folder, plan, progress.track)
        return sana.write(folder, plan, progress.track, progress.say)

    job.run("export", work)


def _is_remote(out: str) -> bool:
    from infra.storage import is_remote

    try:
        return is_remote(out)
    except ValueError as error:
        refuse(f"--out {error}")


def _shape(job: Job, view: str | None, size: str | None) -> tuple[tuple[Size, ...], int]:
    """((height, width) …, frames) of the clips. The published sizes: other sides belong to other autoencoders."""
    from sana_video.data.buckets import named

    if view is None:
        return named(size or "480p", 1), job.params.split.frames
    chosen = job.view(view)
    return chosen.sizes(1), chosen.frames
