"""The `sana-video` command. Each command is a thin shell: it reads params, calls one function, says what came of it.

Everything heavy is imported inside the commands, so that help answers at once and a training rank loads neither Prefect
nor DVC.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from data_pipeline.cli import app as data_app
from eval.cli import app as eval_app
from flows.program import Program, context_of, show, show_one
from infra.settings import AppContext, prepare_environment

if TYPE_CHECKING:
    from flows.params import Params

app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    invoke_without_command=True,  # for --print-config alone
    pretty_exceptions_enable=False,
    help="SANA-Video end to end: from raw videos to a released model.",
    epilog="--root, --params, --set, --print-config and --json may stand anywhere on the line.",
)
train_app = typer.Typer(no_args_is_help=True, help="Train stages of params.yaml, each alone.")
release_app = typer.Typer(no_args_is_help=True, help="Package, register, promote and roll back versions.")
flow_app = typer.Typer(no_args_is_help=True, help="Run or schedule parts of the graph under Prefect.")
weights_app = typer.Typer(no_args_is_help=True, help="Published weights: fetch, verify, convert.")
recipe_app = typer.Typer(no_args_is_help=True, help="params.yaml in other sizes.")
for name, part in {
    "data": data_app,
    "train": train_app,
    "eval": eval_app,
    "release": release_app,
    "flow": flow_app,
    "recipe": recipe_app,
    "weights": weights_app,
}.items():
    app.add_typer(part, name=name)

Version = Annotated[str, typer.Argument(help="A registered version, such as v0.1.0.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the journal.")]


@app.callback()
def start(
    context: typer.Context,
    root: Annotated[
        Path | None, typer.Option("--root", help="The project's folder; the nearest one by default.")
    ] = None,
    params: Annotated[Path | None, typer.Option("--params", help="Another params.yaml.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a parameter; repeatable.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the parameters in force and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data as JSON.")] = False,
) -> None:
    context.obj = context_of(root, params, overrides or [], as_json)
    prepare_environment(context.obj.root)
    if print_config:
        from flows.params import render

        typer.echo(render(_params(context)), nl=False)
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.fail("Missing command.")


def _app(context: typer.Context) -> AppContext:
    assert isinstance(context.obj, AppContext)
    return context.obj


def _params(context: typer.Context) -> Params:
    from flows.params import load

    return load(_app(context).params_path, _app(context).overrides)


@train_app.command("run")
def train_run(
    context: typer.Context,
    stage: Annotated[str, typer.Option("--stage", help="A name under train.stages in params.yaml.")],
    launched: Annotated[bool, typer.Option("--launched", hidden=True)] = False,
) -> None:
    """Train one stage to its last step, from its newest checkpoint if there is one."""
    from flows.training import train_here, train_stage
    from infra.stage import Progress

    params, place = _params(context), _app(context)
    if launched:
        train_here(stage, params, place.root, Progress(f"train@{stage}"))
        return
    given = ["--root", str(place.root), "--params", str(place.params_path)]
    given += [word for override in place.overrides for word in ("--set", override)]
    raise typer.Exit(train_stage(stage, params, place.root, [*given, "train", "run", "--stage", stage]))


@train_app.command("plan")
def train_plan(context: typer.Context) -> None:
    """The training stages: what each starts from and reads, and whether it is done."""
    from flows.training import plan

    show(plan(_params(context), _app(context).root), _app(context).as_json)


@app.command()
def sample(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", help="A folder, NAME@champion or NAME@v0.1.0.")],
    out: Annotated[Path, typer.Option("--out", help="A .mp4, a .png for one frame, or a folder for several videos.")],
    prompt: Annotated[str | None, typer.Option("--prompt")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="A file, one prompt a line; # begins a comment.")
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", help="The first frame: a PNG or JPEG.")] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(
            "--negative-prompt",
            help='What to lead away from, else what the model says; "" for nothing, "default" for the published one.',
        ),
    ] = None,
    motion_score: Annotated[float | None, typer.Option("--motion-score", min=0.0)] = None,
    seconds: Annotated[float | None, typer.Option("--seconds")] = None,
    frames: Annotated[int | None, typer.Option("--frames", help="Wins over --seconds; 1 makes a picture.")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="HEIGHTxWIDTH|480p|720p")] = None,
    aspect: Annotated[str | None, typer.Option("--aspect", metavar="WIDTH:HEIGHT", help="Else the image's.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1)] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", min=0.0, help="1 for none.")] = None,
    guidance_rule: Annotated[
        Literal["cfg", "apg"] | None,
        typer.Option("--guidance-rule", help="Classifier-free, or adaptive projected guidance."),
    ] = None,
    videos_per_prompt: Annotated[int, typer.Option("--videos-per-prompt", min=1)] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Videos made at once; memory grows with it.")] = 1,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**62, help="Of the first video; the next has one more.")
    ] = 0,
    device: Annotated[
        str | None, typer.Option("--device", help="cuda, cuda:1, cpu; else a GPU if there is one.")
    ] = None,
    precision: Annotated[
        Literal["fp8", "bf16", "fp32"] | None,
        typer.Option("--precision", help="Else bf16 on a GPU, fp32 on the CPU; fp8 is faster still on a Hopper GPU."),
    ] = None,
    decoder: Annotated[
        Literal["fast", "exact"] | None,
        typer.Option("--decoder", help="bf16, several frames at once; or as published. Else fast on a GPU."),
    ] = None,
    step_cache: Annotated[
        float | None,
        typer.Option("--step-cache", metavar="THRESHOLD", help="Skip steps that change little; lossy. Try 0.05."),
    ] = None,
) -> None:
    """Make films (or pictures) of prompts; a run into a folder goes on where it was cut off."""
    from flows.sample import Request
    from flows.sample import sample as make
    from infra.stage import Progress

    request = Request(
        model=model, prompt=prompt, prompts=prompts, image=image, motion_score=motion_score, seconds=seconds,
        frames=frames, size=size, aspect=aspect, steps=steps, guidance=guidance, guidance_rule=guidance_rule,
        negative_prompt=negative_prompt, videos_per_prompt=videos_per_prompt, batch=batch, seed=seed,
        device=device, precision=precision, decoder=decoder, step_cache=step_cache,
    )  # fmt: skip
    show_one(make(request, out, _app(context).root, Progress("sample")), _app(context).as_json)


@release_app.command("package")
def release_package(context: typer.Context) -> None:
    """Write release/: weights, evaluation, verdicts, lineage, model card and a manifest of it all."""
    from flows.package import package
    from infra.stage import run

    params, root = _params(context), _app(context).root
    raise typer.Exit(run("package", lambda progress: package(root, params), root=root))


@release_app.command("register")
def release_register(context: typer.Context) -> None:
    """Register release/ as the next version and as candidate; the same bundle twice changes nothing."""
    from flows.package import require_same_gate
    from infra import registry

    params, root = _params(context), _app(context).root
    require_same_gate(root)
    version, new = registry.register(root, root / "release", params.release.name)
    typer.echo(f"{version.name}@{version.version} {'registered as candidate' if new else 'was registered already'}")


@release_app.command("promote")
def release_promote(
    context: typer.Context, version: Version, stage: str = "champion", reason: Reason = "promoted"
) -> None:
    """Give a version a stage."""
    from infra import registry

    promoted = registry.promote(_app(context).root, _params(context).release.name, version, stage, reason)
    typer.echo(f"{promoted.name}@{promoted.version} is {stage}")


@release_app.command("rollback")
def release_rollback(
    context: typer.Context,
    to: Annotated[str, typer.Option("--to", help="The version that becomes champion again.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the journal.")],
) -> None:
    """Make an earlier version champion again: one more entry of the journal, nothing is deleted."""
    from infra import registry

    back = registry.rollback(_app(context).root, _params(context).release.name, to, reason)
    typer.echo(f"{back.name}@{back.version} is champion")


@release_app.command("list")
def release_list(context: typer.Context) -> None:
    """Every registered version and the stages it holds."""
    from flows.versions import rows

    show(rows(_app(context).root, _params(context).release.name), _app(context).as_json)


@release_app.command("show")
def release_show(context: typer.Context, version: Version) -> None:
    """One version: its commit, its manifest and its journal. VERSION may also be a stage, such as champion."""
    from flows.versions import describe

    show_one(describe(_app(context).root, _params(context).release.name, version), _app(context).as_json)


@flow_app.command("run")
def flow_run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="curate, train, evaluate, release or journey.")],
    worktree: Annotated[bool, typer.Option("--worktree", help="Work in .worktrees/NAME on what is committed.")] = False,
) -> None:
    """Run a part of the graph now: what is current is skipped, a red gate stops what stands below it."""
    from flows.run import run_flow

    place = _app(context)
    _end(*run_flow(name, place.root, worktree=worktree, overrides=place.overrides))


@flow_app.command("serve")
def flow_serve(context: typer.Context) -> None:
    """Run curate and evaluate on the schedules of params.yaml, each in a worktree of its own, until interrupted."""
    params = _params(context).flow
    from flows.serve import serve_flows

    serve_flows(_app(context).root, params)


@app.command()
def demo(context: typer.Context) -> None:
    """Fetch the demo's films and walk the whole way, from film to registered model and first sample."""
    from flows.demo import run_demo

    _end(*run_demo(_app(context).root))


