"""`sana-video eval …`: measure a trained model, write the report, and check the three gates of this package.

A command reads its sections of params.yaml and runs inside `infra.stage.run` under the name that dvc.yaml gives the
stage. Everything below a gate opens the verdict first. Heavy imports stand inside the commands: `--help` must not wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import BaseModel

from eval.params import EvalParams, ReleaseParams
from infra.settings import AppContext, find_root, load_section, load_yaml, override, pick

if TYPE_CHECKING:
    from eval.suite import Subject
    from infra.gates import Verdict
    from infra.stage import Progress
    from sana_video.train.config import TrainParams

    Counters = Mapping[str, float | int | str]

app = typer.Typer(no_args_is_help=True, help="Scores of a trained model, its report, and the gates that read them.")
gate = typer.Typer(no_args_is_help=True, help="Check a boundary; exit 3 if red, 4 if the check itself is broken.")
app.add_typer(gate, name="gate")

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a parameter.")
]
Show = Annotated[bool, typer.Option("--print-config", help="Print the parameters in force and do nothing.")]
Stage = Annotated[str, typer.Option("--stage", help="A name under train.stages in params.yaml.")]

EVALUATION = "reports/eval"
SECTIONS: dict[str, type[BaseModel]] = {"eval": EvalParams, "release": ReleaseParams}


@dataclass(frozen=True)
class Job:
    """The project a command works in, with its parameters."""

    root: Path
    params_path: Path
    overrides: list[str]
    train: TrainParams

    def run(self, stage: str, work: Callable[[Progress], Counters]) -> NoReturn:
        from infra import stage as stages

        raise typer.Exit(stages.run(stage, work, root=self.root))

    @property
    def params(self) -> EvalParams:
        return load_section(self.params_path, "eval", EvalParams, self.overrides)

    @property
    def release(self) -> ReleaseParams:
        return load_section(self.params_path, "release", ReleaseParams, self.overrides)

    @property
    def batches(self) -> list[str]:
        return list(pick(override(load_yaml(self.params_path), self.overrides), "data.batches", self.params_path.name))

    def verdict(self, boundary: str) -> Path:
        return self.root / "reports" / "gates" / f"{boundary}.json"

    def require(self, boundary: str, *tables: str) -> None:
        from infra.gates import require

        require(self.verdict(boundary), tables={name: self.root / name for name in tables})

    def conclude(self, verdict: Verdict) -> Counters:
        """Write a verdict, and end red or broken unless it is green."""
        from infra import gates

        gates.write(verdict, self.verdict(verdict.boundary))
        gates.check(verdict)
        return {"rules": sum(len(section["rules"]) for section in verdict.sections.values())}

    def subject(self) -> Subject:
        """What is evaluated, once every gate above it is green for what lies there now."""
        from eval.suite import Subject
        from sana_video.text import TextParams

        params = self.params
        self.require(f"train-{params.stage}", f"models/{params.stage}")
        if maker := self.maker(params.autoencoder):
            self.require(f"train-{maker}", f"models/{maker}")
        for view in ("pixels", params.view):
            self.require(f"shards-{view}", f"data/shards/{view}")
        self.require("data", *(f"data/videos/{batch}.parquet" for batch in self.batches))
        text = load_section(self.params_path, "text", TextParams, self.overrides)
        return Subject(self.root, params, text, self.train.stage(params.stage))

    def maker(self, folder: str) -> str | None:
        """The training stage that writes `folder`; None for weights from elsewhere, which have no gate of ours."""
        head, _, name = folder.rstrip("/").partition("/")
        return name if head == "models" and name in self.train.stages else None

    def line(self) -> list[str]:
        """The training stages behind the evaluated model, first to last, the autoencoder's before them.

        Raises ValueError where `init` leads in a circle: no stage of it could have been trained from the other.
        """
        names: list[str] = []
        name: str | None = self.params.stage
        while name is not None:
            if name in names:
                raise ValueError(f"train.stages.{name}.init leads back to the stage itself: {' <- '.join(names)}")
            names.append(name)
            name = self.maker(self.train.stages[name].init)
        maker = self.maker(self.params.autoencoder)
        return [*([maker] if maker else []), *reversed(names)]


def _open(context: typer.Context, overrides: list[str] | None, show: bool, *sections: str) -> Job:
    """The job of a command; with `show`, print its sections and end. A mistake of the user's ends it with exit 2."""
    from sana_video.train.config import TrainParams

    try:
        given = context.obj if isinstance(context.obj, AppContext) else None
        root = given.root if given else find_root(Path.cwd())
        path = given.params_path if given else root / "params.yaml"
        changes = [*(given.overrides if given else []), *(overrides or [])]
        loaded = {name: load_section(path, name, SECTIONS[name], changes) for name in sections}
        job = Job(root, path, changes, load_section(path, "train", TrainParams, changes))
        if isinstance(params := loaded.get("eval"), EvalParams):
            job.train.stage(params.stage)
    except (ValueError, FileNotFoundError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    if show:
        import yaml

        shown = {name: section.model_dump(mode="json") for name, section in loaded.items()}
        shown = shown or {"train": job.train.model_dump(mode="json")}
        typer.echo(yaml.safe_dump(shown, sort_keys=False), nl=False)
        raise typer.Exit
    return job


@app.command()
def vae(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Reconstruct the held-out clips at each level of latent noise."""
    job = _open(context, overrides, show, "eval")

    def work(progress: Progress) -> Counters:
        from eval import suite, tables

        subject = job.subject()
        table = tables.write("vae", suite.vae_rows(subject, progress.track), subject.out / "vae.parquet")
        return {"reconstructions": table.num_rows}

    job.run("evaluate", work)


@app.command()
def t2v(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Held-out loss, and clips generated from held-out captions, measured beside the real ones."""
    job = _open(context, overrides, show, "eval")

    def work(progress: Progress) -> Counters:
        from eval import suite, tables
        from sana_video.device import best_device, sampling_dtype
        from sana_video.model import SanaVideo

        subject, device = job.subject(), best_device()
        model = SanaVideo.from_pretrained(subject.model, device=device, dtype=sampling_dtype(device))
        losses = suite.heldout_rows(model, subject.view(subject.params.view), subject.params.seed, progress.track)
        tables.write("heldout", losses, subject.out / "heldout.parquet")
        credit = suite.credit(suite.sources(job.root, job.batches))
        rows = suite.t2v_rows(subject, model, credit, progress.track)
        tables.write("t2v", rows, subject.out / "t2v.parquet")
        return {"clips": len(rows), "failed": sum(row["status"] != "ok" for row in rows)}

    job.run("evaluate", work)


@app.command()
def report(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Write summary.json and report.html from the tables."""
    job = _open(context, overrides, show, "eval")

    def work(progress: Progress) -> Counters:
        from eval import suite
        from eval.report.build import build

        job.subject()
        return build(job.root, job.params, job.line(), suite.sources(job.root, job.batches))

    job.run("evaluate", work)


@gate.command("train")
def gate_train(context: typer.Context, stage: Stage, overrides: Overrides = None, show: Show = False) -> None:
    """Check what a training stage left: target step, finite and falling loss, digests of weights and data."""
    job = _open(context, overrides, show)
    if stage not in job.train.stages:
        typer.echo(f"unknown stage {stage!r}: params.yaml has {', '.join(job.train.stages)}", err=True)
        raise typer.Exit(2)

    def work(progress: Progress) -> Counters:
        from eval.expectations import train_sections
        from eval.report.build import training_summary
        from infra import gates, storage

        params, model = job.train.stages[stage], f"models/{stage}"
        view = f"data/shards/{params.view}"
        job.require(f"shards-{params.view}", view)
        summary = training_summary(job.root, stage)
        weights = storage.sha256_file(job.root / model / "model.safetensors")
        data = storage.sha256_file(job.root / view / "index.parquet")
        sections = train_sections(summary, params, job.train.gate, weights, data)
        context = {"stage": params.model_dump(mode="json"), "gate": job.train.gate.model_dump(mode="json")}
        digests = {model: storage.digest(job.root / model)}
        return job.conclude(gates.evaluate(f"train-{stage}", sections, digests, context))

    job.run(f"gate_train@{stage}", work)


@gate.command("eval")
def gate_eval(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Check that the evaluation is whole: every measure with n, seeds and interval, every video, few failures."""
    job = _open(context, overrides, show, "eval")

    def work(progress: Progress) -> Counters:
        from eval.expectations import eval_sections
        from eval.report.build import read_tables
        from infra import gates, storage

        params = job.params
        job.require(f"train-{params.stage}", f"models/{params.stage}")
        out = job.root / EVALUATION
        sections = eval_sections(_summary(out), read_tables(out), out, params)
        digests = {EVALUATION: storage.digest(out)}
        return job.conclude(gates.evaluate("eval", sections, digests, {"eval": params.model_dump(mode="json")}))

    job.run("gate_eval", work)


@gate.command("release")
def gate_release(context: typer.Context, overrides: Overrides = None, show: Show = False) -> None:
    """Check the evaluation against the release's baseline, or its absolute bars."""
    job = _open(context, overrides, show, "release")

    def work(progress: Progress) -> Counters:
        from eval.expectations import bar_sections, baseline_sections
        from infra import gates, storage

        release = job.release
        job.require("eval", EVALUATION)
        summary, baseline = _summary(job.root / EVALUATION), _baseline(job.root, release)
        storage.atomic_text(
            job.root / "reports" / "baseline.json", json.dumps(baseline, indent=1, sort_keys=True) + "\n"
        )
        compared = baseline["summary"]
        sections = bar_sections(summary, release.bars) if compared is None else baseline_sections(summary, compared)
        digests = {EVALUATION: storage.digest(job.root / EVALUATION)}
        context = {
            "release": release.model_dump(mode="json"),
            "baseline": baseline["baseline"],
            "digest": baseline["digest"],
        }
        return job.conclude(gates.evaluate("release", sections, digests, context))

    job.run("gate_release", work)


def _summary(folder: Path) -> dict[str, Any]:
    """summary.json of an evaluation. Raises ValueError when it is missing or damaged."""
    from eval.report.build import json_object

    return json_object(folder / "summary.json", "summary", "sana-video eval report")


def _baseline(root: Path, release: ReleaseParams) -> dict[str, Any]:
    """What the release is compared with: nothing, or the evaluation inside a registered version's bundle."""
    if release.baseline == "none":
        return {"baseline": "none", "digest": None, "summary": None}
    from infra.registry import fetch

    folder = root / "runs" / "baseline" / release.baseline
    version = fetch(root, f"{release.name}@{release.baseline}", folder)
    return {"baseline": version.version, "digest": version.digest, "summary": _summary(folder / "evaluation")}
