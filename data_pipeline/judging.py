"""`sana-video data gate …`: judge a boundary, write the verdict, and end red or broken unless it is green.

Beside the commands that it judges: what stands below a verdict opens it through `Job.open_gate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_pipeline.job import SELECTION, SFT, Job, Overrides, Show, known, open_job
from infra.settings import load_section

if TYPE_CHECKING:
    from infra.gates import Section
    from infra.stage import Progress

    Counters = Mapping[str, float | int | str]
    Sections = Mapping[str, Section] | Iterable[tuple[str, Section]]

gate = typer.Typer(no_args_is_help=True, help="Check a boundary; exit 3 if red, 4 if the check itself is broken.")

View = Annotated[str, typer.Option("--view", help="pixels, or a name under data.views in params.yaml.")]

JUDGED = ("batches", "ingest", "split", "score", "caption", "dedup", "curate", "classify", "gate")


@gate.command("data")
def gate_data(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Check every table from ingest to selection and how they hang together."""
    job = open_job(context, overrides, show)

    def work(progress: Progress) -> Counters:
        from data_pipeline.expectations import data_sections

        paths, params = job.tables(), job.params.model_dump(mode="json")
        sections = data_sections(paths, job.root, job.params)
        return _judge(job, "data", sections, paths, {name: params[name] for name in JUDGED})

    job.run("gate_data", work)


@gate.command("sft")
def gate_sft(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Check the SFT set: out of kept clips alone, by its rules and people's word, within what each cell is to give."""
    job = open_job(context, overrides, show)

    def work(progress: Progress) -> Counters:
        from data_pipeline.expectations.sft import sft_sections

        job.open_gate()
        paths = {name: job.root / name for name in (SFT, SELECTION)}
        sections = sft_sections(paths[SFT], job.root, list(job.params.batches), job.params.sft)
        return _judge(job, "sft", sections, paths, {"sft": job.params.sft.model_dump(mode="json")})

    job.run("gate_sft", work)


@gate.command("shards")
def gate_shards(context: typer.Context, view: View, overrides: Overrides = None, show: Show = False) -> None:
    """Check the shards of a view: undamaged, complete, in shape, finite, each clip on its side."""
    job = open_job(context, overrides, show)
    known("view", view, ["pixels", *job.params.views])

    def work(progress: Progress) -> Counters:
        from data_pipeline.expectations.shards import shard_sections

        job.open_gate(job.clips(view))
        name, tokens, motion = f"data/shards/{view}", _text_tokens(job, view), _motion(job, view)
        if not (job.root / name).is_dir():
            raise FileNotFoundError(f"no shards at {name}: run `sana-video data encode --view {view}`")
        sections = shard_sections(job.root / name, job.chosen(job.clips(view)), job.view(view), tokens, motion)
        paths = {each: job.root / each for each in (name, SELECTION, *((SFT,) if job.clips(view) == "sft" else ()))}
        settings = {"view": job.view(view).model_dump(mode="json"), "text_tokens": tokens}
        return _judge(job, f"shards-{view}", sections, paths, settings)

    job.run("gate_pixels" if view == "pixels" else f"gate_shards@{view}", work)


def _judge(
    job: Job, boundary: str, sections: Sections, paths: Mapping[str, Path], settings: Mapping[str, Any]
) -> Counters:
    """Write the verdict on what lies at `paths` now. Raises GateRed or GateBroken unless it is green."""
    from infra import gates, storage

    digests = {name: storage.digest(path) for name, path in paths.items() if path.exists()}
    verdict = gates.evaluate(boundary, sections, digests, settings)
    gates.write(verdict, job.verdict(boundary))
    gates.check(verdict)
    return {"rules": sum(len(section["rules"]) for section in verdict.sections.values())}


def _text_tokens(job: Job, view: str) -> int | None:
    """The length of a latent view's text embeddings; none for pixels."""
    from sana_video.text import TextParams

    return None if view == "pixels" else load_section(job.params_path, "text", TextParams, job.overrides).tokens


def _motion(job: Job, view: str) -> dict[str, float] | None:
    """The measured motion of each clip, which a latent view must repeat; none for pixels."""
    if view == "pixels":
        return None
    scores = job.join("scores", ("clip_id", "flow_motion"))
    return dict(zip(*(scores.column(name).to_pylist() for name in ("clip_id", "flow_motion")), strict=True))