@app.command()
def doctor(context: typer.Context) -> None:
    """Look whether this machine and project have what they need; exit 1 if something is missing."""
    from flows.doctor import examine

    checks = examine(_app(context).root)
    show(checks, _app(context).as_json)
    raise typer.Exit(0 if all(check["ok"] for check in checks) else 1)


@app.command()
def status(context: typer.Context) -> None:
    """Each stage of the graph: current or changed, and how its last run ended."""
    from flows.doctor import status as look

    show(look(_app(context).root), _app(context).as_json)


@weights_app.command("list")
def weights_list(context: typer.Context) -> None:
    """The published weights there are, their size and licence, and whether they are here."""
    from flows.weights import FOLDER
    from infra.weights import listing

    show(listing(_app(context).root / FOLDER), _app(context).as_json)


@weights_app.command("fetch")
def weights_fetch(
    context: typer.Context, name: Annotated[str, typer.Argument(help="One that `weights list` shows.")]
) -> None:
    """Fetch published weights into weights/NAME, or what is missing of them; their terms are their makers'."""
    from flows.weights import FOLDER
    from infra.weights import describe, fetch

    typer.echo(describe(name), err=True)
    place = fetch(name, _app(context).root / FOLDER, lambda line: typer.echo(line, err=True))
    typer.echo(place)


