"""`sana-video data sft`: choose the SFT set; `… review` writes a page to judge candidates by, `… decide` stores what
people decided on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_pipeline.job import SELECTION, SFT, Overrides, Show, open_job, refuse

if TYPE_CHECKING:
    from infra.stage import Progress

REVIEWS = "reviews"
SUMMARY = "reports/sft/summary.json"

sft = typer.Typer(help="The SFT set: chosen by measures, balanced, judged by people.", invoke_without_command=True)


@sft.callback()
def select(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Choose the SFT set out of the kept clips, with what each cell lacks."""
    if context.invoked_subcommand is not None:
        return
    job = open_job(context, overrides, show)

    def work(progress: Progress) -> Mapping[str, int]:
        from data_pipeline import tables
        from data_pipeline.sft import choose as stage
        from data_pipeline.sft import reviews
        from infra.storage import atomic_text

        job.open_gate()
        params = job.params.sft
        selection = tables.read("selection", job.root / SELECTION, stage.SELECTION)
        scores = job.join("scores", ("clip_id", *stage.measures(params)))
        said = reviews.standing(reviews.stored(job.root / REVIEWS))
        table = stage.run(selection, scores, job.join("captions", stage.CAPTIONS), said, params)
        job.write_columns("sft", table, SFT)
        known = int(table.num_rows - table.column("human").null_count)
        atomic_text(job.root / SUMMARY, stage.summary(table, params, len(said) - known))
        cells = stage.cells(table, params)
        told = {name: sum(getattr(cell, name) for cell in cells) for name in ("candidates", "chosen", "shortfall")}
        return {"kept": table.num_rows, **told}

    job.run("sft", work)


@sft.command()
def review(
    context: typer.Context,
    size: Annotated[int, typer.Option("--size", min=1, max=500, help="Candidates on the page.")] = 200,
    page: Annotated[int, typer.Option("--page", min=1, help="Which so many candidates that nobody has judged.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", help="reports/sft/review-PAGE.html by default.")] = None,
    overrides: Overrides = None,
    show: Show = False,
) -> None:
    """Write a page that needs no network, on which a person accepts or rejects candidates by keyboard."""
    job = open_job(context, overrides, show)
    path = out or job.root / "reports" / "sft" / f"review-{page:03d}.html"

    def work(progress: Progress) -> Mapping[str, int]:
        from data_pipeline import tables
        from data_pipeline.sft import choose as stage
        from data_pipeline.sft import page as pages
        from infra.storage import atomic_text

        table = tables.read("sft", job.root / SFT)
        shown = pages.candidates(table, stage.quotas(job.params.sft), page, size)
        if not len(shown):
            raise ValueError(f"page {page}: no candidate is left to judge (see {SUMMARY})")
        details = {name: job.join(name) for name in ("videos", "clips", "scores", "captions")}
        text = pages.build(shown, **details, root=job.root, track=progress.track)
        atomic_text(path, text)
        progress.say(f"{path}: {len(shown)} candidates, {len(text) / 2**20:.1f} MiB")
        return {"candidates": len(shown)}

    job.run("sft_review", work)


@sft.command()
def decide(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="What the review page exported, JSON or CSV.")],
    overrides: Overrides = None,
    show: Show = False,
) -> None:
    """Check reviews and store them under reviews/, where git keeps them; `data sft` then counts them."""
    job = open_job(context, overrides, show)
    from data_pipeline import tables
    from data_pipeline.sft import reviews

    try:
        known = tables.read("sft", job.root / SFT, ["clip_id"]).column("clip_id").to_pylist()
        written = reviews.decide(files, job.root / REVIEWS, frozenset(known))
    except (ValueError, FileNotFoundError) as error:
        refuse(" ".join(str(error).split()))
    for path in written:
        typer.echo(f"stored {path.relative_to(job.root)}")
