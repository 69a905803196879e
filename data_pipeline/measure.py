"""`sana-video data measure FILE…`: every score of whole files, or of a span, as the pipeline would give it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Video files.", show_default=False)]
Span = Annotated[str | None, typer.Option("--span", metavar="A:B", help="Seconds from the first frame; else all.")]
AsJson = Annotated[bool, typer.Option("--json", help="A list of objects instead of a table.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a parameter.")
]


def measure(
    context: typer.Context, files: Files, span: Span = None, json_out: AsJson = False, overrides: Overrides = None
) -> None:
    """Measure files by the functions and settings of the score stage; stand-ins and versions are named."""
    from data_pipeline.job import measure_versions, open_job, refuse
    from data_pipeline.score import file as one
    from data_pipeline.score.networks import Networks, licence
    from data_pipeline.score.settings import settings_of
    from infra.settings import AppContext
    from sana_video.video.sandbox import Sandbox

    job = open_job(context, overrides, False)
    try:
        asked = _span(span)
        settings = settings_of(job.params.limit, job.params.split, job.params.score, job.root)
        networks = Networks(settings, job.params.score, job.root)
        if settings.dover is not None:
            typer.echo(licence(job.params.score), err=True)
        versions = measure_versions(job.root)
    except (ValueError, FileNotFoundError) as error:
        refuse(str(error))
    wants_json = json_out or (isinstance(context.obj, AppContext) and context.obj.as_json)
    found, failed = [], False
    with Sandbox() as sandbox:
        for path in files:
            try:
                measured = one.measure_file(path, asked, settings, networks, sandbox)
            except (ValueError, OSError, RuntimeError) as error:  # the last: a fault of ours, with its traceback
                told = str(error).strip() or repr(error)
                typer.echo(f"{path}: {told.splitlines()[-1]}", err=True)
                failed = True
                continue
            found.append(one.as_json(measured, settings, versions))
            if not wants_json:
                typer.echo("\n".join(one.as_lines(measured, settings, versions)))
    if wants_json:
        typer.echo(json.dumps(found, indent=2))
    raise typer.Exit(2 if failed else 0)


def _span(text: str | None) -> tuple[float, float] | None:
    """`A:B` in seconds. ValueError for anything else."""
    if text is None:
        return None
    begin, colon, end = text.partition(":")
    try:
        span = float(begin), float(end)
    except ValueError:
        span = (-1.0, -1.0)
    if not colon or not 0 <= span[0] < span[1] < float("inf"):
        raise ValueError(f"--span {text!r} is not BEGIN:END in rising seconds, like 1.5:4")
    return span