@weights_app.command("verify")
def weights_verify(
    context: typer.Context, name: Annotated[str | None, typer.Argument(help="All that was fetched by default.")] = None
) -> None:
    """Read fetched weights anew and compare every file with what was pinned."""
    from flows.weights import FOLDER
    from infra.weights import verify

    show(verify(_app(context).root / FOLDER, name), _app(context).as_json)


@weights_app.command("convert")
def weights_convert(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(help="A .pth, .pt or .safetensors, or a folder: of ours, of diffusers, or as it was fetched."),
    ],
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    autoencoder: Annotated[
        Path | None, typer.Option("--autoencoder", help="Its folder; with --text-encoder for a whole pipeline.")
    ] = None,
    text_encoder: Annotated[
        Path | None, typer.Option("--text-encoder", help="The folder of Gemma, which stays where it is.")
    ] = None,
    layout: Annotated[
        Literal["ours", "diffusers", "official"], typer.Option("--layout", help="Whose names and files to write.")
    ] = "ours",
    config_from: Annotated[
        str | None, typer.Option("--config-from", help="The network: a preset or a config.json; told by shapes if not.")
    ] = None,
    chunk_frames: Annotated[
        int | None, typer.Option("--chunk-frames", min=1, help="Latent frames a chunk, of a long-video network.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="The averaged weights of an official checkpoint.")] = False,
    warm_start: Annotated[
        bool, typer.Option("--warm-start", help="Grow a SANA-1.5 image checkpoint to video.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what a warm start draws anew.")] = 0,
) -> None:
    """Bring a network, or a whole pipeline, from one layout to another; memory does not grow with the network.

    With --autoencoder and --text-encoder the network becomes a pipeline that `sample` reads, with the published
    settings. A diffusers pipeline brings its own. An image autoencoder (AutoencoderDC) becomes a DCAE-V to start from.
    """
    from flows.weights import Conversion, convert

    asked = Conversion(
        source, target, layout, config_from, chunk_frames, ema, warm_start, seed, autoencoder, text_encoder
    )
    show_one(convert(asked), _app(context).as_json)


@recipe_app.command("list")
def recipe_list(context: typer.Context) -> None:
    """The recipes and what each is for."""
    from flows import recipes

    root = _app(context).root
    rows = [{"recipe": name, "for": recipes.summary(root, name)} for name in recipes.names(root)]
    show(rows, _app(context).as_json)


@recipe_app.command("show")
def recipe_show(context: typer.Context, name: str) -> None:
    """A recipe as it stands in its file."""
    from flows import recipes

    typer.echo(recipes.text(_app(context).root, name), nl=False)


@recipe_app.command("use")
def recipe_use(context: typer.Context, name: str) -> None:
    """Put a recipe in the place of params.yaml; the old one is kept beside it."""
    from flows import recipes

    backup = recipes.use(_app(context).root, name)
    typer.echo(f"params.yaml is now the recipe {name}; the old one is {backup.name}")


def _end(code: int, told: str) -> None:
    typer.echo(told, err=code != 0)
    raise typer.Exit(code)


def main() -> None:
    app(prog_name="sana-video")


if __name__ == "__main__":
    main()
